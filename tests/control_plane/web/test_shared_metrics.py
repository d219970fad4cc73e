"""Workers count together, whichever server made them: nothing is lost when one dies, and nothing goes on counting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.settings import REPOSITORY

WORKER = """
import sys
from pathlib import Path
from control_plane.web.shared_metrics import share

folder = Path(sys.argv[1])
share(folder)
from control_plane.web.metrics import exposition, meter

one = meter("infer", "fill-mask")
for line in sys.stdin:
    if line == "call\\n":
        one.begin()
        one.begin()  # a second one, which does not end
        one.end("done", 1, 2, 0.003)
    print(exposition(folder).decode().replace("\\n", "|"), flush=True)
"""
CALLS = 'posthuman_calls_total{outcome="done",surface="infer",task="fill-mask"}'
IN_FLIGHT = 'posthuman_calls_in_flight{surface="infer"}'
UP_TO_5_MS = 'posthuman_call_seconds_bucket{le="0.005",surface="infer",task="fill-mask"}'


class Started:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, what: str) -> dict[str, float]:
        """What it exposes after it has done that."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        lines = [line for line in self.process.stdout.readline().split("|") if line.startswith("posthuman_")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Started]]:
    started: list[Started] = []

    class Kept(Started):
        def __init__(self) -> None:
            super().__init__(tmp_path / "metrics")
            started.append(self)

    yield Kept  # type: ignore[misc]
    for one in started:
        one.kill()


def test_two_workers_are_summed_and_each_shows_both(start: type[Started]) -> None:
    one, two = start(), start()  # type: ignore[call-arg]
    one.do("call")
    two.do("call")
    found = one.do("call")
    assert (found[CALLS], found[IN_FLIGHT], found[UP_TO_5_MS]) == (3, 3, 3)
    assert two.do("look") == found


def test_a_killed_workers_counts_stay_and_its_calls_are_no_longer_in_flight(start: type[Started], tmp_path: Path) -> None:
    one, two = start(), start()  # type: ignore[call-arg]
    two.do("look")
    one.do("call")
    one.do("call")
    one.kill()
    found = two.do("call")
    assert (found[CALLS], found[IN_FLIGHT], found[UP_TO_5_MS]) == (3, 1, 3)


def test_workers_that_die_often_leave_no_heap_of_files(start: type[Started], tmp_path: Path) -> None:
    lasting = start()  # type: ignore[call-arg]
    lasting.do("call")
    for _ in range(2):
        dying = start()  # type: ignore[call-arg]
        dying.do("call")
        dying.kill()
    assert start().do("look")[CALLS] == 3  # type: ignore[call-arg]
    living = [path.name for path in (tmp_path / "metrics" / "workers").iterdir()]
    assert len(living) == 2
    kept = {path.name for path in (tmp_path / "metrics").glob("*.db")}
    assert {path.split("_")[-1] for path in kept} == {"past.db", *(f"{name}.db" for name in living)}


def test_counting_begins_at_zero_when_none_is_left(start: type[Started]) -> None:
    one = start()  # type: ignore[call-arg]
    assert one.do("call")[CALLS] == 1
    one.kill()
    assert start().do("call")[CALLS] == 1  # type: ignore[call-arg]


def test_a_file_that_a_worker_has_just_opened_or_died_over_harms_nobody(start: type[Started], tmp_path: Path) -> None:
    """prometheus-client makes it empty first, and then gives it its size."""
    one = start()  # type: ignore[call-arg]
    one.do("call")
    empty = tmp_path / "metrics" / f"counter_{'0' * 32}.db"
    empty.touch()
    assert one.do("look")[CALLS] == 1
    assert start().do("call")[CALLS] == 2  # type: ignore[call-arg]  # whoever starts adds up what the dead have left
    assert not empty.exists()
