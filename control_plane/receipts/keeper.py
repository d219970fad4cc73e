"""The log keeper's loop: runs steps when they are due, and goes on when one fails.

In: steps, a clock. Out: one record a step that did something or failed. This module must never decide what a step does, and never
show more of an unexpected error than its type and place.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import PosthumanError, Unavailable

REPEAT_S = 60.0
"""The same failure of the same step is reported again only after this long."""

Report = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Step:
    """Something to do every `every_s` seconds. run returns what is worth a line in the log, or None when nothing happened."""

    name: str
    every_s: float
    run: Callable[[], Mapping[str, object] | None]


class Keeper:
    """Runs steps one after the other, in their order, each when it is due; one thread."""

    def __init__(self, steps: Sequence[Step], report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that never go back."""
        self._steps, self._report, self._clock = tuple(steps), report, clock
        self._due = {step.name: 0.0 for step in steps}
        self._failing: dict[str, tuple[str, float]] = {}

    def tick(self) -> float:
        """Run what is due; returns the seconds until something is due again."""
        for step in self._steps:
            if self._clock() >= self._due[step.name]:
                self._due[step.name] = self._clock() + self._run(step)
        return max(0.0, min(self._due.values()) - self._clock())

    def run_until(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; returns after the step that was running."""
        while not stop.is_set():
            stop.wait(min(self.tick(), 1.0))

    def _run(self, step: Step) -> float:
        """Run one step; returns the seconds until it is due again."""
        try:
            done = step.run()
        except PosthumanError as error:
            self._failed(step, {"error": error.code, "message": error.message})
            return max(step.every_s, float(error.retry_after_s or 0))
        except Exception as error:  # a step's fault must not stop the others: receipts still need their checkpoint
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            self._failed(step, {"error": "internal_error", "message": f"{type(error).__name__} at {where}"})
            return max(step.every_s, 5.0)
        if self._failing.pop(step.name, None) is not None:
            self._report({"step": step.name, "recovered": True})
        if done is not None:
            self._report({"step": step.name, **done})
        return step.every_s

    def _failed(self, step: Step, record: Mapping[str, object]) -> None:
        text, since = self._failing.get(step.name, ("", 0.0))
        now = self._clock()
        if text != str(record) or now - since >= REPEAT_S:
            self._failing[step.name] = (str(record), now)
            self._report({"step": step.name, **record})


@contextmanager
def lease(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Be the only keeper of this state folder while inside. Raises Unavailable when another one still is after `wait_s` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise Unavailable(f"{path}: another log keeper runs on this state folder") from error
                time.sleep(0.1)
        yield
    finally:
        os.close(file)
