"""Locks on single bytes of a file, which need not have them.

In: an open file and an offset. Out: a lock that the kernel takes back when the file is closed, by a process's death too, however it
dies. This module must never read or write.

They belong to the open file and not to the process (`F_OFD_SETLK`, Linux 3.15): two handles exclude each other in one process too,
and closing one loses no lock of the other. Threads that share a handle share its locks. About a microsecond each.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

MOST_OFFSET = 1 << 63
_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` on 64-bit Linux: type, whence, start, length, process id (0 for locks of an open file)."""


def open_locks(path: Path) -> int:
    """The file's descriptor; the file is made where it is missing. Children do not inherit it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(file: int, offset: int) -> bool:
    """Whether nobody else has it; then it is locked. Again: true, for it is ours."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
    except BlockingIOError:
        return False
    return True


def lock(file: int, offset: int) -> None:
    """Wait until nobody else has it."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))


def unlock(file: int, offset: int) -> None:
    """Again: does nothing."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0))
