"""When a job's program first runs its payment is spent, and not before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.engine import Outcome
from control_plane.errors import Unavailable
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind, State
from tests.fixtures_workers import EVALUATION, WITHIN_S, done, market, ordered, wait, working
from tests.simulators.jobs import JobMarket

__all__ = ["market"]


def test_a_job_that_is_stopped_while_it_waits_for_a_machine_gives_its_payment_back(market: JobMarket) -> None:
    market.program.wait_s = WITHIN_S
    job = ordered(market)
    with working(market) as (_, lines):
        wait(lambda: market.store.get(job.job_id).state is State.RUNNING, lambda: lines)
        market.store.request_stop(job.job_id)
        wait(lambda: market.store.get(job.job_id).is_over, lambda: lines)
    stopped = market.store.get(job.job_id)
    assert (stopped.state, stopped.begun_at, stopped.holds_payment) == (State.STOPPED, None, False)


def test_a_program_that_would_begin_when_its_owner_has_stopped_it_does_nothing_and_costs_nothing(market: JobMarket) -> None:
    job, count = ordered(market), market.program.run

    def late(folder: Path, most_workers: int, timeout_s: float, *more: Any) -> Outcome:
        market.store.request_stop(job.job_id)
        return count(folder, most_workers, timeout_s, *more)

    market.parts = replace(market.parts, train=late)
    stopped = done(market, job)
    assert (stopped.state, stopped.progress, stopped.holds_payment) == (State.STOPPED, None, False)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_nothing_is_computed_that_is_not_noted_as_begun_and_the_note_is_tried_again(
    kind: Kind, when: str, market: JobMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, tries = market.store.begin, list[Job]()
    job = ordered(market, EVALUATION if kind is Kind.EVALUATE else None, kind)

    def breaking(job_id: str, worker: str) -> bool:
        tries.append(market.store.get(job_id))
        noted = begin(job_id, worker) if when == "after" or len(tries) > 1 else False
        if len(tries) == 1:
            raise Unavailable("the database does not answer")
        return noted

    monkeypatch.setattr(market.store, "begin", breaking)
    found = done(market, job)
    assert found.state is State.FINISHED and found.begun_at is not None
    assert [each.progress for each in tries] == [None, None]
