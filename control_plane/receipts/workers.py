"""Which processes of the gate are alive: each holds a lock that the kernel takes back when it dies, however it dies.

In: a folder on one machine. Out: worker names, and whether their process still runs. This module must never signal a process.

A lock, and not a process id: ids are used again, and a restarted machine gives them to strangers.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path

from control_plane.errors import BadInput

_NAME = re.compile(r"[0-9a-f]{32}")


class Worker:
    """One process's sign of life. Make it after the fork, once a process: a lock held before would live in the parent too."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = secrets.token_hex(16)
        self._path = folder / self.name
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def leave(self) -> None:
        """End the sign of life. A process that ends without this is seen as dead just the same."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def is_alive(folder: Path, name: str) -> bool:
    """Whether the process that made this `Worker` still runs; False when there never was one. Removes the sign of a dead one."""
    if not _NAME.fullmatch(name):
        raise BadInput("worker", "32 hex digits", name)
    path = folder / name
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)
