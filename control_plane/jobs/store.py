"""Stores jobs: each is asked for once, done by one worker at a time, and ends once.

In: new jobs, workers' names, moves. Out: rows of `jobs`, as frozen `Job`s. This module must never decide who may have a job
(access.py), nor run one.

Every change is one statement that names the state it leaves, and the worker where one must have the job: what another process has
moved meanwhile is then not overwritten, but told as Conflict. A worker's name is that of one process and never used again
(`receipts.workers.Worker`); so a worker that was taken for dead, and is not, can change nothing any more.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, Update, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.database import answering, reading, writing
from control_plane.database import jobs as table
from control_plane.did import Address, Bytes32, Did, TransactionHash
from control_plane.errors import Conflict, NotFound, Unavailable
from control_plane.jobs.job import (
    WORKER_LOST,
    Job,
    NewJob,
    Progress,
    Reason,
    canonical_result,
    gives_payment_back,
)
from control_plane.jobs.rows import job_of, new_row, progress_text, reason_columns
from control_plane.jobs.statements import next_for, not_behind, runs_with, state_in, waits
from control_plane.jobs.states import BEGUN_AGAIN, FAILURES, GONE_ON_WITH, HELD, OVER, Kind, State, is_legal

MOST_ATTEMPTS: Mapping[State, int] = {State.PROVISIONING: 5, State.RUNNING: 5, State.STORING: 25, State.DERIVING: 25}
"""How often a job is taken, all in all, until the death of one more worker in this state fails it: a program that kills what runs
it must not go round for ever, and what is only to be stored and published is worth more patience."""
STOPPED = Reason("stopped", "stopped by its owner")
_NEEDED: Mapping[tuple[Kind, State], tuple[str, ...]] = {
    (Kind.TRAIN, State.DERIVING): ("weights_digest",),
    (Kind.TRAIN, State.FINISHED): ("result", "weights_digest", "derived_did"),
    (Kind.EVALUATE, State.FINISHED): ("result",),
    (Kind.INFER, State.FINISHED): ("result",),
}
"""What a job must have when it comes to a state."""


@dataclass(frozen=True)
class Standing:
    """What the store knows when a job is asked for. of_payment: jobs of the same payment, oldest first.

    in_environment, of_owner: jobs that are not over, in the environment, and those of the owner among them.
    """

    of_payment: tuple[Job, ...] = ()
    in_environment: int = 0
    of_owner: int = 0


@dataclass(frozen=True)
class Reclaimed:
    """Ids of the jobs whose worker was dead. queued: to be begun again. going_on: to be gone on with where they were."""

    queued: tuple[str, ...] = ()
    going_on: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class JobStore:
    """The jobs of one market; safe in several threads and several processes at once.

    Every method raises Unavailable when the database does not answer. Then nothing was done, or it was done and only the answer was
    lost; each says what happens when it is called again.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """clock: seconds since 1970."""
        self._engine, self._reader = engine, reading(engine)
        self._clock, self._random_bytes = clock, random_bytes

    def add(self, asked: NewJob, decide: Callable[[Standing, Connection], None]) -> Job:
        """Put a job into the queue. decide: raises where it may not be; asked in the same transaction. What else it must know it
        reads on this connection: those who wait for their turn here may have taken all others.

        Raises what `decide` raises; Conflict with code `payment_used` when the payment is spent on another job.
        Again: the same job, while it is not over.
        """
        job_id = self._random_bytes(16).hex()
        try:
            with self._writing("store a job", alone="new jobs") as connection:
                if (same := self._same(connection, asked)) is not None:
                    return same
                decide(self._standing(connection, asked), connection)
                connection.execute(insert(table).values(**new_row(asked, job_id, self._clock())))
                return self._read(connection, job_id)
        except IntegrityError as error:
            with self._reading() as connection:
                if (same := self._same(connection, asked)) is not None:
                    return same
                raise self._spent(connection, asked) from error

    def get(self, job_id: str) -> Job:
        """Raises NotFound with code job_unknown."""
        with self._reading() as connection:
            return self._read(connection, job_id)

    def jobs_of(self, owner: Address, did: Did | None = None, limit: int = 100) -> tuple[Job, ...]:
        """An owner's jobs, of one model where `did` says so, newest first."""
        chosen = select(table).where(table.c.owner == owner).order_by(table.c.position.desc()).limit(limit)
        return self._all(chosen if did is None else chosen.where(table.c.did == did))

    def of_payment(self, payment: TransactionHash) -> tuple[Job, ...]:
        """The jobs that a payment has paid for, oldest first; at most the last one still has it."""
        return self._all(select(table).where(table.c.payment == payment).order_by(table.c.position))

    def queue_position(self, job_id: str) -> int | None:
        """Counted from 1, the next to be taken. None when the job waits no longer. Raises NotFound."""
        with self._reading() as connection:
            row = connection.execute(select(table).where(table.c.job_id == job_id)).first()
            if row is None:
                raise _unknown(job_id)
            if row.state != State.QUEUED:
                return None
            ahead = select(func.count()).where(waits(), not_behind(row.environment, row.position))
            return int(connection.execute(ahead).scalar_one())

    def under_way(self, environment: str) -> int:
        """Jobs that are not over, in one environment."""
        with self._reading() as connection:
            return self._count(connection, table.c.environment == environment)

    def trainings(self, beside: Connection | None = None) -> tuple[Job, ...]:
        """Those that are not over: each may become an asset. beside: a transaction that is under way, to read in it."""
        return self._all(select(table).where(table.c.kind == Kind.TRAIN.value, ~state_in(OVER)), beside)

    def standing_in(self, environment: str, owner: Address) -> Standing:
        """Of a job that is not paid for yet."""
        with self._reading() as connection:
            return self._crowd(connection, environment, owner)

    def by_state(self) -> Mapping[State, int]:
        """How many jobs there are in each state, those of it that have none as 0."""
        with self._reading() as connection:
            rows = connection.execute(select(table.c.state, func.count()).group_by(table.c.state))
            return dict.fromkeys(State, 0) | {State(state): int(count) for state, count in rows}

    def claim(self, worker: str, doing: Collection[str] = ()) -> Job | None:
        """Take a job for this worker: the oldest whose worker died while it was stored or derived, else the first in the queue.

        The first comes in the state it had, to be gone on with; the second comes as `provisioning`. None: there is nothing to do.
        doing: ids of the jobs that this worker knows it has. Again: a job that is this worker's and not among them was taken in a
        call whose answer was lost, and is given once more.
        """
        with self._writing("claim a job") as connection:
            row = connection.execute(next_for(worker, doing)).first()
            if row is None or row.worker == worker:
                return None if row is None else job_of(row)
            to_state = State.PROVISIONING if row.state == State.QUEUED else State(row.state)
            taken = {
                "state": to_state.value,
                "worker": worker,
                "attempts": table.c.attempts + 1,
                "started_at": func.coalesce(table.c.started_at, self._clock()),
            }
            # the row is locked: by SQLite's one writer, elsewhere by FOR UPDATE
            connection.execute(update(table).where(table.c.job_id == row.job_id).values(**taken))
            return self._read(connection, row.job_id)

    def advance(
        self,
        job_id: str,
        from_state: State,
        to_state: State,
        *,
        worker: str,
        reason: Reason | None = None,
        result: Mapping[str, Any] | None = None,
        weights_digest: Bytes32 | None = None,
        derived_did: Did | None = None,
        along: Callable[[Connection, Job], object] | None = None,
    ) -> Job:
        """Move a job that `worker` has. What is given is stored with the move, and stays where it is not given.

        reason: needed for a failure, which gives the payment back in the same transaction. result: at most 64 KB of JSON; nothing
        finishes without one. weights_digest: needed before a training job derives, derived_did before it finishes. along: writes
        more in the same transaction, of the job as it is moved; what it raises undoes the move.
        Raises NotFound; Conflict with code `job_moved` when the job is not in `from_state` or is another worker's; BadInput for a
        result that is none. An illegal move is a fault of ours: ValueError.
        Again: the job as it was moved.
        """
        if (to_state in FAILURES) != (reason is not None) and to_state is not State.STOPPED:
            raise ValueError(f"a move to {to_state} {'needs a' if to_state in FAILURES else 'has no'} reason")
        if to_state in (State.QUEUED, State.PROVISIONING):
            raise ValueError(f"a job comes to {to_state} by claim, release or reclaim")
        reason = (reason or STOPPED) if to_state is State.STOPPED else reason
        given = {
            "result": None if result is None else canonical_result(result),
            "weights_digest": weights_digest,
            "derived_did": derived_did,
        }
        values = {name: value for name, value in given.items() if value is not None}
        with self._writing("move a job") as connection:
            job = self._read(connection, job_id)
            if not is_legal(job.kind, from_state, to_state):
                raise ValueError(f"job {job_id}: {job.kind} does not go from {from_state} to {to_state}")
            lacking = [name for name in _NEEDED.get((job.kind, to_state), ()) if (values.get(name) or getattr(job, name)) is None]
            if lacking:
                raise ValueError(f"job {job_id}: {job.kind} does not come to {to_state} without {', '.join(lacking)}")
            change = self._move(job, from_state, to_state, worker, values, reason)
            if connection.execute(change).rowcount == 1:
                moved = self._read(connection, job_id)
                if along is not None:
                    along(connection, moved)
                return moved
        if job.state is to_state and job.worker == worker and all(getattr(job, name) == value for name, value in values.items()):
            return job
        raise _moved(job, f"{from_state.value} and taken by this worker")

    def begin(self, job_id: str, worker: str) -> bool:
        """Note that the program of a running job begins: what was paid for is spent from now on. Again: the first time stays.

        False, and nothing is written, when it is not this worker's, or is to stop: then its program must not run.
        """
        noted = update(table).where(runs_with(job_id, worker), table.c.stop_requested_at.is_(None))
        with self._writing("note a job's begin") as connection:
            return connection.execute(noted.values(begun_at=func.coalesce(table.c.begun_at, self._clock()))).rowcount == 1

    def progress(self, job_id: str, worker: str, progress: Progress) -> bool:
        """Note how far a running job is. False, and nothing is written, when it is not this worker's or does not run any more.

        Again: writes the same.
        """
        with self._writing("note a job's progress") as connection:
            noted = update(table).where(runs_with(job_id, worker)).values(progress=progress_text(progress))
            return connection.execute(noted).rowcount == 1

    def request_stop(self, job_id: str) -> Job:
        """Stop a job at its owner's wish: in the queue at once; before its program has ended, as soon as its worker obeys.

        It gives its payment back where its program never ran. Raises NotFound; Conflict with code `job_over` for one that ended
        otherwise, `job_too_late` for one whose program has ended. Again: the same, and the first request's time stays.
        """
        now = self._clock()
        with self._writing("stop a job") as connection:
            may_stop = state_in(BEGUN_AGAIN | {State.QUEUED})
            noted = update(table).where(table.c.job_id == job_id, may_stop)
            connection.execute(noted.values(stop_requested_at=func.coalesce(table.c.stop_requested_at, now)))
            self._stop_queued(connection, job_id)
            job = self._read(connection, job_id)
        if job.state is State.STOPPED or job.state in BEGUN_AGAIN:
            return job
        if job.is_over:
            raise Conflict(f"job {job_id} is over: {job.state.value}", code="job_over")
        raise Conflict(
            f"job {job_id} can no longer be stopped: its program has ended, and it is {job.state.value}", code="job_too_late"
        )

    def release(self, job_id: str, worker: str) -> Job:
        """Give up a job that `worker` has and does not do any more: for a worker that is shut down. It counts as no attempt.

        It goes where `reclaim` would have put it. Raises NotFound; Conflict with code `job_moved` when it is not this worker's.
        Again: Conflict.
        """
        with self._writing("release a job") as connection:
            job = self._read(connection, job_id)
            if job.state not in HELD or job.worker != worker or not self._let_go(connection, job, attempts=job.attempts - 1):
                raise _moved(job, "taken by this worker")
            return self._read(connection, job_id)

    def reclaim(self, is_alive: Callable[[str], bool]) -> Reclaimed:
        """Take jobs from workers that are dead. is_alive: by a worker's name.

        One that was not stored yet goes back into the queue, or is stopped where that was asked for. One that was being stored or
        derived waits for the next worker as it is. One that was taken too often fails with code `worker_lost` and gives its
        payment back. Again: finds nothing to do.
        """
        rows = self._all(select(table).where(state_in(HELD), table.c.worker.is_not(None)).order_by(table.c.position))
        alive = {name: is_alive(name) for name in {job.worker for job in rows if job.worker is not None}}
        found: dict[State, list[str]] = {State.QUEUED: [], State.FAILED: [], State.STOPPED: []}
        going_on: list[str] = []
        for job in rows:
            if job.worker is None or alive[job.worker]:
                continue
            with self._writing("reclaim a job") as connection:
                if self._fail_if_lost_too_often(connection, job) or self._let_go(connection, job, job.attempts):
                    found.get(self._read(connection, job.job_id).state, going_on).append(job.job_id)
        return Reclaimed(tuple(found[State.QUEUED]), tuple(going_on), tuple(found[State.STOPPED]), tuple(found[State.FAILED]))

    def _fail_if_lost_too_often(self, connection: Connection, job: Job) -> bool:
        is_to_stop = job.stop_requested_at is not None and job.state in BEGUN_AGAIN
        if is_to_stop or job.attempts < MOST_ATTEMPTS[job.state]:
            return False
        message = f"the process that ran it ended unexpectedly, {job.attempts} times in all; the payment is good for another job"
        change = self._move(job, job.state, State.FAILED, job.worker, {}, Reason(WORKER_LOST, message))
        return connection.execute(change).rowcount == 1

    def _let_go(self, connection: Connection, job: Job, attempts: int) -> bool:
        """Take a job from its worker; False when it is not there any more."""
        to_state = job.state if job.state in GONE_ON_WITH else State.QUEUED
        change = self._move(job, job.state, to_state, job.worker, {"worker": None, "attempts": attempts}, None)
        if connection.execute(change).rowcount != 1:
            return False
        self._stop_queued(connection, job.job_id)
        return True

    def _stop_queued(self, connection: Connection, job_id: str) -> None:
        """End a job in the queue whose stop was asked for."""
        asked = (table.c.job_id == job_id) & (table.c.state == State.QUEUED.value) & table.c.stop_requested_at.is_not(None)
        row = connection.execute(select(table.c.begun_at).where(asked)).first()
        if row is not None:
            values: dict[str, Any] = {"state": State.STOPPED.value, "finished_at": self._clock(), **reason_columns(STOPPED)}
            if gives_payment_back(State.STOPPED, STOPPED, row.begun_at is not None):
                values["held_payment"] = None
            connection.execute(update(table).where(asked).values(**values))

    def _move(
        self, job: Job, from_state: State, to_state: State, worker: str | None, values: Mapping[str, Any], reason: Reason | None
    ) -> Update:
        written: dict[str, Any] = {**values, "state": to_state.value, **reason_columns(reason)}
        if to_state in OVER:
            written["finished_at"] = self._clock()
            if gives_payment_back(to_state, reason, job.begun_at is not None):
                written["held_payment"] = None
        is_as_known = (table.c.job_id == job.job_id) & (table.c.state == from_state.value) & (table.c.worker == worker)
        return update(table).where(is_as_known).values(**written)

    def _standing(self, connection: Connection, asked: NewJob) -> Standing:
        chosen = select(table).where(table.c.payment == asked.payment).order_by(table.c.position)
        return replace(
            self._crowd(connection, asked.environment, asked.owner),
            of_payment=tuple(job_of(row) for row in connection.execute(chosen)),
        )

    def _crowd(self, connection: Connection, environment: str, owner: Address) -> Standing:
        there = table.c.environment == environment
        in_environment, of_owner = self._count(connection, there), self._count(connection, there & (table.c.owner == owner))
        return Standing(in_environment=in_environment, of_owner=of_owner)

    def _same(self, connection: Connection, asked: NewJob) -> Job | None:
        """The job that this very question has made before, unless it is over."""
        row = connection.execute(select(table).where(table.c.held_payment == asked.payment)).first()
        if row is None:
            return None
        job = job_of(row)
        is_same = all(getattr(job, name) == getattr(asked, name) for name in NewJob.__dataclass_fields__)
        return job if is_same and not job.is_over else None

    def _spent(self, connection: Connection, asked: NewJob) -> Conflict | Unavailable:
        row = connection.execute(select(table.c.job_id).where(table.c.held_payment == asked.payment)).first()
        if row is None:  # given back since
            return Unavailable(f"payment {asked.payment}: it was being given back; try again", retry_after_s=1)
        return payment_used(asked.payment, row.job_id)

    def _count(self, connection: Connection, which: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count()).where(which, ~state_in(OVER))).scalar_one())

    def _all(self, chosen: Select[Any], beside: Connection | None = None) -> tuple[Job, ...]:
        with self._reading() if beside is None else nullcontext(beside) as connection:
            return tuple(job_of(row) for row in connection.execute(chosen))

    def _read(self, connection: Connection, job_id: str) -> Job:
        row = connection.execute(select(table).where(table.c.job_id == job_id)).first()
        if row is None:
            raise _unknown(job_id)
        return job_of(row)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with answering("read jobs"), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, what: str, alone: str | None = None) -> Iterator[Connection]:
        with answering(what), writing(self._engine, alone) as connection:
            yield connection


def payment_used(payment: TransactionHash, job_id: str) -> Conflict:
    return Conflict(f"payment {payment}: it has paid for job {job_id}; one payment pays for one job", code="payment_used")


def _unknown(job_id: str) -> NotFound:
    return NotFound.named("job_id", "the id of a job", job_id, code="job_unknown")


def _moved(job: Job, expected: str) -> Conflict:
    return Conflict(f"job {job.job_id}: expected it {expected}, found {job.state.value}", code="job_moved")
