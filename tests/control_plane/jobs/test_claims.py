"""Workers and their jobs: who has one, who loses one, and where it goes then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from control_plane.errors import Conflict, Unavailable
from control_plane.jobs.environments import FREE
from control_plane.jobs.job import Progress
from control_plane.jobs.states import HELD, Kind, State
from control_plane.jobs.store import MOST_ATTEMPTS, JobStore
from tests.control_plane.jobs.asking import (
    ONE_WORKER,
    OTHER_WORKER,
    OUT_OF_MEMORY,
    RESULT,
    ask,
    bring,
    everyone_is_dead,
    held_by,
)

PROGRESS = Progress(step=12, steps=500, loss=3.5, steps_per_second=4.0)


def test_jobs_are_claimed_oldest_first_each_by_one_worker(store: JobStore) -> None:
    asked = [ask(store).job_id for _ in range(4)]
    workers = [ONE_WORKER, OTHER_WORKER, "3" * 32, "4" * 32]
    claimed = [store.claim(worker) for worker in workers]
    assert [job.job_id for job in claimed if job is not None] == asked
    assert [(job.state, job.worker, job.attempts) for job in claimed if job is not None] == [
        (State.PROVISIONING, worker, 1) for worker in workers
    ]
    assert store.claim("5" * 32) is None


def test_a_claim_whose_answer_was_lost_is_answered_again(store: JobStore) -> None:
    first, second = ask(store), ask(store)
    lost = store.claim(ONE_WORKER)
    assert lost is not None and lost.job_id == first.job_id
    again = store.claim(ONE_WORKER)
    assert again == lost
    next_one = store.claim(ONE_WORKER, doing=[first.job_id])
    assert next_one is not None and next_one.job_id == second.job_id
    assert [job.attempts for job in held_by(store, ONE_WORKER)] == [1, 1]


def test_the_place_in_the_queue_counts_from_one_and_moves_up(store: JobStore) -> None:
    jobs = [ask(store).job_id for _ in range(3)]
    assert [store.queue_position(job) for job in jobs] == [1, 2, 3]
    store.request_stop(jobs[1])
    assert [store.queue_position(job) for job in jobs] == [1, None, 2]
    store.claim(ONE_WORKER)
    assert [store.queue_position(job) for job in jobs] == [None, None, 1]


def test_what_is_paid_for_goes_before_what_is_free(store: JobStore) -> None:
    free = [ask(store, environment=FREE).job_id for _ in range(3)]
    paid = [ask(store).job_id for _ in range(2)]
    assert [store.queue_position(job) for job in (*paid, *free)] == [1, 2, 3, 4, 5]
    claimed = [store.claim(worker * 32) for worker in "12345"]
    assert [job.job_id for job in claimed if job is not None] == [*paid, *free]


def test_a_free_job_that_is_to_be_gone_on_with_goes_before_a_paid_one_that_has_not_begun(store: JobStore) -> None:
    begun = bring(store, Kind.TRAIN, State.DERIVING, environment=FREE)
    paid = ask(store)
    assert store.reclaim(everyone_is_dead).going_on == (begun.job_id,)
    assert store.queue_position(paid.job_id) == 2
    claimed = [store.claim(worker) for worker in (OTHER_WORKER, "3" * 32)]
    assert [job.job_id for job in claimed if job is not None] == [begun.job_id, paid.job_id]


def test_progress_is_written_by_the_worker_of_a_running_job_alone(store: JobStore) -> None:
    job = bring(store, Kind.TRAIN, State.PROVISIONING)
    assert not store.progress(job.job_id, ONE_WORKER, PROGRESS)
    store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=ONE_WORKER)
    assert not store.progress(job.job_id, OTHER_WORKER, PROGRESS)
    assert store.get(job.job_id).progress is None
    assert store.progress(job.job_id, ONE_WORKER, PROGRESS)
    assert store.get(job.job_id).progress == PROGRESS


@pytest.mark.parametrize("state", [State.PROVISIONING, State.RUNNING])
def test_a_dead_workers_job_goes_back_into_the_queue_and_hears_no_more_of_it(store: JobStore, state: State) -> None:
    job = bring(store, Kind.TRAIN, state)
    assert store.reclaim(lambda name: name == ONE_WORKER).queued == ()
    assert store.reclaim(lambda name: name != ONE_WORKER).queued == (job.job_id,)
    waiting = store.get(job.job_id)
    assert (waiting.state, waiting.worker, waiting.attempts) == (State.QUEUED, None, 1)
    again = store.claim(OTHER_WORKER)
    assert again is not None and (again.job_id, again.attempts) == (job.job_id, 2)
    store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=OTHER_WORKER)
    assert not store.progress(job.job_id, ONE_WORKER, PROGRESS)
    for to_state, facts in ((State.STORING, {"result": RESULT}), (State.FAILED, {"reason": OUT_OF_MEMORY})):
        with pytest.raises(Conflict):
            store.advance(job.job_id, State.RUNNING, to_state, worker=ONE_WORKER, **facts)  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        store.release(job.job_id, ONE_WORKER)
    assert (store.get(job.job_id).progress, store.get(job.job_id).state) == (None, State.RUNNING)


@pytest.mark.parametrize("state", [State.STORING, State.DERIVING])
def test_what_was_being_stored_or_derived_is_gone_on_with_before_anything_new(store: JobStore, state: State) -> None:
    job = bring(store, Kind.TRAIN, state)
    waiting = ask(store)
    assert store.reclaim(everyone_is_dead).going_on == (job.job_id,)
    assert store.get(job.job_id).state is state
    assert store.queue_position(waiting.job_id) == 2
    again = store.claim(OTHER_WORKER)
    assert again is not None
    assert (again.job_id, again.state, again.attempts, again.result) == (job.job_id, state, 2, '{"loss":3.25}')
    assert store.claim("3" * 32) == replace(store.get(waiting.job_id), worker="3" * 32)


@pytest.mark.parametrize("state", sorted(HELD))
def test_a_job_that_loses_worker_after_worker_fails_and_gives_its_payment_back(store: JobStore, state: State) -> None:
    job = bring(store, Kind.TRAIN, state)
    for death in range(1, MOST_ATTEMPTS[state] + 1):
        done = store.reclaim(everyone_is_dead)
        if death < MOST_ATTEMPTS[state]:
            assert (done.failed, job.job_id in done.queued + done.going_on) == ((), True)
            claimed = store.claim(f"{death:032x}")
            assert claimed is not None and claimed.attempts == death + 1
            if state is State.RUNNING:
                store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=f"{death:032x}")
    assert done.failed == (job.job_id,)
    lost = store.get(job.job_id)
    assert lost.state is State.FAILED and not lost.holds_payment
    assert lost.reason is not None and lost.reason.code == "worker_lost"
    assert store.claim(OTHER_WORKER) is None


def test_a_dead_workers_job_that_was_to_stop_is_stopped(store: JobStore) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    store.request_stop(job.job_id)
    assert store.reclaim(everyone_is_dead).stopped == (job.job_id,)
    assert store.get(job.job_id).state is State.STOPPED
    assert store.claim(OTHER_WORKER) is None


def test_a_worker_that_is_shut_down_gives_its_jobs_up_without_counting_an_attempt(store: JobStore) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    assert store.release(job.job_id, ONE_WORKER).state is State.QUEUED
    assert store.get(job.job_id).attempts == 0
    again = store.claim(ONE_WORKER)
    assert again is not None and again.attempts == 1
    stored = bring(store, Kind.TRAIN, State.STORING, worker=OTHER_WORKER)
    given_up = store.release(stored.job_id, OTHER_WORKER)
    assert (given_up.state, given_up.worker) == (State.STORING, None)
    with pytest.raises(Conflict):
        store.release(stored.job_id, OTHER_WORKER)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_claim_that_fails_is_safe_to_repeat(store: JobStore, engine: Engine, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Before the transaction is committed, or after it, when only its answer is lost."""
    job = ask(store)
    whole = JobStore.claim

    def broken(self: JobStore, worker: str, doing: Any = ()) -> Any:
        monkeypatch.undo()
        if when == "after":
            whole(self, worker, doing)
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(JobStore, "claim", broken)
    with pytest.raises(Unavailable):
        store.claim(ONE_WORKER)
    claimed = store.claim(ONE_WORKER)
    assert claimed is not None and (claimed.job_id, claimed.attempts) == (job.job_id, 1)
    assert store.claim(OTHER_WORKER) is None
