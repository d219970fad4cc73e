"""Calls that meet: each gets its own answers, whoever else asks, whatever goes wrong with the others."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from opening.refusal import TooLate
from predict.groups import Joining
from predict.passes import Part, Passes

TOGETHER = Joining(most=64, pads=True, joins=True)


class Graph:
    """Doubles its items. `passes` has what was computed together; a pass waits while `gate` is closed."""

    def __init__(self, joining: Joining = TOGETHER) -> None:
        self.passes: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.now: float | None = None
        self.through = Passes(self.compute, joining, clock=self.clock)

    def clock(self) -> float:
        return time.monotonic() if self.now is None else self.now

    def compute(self, items: Sequence[int]) -> list[np.ndarray]:
        self.passes.append(list(items))
        self.entered.release()
        assert self.gate.wait(20)
        if any(item < 0 for item in items):
            raise ValueError("an item below 0")
        return [np.array(items) * 2]

    def ask(self, items: Sequence[int], lengths: Sequence[int] | None = None, until: float = math.inf) -> list[int]:
        found = [0] * len(items)
        for part in self.through.through(items, lengths or [8] * len(items), until):
            for index, value in zip(part.indices, part.arrays[0], strict=True):
                found[index] = int(value)
        return found


def beside(*calls: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def wait_for(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def sleeping(graph: Graph, calls: int) -> None:
    """Until so many calls wait for the pass that is under way."""
    for _ in range(2000):
        if len(graph.through._sleeping) == calls:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"expected {calls} calls to wait, found {len(graph.through._sleeping)}")


def test_a_call_that_is_alone_is_computed_by_its_own_thread() -> None:
    graph = Graph()
    who: list[str] = []
    compute = graph.compute

    def watched(items: Sequence[int]) -> list[np.ndarray]:
        who.append(threading.current_thread().name)
        return compute(items)

    graph.through = Passes(watched, TOGETHER)
    assert graph.ask([1, 2, 3]) == [2, 4, 6]
    assert who == [threading.current_thread().name] and graph.passes == [[3, 2, 1]]


def test_calls_that_wait_together_share_a_pass() -> None:
    graph = Graph()
    graph.gate.clear()
    answers: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        answers[number] = graph.ask([number])

    threads = beside(lambda: ask(0))
    assert graph.entered.acquire(timeout=20)
    threads += beside(*(lambda number=number: ask(number) for number in range(1, 7)))
    sleeping(graph, 6)
    graph.gate.set()
    wait_for(threads)
    assert answers == {number: [2 * number] for number in range(7)}
    assert [sorted(one) for one in graph.passes] == [[0], [1, 2, 3, 4, 5, 6]]


def test_a_short_call_goes_before_a_long_one_and_many_items_take_turns() -> None:
    graph = Graph()
    graph.gate.clear()
    threads = beside(lambda: graph.ask(range(100, 120), [64] * 20))
    assert graph.entered.acquire(timeout=20)
    threads += beside(lambda: graph.ask([2], [60]))
    sleeping(graph, 1)
    threads += beside(lambda: graph.ask([1], [4]))
    sleeping(graph, 2)
    graph.gate.set()
    wait_for(threads)
    # After the pass that was under way; the call of many items goes on behind them.
    assert graph.passes[1:3] == [[1], [2]] and len(graph.passes) == 22


def test_a_failure_is_that_calls_alone() -> None:
    graph = Graph()
    graph.gate.clear()
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        try:
            answers[number] = graph.ask([number, number])
        except ValueError as error:
            answers[number] = str(error)

    threads = beside(lambda: ask(1))
    assert graph.entered.acquire(timeout=20)
    threads += beside(*(lambda number=number: ask(number) for number in (2, -1, 3)))
    sleeping(graph, 3)
    graph.gate.set()
    wait_for(threads)
    assert answers == {1: [2, 2], 2: [4, 4], -1: "an item below 0", 3: [6, 6]}
    assert graph.ask([5]) == [10]


def test_a_caller_that_leaves_before_the_end_is_not_computed_further() -> None:
    graph = Graph()
    for _part in graph.through.through(range(100), [64] * 100):
        break
    assert len(graph.passes) == 1
    assert graph.ask([1]) == [2] and len(graph.passes) == 2


def test_who_does_not_take_its_parts_gets_no_more_of_them() -> None:
    graph = Graph()
    parts: list[Part] = []
    slow = graph.through.through(range(100, 110), [64] * 10)
    parts.append(next(slow))
    for item in range(12):
        # As long as the slow caller's items, so that its turn would come.
        assert graph.ask([item], [64]) == [2 * item]
    assert sum(items[0] >= 100 for items in graph.passes) == 3
    parts += slow
    assert sorted(index for part in parts for index in part.indices) == list(range(10))


def test_who_has_waited_too_long_is_told_while_the_pass_of_another_goes_on_and_is_never_computed() -> None:
    graph, told = Graph(), threading.Event()
    graph.gate.clear()

    def hasty() -> None:
        with pytest.raises(TooLate):
            graph.ask([1], until=time.monotonic() + 0.05)
        told.set()

    threads = beside(lambda: graph.ask([0]))
    assert graph.entered.acquire(timeout=20)
    threads += beside(hasty, lambda: graph.ask([2], until=time.monotonic() + 60))
    assert told.wait(20)
    sleeping(graph, 1)
    graph.gate.set()
    wait_for(threads)
    assert graph.passes == [[0], [2]]
    assert not graph.through._calls and not graph.through._sleeping


def test_whose_thread_computes_for_others_waits_for_one_pass_too_long_at_most() -> None:
    graph = Graph()
    graph.now = 0.0
    compute = graph.compute

    def watched(items: Sequence[int]) -> list[np.ndarray]:
        graph.now = float(len(graph.passes))  # each pass takes a second
        return compute(items)

    graph.through = Passes(watched, TOGETHER, clock=graph.clock)
    parts = graph.through.through([1, 2, 3], [64] * 3)
    assert next(parts).indices == [2]
    with pytest.raises(TooLate):
        graph.ask([9], [64], until=1.0)
    assert graph.passes == [[3], [2]], "the one that was the other's turn, and no more"
    assert sorted(index for part in parts for index in part.indices) == [0, 1]


def test_a_call_that_has_begun_is_computed_to_its_end_however_long_that_takes() -> None:
    graph = Graph()
    graph.now = 0.0
    parts = graph.through.through([1, 2, 3], [64] * 3, until=1.0)
    assert next(parts).indices == [2]
    graph.now = 2.0
    assert [part.indices for part in parts] == [[1], [0]]
    with pytest.raises(TooLate):
        graph.ask([4], until=1.0)
    assert len(graph.passes) == 3


def test_what_is_planned_of_a_call_that_is_late_is_not_computed() -> None:
    """Items that were shared out for the pass after the next are still nobody's."""
    graph = Graph()
    graph.now = 0.0
    graph.gate.clear()
    threads = beside(lambda: graph.ask([0]))
    assert graph.entered.acquire(timeout=20)
    refused = list[TooLate]()

    def planned() -> None:
        try:
            graph.ask([7], [30], until=1.0)
        except TooLate as error:
            refused.append(error)

    threads += beside(lambda: graph.ask([5, 6], [4, 4]))
    sleeping(graph, 1)
    threads += beside(planned)
    sleeping(graph, 2)
    graph.through._plan()
    assert [sorted(call.items[place] for call, place in group) for group in graph.through._planned] == [[5, 6], [7]]
    graph.now = 2.0
    graph.gate.set()
    wait_for(threads)
    assert (len(refused), [sorted(one) for one in graph.passes]) == (1, [[0], [5, 6]])


@pytest.mark.parametrize("joining", [TOGETHER, Joining(most=64, pads=False, joins=True), Joining(most=64, pads=False, joins=False)])
def test_in_any_mix_each_call_gets_its_own(joining: Joining) -> None:
    graph, failures = Graph(joining), list[str]()

    def client(seed: int) -> None:
        chances = np.random.default_rng(seed)
        for _ in range(60):
            items = [int(item) for item in chances.integers(-1 if chances.random() < 0.1 else 0, 50, chances.integers(1, 10))]
            lengths = [int(length) for length in chances.integers(1, 81, len(items))]
            until = time.monotonic() + chances.random() * 2e-3 if chances.random() < 0.3 else math.inf
            try:
                found: object = graph.ask(items, lengths, until)
            except ValueError:
                found = None
            except TooLate:
                if until < math.inf:
                    continue
                raise
            if found != (None if min(items) < 0 else [2 * item for item in items]):
                failures.append(f"{items}: {found}")

    wait_for(beside(*(lambda seed=seed: client(seed) for seed in range(8))))
    assert not failures
    assert not graph.through._calls and not graph.through._sleeping and not graph.through._is_busy
