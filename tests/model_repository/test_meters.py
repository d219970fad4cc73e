"""What the engine tells: each number when it changes, a gauge its value, a counter what came to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from generate.engine import Counts
from generate.meters import COUNTERS, GAUGES
from opening.meters import Meter, Meters
from opening.refusal import Cancelled, TooBusy, TooLate
from predict.crew import Crew
from predict.meters import Counts as PredictCounts
from predict.meters import Tally

NOTHING = Counts(0, 0, 0, 0, 0, 0, 0)
ARGS = {"model_name": "m-1", "model_version": "1"}


class Port:
    """Triton's metrics, as far as they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def make(self, meter: Meter, args: Mapping[str, str]) -> Callable[[float], None]:
        assert meter.description
        assert args == ARGS
        return lambda value: self.told.append((meter.name.removeprefix("posthuman_engine_"), value))


class Looked:
    """Counts that a test sets; `wait` returns when they were looked at after that."""

    def __init__(self) -> None:
        self.counts, self._looks = NOTHING, threading.Semaphore(0)

    def __call__(self) -> Counts:
        counts = self.counts
        self._looks.release()
        return counts

    def wait(self) -> None:
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(2):  # the first look may have begun before
            assert self._looks.acquire(timeout=5)
        time.sleep(0.02)


def test_only_what_changed_is_told() -> None:
    port, looked = Port(), Looked()
    meters = Meters(looked, GAUGES, COUNTERS, (port.make, port.make), ARGS, every_s=0.005)
    looked.wait()
    assert port.told == [("calls_waiting", 0), ("calls_running", 0)], "what a process that died left behind is put right"
    port.told.clear()
    looked.counts = replace(NOTHING, running=2, tokens=5, prompt_tokens=7)
    looked.wait()
    looked.counts = replace(looked.counts, tokens=9, failed=1)
    looked.wait()
    meters.close()
    found = {name: [value for told, value in port.told if told == name] for name, _ in port.told}
    assert found["tokens_total"] == [5, 4]
    assert found["prompt_tokens_total"] == [7]
    assert found["calls_failed_total"] == [1]
    assert found["calls_running"] == [2, 0], "nothing runs in a model that is unloaded"
    assert "calls_refused_total" not in found


def test_the_last_counts_are_told_at_the_end() -> None:
    port, looked = Port(), Looked()
    meters = Meters(looked, GAUGES, COUNTERS, (port.make, port.make), ARGS, every_s=60)
    looked.counts = replace(NOTHING, tokens=3)
    meters.close()
    meters.close()
    assert ("tokens_total", 3) in port.told


def test_calls_of_a_model_that_predicts_are_counted_where_they_are() -> None:
    crew, gate, begun = Crew(at_once=1, most_waiting=1), threading.Event(), threading.Event()
    tally = Tally(crew)
    crew.add(lambda: (begun.set(), gate.wait(20))[0], lambda _late: None)
    assert begun.wait(20)
    crew.add(lambda: None, lambda _late: None)
    assert tally.counts() == PredictCounts(waiting=1, running=1, refused_full=0, refused_late=0)
    for error in (TooLate(), TooBusy("2 calls are waiting for this model"), TooLate(), Cancelled(), ValueError()):
        tally.note(error)
    gate.set()
    crew.close()
    assert tally.counts() == PredictCounts(waiting=0, running=0, refused_full=1, refused_late=2)
