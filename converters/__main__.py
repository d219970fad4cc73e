"""`python -m converters MODEL --out DIR`: convert one model, in a process that holds no key.

In: the command line. Out: an entry folder; steps on stderr, or with `--json` one JSON object a line on stdout:

    {"stage": "export", "seconds": 1.2}                     as each stage ends
    {"note": "this conversion is not confined: ..."}        when the kernel refused a lock: see `converters/confine.py`
    {"folder", "digest", "name", "is_new", "entry", "stages", "weights"}   last, when it went well; `entry` is `entry.json`,
                                                            `weights` null or {"folder", "digest"}
    {"error": "ModelRefused", "message": "..."}             last, when it did not

Exit codes: 0 done, 1 a fault of ours, 2 usage, 3 refused, 4 conversion failed (also for want of disk or memory), 5 parity failed,
6 an entry is broken.
Before the model's first file is opened this process gives up the network and other programs, and limits its memory, time and files.
This module must never print what a library says on stdout, or import what starts threads: a process with threads gets no namespace.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from converters.confine import confine, has_network_lock
from converters.entry import KV_CACHES, PRECISIONS
from converters.errors import ConversionFailed, ConverterError
from converters.limits import GIB, available_memory, files_bytes, impose, limits_for
from converters.locate import Located
from converters.pipeline import Converted, convert
from converters.tasks import TASKS

_FETCHED_BYTES = 1 << 40
"""No file that is fetched is larger; once the model's size is known, its conversion gets a limit of its own."""
_LEAST_MEMORY_MB = 1024


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m converters", description="Convert a Hugging Face model into a Triton entry.")
    parser.add_argument("model", metavar="MODEL", help="a folder, or a hub id pinned to a commit: org/name@<40 hex digits>")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the entry's folder is made")
    parser.add_argument("--task", choices=sorted(TASKS), help="what the model is for (default: what its config.json says)")
    parser.add_argument("--revision", metavar="SHA", help="the hub commit, 40 hex digits")
    parser.add_argument("--name", help="what people call the entry (default: the model's own name)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of weights and arithmetic (default: fp32)")
    of_cache = (
        "keys and values: one buffer for all calls, or a copy that grows, as TensorRT needs it (default: shared, where it can be)"
    )
    parser.add_argument("--kv-cache", choices=KV_CACHES, default=KV_CACHES[0], help=of_cache)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where fetched files are kept (default: within --out)")
    of_parent = "model digest it was trained from, 0x and 64 hex digits; again for each"
    parser.add_argument("--parent", dest="parents", action="append", default=[], type=_digest, metavar="DIGEST", help=of_parent)
    of_weights = "leave the checked copy of the model's files here, for training; on the file system of --out"
    parser.add_argument("--keep-weights", type=Path, metavar="DIR", help=of_weights)
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    memory, seconds = "most memory it may write to (default: by size)", "most seconds of the clock (default: by size)"
    parser.add_argument("--memory-mb", type=_whole(_LEAST_MEMORY_MB), metavar="MB", help=memory)
    parser.add_argument("--seconds", type=_whole(1), metavar="S", help=seconds)
    given = parser.parse_args(arguments)
    _limit_fetch()
    lines = _own_stdout()
    show = _JsonLines(lines) if given.json else _Steps()
    try:
        converted = convert(
            given.model,
            given.out,
            task=given.task,
            revision=given.revision,
            name=given.name,
            precision=given.precision,
            kv_cache=given.kv_cache,
            cache=given.cache,
            parents=tuple(given.parents),
            keep_weights=given.keep_weights,
            on_stage=show.stage,
            before_opening=lambda located: _confine(located, given, show.note),
        )
    except ConverterError as error:
        show.failed(error)
        return error.exit_code
    except (OSError, MemoryError) as error:
        limit = (
            f"; it may take {resource.getrlimit(resource.RLIMIT_DATA)[0] / GIB:.1f} GiB" if isinstance(error, MemoryError) else ""
        )
        show.failed(failure := ConversionFailed(f"this machine: {type(error).__name__}: {error}{limit}"))
        return failure.exit_code
    show.done(converted)
    return 0


class _Steps:
    """For people: a line a step, on stderr."""

    def stage(self, stage: str, seconds: float) -> None:
        print(f"  {stage:<8}{seconds:7.1f} s", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    def failed(self, error: ConverterError) -> None:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)

    def done(self, converted: Converted) -> None:
        print(f"{converted.entry.name} ({converted.entry.task}): {converted.digest}\n{converted.folder}", file=sys.stderr)


class _JsonLines:
    """For programs: an object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, stage: str, seconds: float) -> None:
        self._write({"stage": stage, "seconds": seconds})

    def note(self, text: str) -> None:
        self._write({"note": text})

    def failed(self, error: ConverterError) -> None:
        self._write({"error": type(error).__name__, "message": str(error)})

    def done(self, converted: Converted) -> None:
        self._write(
            {
                "folder": str(converted.folder),
                "digest": converted.digest,
                "name": converted.entry.name,
                "is_new": converted.is_new,
                "entry": converted.entry.to_json(),
                "stages": dict(converted.stages),
                "weights": None if (kept := converted.weights) is None else {"folder": str(kept.folder), "digest": kept.digest},
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), file=self._stream, flush=True)


def _confine(located: Located, given: argparse.Namespace, note: Callable[[str], None]) -> None:
    """Give up what a conversion does not need, and say what could not be given up: a stranger's file is opened next."""
    limits = limits_for(files_bytes(located.folder), available_memory())
    if given.memory_mb is not None:
        limits = replace(limits, memory_bytes=min(limits.memory_bytes, given.memory_mb << 20))
    if given.seconds is not None:
        limits = replace(
            limits, wall_s=min(limits.wall_s, given.seconds), cpu_s=min(limits.cpu_s, given.seconds * (os.cpu_count() or 1))
        )
    left = confine(given.out)
    if left:
        kept = "it cannot reach the network" if has_network_lock(left) else "it could reach the network"
        note(f"this conversion is only partly confined, {kept}: {'; '.join(left)}")
    impose(limits)


def _limit_fetch() -> None:
    """No core files, since they would hold a stranger's weights; no file past a size that no model has."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = _FETCHED_BYTES if hard == resource.RLIM_INFINITY else min(_FETCHED_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


def _whole(least: int) -> Callable[[str], int]:
    """A type for the command line: whole numbers from `least`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
        return int(text)

    return number


def _digest(text: str) -> str:
    if not re.fullmatch("0x[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"expected 0x and 64 lower-case hex digits, found {text!r}")
    return text


def _own_stdout() -> TextIO:
    """The real stdout for our lines alone; what a library prints goes to stderr, C++ included."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


if __name__ == "__main__":
    sys.exit(main())
