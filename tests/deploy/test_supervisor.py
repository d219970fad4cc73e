"""The supervisor, on small servers of its own: what dies comes back, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local.ports import free_port, is_open
from deploy.local.processes import end_supervised, identity, supervised
from deploy.local.supervisor import status_file

REPOSITORY = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import os, sys, pathlib, time
from deploy.local.ports import is_open
from deploy.local.supervisor import Component, Launch, Stage, Supervisor, Task
home, ports, mode = pathlib.Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")], sys.argv[3]
environment = {"PATH": os.environ["PATH"]}
def server(name, port):
    # a server with a child of its own, as granian and Triton have
    code = f"import subprocess, sys, http.server; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); " \\
        f"http.server.ThreadingHTTPServer(('127.0.0.1', {port}), http.server.BaseHTTPRequestHandler).serve_forever()"
    command = [sys.executable, "-c", code if mode != "broken" or name == "first" else "raise SystemExit('cannot bind')"]
    return Component(name, lambda: Launch(command, environment), lambda: is_open(port), port, ready_within_s=20,
        on_return=lambda: (home / "returned").write_text(name))
def task():
    (home / "task").write_text("done")
    if mode == "bad task":
        raise RuntimeError("no contracts")
stages = [Stage((server("first", ports[0]),), (Task("a task", task),)), Stage((server("second", ports[1]),))]
raise SystemExit(Supervisor(home, lambda: stages).run())
"""


class Running:
    def __init__(self, home: Path, mode: str = "good") -> None:
        self.home, self.ports = home, [free_port(), free_port()]
        home.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home), ",".join(map(str, self.ports)), mode],
            cwd=REPOSITORY,
            stderr=subprocess.DEVNULL,
        )

    def status(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(status_file(self.home).read_text())
        except FileNotFoundError:
            return {"state": "", "components": []}
        return record

    def component(self, name: str) -> dict[str, Any]:
        return next((one for one in self.status()["components"] if one["name"] == name), {})

    def wait(self, question: Callable[[], bool], within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while not question():
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[str], Running]]:
    started: list[Running] = []

    def start(mode: str = "good") -> Running:
        started.append(Running(tmp_path / "home", mode))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
        one.process.wait(20)
        end_supervised(one.home)


def test_components_start_in_order_and_the_status_says_ready(running: Callable[..., Running]) -> None:
    one = running()
    one.wait(lambda: one.status()["state"] == "ready")
    assert [step["name"] for step in one.status()["steps"]] == ["first", "a task", "second"]
    assert all(is_open(port) for port in one.ports)
    assert [part["state"] for part in one.status()["components"]] == ["ready", "ready"]


def test_a_killed_component_is_started_again_and_the_status_counts_it(running: Callable[..., Running]) -> None:
    one = running()
    one.wait(lambda: one.status()["state"] == "ready")
    before = one.component("second")
    os.kill(before["pid"], signal.SIGKILL)
    one.wait(lambda: one.component("second")["restarts"] == 1 and one.component("second")["state"] == "ready")
    after = one.component("second")
    assert after["pid"] != before["pid"]
    assert after["reason"] == "ended with signal SIGKILL"
    assert (one.home / "returned").read_text() == "second"
    assert one.component("first")["restarts"] == 0
    assert len(supervised(one.home)) == 4, "the killed component's own child is gone too"


def test_stopping_leaves_no_process(running: Callable[..., Running]) -> None:
    one = running()
    one.wait(lambda: one.status()["state"] == "ready")
    assert len(supervised(one.home)) == 4
    one.process.terminate()
    assert one.process.wait(20) == 0
    assert supervised(one.home) == []
    assert one.status()["state"] == "stopped"


def test_a_killed_supervisor_takes_its_components_along_or_they_are_found(running: Callable[..., Running]) -> None:
    one = running()
    one.wait(lambda: one.status()["state"] == "ready")
    pids = [part["pid"] for part in one.status()["components"]]
    one.process.kill()
    one.process.wait()
    one.wait(lambda: all(identity(pid) is None for pid in pids), 5)
    end_supervised(one.home)
    assert supervised(one.home) == []


def test_a_second_supervisor_of_the_same_folder_ends_at_once(running: Callable[..., Running]) -> None:
    one = running()
    one.wait(lambda: one.status()["state"] == "ready")
    two = running()
    assert two.process.wait(20) == 0
    assert one.process.poll() is None
    assert one.status()["pid"] == one.process.pid


def test_a_component_that_never_starts_fails_the_start_and_all_is_ended(running: Callable[..., Running]) -> None:
    one = running("broken")
    assert one.process.wait(30) == 1
    assert one.status()["state"] == "failed"
    assert "second does not start" in one.status()["error"]
    assert "cannot bind" in one.status()["error"]
    assert supervised(one.home) == []


def test_a_failed_task_fails_the_start_and_names_the_reason(running: Callable[..., Running]) -> None:
    one = running("bad task")
    assert one.process.wait(20) == 1
    assert one.status()["error"] == "a task: RuntimeError: no contracts"
    assert supervised(one.home) == []


def test_processes_of_another_folder_are_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={"POSTHUMAN_SUPERVISED": "/another"})
    try:
        assert end_supervised(tmp_path) == 0
        assert psutil.Process(stranger.pid).is_running()
    finally:
        stranger.kill()
        stranger.wait()
