"""Whatever buyers and workers do in whatever order, what the store promises holds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from control_plane.database import open_database
from control_plane.errors import Conflict
from control_plane.jobs.job import Job, Progress
from control_plane.jobs.states import FAILURES, HELD, MOVES, OVER, Kind, State
from control_plane.jobs.store import JobStore
from control_plane.migrations.migrate import migrate
from tests.control_plane.jobs.asking import FACTS, OUT_OF_MEMORY, a_job, anyone, held_by, payment_of
from tests.fixtures_market import Clock

PAYMENTS, WORKERS = range(4), range(3)


class Jobs(RuleBasedStateMachine):
    """Workers die and come back under new names, as processes do; a dead one may still try to write."""

    ids: Bundle[str] = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._clock = Clock(1_700_000_000.0)
        self._engine = open_database(f"sqlite:///{Path(self._folder.name) / 'jobs.db'}")
        migrate(self._engine)
        self._store = JobStore(self._engine, self._clock)
        self._generation = dict.fromkeys(WORKERS, 0)
        self._dead: set[str] = set()
        self._last: dict[str, Job] = {}

    def teardown(self) -> None:
        self._engine.dispose()
        self._folder.cleanup()

    def _name(self, worker: int) -> str:
        return f"{worker}-{self._generation[worker]}"

    @rule(target=ids, payment=st.sampled_from(PAYMENTS), kind=st.sampled_from(Kind), steps=st.integers(1, 2))
    def ask(self, payment: int, kind: Kind, steps: int) -> str:
        asked = a_job(kind, payment=payment_of(f"machine {payment}"), parameters=f'{{"steps":{steps}}}')
        holding = [job for job in self._store.of_payment(asked.payment) if job.holds_payment]
        try:
            job = self._store.add(asked, anyone)
        except Conflict:
            assert holding
            return holding[0].job_id
        assert job.job_id in {each.job_id for each in holding} or not holding
        return job.job_id

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: int) -> None:
        name = self._name(worker)
        known = [job.job_id for job in held_by(self._store, name)]
        claimed = self._store.claim(name, known)
        assert claimed is None or (claimed.worker == name and claimed.job_id not in known)

    @rule(job_id=ids, worker=st.sampled_from(WORKERS), is_late=st.booleans(), to_state=st.sampled_from(State))
    def advance(self, job_id: str, worker: int, is_late: bool, to_state: State) -> None:
        name = f"{worker}-{self._generation[worker] - 1}" if is_late else self._name(worker)
        job = self._store.get(job_id)
        facts: dict[str, Any] = {"reason": OUT_OF_MEMORY} if to_state in FAILURES else dict(FACTS.get(to_state, {}))
        if job.kind is not Kind.TRAIN:
            facts.pop("derived_did", None)
        may = job.worker == name and to_state in MOVES[job.kind][job.state] and to_state is not State.QUEUED
        try:
            moved = self._store.advance(job_id, job.state, to_state, worker=name, **facts)
        except (Conflict, ValueError):
            assert not may
        else:
            assert may
            assert moved.state is to_state

    @rule(job_id=ids, worker=st.sampled_from(WORKERS), is_late=st.booleans(), step=st.integers(0, 9))
    def progress(self, job_id: str, worker: int, is_late: bool, step: int) -> None:
        name = f"{worker}-{self._generation[worker] - 1}" if is_late else self._name(worker)
        job = self._store.get(job_id)
        assert self._store.progress(job_id, name, Progress(step, 9)) == (job.state is State.RUNNING and job.worker == name)

    @rule(job_id=ids, worker=st.sampled_from(WORKERS), is_late=st.booleans())
    def begin(self, job_id: str, worker: int, is_late: bool) -> None:
        name = f"{worker}-{self._generation[worker] - 1}" if is_late else self._name(worker)
        job = self._store.get(job_id)
        may = job.state is State.RUNNING and job.worker == name and job.stop_requested_at is None
        assert self._store.begin(job_id, name) == may
        assert (self._store.get(job_id).begun_at is not None) == (may or job.begun_at is not None)

    @rule(job_id=ids)
    def stop(self, job_id: str) -> None:
        before = self._store.get(job_id)
        try:
            after = self._store.request_stop(job_id)
        except Conflict:
            assert before.state in OVER | {State.STORING, State.DERIVING}
        else:
            assert after.state is (State.STOPPED if before.state is State.QUEUED else before.state)

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: int) -> None:
        self._dead.add(self._name(worker))
        self._generation[worker] += 1

    @rule()
    def reclaim(self) -> None:
        self._store.reclaim(lambda name: name not in self._dead)
        assert all(not held_by(self._store, name) for name in self._dead)

    @rule(job_id=ids, worker=st.sampled_from(WORKERS))
    def release(self, job_id: str, worker: int) -> None:
        job = self._store.get(job_id)
        try:
            self._store.release(job_id, self._name(worker))
        except Conflict:
            assert job.worker != self._name(worker) or job.state not in HELD
        else:
            assert job.worker == self._name(worker)

    @invariant()
    def every_job_moves_by_legal_moves_and_ends_once(self) -> None:
        self._clock.now += 1
        for payment in PAYMENTS:
            jobs = self._store.of_payment(payment_of(f"machine {payment}"))
            assert sum(job.holds_payment for job in jobs) <= 1
            assert all(not job.holds_payment for job in jobs[:-1])
            for job in jobs:
                before = self._last.get(job.job_id)
                if before is not None and before.is_over:
                    assert job == before
                if before is not None and before.state is not job.state:
                    assert job.state in MOVES[job.kind][before.state] or job.state is State.STOPPED
                assert job.is_over == (job.finished_at is not None)
                assert (job.state in HELD or job.is_over) or job.worker is None
                assert job.state is not State.FINISHED or job.result is not None
                assert job.state is not State.STOPPED or job.holds_payment == (job.begun_at is not None)
                self._last[job.job_id] = job


Jobs.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestJobs = Jobs.TestCase
