"""What the engine tells: each number when it changes, a gauge its value, a counter what came to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from generate.engine import Counts
from generate.meters import Meters

NOTHING = Counts(0, 0, 0, 0, 0, 0, 0)
ARGS = {"model_name": "m-1", "model_version": "1"}


class Port:
    """Triton's metrics, as far as they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def make(self, name: str, description: str, args: Mapping[str, str]) -> Callable[[float], None]:
        assert description
        assert args == ARGS
        return lambda value: self.told.append((name.removeprefix("posthuman_engine_"), value))


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
    meters = Meters(looked, port.make, port.make, ARGS, every_s=0.005)
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
    meters = Meters(looked, port.make, port.make, ARGS, every_s=60)
    looked.counts = replace(NOTHING, tokens=3)
    meters.close()
    meters.close()
    assert ("tokens_total", 3) in port.told
