"""The sweep: one crash costs one row, and a type gets its next task when one fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters.coverage.attempts import Attempt, Work
from converters.coverage.heads import Head
from converters.coverage.replay import Server
from converters.coverage.rows import chosen, read_rows
from converters.coverage.serving import Serving
from converters.coverage.sweep import Settings, sweep


class _Answering(Serving):
    """In Triton's place: every entry is answered rightly. Counts only."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tried(self, attempt: Attempt, made: Path) -> Attempt:
        self.asked.append(made.name)
        return replace(attempt, step="done", served=1e-6, probes=3)


def _work_of(model_type: str, head: Head) -> Work:
    def work(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
        begin("export")
        if model_type == "bert":
            os._exit(9)
        if model_type == "gpt2" and head.task == "text-generation":
            raise RuntimeError("not this task")
        known = {
            "route": "optimum",
            "why": "so",
            "precision": "fp32",
            "in_process": 1e-7,
            "bound": 1e-4,
            "seconds": {},
            "kv_cache": "",
        }
        return {"entry": str(folder / model_type), **known}

    return work


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_crash_costs_one_row_and_the_next_task_is_tried(jobs: int, tmp_path: Path) -> None:
    serving = _Answering()
    settings = Settings(tmp_path / "work", tmp_path / "rows.jsonl", jobs=jobs)
    done = sweep(("vit", "bert", "gpt2", "t5"), serving, settings, work_of=_work_of)
    assert {name: row.is_supported for name, row in done.items()} == {"vit": True, "bert": False, "gpt2": True, "t5": True}
    assert {each.message for each in done["bert"].attempts} == {"its process ended with code 9 and no result"}
    assert done["gpt2"].attempts[0].task == "text-generation"
    assert done["gpt2"].verdict == done["gpt2"].attempts[-1]
    assert sorted(serving.asked) == ["gpt2", "t5", "vit"]
    assert read_rows(tmp_path / "rows.jsonl") == done


def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    types = ("vit", "bert", "gpt2", "t5")
    settings = Settings(tmp_path / "work", tmp_path / "rows.jsonl", jobs=1)

    def slow(model_type: str, head: Head) -> Work:
        work = _work_of(model_type, head)

        def waiting(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
            time.sleep(30 if model_type == "gpt2" else 0)
            return work(folder, begin)

        return waiting

    process_id = os.fork()
    if not process_id:
        try:
            sweep(types, _Answering(), settings, work_of=slow)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 20
    while set(read_rows(settings.rows)) != {"vit", "bert"} and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process_id, signal.SIGKILL)
    os.waitpid(process_id, 0)
    left = chosen(types, read_rows(settings.rows), retry_failed=False)
    assert left == ("gpt2", "t5")
    sweep(left, _Answering(), settings, work_of=_work_of)
    assert {name: row.is_supported for name, row in read_rows(settings.rows).items()} == {
        "vit": True,
        "bert": False,
        "gpt2": True,
        "t5": True,
    }


def test_nothing_is_swept_without_a_triton(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="expected a Triton that is ready"):
        Serving(Server("http://127.0.0.1:9", "key"), tmp_path)
