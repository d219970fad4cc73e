"""Signs of life that the kernel takes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.errors import BadInput
from control_plane.receipts.workers import Worker, is_alive

REPOSITORY = Path(__file__).parents[3]


def test_a_worker_is_alive_until_its_process_ends(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    assert is_alive(tmp_path, worker.name)
    script = "import sys,pathlib;from control_plane.receipts.workers import Worker;" + (
        "print(Worker(pathlib.Path(sys.argv[1])).name,flush=True);sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    name = process.stdout.readline().strip()
    assert is_alive(tmp_path, name)
    process.kill()
    process.wait(10)
    process.stdout.close()
    process.stdin.close()
    assert not is_alive(tmp_path, name)
    assert not is_alive(tmp_path, name)
    assert not is_alive(tmp_path, "0" * 32)
    with pytest.raises(BadInput):
        is_alive(tmp_path, "../../etc/passwd")
    worker.leave()
    assert not is_alive(tmp_path, worker.name)
