"""`python -m converters MODEL --out DIR`: convert one model, in a process that holds no key.

In: the command line. Out: an entry folder; steps on stderr, or with `--json` one JSON object a line on stdout:

    {"stage": "export", "seconds": 1.2}                     as each stage ends
    {"folder", "digest", "name", "is_new", "entry", "stages"}   last, when it went well; `entry` is `entry.json`
    {"error": "ModelRefused", "message": "..."}             last, when it did not

Exit codes: 0 done, 1 a fault of ours, 2 usage, 3 refused, 4 conversion failed (also for want of disk or memory), 5 parity failed,
6 an entry is broken.
This module must never print what a library says on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, TextIO

from converters.errors import ConversionFailed, ConverterError
from converters.pipeline import Converted, convert
from converters.tasks import TASKS

_FILE_BYTES = 1 << 40


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m converters", description="Convert a Hugging Face model into a Triton entry.")
    parser.add_argument("model", metavar="MODEL", help="a folder, or a hub id pinned to a commit: org/name@<40 hex digits>")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the entry's folder is made")
    parser.add_argument("--task", choices=sorted(TASKS), help="what the model is for (default: what its config.json says)")
    parser.add_argument("--revision", metavar="SHA", help="the hub commit, 40 hex digits")
    parser.add_argument("--name", help="what people call the entry (default: the model's own name)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where fetched files are kept (default: within --out)")
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    given = parser.parse_args(arguments)
    _limit()
    lines = _own_stdout()
    show = _JsonLines(lines) if given.json else _Steps()
    try:
        converted = convert(
            given.model,
            given.out,
            task=given.task,
            revision=given.revision,
            name=given.name,
            cache=given.cache,
            on_stage=show.stage,
        )
    except ConverterError as error:
        show.failed(error)
        return error.exit_code
    except (OSError, MemoryError) as error:
        show.failed(failure := ConversionFailed(f"this machine: {type(error).__name__}: {error}"))
        return failure.exit_code
    show.done(converted)
    return 0


class _Steps:
    """For people: a line a step, on stderr."""

    def stage(self, stage: str, seconds: float) -> None:
        print(f"  {stage:<8}{seconds:7.1f} s", file=sys.stderr, flush=True)

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
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), file=self._stream, flush=True)


def _limit() -> None:
    """No core files, since they would hold a stranger's weights; no file past a size that no model has."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES if hard == resource.RLIM_INFINITY else min(_FILE_BYTES, hard), hard))


def _own_stdout() -> TextIO:
    """The real stdout for our lines alone; what a library prints goes to stderr, C++ included."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


if __name__ == "__main__":
    sys.exit(main())
