"""What the log keeper tells Prometheus: of each step when it last succeeded, how often it failed, how long it takes.

In: the keeper's steps. Out: the same steps, and a text file that the web shows with its own numbers. This module must never fail a
step.

The keeper has no port of its own: one more to guard, for a few numbers. A file also outlives it, and says since when it is silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, write_to_textfile

from control_plane.receipts.keeper import Step

WRITE_EVERY_S = 2.0


def keeper_metrics_file(home: Path) -> Path:
    return home / "run" / "keeper.prom"


class KeeperMetrics:
    """clock: seconds since 1970."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file, self._clock, self._written_at = file, clock, 0.0
        self._registry = CollectorRegistry()
        self._alive = Gauge(
            "posthuman_keeper_last_sign_timestamp_seconds", "When the log keeper last wrote this", registry=self._registry
        )
        self._done = Gauge(
            "posthuman_keeper_step_last_success_timestamp_seconds",
            "When a step of the log keeper last succeeded, also when it found nothing to do",
            ["step"],
            registry=self._registry,
        )
        self._failures = Counter(
            "posthuman_keeper_step_failures",
            "Runs of a step that failed, by the error's code",
            ["step", "code"],
            registry=self._registry,
        )
        self._seconds = Summary(
            "posthuman_keeper_step_seconds", "What a step of the log keeper takes", ["step"], registry=self._registry
        )

    def watched(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """The same steps, each counted."""
        return tuple(replace(step, run=self._watching(step)) for step in steps)

    def _watching(self, step: Step) -> Callable[[], Mapping[str, object] | None]:
        name = step.name.replace(" ", "_")
        seconds, done = self._seconds.labels(name), self._done.labels(name)

        def watching() -> Mapping[str, object] | None:
            began = time.perf_counter()
            try:
                found = step.run()
                done.set(self._clock())
                return found
            except Exception as error:
                self._failures.labels(name, getattr(error, "code", "internal_error")).inc()
                raise
            finally:
                seconds.observe(time.perf_counter() - began)
                self._write()

        return watching

    def _write(self) -> None:
        now = self._clock()
        if abs(now - self._written_at) < WRITE_EVERY_S:
            return
        self._written_at = now
        self._alive.set(now)
        try:
            write_to_textfile(str(self._file), self._registry)
        except OSError:  # a full disk: the file grows old, which is what an alert looks at
            return
