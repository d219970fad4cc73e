"""Whose turn it is to write: one transaction at a time over the threads of a process and over the processes of a machine.

In: a file that all who write to one SQLite database share. Out: a lock. This module must never be what correctness rests on:
SQLite's own lock is, and who waits too long here goes on to wait there.

SQLite's own waiting sleeps 1 to 100 ms a time, and whoever comes meanwhile goes first: with two busy processes one call in a
hundred took over 100 ms. Here a process that waits looks again every few tenths of a millisecond, and threads of one process wake
each other.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from types import TracebackType

LONGEST_S = 10.0
"""A process that was stopped in its turn may hold it for ever."""
_LOOK_AGAIN_S = 0.0003


class Turn:
    """A context manager; not to be entered again by who is in it. Ends with its process, however that ends."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_ours = False

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._is_ours = self._take()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_ours:
            self._is_ours = False
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._lock.release()

    def __del__(self) -> None:
        os.close(self._file)

    def _take(self) -> bool:
        until = None
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                now = time.monotonic()
                until = until or now + LONGEST_S
                if now > until:
                    return False
                time.sleep(_LOOK_AGAIN_S)
