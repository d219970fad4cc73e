"""A child's crash, hunger and endlessness cost its own result and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from converters.coverage import attempts
from converters.coverage.attempts import Work


def _ended(work: Work, folder: Path, *, limit_s: int = 20, memory_bytes: int = 1 << 30) -> dict[str, Any]:
    child = attempts.start(work, folder, limit_s=limit_s, memory_bytes=memory_bytes)
    result = attempts.result_of(child, block=True)
    assert result is not None
    return result


def _works(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("build")
    print("said by a library")
    return {"step": "done", "value": 7}


def _exits(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("export")
    os._exit(3)


def _dies(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("load")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _hangs(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("parity")
    while True:
        time.sleep(1)


def _eats(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("build")
    return {"length": len(bytearray(4 << 30))}


def _raises(folder: Path, begin: Callable[[str], None]) -> Mapping[str, Any]:
    begin("scan")
    raise LookupError("no such thing")


def test_a_child_that_ends_well_gives_its_result_and_its_words_go_to_a_file(tmp_path: Path) -> None:
    assert _ended(_works, tmp_path / "one") == {"step": "done", "value": 7}
    assert "said by a library" in (tmp_path / "one" / "log").read_text()


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (_exits, {"step": "export", "error": "Crashed", "message": "its process ended with code 3 and no result"}),
        (_dies, {"step": "load", "error": "Crashed", "message": "its process was ended by SIGKILL"}),
        (_raises, {"step": "scan", "error": "LookupError", "message": "no such thing"}),
    ],
)
def test_a_child_that_ends_badly_says_at_which_step(work: Work, expected: dict[str, str], tmp_path: Path) -> None:
    assert _ended(work, tmp_path / "one") == expected


def test_a_child_that_never_ends_is_stopped_at_its_time_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    result = _ended(_hangs, tmp_path / "one", limit_s=1)
    assert (result["step"], result["error"]) == ("parity", "Crashed")
    assert "time limit" in result["message"]
    assert time.monotonic() - began < 10


def test_a_child_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    result = _ended(_eats, tmp_path / "one", memory_bytes=1 << 30)
    assert (result["step"], result["error"]) == ("build", "MemoryError")


def test_a_running_child_has_no_result_yet_and_can_be_killed(tmp_path: Path) -> None:
    child = attempts.start(_hangs, tmp_path / "one")
    assert attempts.result_of(child) is None
    attempts.kill(child)
    with pytest.raises(ProcessLookupError):
        os.kill(child.process_id, 0)
