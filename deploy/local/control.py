"""Starting and ending the supervisor from outside it.

In: a state folder. Out: its status. This module must never run a component itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from control_plane.state import read_environment_file
from deploy.local import processes
from deploy.local.environment import triton_ports
from deploy.local.supervisor import hold, status_file
from deploy.local.triton_server import remove_leftovers
from deploy.progress import Steps

_POLL_S = 0.1
_START_WITHIN_S = 300.0
_STOP_WITHIN_S = 60.0
_RUNS = ("ready", "degraded")


def read_status(home: Path) -> dict[str, Any]:
    """What the supervisor wrote last.

    `state` is `starting`, `ready`, `degraded` (it runs, and a component is not ready), `stopping`, `failed` (the start did),
    `down` (it never ran, or ended), or `lost` (it was killed).
    """
    try:
        record: dict[str, Any] = json.loads(status_file(home).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {"state": "down", "error": "", "components": [], "steps": []}
    if record["state"] in ("stopped", "failed"):
        return {**record, "state": "down" if record["state"] == "stopped" else "failed"}
    if not _is_alive(record):
        return {**record, "state": "lost", "error": "the supervisor was killed; `posthuman up` or `down` clears up after it"}
    if record["state"] == "ready" and any(part["state"] != "ready" for part in record["components"]):
        return {**record, "state": "degraded"}
    return record


def is_running(home: Path) -> bool:
    """Whether a supervisor of this folder has started everything; it may be restarting a component just now."""
    return read_status(home)["state"] in _RUNS


def start_stack(home: Path, steps: Steps) -> dict[str, Any]:
    """Start the supervisor as a process of its own and follow it until it is ready or has failed; returns its status.

    Again, while it runs or starts: follows the one that is there.
    """
    (home / "logs").mkdir(parents=True, exist_ok=True)
    log = home / "logs" / "supervisor.log"
    processes.rotate(log)
    lock = hold(home)
    child: subprocess.Popen[bytes] | None = None
    if lock is not None:
        lock.close()
        with log.open("ab") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", "deploy.local.stack", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=home,
                env={**os.environ, "POSTHUMAN_HOME": str(home), "PYTHONWARNINGS": "ignore:pkg_resources is deprecated"},
            )
    return _follow(home, steps, child)


def _follow(home: Path, steps: Steps, child: subprocess.Popen[bytes] | None) -> dict[str, Any]:
    with steps.step("starting the stack") as show:
        return _until_started(home, steps, show, child)


def _until_started(home: Path, steps: Steps, show: Callable[[str], None], child: subprocess.Popen[bytes] | None) -> dict[str, Any]:
    told = 0
    deadline = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline:
        record = read_status(home)
        is_new = child is None or record.get("pid") == child.pid
        if is_new:
            done = record.get("steps", [])
            for step in done[told:]:
                steps.say(f"{step['name']}: {step['seconds']:.1f} s")
            told = len(done)
            show(str(record.get("doing", "")))
            if record["state"] in (*_RUNS, "failed"):
                return record
        if child is not None and child.poll() is not None:
            return read_status(home) if is_new else {"state": "failed", "error": "", "components": [], "steps": []}
        time.sleep(_POLL_S)
    return {**read_status(home), "state": "failed", "error": f"not ready within {_START_WITHIN_S:.0f} s"}


def stop_stack(home: Path) -> int:
    """End the supervisor and everything it started, also what a killed supervisor left; returns how many processes ended.

    Again: ends nothing, returns 0.
    """
    count = len(processes.supervised(home))
    record = read_status(home)
    if record["state"] in ("starting", *_RUNS, "stopping") and _is_alive(record):
        count += 1
        supervisor = psutil.Process(record["pid"])
        supervisor.terminate()
        try:
            supervisor.wait(_STOP_WITHIN_S)
        except psutil.TimeoutExpired:
            supervisor.kill()
    processes.end_supervised(home)
    values = read_environment_file(home)
    if "POSTHUMAN_TRITON_PORT" in values:
        remove_leftovers(triton_ports(values))
    return count


def _is_alive(record: dict[str, Any]) -> bool:
    created = processes.identity(int(record["pid"]))
    return created is not None and abs(created - float(record["created"] or 0)) < 0.01
