"""Which seconds the engine counts against a job's time, with a driver that says when its processes begin and end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.engine import Engine, Outcome, Resources


@dataclass(frozen=True)
class Attempt:
    """waits_s: until its processes begin; None: they never do. runs_s: until they end; then `ended` is said."""

    waits_s: float | None
    runs_s: float
    ended: str


class Driver:
    """Says of each attempt what it is told to; an attempt that is asked to end is lost, as with Ray."""

    def __init__(self, folder: Path, attempts: Sequence[Attempt]) -> None:
        self._folder, self._left = folder, list(attempts)
        self._asked_to_end = threading.Event()

    def begin(self, _name: str, _shape: Any, _order: Any) -> queue.SimpleQueue[dict[str, Any]]:
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._say, args=(self._left.pop(0), answers), daemon=True).start()
        return answers

    def _say(self, attempt: Attempt, answers: queue.SimpleQueue[dict[str, Any]]) -> None:
        if attempt.waits_s is not None:
            if self._asked_to_end.wait(attempt.waits_s):
                answers.put({"ended": "lost", "said": "stopped"})
                return
            answers.put({"begun": [1]})
            if self._asked_to_end.wait(attempt.runs_s):
                answers.put({"ended": "lost", "said": "stopped"})
                return
            if attempt.ended == "done":
                (self._folder / "result.json").write_text("{}")
        answers.put({"ended": attempt.ended, "said": ""})

    def send(self, record: Any) -> None:
        if record["do"] == "end":
            self._asked_to_end.set()


def run(tmp_path: Path, timeout_s: float, *attempts: Attempt, wait_s: float = 60.0) -> tuple[Outcome, list[bool]]:
    """Also what it told of when the processes ran."""
    engine = Engine(tmp_path / "home", {}, wait_s=wait_s)
    driver = Driver(tmp_path, attempts)
    engine._started = lambda: driver  # type: ignore[assignment, method-assign, return-value]
    told: list[bool] = []
    outcome = engine.run(tmp_path, "train", 1, Resources(), timeout_s, lambda _told: None, lambda: False, told.append)
    return outcome, told


def test_waiting_until_the_processes_begin_is_none_of_a_job_s_time(tmp_path: Path) -> None:
    found = run(tmp_path, 1.0, Attempt(waits_s=1.5, runs_s=0.1, ended="done"))
    assert found == (Outcome("finished", 1), [True, False])


def test_a_job_whose_processes_run_too_long_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome, told = run(tmp_path, 0.5, Attempt(waits_s=0.0, runs_s=30.0, ended="done"))
    assert (outcome, told) == (Outcome("timed_out", 1), [True, False])
    assert 0.5 < time.monotonic() - began < 10.0


def test_the_time_of_processes_that_died_counts_and_the_wait_for_others_does_not(tmp_path: Path) -> None:
    died = Attempt(waits_s=0.3, runs_s=0.4, ended="lost")
    outcome, told = run(tmp_path, 0.9, died, died, Attempt(waits_s=0.3, runs_s=30.0, ended="done"))
    assert (outcome, told) == (Outcome("timed_out", 3), [True, False] * 3)


@pytest.mark.parametrize(("waits_s", "state"), [(None, "not_begun"), (0.0, "failed")])
def test_what_never_began_is_told_from_what_began_and_died(waits_s: float | None, state: str, tmp_path: Path) -> None:
    outcome, _told = run(tmp_path, 60.0, *[Attempt(waits_s, runs_s=0.0, ended="lost")] * 3)
    assert (outcome.state, outcome.code, outcome.attempts) == (state, "internal", 3)


def test_a_job_that_gets_no_machine_in_time_is_not_begun_and_says_so(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome, told = run(tmp_path, 60.0, Attempt(waits_s=30.0, runs_s=0.1, ended="done"), wait_s=0.5)
    assert outcome == Outcome("not_begun", 1, "no_machine", "No machine had room for it within 0.5 s.")
    assert 0.5 < time.monotonic() - began < 10.0 and not any(told)


def test_the_wait_for_a_machine_is_counted_anew_for_each_attempt_and_ends_with_it(tmp_path: Path) -> None:
    """A program that runs for longer than it may have waited is not late."""
    died = Attempt(waits_s=0.4, runs_s=1.0, ended="lost")
    outcome, _told = run(tmp_path, 60.0, died, Attempt(waits_s=0.4, runs_s=1.0, ended="done"), wait_s=0.9)
    assert outcome == Outcome("finished", 2)
