"""Threads that answer calls: some at once, the others in their order, and none that has waited longer than it may.

In: what is to be done for each call, and what when it comes to nothing. Out: one of the two is done. This module must never know
what a call is.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from opening.refusal import TooBusy, TooLate

_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Waiting:
    """until: by the crew's clock."""

    job: Callable[[], None]
    refuse: Callable[[TooLate], None]
    until: float


class Crew:
    """What goes wrong with a call is its job's own answer; a job that raises is over."""

    def __init__(self, at_once: int, most_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only pass."""
        self._most, self._clock = at_once + most_waiting, clock
        self._unfinished = 0
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._is_earlier = threading.Condition(self._lock)
        self._looks_at = math.inf
        self._is_closed = False
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        """One for each job that was added, then one for each thread: False, it may end."""
        self._threads = [threading.Thread(target=self._work, name=f"call {number}", daemon=True) for number in range(at_once)]
        self._watch = threading.Thread(target=self._look, name="late calls", daemon=True)
        for thread in (*self._threads, self._watch):
            thread.start()

    def add(self, job: Callable[[], None], refuse: Callable[[TooLate], None], most_wait_s: float = math.inf) -> None:
        """most_wait_s: if no thread has taken the job by then it is not done, and `refuse` is told so at once, from another thread.

        Raises TooBusy when as many wait as may wait; then nothing is done.
        """
        until = self._clock() + most_wait_s
        with self._lock:
            if self._unfinished >= self._most:
                raise TooBusy(f"{self._unfinished} calls are waiting for this model")
            self._unfinished += 1
            self._waiting.append(_Waiting(job, refuse, until))
            if until < self._looks_at:  # seldom: who comes later may as a rule wait until later
                self._is_earlier.notify()
        self._tokens.put(True)

    def load(self) -> tuple[int, int]:
        """Jobs that wait for a thread, and those that have one."""
        with self._lock:
            return len(self._waiting), self._unfinished - len(self._waiting)

    def close(self) -> None:
        """Wait until all that was added is done, but not for ever. Again: does nothing."""
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join(_CLOSE_TIMEOUT_S)
        self._threads = []
        with self._lock:
            self._is_closed = True
            self._is_earlier.notify()
        self._watch.join(_CLOSE_TIMEOUT_S)

    def _work(self) -> None:
        while self._tokens.get():
            with self._lock:
                one = self._waiting.popleft() if self._waiting else None
            if one is None:
                continue  # it was refused
            if one.until <= self._clock():
                _refuse(one)
            else:
                with suppress(BaseException):  # nobody is left to be told; the thread is needed for the next call
                    one.job()
            with self._lock:
                self._unfinished -= 1

    def _look(self) -> None:
        """Refuse those who have waited too long. A thread of its own: while all others compute, nobody else would tell them."""
        while True:
            with self._lock:
                if self._is_closed:
                    return
                now = self._clock()
                late = [one for one in self._waiting if one.until <= now]
                if late:
                    self._waiting = deque(one for one in self._waiting if one.until > now)
                    self._unfinished -= len(late)
                self._looks_at = min((one.until for one in self._waiting), default=math.inf)
                if not late:
                    self._is_earlier.wait(None if self._looks_at == math.inf else self._looks_at - now)
            for one in late:
                _refuse(one)


def _refuse(one: _Waiting) -> None:
    with suppress(BaseException):  # as above
        one.refuse(TooLate())
