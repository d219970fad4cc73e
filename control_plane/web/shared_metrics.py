"""One folder in which the workers of one web server count together, however that server makes its processes.

In: a folder. Out: each worker's numbers in a file of its own, and those of workers that are gone added up. This module must never
lose what a dead worker has counted while another lives: a counter that goes down looks like a burst.

prometheus-client names the files by process id, which is used again, and asks the web server to say who died. Here they are named
by a `Worker`, whose life is a lock: any server that calls `share` once in each of its processes will do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prometheus_client.values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.values import MultiProcessValue

from control_plane.receipts.workers import Worker, is_alive

_PAST = "past"
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client reads it whenever it opens a file


def share(folder: Path) -> None:
    """Count in `folder` from now on; call it once a process, after the fork and before any metric is made.

    Where no other worker lives, counting begins at zero: a new server, or all of them died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        living = [path.name for path in _signs(folder).glob("*") if is_alive(_signs(folder), path.name)]
        if living:
            _fold(folder)
        else:
            for path in folder.glob("*.db"):
                path.unlink()
        name = Worker(_signs(folder)).name
    os.environ[_FOLDER] = str(folder)
    prometheus_client.values.ValueClass = MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]  # untyped in 0.26


@contextmanager
def reading(folder: Path) -> Iterator[list[str]]:
    """The files with numbers; while inside, they stay. What a worker that is gone had in flight is no more.

    A file without a byte is one that a worker is making right now, or died over.
    """
    with _locked(folder):
        for path in folder.glob("gauge_live*.db"):
            if not is_alive(_signs(folder), _owner(path)):
                path.unlink()
        yield [str(path) for path in folder.glob("*.db") if path.stat().st_size]


def _fold(folder: Path) -> None:
    """Add up what dead workers counted, so that a worker that dies every minute leaves no heap of files.

    A crash between moving the sum into place and removing its parts counts these twice.
    """
    for path in list(folder.glob("*.db")):
        kind, owner = path.name.split("_", 1)[0], _owner(path)
        if owner == _PAST or is_alive(_signs(folder), owner):
            continue
        if kind != "gauge" and path.stat().st_size:
            past = folder / f"{kind}_{_PAST}.db"
            scratch = past.with_suffix(".part")
            scratch.unlink(missing_ok=True)
            if past.exists():
                shutil.copyfile(past, scratch)
            _add(path, scratch)
            scratch.replace(past)
        path.unlink()


def _add(source: Path, target: Path) -> None:
    sums = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    for key, value, _timestamp, _position in MmapedDict.read_all_values_from_file(str(source)):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, 0.0)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


def _owner(path: Path) -> str:
    return path.stem.rsplit("_", 1)[1]


def _signs(folder: Path) -> Path:
    return folder / "workers"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
