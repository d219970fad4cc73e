"""Jobs to be asked for, each with a payment of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from control_plane.did import Address, Bytes32, Did, TransactionHash, UnixSeconds
from control_plane.jobs.job import Job, NewJob, Reason
from control_plane.jobs.states import HELD, Kind, State
from control_plane.jobs.store import JobStore, Standing

ALICE, BOB, CHARLIE = (Address("0x" + letter * 40) for letter in "abc")
MODEL, OTHER_MODEL, ALGORITHM, DERIVED = (Did("did:op:" + digit * 64) for digit in "1234")
DIGEST, WEIGHTS = Bytes32("0x" + "5" * 64), Bytes32("0x" + "6" * 64)
ONE_WORKER, OTHER_WORKER = "e" * 32, "f" * 32
RESULT = {"loss": 3.25}
OUT_OF_MEMORY = Reason("out_of_memory", "the model did not fit into memory with a batch of 8")
_COUNTER = itertools.count()

A_JOB = NewJob(
    kind=Kind.TRAIN,
    did=MODEL,
    model_digest=DIGEST,
    owner=BOB,
    payment=TransactionHash("0x" + "0" * 64),
    algorithm_did=ALGORITHM,
    parameters=json.dumps({"steps": 500}),
    environment="posthuman-cpu",
    valid_until=UnixSeconds(1_700_003_600),
    paid_s=3600,
)


def payment_of(name: object) -> TransactionHash:
    return TransactionHash("0x" + hashlib.sha256(f"payment {name}".encode()).hexdigest())


def a_job(kind: Kind = Kind.TRAIN, **changes: Any) -> NewJob:
    return replace(A_JOB, **{"kind": kind, "payment": payment_of(next(_COUNTER)), **changes})


def anyone(_standing: Standing, _connection: Connection) -> None:
    """Decides: allowed."""


def ask(store: JobStore, kind: Kind = Kind.TRAIN, **changes: Any) -> Job:
    return store.add(a_job(kind, **changes), anyone)


FACTS: dict[State, dict[str, Any]] = {
    State.STORING: {"result": RESULT},
    State.DERIVING: {"weights_digest": WEIGHTS},
    State.FINISHED: {"result": RESULT, "derived_did": DERIVED},
}


def bring(store: JobStore, kind: Kind, state: State, worker: str = ONE_WORKER, **changes: Any) -> Job:
    """A new job, brought to `state` on the way that a job takes by itself."""
    job = ask(store, kind, **changes)
    if state is State.QUEUED:
        return job
    if state is State.STOPPED:
        return store.request_stop(job.job_id)
    claimed = store.claim(worker, doing=[held.job_id for held in held_by(store, worker)])
    assert claimed is not None and claimed.job_id == job.job_id
    way = [State.RUNNING, State.STORING, *([State.DERIVING] if kind is Kind.TRAIN else []), State.FINISHED]
    if state in (State.FAILED, State.FAILED_ALGORITHM_PROVISIONING):
        way = [State.RUNNING, state]
    if state is State.FAILED_DATA:
        way = [state]
    if state is State.PROVISIONING:
        return claimed
    for step in way:
        reason = OUT_OF_MEMORY if step in (State.FAILED, State.FAILED_DATA, State.FAILED_ALGORITHM_PROVISIONING) else None
        facts = {name: value for name, value in FACTS.get(step, {}).items() if kind is Kind.TRAIN or name != "derived_did"}
        claimed = store.advance(job.job_id, claimed.state, step, worker=worker, reason=reason, **facts)
        if step is state:
            return claimed
    raise AssertionError(f"{kind} does not come to {state}")


def everyone_is_dead(_worker: str) -> bool:
    return False


def held_by(store: JobStore, worker: str, owner: Address = BOB) -> tuple[Job, ...]:
    """The owner's jobs that a worker has at the moment, oldest first."""
    found = store.jobs_of(owner, limit=1000)
    return tuple(job for job in reversed(found) if job.worker == worker and job.state in HELD)
