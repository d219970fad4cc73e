"""How fast one owner calls, over all processes of one machine.

In: an owner's name, calls a minute, the time. Out: whether it may call now, or how long it must wait. This module must never ask a
database: a call has no time for it.

An owner's bucket holds a minute's calls, and fills evenly. It is one number, the time at which it will be full (GCRA, the "virtual
scheduling algorithm" of ITU-T I.371), in a file that all processes share, behind a lock that the kernel takes back from a dead one.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane.serving.byte_locks import lock, open_locks, unlock

_SHELVES = 1 << 14
_ON_A_SHELF = 8
_ENTRY = struct.Struct("<8sd")
"""First bytes of the owner's hash; seconds since 1970 at which its bucket is full."""
_SHELF_BYTES = _ENTRY.size * _ON_A_SHELF
_WINDOW_S = 60.0


class Rates:
    """Buckets by owner, shared with every process that opens the same path; safe in several threads.

    The file has room for 131,072 owners; one that is full again needs none. Where nine share a shelf and none is full, the fullest
    one is forgotten: it may then call more than it should, never less.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """clock: seconds since 1970, the same in every process."""
        self._file = open_locks(path)
        os.truncate(self._file, _SHELVES * _SHELF_BYTES)  # sparse: what nobody used takes no disk
        self._clock = clock
        self._turn = threading.Lock()

    def take(self, owner: str, per_minute: int) -> float:
        """Take one call: 0.0, or the seconds until one may be taken; then nothing was. Again: takes another."""
        digest = hashlib.sha256(owner.encode()).digest()
        tag, shelf = digest[:8], int.from_bytes(digest[8:16], "big") % _SHELVES * _SHELF_BYTES
        interval = _WINDOW_S / per_minute
        with self._locked(shelf):
            now = self._clock()
            entries = list(_ENTRY.iter_unpack(os.pread(self._file, _SHELF_BYTES, shelf)))
            place = next((number for number, (name, _) in enumerate(entries) if name == tag), None)
            if place is None:
                place, full_at = min(range(_ON_A_SHELF), key=lambda number: entries[number][1]), now
            else:
                # Later than a window can be only where the clock was set back: as if the bucket were empty now.
                full_at = min(max(entries[place][1], now), now + _WINDOW_S)
            wait = full_at + interval - now - _WINDOW_S
            is_allowed = wait < 1e-6  # seconds since 1970 in a double are exact to a quarter of a microsecond
            taken = _ENTRY.pack(tag, full_at + interval if is_allowed else full_at)
            os.pwrite(self._file, taken, shelf + place * _ENTRY.size)
        return 0.0 if is_allowed else wait

    def close(self) -> None:
        """Once."""
        os.close(self._file)

    @contextmanager
    def _locked(self, shelf: int) -> Iterator[None]:
        """Nobody else, in this process or another, sees the shelf meanwhile."""
        with self._turn:
            lock(self._file, shelf)
            try:
                yield
            finally:
                unlock(self._file, shelf)
