"""A flag that a signal handler may set.

In: a signal. Out: whether it came. This module must never take a lock: a handler runs in the main thread, between any two of its
instructions, and `threading.Event.set` would wait there for ever for the lock that the interrupted `wait` of the same thread holds.
"""

from __future__ import annotations

import threading
import time

_SLICE_S = 0.05


class StopFlag(threading.Event):
    """As `threading.Event`, set from a handler and awaited by the main thread; seen within 50 ms."""

    def __init__(self) -> None:
        super().__init__()
        self._came = False

    def set(self) -> None:
        self._came = True

    def is_set(self) -> bool:
        return self._came

    def clear(self) -> None:
        self._came = False

    def wait(self, timeout: float | None = None) -> bool:
        """timeout: seconds; None waits until it is set. Returns whether it is."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._came:
            left = _SLICE_S if until is None else until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _SLICE_S))
        return self._came
