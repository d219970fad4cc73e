"""Threads that answer calls: how many at once, how many wait, and what an unlucky one leaves behind."""

from __future__ import annotations

import threading

import pytest

from opening.refusal import TooBusy
from predict.crew import Crew


def test_what_does_not_fit_into_the_queue_is_refused_and_the_rest_is_done() -> None:
    crew, gate, done = Crew(at_once=2, most_waiting=3), threading.Event(), list[int]()

    def job(number: int) -> None:
        gate.wait(20)
        done.append(number)

    for number in range(5):
        crew.add(lambda number=number: job(number))
    with pytest.raises(TooBusy, match="5 calls are waiting"):
        crew.add(lambda: job(5))
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
                crew.add(fail)
            except TooBusy:  # the one before has not quite ended
                continue
            break
        assert done.acquire(timeout=20)
    crew.close()
    crew.close()
