"""A sign of life of what has no port, the log keeper and the worker: a file it touches, and who looks at it.

In: a state folder, the keeper's steps. Out: whether the process works. This module must never run a step itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from control_plane.receipts.keeper import Step

WITHIN_S = 30.0
"""A keeper that has begun or ended no step for this long is stuck, or waits for a node that does not answer; a worker that has
not looked for jobs waits for its database."""


def worker_alive_file(home: Path) -> Path:
    """Touched by the worker that the stack starts, by no other one of the same market."""
    return home / "run" / "worker.alive"


def alive_file(home: Path) -> Path:
    """Touched by the keeper before and after each step."""
    return home / "run" / "keeper.alive"


def shows_life(file: Path, clock: Callable[[], float] = time.time) -> bool:
    """Whether whoever touches the file works. clock: seconds since 1970, as files are dated."""
    try:
        return clock() - file.stat().st_mtime < WITHIN_S
    except FileNotFoundError:
        return False


def with_sign_of_life(steps: Sequence[Step], file: Path) -> tuple[Step, ...]:
    """The same steps, each with the file touched before and after it."""
    return tuple(replace(step, run=_touching(step.run, file)) for step in steps)


def _touching(run: Callable[[], Mapping[str, object] | None], file: Path) -> Callable[[], Mapping[str, object] | None]:
    def touching() -> Mapping[str, object] | None:
        file.touch()
        try:
            return run()
        finally:
            file.touch()

    return touching
