"""One type tried with one task: a tiny model built and converted, in a process of its own.

In: a type and a head. Out: an `Attempt`, whatever happened to the process. This module must never let one model's crash, hunger for
memory or endless loop reach the next.

The child is forked from a parent that has imported everything heavy and computed nothing, so that a type costs its own work alone.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from converters.coverage.heads import Head

LIMIT_S = 120
MEMORY_BYTES = 6 << 30
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent ends."""
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_RESULT, _STEPS, _LOG = "result.json", "steps", "log"


@dataclass(frozen=True)
class Attempt:
    """step: the last thing that was begun: "build", a stage of the pipeline, "load" or "replay" in Triton, or "done".

    error: the kind of what went wrong, None when nothing did; message: its words. in_process, served: worst relative difference, as
    a part of the output's largest value. probes: calls replayed. seconds: of each stage. kv_cache: of a decoder with a cache,
    whether it is shared, or why it grows; as the entry says.
    """

    task: str
    class_name: str
    step: str
    error: str | None = None
    message: str = ""
    route: str = ""
    why: str = ""
    precision: str = ""
    in_process: float | None = None
    served: float | None = None
    bound: float | None = None
    probes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    kv_cache: str = ""

    @property
    def is_equal(self) -> bool:
        """Converted, loaded, and within the bound at every probe."""
        return self.step == "done" and self.error is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Attempt:
        return cls(**record)

    def failed(self, step: str, error: str, message: str) -> Attempt:
        return replace(self, step=step, error=error, message=message)


Work = Callable[[Path, Callable[[str], None]], Mapping[str, Any]]
"""What a child does: given its folder and a place to say each step it begins, it gives a JSON object."""


@dataclass(frozen=True)
class Child:
    """A running attempt. began: by the monotonic clock."""

    process_id: int
    folder: Path
    began: float


def start(work: Work, folder: Path, *, limit_s: int = LIMIT_S, memory_bytes: int = MEMORY_BYTES) -> Child:
    """Fork a child that does `work` in `folder` (made here), with that much time and that much memory beyond the parent's.

    What it prints goes to `log` in its folder. Only from a process of one thread: threads do not survive a fork, their locks do.
    """
    folder.mkdir(parents=True)
    sys.stdout.flush()
    sys.stderr.flush()
    process_id = os.fork()
    if process_id:
        return Child(process_id, folder, time.monotonic())
    code = 1
    try:
        _confine(folder, limit_s, memory_bytes)
        _do(work, folder)
        code = 0
    finally:
        # Not through the parent's atexit handlers and open files.
        os._exit(code)


def result_of(child: Child, *, block: bool = False) -> dict[str, Any] | None:
    """What the child gave: its JSON object, or {"step", "error", "message"}; None while it runs."""
    ended, status = os.waitpid(child.process_id, 0 if block else os.WNOHANG)
    if not ended:
        return None
    path = child.folder / _RESULT
    if os.waitstatus_to_exitcode(status) == 0 and path.is_file():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result
    seconds = time.monotonic() - child.began
    return {"step": last_step(child.folder), "error": "Crashed", "message": _cause_of_death(status, seconds)}


def kill(child: Child) -> None:
    os.kill(child.process_id, signal.SIGKILL)
    os.waitpid(child.process_id, 0)


def last_step(folder: Path) -> str:
    path = folder / _STEPS
    lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return lines[-1] if lines else "start"


def _confine(folder: Path, limit_s: int, memory_bytes: int) -> None:
    os.setsid()
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # also when the parent is killed
    log = os.open(folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1, encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # The kernel ends it, also in the middle of a C function that never returns.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(limit_s)
    gc.enable()


def _do(work: Work, folder: Path) -> None:
    steps = (folder / _STEPS).open("a", encoding="utf-8", buffering=1)
    said: list[str] = ["start"]

    def begin(step: str) -> None:
        said.append(step)
        steps.write(step + "\n")

    try:
        result = dict(work(folder, begin))
    # MemoryError and every library's own kinds: each is this row's result, not this program's fault.
    except Exception as error:
        result = {"step": said[-1], "error": type(error).__name__, "message": str(error)}
    scratch = folder / (_RESULT + ".part")
    scratch.write_text(json.dumps(result), encoding="utf-8")
    scratch.replace(folder / _RESULT)


def _cause_of_death(status: int, seconds: float) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"not done within its time limit, stopped after {seconds:.0f} s"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code} and no result"


def convert_tiny(model_type: str, head: Head) -> Work:
    """The work of a row: build the type's tiny model, convert it; the entry is then in `folder/entries`."""

    def work(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
        import torch

        from converters.coverage.shapes import build
        from converters.pipeline import convert

        torch.set_num_threads(1)
        began = time.monotonic()
        begin("build")
        built = build(model_type, folder / "model", head.task)
        seconds = {"build": round(time.monotonic() - began, 3)}
        begin("fetch")

        def on_stage(stage: str, taken: float) -> None:
            seconds[stage] = round(seconds.get(stage, 0.0) + taken, 3)  # each route that is tried has its own
            begin(_AFTER.get(stage, stage))

        done = convert(str(built.folder), folder / "entries", task=head.task, name=_plain(model_type), on_stage=on_stage)
        lines = done.entry.parity
        return {
            "entry": str(done.folder),
            "route": str(done.entry.export["route"]),
            "why": str(done.entry.export["why"]),
            "precision": done.entry.precision,
            "in_process": max((float(line["worst_relative"]) for line in lines), default=None),
            "bound": min((float(line["bound"]) for line in lines), default=None),
            "seconds": seconds,
            "kv_cache": str(done.entry.export.get("kv_cache", "")),
        }

    return work


_STAGES = ("fetch", "scan", "start", "load", "export", "parity", "probes", "entry")
_AFTER = dict(pairwise(_STAGES))


def _plain(model_type: str) -> str:
    return f"tiny-{model_type}"


def import_heavy() -> None:
    """Import what every child needs, so that a fork brings it along; nothing is computed and no thread is started."""
    import onnx
    import onnxruntime
    import onnxscript
    import optimum.exporters.onnx
    import torch
    import torch._dynamo
    import torch.export
    import torch.onnx._internal.exporter._core as exporter  # 2 s of a dynamo export are its first import
    import transformers
    import transformers.models.auto.modeling_auto

    from converters import kinds, pipeline
    from converters.export import load, routes

    torch.set_num_threads(1)
    # What is there now is for ever: children that collect garbage would copy every page they look at.
    gc.collect()
    gc.freeze()
    for module in (onnx, onnxruntime, onnxscript, optimum, exporter, transformers, kinds, pipeline, load, routes):
        assert module is not None  # noqa: S101 - they are imported for the children's sake
