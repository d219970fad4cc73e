"""Threads that answer calls: how many at once, how many wait and how long, and what an unlucky one leaves behind."""

from __future__ import annotations

import threading

import pytest

from opening.refusal import TooBusy
from predict.crew import Crew


def never(_refusal: TooBusy) -> None:
    raise AssertionError("refused")


def test_what_does_not_fit_into_the_queue_is_refused_and_the_rest_is_done() -> None:
    crew, gate, done = Crew(at_once=2, most_waiting=3), threading.Event(), list[int]()

    def job(number: int) -> None:
        gate.wait(20)
        done.append(number)

    for number in range(5):
        crew.add(lambda number=number: job(number), never)
    with pytest.raises(TooBusy, match="5 calls are waiting"):
        crew.add(lambda: job(5), never)
    gate.set()
    crew.close()
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_job_that_raises_costs_neither_its_thread_nor_its_place() -> None:
    crew, done = Crew(at_once=1, most_waiting=0), threading.Semaphore(0)

    def fail() -> None:
        done.release()
        raise RuntimeError("the server is gone")

    for _ in range(5):
        while True:
            try:
                crew.add(fail, never)
            except TooBusy:  # the one before has not quite ended
                continue
            break
        assert done.acquire(timeout=20)
    crew.close()
    crew.close()


def test_who_has_waited_too_long_is_told_while_all_threads_compute_and_is_never_done() -> None:
    crew, gate, begun, done = Crew(at_once=1, most_waiting=3), threading.Event(), threading.Event(), list[str]()
    told, both = list[tuple[str, str]](), threading.Semaphore(0)

    def block() -> None:
        begun.set()
        gate.wait(20)

    def refuse(name: str, refusal: TooBusy) -> None:
        told.append((name, str(refusal)))
        both.release()
        raise RuntimeError("the server is gone")  # a fault that must not reach the next one

    crew.add(block, never)
    assert begun.wait(20)
    for name, most_wait_s in (("patient", 60.0), ("hasty", 0.4), ("hastier", 0.1)):
        crew.add(lambda name=name: done.append(name), lambda refusal, name=name: refuse(name, refusal), most_wait_s)
    with pytest.raises(TooBusy, match="4 calls are waiting"):
        crew.add(lambda: done.append("late"), never)
    assert both.acquire(timeout=20) and both.acquire(timeout=20)
    assert told == [(name, "this call has waited for this model as long as it may") for name in ("hastier", "hasty")]
    for _ in range(2):
        crew.add(lambda: done.append("next"), never)  # both places are free again
    gate.set()
    crew.close()
    assert done == ["patient", "next", "next"]


def test_a_job_whose_time_is_over_when_its_turn_comes_is_not_begun() -> None:
    """Time stands still for whoever looks after the others, until the thread is free."""
    now, gate, told, done = [0.0], threading.Event(), list[str](), list[str]()
    crew = Crew(at_once=1, most_waiting=2, clock=lambda: now[0])
    crew.add(lambda: (gate.wait(20), now.__setitem__(0, 1e6))[1], never)
    crew.add(lambda: done.append("late"), lambda refusal: told.append(str(refusal)), 1e5)
    crew.add(lambda: done.append("patient"), never)
    gate.set()
    crew.close()
    assert (len(told), done) == (1, ["patient"])


def test_what_waits_when_it_closes_is_done_first() -> None:
    crew, done = Crew(at_once=1, most_waiting=9), list[int]()
    for number in range(9):
        crew.add(lambda number=number: done.append(number), never, 60.0)
    crew.close()
    assert done == list(range(9))
