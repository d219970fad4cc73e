"""A batch's receipt is there once, with the batch's result, whichever write fails, fails after it was done, or loses its worker."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select

from control_plane.database import receipts
from control_plane.did import TransactionHash
from control_plane.errors import Unavailable
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind, State
from control_plane.receipts.receipt import request_hash, response_hash
from tests.control_plane.jobs.asking import payment_of
from tests.fixtures_publish import Breaking
from tests.fixtures_workers import BATCH, done, market, ordered, wait, worker_process
from tests.simulators.jobs import JobMarket

__all__ = ["market"]

ORDER = payment_of("the original order")


def assert_told_once(market: JobMarket, job: Job) -> None:
    """The job is finished, and the log gets one receipt, which speaks of exactly what its owner is shown."""
    assert job.state is State.FINISHED and job.result is not None, job.reason
    with market.engine.connect() as connection:
        assert [call for (call,) in connection.execute(select(receipts.c.call_id))] == [job.job_id]
    issued = market.receipts.receipt_of_call(job.job_id)
    assert issued is not None
    assert issued.signed.receipt.request_hash == request_hash(issued.salt, job.parameters.encode())
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, job.result.encode())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", ["claim", "advance 1", "begin", "progress", "advance 2"])
def test_a_write_of_the_job_that_fails_or_was_done_all_the_same(write: str, when: str, market: JobMarket) -> None:
    method, _, number = write.partition(" ")
    job, broken = ordered(market, BATCH, Kind.INFER), Breaking(market.store)
    broken.break_call(method, when, int(number or 1))
    market.store = broken  # type: ignore[assignment]
    assert_told_once(market, done(market, job))
    assert broken.counts["advance"] == (3 if method == "advance" else 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_receipt_that_is_not_stored_keeps_the_job_from_being_finished(when: str, market: JobMarket) -> None:
    leave, states = market.parts.leave_receipt, list[State]()

    def breaking(connection: Connection, job: Job) -> object:
        states.append(market.store.get(job.job_id).state)
        if len(states) == 1 and when == "before":
            raise Unavailable("the disk is full")
        issued = leave(connection, job)
        if len(states) == 1:
            raise Unavailable("the disk is full")
        return issued

    market.parts = replace(market.parts, leave_receipt=breaking)
    found = done(market, ordered(market, BATCH, Kind.INFER))
    assert_told_once(market, found)
    assert states == [State.RUNNING, State.RUNNING]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["answered", "told"])
def test_answers_of_a_worker_that_was_killed_before_they_were_stored(point: str, market: JobMarket) -> None:
    """`told`: in the middle of the transaction that stores them, with the receipt in it."""
    job, mark = ordered(market, BATCH, Kind.INFER), market.home / "interrupted"
    with worker_process(market.home, point) as process:
        wait(mark.exists, (market.home / "lines").read_text)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert market.store.get(job.job_id).state is State.RUNNING
    assert market.receipts.receipt_of_call(job.job_id) is None
    found = done(market, job)
    assert_told_once(market, found)
    assert found.attempts == 2 and market.server.asked == []  # the answers were in the job's folder


def test_a_payment_that_ordered_again_is_counted_with_the_order(market: JobMarket) -> None:
    jobs = [done(market, ordered(market, BATCH, Kind.INFER, original_order=original)) for original in (ORDER, ORDER, None)]
    first, second = market.receipts.receipts_of(order=TransactionHash(ORDER))
    assert second.signed.receipt.previous == first.id
    assert [each.id for each in market.receipts.receipts_of(order=jobs[2].payment)] != []
