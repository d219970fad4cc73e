"""A job is asked for once, done by one worker at a time, and ends once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from control_plane.errors import BadInput, Conflict, Forbidden, NotFound, Unavailable
from control_plane.jobs.job import MOST_RESULT_BYTES, TIMED_OUT, Progress, Reason, canonical_json
from control_plane.jobs.states import FAILURES, HELD, OVER, Kind, State
from control_plane.jobs.store import JobStore, Standing
from tests.control_plane.jobs.asking import (
    ALICE,
    BOB,
    DERIVED,
    ONE_WORKER,
    OTHER_MODEL,
    OTHER_WORKER,
    OUT_OF_MEMORY,
    RESULT,
    WEIGHTS,
    a_job,
    anyone,
    ask,
    bring,
    everyone_is_dead,
    payment_of,
)
from tests.fixtures_database import silencing
from tests.fixtures_market import Clock

PROGRESS = Progress(step=12, steps=500, loss=3.5, steps_per_second=4.0)


def test_a_job_is_kept_as_it_was_asked_for(store: JobStore, clock: Clock) -> None:
    asked = a_job(
        Kind.EVALUATE, dataset_did=OTHER_MODEL, dataset_order=payment_of("dataset"), algorithm_order=payment_of("algorithm")
    )
    job = store.add(asked, anyone)
    assert store.get(job.job_id) == job
    assert all(getattr(job, name) == getattr(asked, name) for name in asked.__dataclass_fields__)
    assert (job.state, job.created_at, job.started_at, job.finished_at) == (State.QUEUED, clock.now, None, None)
    assert (job.attempts, job.worker, job.progress, job.result, job.holds_payment) == (0, None, None, None, True)
    assert store.of_payment(asked.payment) == (job,)
    assert len(job.job_id) == 32


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for act in (
        store.get,
        store.queue_position,
        store.request_stop,
        lambda name: store.release(name, "w"),
    ):
        with pytest.raises(NotFound) as caught:
            act("0" * 32)
        assert caught.value.code == "job_unknown"


def test_one_payment_pays_for_one_job(store: JobStore) -> None:
    asked = a_job()
    first = store.add(asked, anyone)
    with pytest.raises(Conflict) as caught:
        store.add(replace(asked, parameters='{"steps": 501}'), anyone)
    assert caught.value.code == "payment_used"
    assert first.job_id in caught.value.message
    assert store.of_payment(asked.payment) == (first,)


def test_the_same_question_gives_the_same_job_until_it_is_over(store: JobStore) -> None:
    asked = a_job(Kind.INFER)
    first = store.add(asked, anyone)
    claimed = store.claim(ONE_WORKER)
    assert claimed is not None
    assert store.add(asked, anyone).job_id == first.job_id
    store.advance(first.job_id, State.PROVISIONING, State.RUNNING, worker=ONE_WORKER)
    store.advance(first.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result=RESULT)
    with pytest.raises(Conflict) as caught:
        store.add(asked, anyone)
    assert caught.value.code == "payment_used"


def test_who_may_not_have_a_job_leaves_none_behind(store: JobStore) -> None:
    asked = a_job()
    seen: list[Standing] = []

    def nobody(standing: Standing, _connection: Connection) -> None:
        seen.append(standing)
        raise Forbidden("no")

    with pytest.raises(Forbidden):
        store.add(asked, nobody)
    assert seen == [Standing()]
    assert store.of_payment(asked.payment) == ()


def test_who_decides_is_told_what_is_under_way(store: JobStore) -> None:
    bring(store, Kind.INFER, State.FINISHED)
    failed = bring(store, Kind.INFER, State.FAILED)
    ask(store), ask(store, owner=ALICE), ask(store, environment="another")
    seen: list[Standing] = []
    store.add(a_job(payment=failed.payment), lambda standing, _connection: seen.append(standing))
    assert seen == [Standing(of_payment=(failed,), in_environment=2, of_owner=1)]
    assert store.under_way("posthuman-cpu") == 3
    assert store.under_way("another") == 1


@pytest.mark.parametrize("kind", Kind)
def test_a_job_that_goes_well_keeps_everything_that_it_was_given(store: JobStore, clock: Clock, kind: Kind) -> None:
    job = ask(store, kind)
    clock.now += 5
    store.claim(ONE_WORKER)
    store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=ONE_WORKER)
    assert store.progress(job.job_id, ONE_WORKER, PROGRESS)
    clock.now += 5
    store.advance(job.job_id, State.RUNNING, State.STORING, worker=ONE_WORKER, result=RESULT)
    if kind is Kind.TRAIN:
        store.advance(job.job_id, State.STORING, State.DERIVING, worker=ONE_WORKER, weights_digest=WEIGHTS)
        store.advance(job.job_id, State.DERIVING, State.FINISHED, worker=ONE_WORKER, derived_did=DERIVED)
    else:
        store.advance(job.job_id, State.STORING, State.FINISHED, worker=ONE_WORKER)
    done = store.get(job.job_id)
    assert (done.state, done.result, done.progress) == (State.FINISHED, '{"loss":3.25}', PROGRESS)
    assert (done.created_at, done.started_at, done.finished_at) == (clock.now - 10, clock.now - 5, clock.now)
    assert (done.weights_digest, done.derived_did) == ((WEIGHTS, DERIVED) if kind is Kind.TRAIN else (None, None))
    assert done.holds_payment and done.reason is None


def test_a_move_is_refused_from_another_state_or_by_another_worker(store: JobStore) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    for from_state, worker in ((State.PROVISIONING, ONE_WORKER), (State.RUNNING, OTHER_WORKER)):
        to_state = State.FAILED
        with pytest.raises(Conflict) as caught:
            store.advance(job.job_id, from_state, to_state, worker=worker, reason=OUT_OF_MEMORY)
        assert caught.value.code == "job_moved"
    assert store.get(job.job_id) == job


def test_a_move_made_again_is_answered_and_not_made_twice(store: JobStore, clock: Clock) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    first = store.advance(job.job_id, State.RUNNING, State.STORING, worker=ONE_WORKER, result=RESULT)
    clock.now += 60
    assert store.advance(job.job_id, State.RUNNING, State.STORING, worker=ONE_WORKER, result=RESULT) == first
    with pytest.raises(Conflict):
        store.advance(job.job_id, State.RUNNING, State.STORING, worker=ONE_WORKER, result={"loss": 1.0})
    failed = store.advance(job.job_id, State.STORING, State.FAILED, worker=ONE_WORKER, reason=OUT_OF_MEMORY)
    clock.now += 60
    assert store.advance(job.job_id, State.STORING, State.FAILED, worker=ONE_WORKER, reason=OUT_OF_MEMORY) == failed


@pytest.mark.parametrize(
    ("kind", "from_state", "to_state", "facts"),
    [
        (Kind.TRAIN, State.RUNNING, State.FINISHED, {"result": RESULT}),
        (Kind.INFER, State.STORING, State.DERIVING, {"weights_digest": WEIGHTS}),
        (Kind.TRAIN, State.STORING, State.STOPPED, {}),
        (Kind.TRAIN, State.RUNNING, State.QUEUED, {}),
        (Kind.TRAIN, State.QUEUED, State.PROVISIONING, {}),
        (Kind.TRAIN, State.RUNNING, State.FAILED, {}),
        (Kind.TRAIN, State.RUNNING, State.STORING, {"reason": OUT_OF_MEMORY}),
        (Kind.TRAIN, State.STORING, State.DERIVING, {}),
        (Kind.TRAIN, State.DERIVING, State.FINISHED, {}),
        (Kind.INFER, State.RUNNING, State.FINISHED, {}),
    ],
)
def test_a_move_that_no_worker_may_make_changes_nothing(
    store: JobStore, kind: Kind, from_state: State, to_state: State, facts: dict[str, Any]
) -> None:
    job = bring(store, kind, from_state)
    with pytest.raises(ValueError, match=r"move|go from|come to|comes to"):
        store.advance(job.job_id, from_state, to_state, worker=ONE_WORKER, **facts)
    assert store.get(job.job_id) == job


@pytest.mark.parametrize("state", sorted(OVER))
def test_a_job_that_is_over_cannot_be_moved(store: JobStore, state: State) -> None:
    job = bring(store, Kind.TRAIN, state)
    for from_state in HELD | {state}:
        with pytest.raises((Conflict, ValueError)):
            store.advance(job.job_id, from_state, State.STOPPED, worker=job.worker or ONE_WORKER, reason=Reason("x", "y"))
    with pytest.raises(Conflict):
        store.release(job.job_id, job.worker or ONE_WORKER)
    assert not store.progress(job.job_id, job.worker or ONE_WORKER, PROGRESS)
    if state is State.STOPPED:
        assert store.request_stop(job.job_id) == job
    else:
        with pytest.raises(Conflict) as caught:
            store.request_stop(job.job_id)
        assert caught.value.code == "job_over"
    store.reclaim(everyone_is_dead)
    assert store.claim(OTHER_WORKER) is None
    assert store.get(job.job_id) == job


def test_a_job_in_the_queue_is_stopped_at_once_and_gives_its_payment_back(store: JobStore, clock: Clock) -> None:
    asked = a_job()
    job = store.add(asked, anyone)
    stopped = store.request_stop(job.job_id)
    assert (stopped.state, stopped.finished_at, stopped.holds_payment) == (State.STOPPED, clock.now, False)
    assert stopped.reason is not None and stopped.reason.code == "stopped"
    assert store.claim(ONE_WORKER) is None
    assert store.add(asked, anyone).job_id != job.job_id


@pytest.mark.parametrize(("state", "has_begun"), [(State.PROVISIONING, False), (State.RUNNING, False), (State.RUNNING, True)])
def test_a_job_that_a_worker_has_is_stopped_by_that_worker_and_stays_paid_if_its_program_ran(
    store: JobStore, clock: Clock, state: State, has_begun: bool
) -> None:
    job = bring(store, Kind.TRAIN, state)
    if has_begun:
        assert store.begin(job.job_id, ONE_WORKER)
    assert store.get(job.job_id).stop_requested_at is None
    asked = store.request_stop(job.job_id)
    assert (asked.state, asked.stop_requested_at) == (state, clock.now)
    assert store.get(job.job_id).stop_requested_at is not None
    clock.now += 9
    assert store.request_stop(job.job_id).stop_requested_at == clock.now - 9
    stopped = store.advance(job.job_id, state, State.STOPPED, worker=ONE_WORKER)
    assert (stopped.state, stopped.holds_payment) == (State.STOPPED, has_begun)
    assert stopped.reason is not None and stopped.reason.code == "stopped"


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("is_dead", [False, True])
def test_a_job_back_in_the_queue_is_stopped_for_nothing_only_if_its_program_never_ran(
    store: JobStore, is_dead: bool, has_begun: bool
) -> None:
    """Its worker was shut down, or has died."""
    job = bring(store, Kind.TRAIN, State.RUNNING)
    if has_begun:
        assert store.begin(job.job_id, ONE_WORKER)
    if is_dead:
        store.reclaim(everyone_is_dead)
    else:
        store.release(job.job_id, ONE_WORKER)
    stopped = store.request_stop(job.job_id)
    assert (stopped.state, stopped.holds_payment) == (State.STOPPED, has_begun)


def test_a_program_begins_only_in_the_hands_of_its_worker_and_while_nobody_wants_it_stopped(store: JobStore, clock: Clock) -> None:
    waiting, job = bring(store, Kind.TRAIN, State.PROVISIONING), bring(store, Kind.TRAIN, State.RUNNING)
    assert not store.begin(waiting.job_id, ONE_WORKER) and not store.begin(job.job_id, OTHER_WORKER)
    assert store.get(job.job_id) == job
    assert store.begin(job.job_id, ONE_WORKER)
    clock.now += 5
    assert store.begin(job.job_id, ONE_WORKER)  # its processes died, and others begin
    assert store.get(job.job_id).begun_at == clock.now - 5
    other = bring(store, Kind.TRAIN, State.RUNNING)
    store.request_stop(other.job_id)
    assert not store.begin(other.job_id, ONE_WORKER) and store.get(other.job_id).begun_at is None


@pytest.mark.parametrize("state", [State.STORING, State.DERIVING])
def test_a_job_whose_program_has_ended_is_not_stopped(store: JobStore, state: State) -> None:
    job = bring(store, Kind.TRAIN, state)
    with pytest.raises(Conflict) as caught:
        store.request_stop(job.job_id)
    assert caught.value.code == "job_too_late"
    assert store.get(job.job_id) == job


@pytest.mark.parametrize("state", sorted(FAILURES))
def test_a_failed_job_gives_its_payment_back_for_one_more(store: JobStore, state: State) -> None:
    failed = bring(store, Kind.TRAIN, state)
    assert (failed.holds_payment, failed.reason) == (False, OUT_OF_MEMORY)
    more = store.add(a_job(payment=failed.payment), anyone)
    assert [job.job_id for job in store.of_payment(failed.payment)] == [failed.job_id, more.job_id]
    with pytest.raises(Conflict) as caught:
        store.add(a_job(payment=failed.payment, parameters='{"steps": 7}'), anyone)
    assert caught.value.code == "payment_used"


def test_a_job_that_used_up_its_time_keeps_its_payment(store: JobStore) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    reason = Reason(TIMED_OUT, "the 60 s that were paid for are over")
    failed = store.advance(job.job_id, State.RUNNING, State.FAILED, worker=ONE_WORKER, reason=reason)
    assert failed.holds_payment


def test_a_finished_job_keeps_its_payment(store: JobStore) -> None:
    for kind in Kind:
        assert bring(store, kind, State.FINISHED).holds_payment


def test_a_result_may_hold_64_kilobytes_and_no_byte_more(store: JobStore) -> None:
    job = bring(store, Kind.INFER, State.RUNNING)
    around = len(canonical_json({"text": ""}).encode())
    for letter, size in (("a", 1), ("é", 2)):
        too_long = letter * ((MOST_RESULT_BYTES - around) // size + 1)
        with pytest.raises(BadInput) as caught:
            store.advance(job.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result={"text": too_long})
        assert (caught.value.field, caught.value.code) == ("result", "result_too_long")
    assert store.get(job.job_id) == job
    fits = {"text": "a" * (MOST_RESULT_BYTES - around)}
    done = store.advance(job.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result=fits)
    assert done.result is not None and len(done.result) == MOST_RESULT_BYTES


@pytest.mark.parametrize("result", [{"loss": float("nan")}, {"loss": float("inf")}, {"bytes": b"\0"}, {"t": "\ud800"}, [1], "text"])
def test_a_result_that_json_cannot_say_is_refused(store: JobStore, result: Any) -> None:
    job = bring(store, Kind.INFER, State.RUNNING)
    with pytest.raises(BadInput):
        store.advance(job.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result=result)
    assert store.get(job.job_id) == job


def test_an_owners_jobs_are_listed_newest_first(store: JobStore) -> None:
    first, _, third = ask(store), ask(store, owner=ALICE), ask(store, did=OTHER_MODEL)
    assert [job.job_id for job in store.jobs_of(BOB)] == [third.job_id, first.job_id]
    assert [job.job_id for job in store.jobs_of(BOB, OTHER_MODEL)] == [third.job_id]
    assert [job.job_id for job in store.jobs_of(BOB, limit=1)] == [third.job_id]


def test_jobs_that_are_asked_for_at_once_never_pass_what_there_is_room_for(store: JobStore) -> None:
    def has_room(standing: Standing, _connection: Connection) -> None:
        if standing.in_environment >= 5 or standing.of_owner >= 3:
            raise Conflict("full", code="full")

    def one(number: int) -> str:
        try:
            store.add(a_job(payment=payment_of(f"payment {number}"), owner=(ALICE, BOB)[number % 2]), has_room)
        except Conflict as error:
            return error.code
        return "queued"

    with ThreadPoolExecutor(12) as threads:
        said = Counter(threads.map(one, range(24)))
    assert said == {"queued": 5, "full": 19}
    assert max(len(store.jobs_of(owner)) for owner in (ALICE, BOB)) == 3


def test_a_database_that_does_not_answer_is_unavailable_and_leaves_everything_as_it_was(store: JobStore, engine: Engine) -> None:
    job = bring(store, Kind.TRAIN, State.RUNNING)
    broken = [True]

    def refuse(_connection: Any, cursor: Any, *_given: Any) -> None:
        if broken[0]:
            cursor.execute(silencing(engine))

    event.listen(engine, "before_cursor_execute", refuse)
    for act in (
        lambda: store.get(job.job_id),
        lambda: store.add(a_job(), anyone),
        lambda: store.claim(OTHER_WORKER),
        lambda: store.progress(job.job_id, ONE_WORKER, PROGRESS),
        lambda: store.begin(job.job_id, ONE_WORKER),
        lambda: store.request_stop(job.job_id),
        lambda: store.reclaim(everyone_is_dead),
    ):
        with pytest.raises(Unavailable):
            act()
    broken[0] = False
    assert store.get(job.job_id) == job


@pytest.mark.parametrize("record", [
    None, [], {}, {"step": 1}, {**PROGRESS.to_json(), "text": "secret"}, {**PROGRESS.to_json(), "step": -1},
    {**PROGRESS.to_json(), "step": 1.0}, {**PROGRESS.to_json(), "steps": 2**53}, {**PROGRESS.to_json(), "loss": "3"},
    {**PROGRESS.to_json(), "loss": True},
])  # fmt: skip
def test_progress_that_is_none_is_refused(record: object) -> None:
    with pytest.raises(BadInput, match="progress"):
        Progress.from_json(record)


def test_progress_is_read_back_and_a_number_that_is_not_finite_is_none() -> None:
    assert Progress.from_json(PROGRESS.to_json()) == PROGRESS
    read = Progress.from_json({**PROGRESS.to_json(), "loss": float("nan"), "steps_per_second": 10**400})
    assert read == Progress(12, 500, None, None)


def test_what_an_owner_is_shown_names_no_process(store: JobStore) -> None:
    for state in sorted(State, key=lambda state: state is State.QUEUED):
        job = bring(store, Kind.TRAIN, state)
        shown = job.to_json()
        assert ONE_WORKER not in canonical_json(shown)
        assert shown["state"] == state.value
        assert shown["is_payment_given_back"] is not job.holds_payment


def test_jobs_are_counted_by_the_state_they_are_in(store: JobStore) -> None:
    bring(store, Kind.TRAIN, State.FINISHED), bring(store, Kind.INFER, State.FAILED), ask(store), ask(store)
    found = store.by_state()
    assert set(found) == set(State) and sum(found.values()) == 4
    assert (found[State.QUEUED], found[State.FINISHED], found[State.FAILED], found[State.RUNNING]) == (2, 1, 1, 0)
