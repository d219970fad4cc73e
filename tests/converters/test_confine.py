"""A conversion that was taken over: what it can reach from the moment the first file of a stranger is opened."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from converters.child import child_environment
from tests.converters import sources

TAKEN_OVER = """
import ctypes, os, socket, subprocess, sys, threading
from pathlib import Path
from converters import __main__, pipeline
from converters.errors import ConversionFailed

def taken_over(located, into):
{body}

pipeline.stage = taken_over
{before}
sys.exit(__main__.main(sys.argv[1:]))
"""


def run(tmp_path: Path, body: str, *options: str, before: str = "", secret: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Convert a sound model with a loader that runs `body`; returns the exit code and the lines."""
    model = sources.sound(tmp_path / "model")
    program = TAKEN_OVER.format(body=textwrap.indent(textwrap.dedent(body), "    "), before=before)
    environment = child_environment({"PATH": "/usr/bin:/bin"}, tmp_path)
    command = [sys.executable, "-c", program, str(model), f"--out={tmp_path / 'out'}", "--json", *options]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def listener() -> Any:
    """A server on 127.0.0.1 that counts who came."""
    visits: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                visitor, address = server.accept()
            except OSError:
                return
            visits.append(str(address))
            visitor.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    server_and_visits = (server.getsockname()[1], visits)
    yield server_and_visits
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


CONNECT = """
    found = []
    for family in ({families}):
        try:
            with socket.socket(family) as one:
                one.settimeout(5)
                one.connect({target!r})
            found.append("connected")
        except OSError as error:
            found.append(type(error).__name__)
    raise ConversionFailed(",".join(found))
"""


def test_it_cannot_reach_a_server_on_this_machine(tmp_path: Path, listener: tuple[int, list[str]]) -> None:
    port, visits = listener
    socket.create_connection(("127.0.0.1", port), timeout=5).close()  # whoever is not confined can
    body = CONNECT.format(families="socket.AF_INET,", target=("127.0.0.1", port))
    code, lines = run(tmp_path, body)
    assert (code, lines[-1]["message"]) == (4, "PermissionError")
    assert len(visits) == 1
    assert not any("note" in line for line in lines), "both locks close on this machine"


def test_the_namespace_alone_keeps_it_off_the_network(tmp_path: Path, listener: tuple[int, list[str]]) -> None:
    port, visits = listener
    body = CONNECT.format(families="socket.AF_INET,", target=("127.0.0.1", port))
    code, lines = run(tmp_path, body, before="import converters.confine as c; c.filter_calls = lambda: 'no such call'")
    assert (code, lines[-1]["message"]) == (4, "OSError") and visits == []
    assert any("cannot reach the network: no filter on system calls: no such call" in line.get("note", "") for line in lines)


def test_the_filter_alone_keeps_it_off_the_network(tmp_path: Path, listener: tuple[int, list[str]]) -> None:
    port, visits = listener
    body = CONNECT.format(families="socket.AF_INET,", target=("127.0.0.1", port))
    code, lines = run(tmp_path, body, before="import converters.confine as c; c.leave_the_network = lambda owned: 'forbidden'")
    assert (code, lines[-1]["message"]) == (4, "PermissionError") and visits == []
    assert any("cannot reach the network: no network namespace" in line.get("note", "") for line in lines)


def test_a_process_that_could_not_be_confined_says_so(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "raise ConversionFailed('on')", before="__main__.confine = lambda owned: ('one', 'two')")
    assert code == 4
    assert any("it could reach the network: one; two" in line.get("note", "") for line in lines)


def test_it_cannot_reach_a_container_engines_socket(tmp_path: Path) -> None:
    # By the open folder: a socket's path may have 108 bytes at most, and where the tests write is longer on some machines.
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(place := f"/proc/{os.getpid()}/fd/{folder}/engine.sock")
            server.listen()
            code, lines = run(tmp_path, CONNECT.format(families="socket.AF_UNIX,", target=place))
    finally:
        os.close(folder)
    assert (code, lines[-1]["message"]) == (4, "PermissionError")


