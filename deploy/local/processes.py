"""Starting and ending processes so that none is left.

In: commands. Out: processes in sessions of their own, found again by a mark in their environment. This module must never end a
process that does not carry the mark of the state folder it was asked about.

Every process that the supervisor starts carries `POSTHUMAN_SUPERVISED=<home>` in its environment, and so do its children. A process
id can be used again by a stranger; the mark cannot. It finds granian's workers and Triton's stubs after their parent was killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

MARK = "POSTHUMAN_SUPERVISED"
_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when the thread that made it ends."""
_ROTATE_BYTES = 5 << 20
_TRUNCATE_BYTES = 50 << 20
_KILL_WAIT_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    # Runs between fork and exec: only one system call, through a library loaded long before.
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def start(command: Sequence[str], environment: Mapping[str, str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; its output is appended to `log`.

    Call it from the main thread only: the process gets SIGTERM when the thread that started it ends, kill -9 included.
    Raises OSError when the program cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            list(command),
            env={**environment, MARK: str(home)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def ask_to_end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Again, or when it has ended: does nothing."""
    if process.poll() is None:
        process.send_signal(stop_signal)


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, within_s: float) -> None:
    """Ask a process to end, wait, then end by force what is left of its session. Again: does nothing."""
    ask_to_end(process, stop_signal)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_KILL_WAIT_S)
    end_session(process.pid)


def end_session(leader: int) -> None:
    """Kill what a leader left behind; a session's id is its leader's process id, and is not reused while it has members."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def supervised(home: Path) -> list[psutil.Process]:
    """Every living process that carries this state folder's mark, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if is_ours:
            found.append(process)
    return found


def end_supervised(home: Path, within_s: float = 10.0) -> int:
    """End every process of this state folder; returns how many there were. Again: finds none."""
    found = supervised(home)
    for process in found:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(found, timeout=within_s)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=_KILL_WAIT_S)
    late = supervised(home)  # what was being started meanwhile
    for process in late:
        _quietly(process.kill)
    psutil.wait_procs(late, timeout=_KILL_WAIT_S)
    return len({process.pid for process in (*found, *late)})


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return


def identity(pid: int) -> float | None:
    """When a process began (seconds since 1970): with its id, the name of one process. None when it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def rotate(log: Path) -> None:
    """Before a start: keep at most one old log beside a log that has grown."""
    if log.exists() and log.stat().st_size > _ROTATE_BYTES:
        log.replace(log.with_name(log.name + ".1"))


def trim(log: Path) -> None:
    """While it runs: cut a log that has grown huge. Works because logs are opened for appending."""
    try:
        if log.stat().st_size > _TRUNCATE_BYTES:
            os.truncate(log, 0)
    except FileNotFoundError:
        return
