"""How many calls of one owner are under way, over all processes of one machine.

In: an owner's name, and the most it may have. Out: a place, held until it is given back. This module must never write a file's
content or ask a database: a call has no time for it.

A place is a byte of a file that has no bytes, locked by who holds it. The kernel takes a dead process's locks back, so no count is
ever wrong after `kill -9`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from pathlib import Path

from control_plane.serving.byte_locks import MOST_OFFSET, open_locks, try_lock, unlock
from control_plane.settings import MOST_CONCURRENCY


class Slots:
    """Places by owner, shared with every process that opens the same path; safe in several threads."""

    def __init__(self, path: Path) -> None:
        self._file = open_locks(path)
        self._own: set[int] = set()
        self._turn = threading.Lock()
        # Each process begins to look at another place: the first it tries is then mostly free.
        self._first = secrets.randbelow(MOST_CONCURRENCY)

    def take(self, owner: str, most: int) -> int | None:
        """A place of the owner's, None when it has `most`, which is at most MOST_CONCURRENCY. Again: another place."""
        # 12 bits of an offset tell the places of an owner apart, the other 51 owners
        digest = int.from_bytes(hashlib.sha256(owner.encode()).digest(), "big")
        begin = digest % (MOST_OFFSET // MOST_CONCURRENCY) * MOST_CONCURRENCY
        with self._turn:
            for number in range(most):
                place = begin + (self._first + number) % most
                if place not in self._own and try_lock(self._file, place):
                    self._own.add(place)
                    return place
        return None

    def give_back(self, place: int) -> None:
        """Again: does nothing, unless somebody has taken it since."""
        with self._turn:
            if place in self._own:
                self._own.remove(place)
                unlock(self._file, place)

    def close(self) -> None:
        """Give back everything; once."""
        os.close(self._file)