TOGETHER = """
import os, socket
from pathlib import Path
from converters.confine import filter_calls, leave_the_network

said = [leave_the_network(Path({owned!r}), has_loopback=True), filter_calls((socket.AF_INET, socket.AF_NETLINK))]
server = socket.create_server(("127.0.0.1", 0))
with socket.create_connection(server.getsockname(), timeout=5) as one:
    said.append(server.accept()[0].send(b"heard"))
    said.append(one.recv(5).decode())
outside = [(socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_INET, ("192.0.2.1", 80))]
outside += [(socket.AF_UNIX, "/x"), (socket.AF_INET6, ("::1", 1))]
for family, target in outside:
    try:
        with socket.socket(family) as one:
            one.settimeout(5)
            one.connect(target)
        said.append("connected")
    except OSError as error:
        said.append(type(error).__name__)
try:
    os.fork()
except OSError as error:
    said.append(type(error).__name__)
print(said)
"""


def test_processes_of_one_job_reach_each_other_and_nobody_else(tmp_path: Path, listener: tuple[int, list[str]]) -> None:
    port, visits = listener
    program = TOGETHER.format(owned=str(tmp_path), port=port)
    environment = child_environment({"PATH": "/usr/bin:/bin"}, tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outside = ["ConnectionRefusedError", "OSError", "PermissionError", "PermissionError", "PermissionError"]
    assert done.stdout.strip() == str([None, None, 5, "heard", *outside])
    assert visits == []


def test_it_starts_no_program_and_no_process_but_has_threads(tmp_path: Path) -> None:
    body = """
        found = []
        for attempt in (os.fork, lambda: subprocess.run(["true"]), lambda: os.execv("/bin/true", ["true"])):
            try:
                attempt()
                found.append("done")
            except OSError as error:
                found.append(type(error).__name__)
        found.append("system" if os.system("true") == 0 else "no system")
        one = threading.Thread(target=lambda: found.append("thread"))
        one.start()
        one.join()
        raise ConversionFailed(",".join(found))
    """
    code, lines = run(tmp_path, body)
    assert (code, lines[-1]["message"]) == (4, "PermissionError,PermissionError,PermissionError,no system,thread")


def test_it_sees_neither_the_memory_nor_the_environment_of_who_started_it(tmp_path: Path) -> None:
    body = """
        found = []
        for name in ("environ", "mem"):
            try:
                with Path(f"/proc/{os.getppid()}/{name}").open("rb") as stream:
                    stream.read(1)
                found.append("read")
            except OSError as error:
                found.append(type(error).__name__)
        raise ConversionFailed(",".join(found))
    """
    assert Path(f"/proc/{os.getpid()}/environ").read_bytes(), "whoever is not confined can"
    code, lines = run(tmp_path, body)
    assert (code, lines[-1]["message"]) == (4, "PermissionError,PermissionError")


def test_a_conversion_that_takes_too_long_is_ended_with_its_reason(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "while True: pass", "--seconds=1")
    assert code == 4 and "within 1 s" in lines[-1]["message"]
    assert list((tmp_path / "out").iterdir()) == []


def test_memory_past_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "kept = bytearray(8 << 30)", "--memory-mb=1024")
    assert code == 4 and "MemoryError" in lines[-1]["message"] and "1.0 GiB" in lines[-1]["message"]


def test_a_file_past_the_limit_is_refused(tmp_path: Path) -> None:
    body = "into.mkdir(); open(into / 'huge', 'wb').truncate(1 << 30)"
    code, lines = run(tmp_path, body)
    assert code == 4 and "File too large" in lines[-1]["message"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_model_that_asks_for_more_memory_than_its_files_could_need_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_gpt2.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    sources.change(model, "config.json", vocab_size=2**33, n_inner=2**33)
    command = [sys.executable, "-m", "converters", str(model), f"--out={tmp_path / 'out'}", "--json"]
    environment = child_environment({"PATH": "/usr/bin:/bin"}, tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode in (3, 4) and "folder" not in last
    assert "memory" in last["message"] or "weights" in last["message"]
