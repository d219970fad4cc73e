"""One writer at a time, over threads and processes, whatever becomes of one of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control_plane import turn
from control_plane.database import open_database, writing
from control_plane.turn import Turn

HOLDER = """
import sys, time
from pathlib import Path
from control_plane.turn import Turn
with Turn(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in its turn; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            yield process
        finally:
            process.kill()


def test_threads_are_never_in_together_even_by_two_handles(tmp_path: Path) -> None:
    """Two handles of one file are as two processes: the kernel's lock belongs to the open file."""
    turns, inside, most = [Turn(tmp_path / "turn") for _ in range(2)], 0, 0

    def enter(number: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with turns[number % 2]:
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_a_killed_process_gives_its_turn_back(tmp_path: Path) -> None:
    with holder(tmp_path / "turn"):
        pass
    began = time.monotonic()
    with Turn(tmp_path / "turn"):
        assert time.monotonic() - began < turn.LONGEST_S / 2


def test_a_process_stopped_in_its_turn_holds_the_others_up_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "LONGEST_S", 0.2)
    with holder(tmp_path / "turn") as process:
        process.send_signal(signal.SIGSTOP)
        with Turn(tmp_path / "turn"):
            pass
        again = Turn(tmp_path / "turn")
        with again, pytest.raises(BlockingIOError):
            turn.fcntl.flock(again._file, turn.fcntl.LOCK_EX | turn.fcntl.LOCK_NB)


def test_who_fails_in_it_gives_it_back(tmp_path: Path) -> None:
    one = Turn(tmp_path / "turn")
    with pytest.raises(ZeroDivisionError), one:
        _ = 1 / 0
    with one:
        pass


def test_writers_of_one_database_share_a_turn_and_readers_need_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'market.sqlite'}"
    first, second = open_database(url), open_database(url)
    with first.begin() as connection:
        connection.exec_driver_sql("create table counted (number integer)")
        connection.exec_driver_sql("insert into counted values (0)")
    entered = threading.Event()

    def write() -> None:
        with writing(second) as connection:
            connection.exec_driver_sql("update counted set number = number + 1")
        entered.set()

    thread = threading.Thread(target=write)
    with writing(first) as connection:
        thread.start()
        number = connection.exec_driver_sql("select number from counted").scalar_one()
        assert not entered.wait(0.2)
        connection.exec_driver_sql("update counted set number = ?", (number + 1,))
    thread.join()
    with second.connect() as connection:
        assert connection.exec_driver_sql("select number from counted").scalar_one() == 2
