"""Every type, one after the other: built, converted in a child, served by a real Triton, and its probes asked there.

In: types, a running Triton with its model folder, a place for rows. Out: a row a type. This module must never give a type a second
chance that another does not get, and never start or stop a server.

While Triton answers for one type, the next one is being converted.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.coverage import attempts
from converters.coverage.attempts import Attempt, Child
from converters.coverage.heads import Head, heads
from converters.coverage.rows import Row, append_row, steady
from converters.coverage.serving import Serving

JOBS = 2
_PAUSE_S = 0.02
_TOOLS = ("onnxruntime", "optimum-onnx", "torch", "transformers")


@dataclass(frozen=True)
class Settings:
    """work: a folder of our own, emptied as the sweep goes, on the file system of Triton's models. rows: the file they go to.

    jobs: conversions at a time, 1 or 2. limit_s, memory_bytes: of each conversion; memory beyond what this process has.
    """

    work: Path
    rows: Path
    jobs: int = JOBS
    limit_s: int = attempts.LIMIT_S
    memory_bytes: int = attempts.MEMORY_BYTES


@dataclass(frozen=True)
class _Running:
    model_type: str
    head: Head
    before: tuple[Attempt, ...]
    child: Child


OnRow = Callable[[Row], None]
WorkOf = Callable[[str, Head], attempts.Work]


def sweep(
    types: Sequence[str],
    serving: Serving,
    settings: Settings,
    on_row: OnRow | None = None,
    work_of: WorkOf = attempts.convert_tiny,
) -> dict[str, Row]:
    """Make a row of each type, each on disk as soon as it is known. Again: does them again; `rows.chosen` leaves out the done.

    Call it in a process of one thread that has called `attempts.import_heavy`. work_of: what a child does for a type and a head.
    Raises ConnectionError when Triton is gone for good.
    """
    if not 1 <= settings.jobs <= JOBS:
        raise ValueError(f"jobs: expected 1 to {JOBS}, found {settings.jobs}")
    tools = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    waiting: deque[tuple[str, tuple[Attempt, ...]]] = deque((name, ()) for name in types)
    running: list[_Running] = []
    done: dict[str, Row] = {}

    def finish(model_type: str, made: tuple[Attempt, ...]) -> None:
        row = Row(model_type, made, tools)
        append_row(settings.rows, row)
        done[model_type] = row
        if on_row is not None:
            on_row(row)

    try:
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                model_type, before = waiting.popleft()
                offered = heads(model_type)
                if len(before) == len(offered):
                    finish(model_type, before or (_no_model(model_type),))
                    continue
                head = offered[len(before)]
                folder = settings.work / f"{model_type}-{len(before)}"
                shutil.rmtree(folder, ignore_errors=True)
                child = attempts.start(
                    work_of(model_type, head), folder, limit_s=settings.limit_s, memory_bytes=settings.memory_bytes
                )
                running.append(_Running(model_type, head, before, child))
            for each in tuple(running):
                if (result := attempts.result_of(each.child)) is None:
                    continue
                running.remove(each)
                attempt = _served(each.head, result, serving)
                shutil.rmtree(each.child.folder, ignore_errors=True)
                made = (*each.before, attempt)
                if attempt.is_equal:
                    finish(each.model_type, made)
                else:
                    waiting.appendleft((each.model_type, made))
            time.sleep(_PAUSE_S)
    finally:
        for each in running:
            attempts.kill(each.child)
    return done


def _no_model(model_type: str) -> Attempt:
    return Attempt("", "", "build", "NotBuilt", f"{model_type}: transformers has a configuration of it and no model")


def _served(head: Head, result: Mapping[str, Any], serving: Serving) -> Attempt:
    """The attempt, with what Triton made of the entry when there is one."""
    attempt = Attempt(head.task, head.class_name, str(result.get("step", "done")))
    if "error" in result:
        return attempt.failed(attempt.step, str(result["error"]), steady(str(result["message"])))
    known = {key: result[key] for key in ("route", "precision", "in_process", "bound", "seconds")}
    why, kv_cache = (steady(str(result[key])) for key in ("why", "kv_cache"))
    return serving.tried(replace(attempt, why=why, kv_cache=kv_cache, **known), Path(str(result["entry"])))
