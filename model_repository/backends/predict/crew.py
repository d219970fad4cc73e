"""Threads that answer calls: some at once, the others in their order.

In: what is to be done for each call. Out: it is done. This module must never know what a call is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from opening.refusal import TooBusy

_CLOSE_TIMEOUT_S = 5.0


class Crew:
    """What goes wrong with a call is its job's own answer; a job that raises is over."""

    def __init__(self, at_once: int, most_waiting: int) -> None:
        self._most = at_once + most_waiting
        self._unfinished = 0
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"call {number}", daemon=True) for number in range(at_once)]
        for thread in self._threads:
            thread.start()

    def add(self, job: Callable[[], None]) -> None:
        """Raises TooBusy when as many wait as may wait."""
        with self._lock:
            if self._unfinished >= self._most:
                raise TooBusy(f"{self._unfinished} calls are waiting for this model")
            self._unfinished += 1
        self._jobs.put(job)

    def close(self) -> None:
        """Wait until all that was added is done, but not for ever. Again: does nothing."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_TIMEOUT_S)
        self._threads = []

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with suppress(BaseException):  # nobody is left to be told; the thread is needed for the next call
                job()
            with self._lock:
                self._unfinished -= 1
