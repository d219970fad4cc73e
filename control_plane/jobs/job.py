"""The job: one Compute-to-Data run, as a frozen record.

In: values. Out: values, and the JSON forms of them. This module must never open a database, nor know how a job is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.did import Address, Bytes32, Did, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, ChangedByOwner
from control_plane.fields import kind_of
from control_plane.jobs.states import FAILURES, OVER, Kind, State

MOST_RESULT_BYTES = 64 << 10
"""Of a result's canonical JSON: what leaves the machine beside a private model is bounded."""
MOST_REASON = 1000
"""Characters of a reason's sentence."""

BUYERS_FAULTS = frozenset(
    {
        "out_of_memory",
        "loss_not_finite",
        "dataset_not_text",
        "dataset_too_small",
        "dataset_unreadable",
        "file_broke_off",
        "sequence_too_long",
        "unsupported_model",
        "result_too_long",
    }
)
"""Codes of failures that other parameters, or another data set, would have avoided."""
TIMED_OUT = "timed_out"
WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class Reason:
    """Why a job ended as it did, for its owner. code is stable; message is a sentence, and holds no path and no traceback."""

    code: str
    message: str


@dataclass(frozen=True)
class Progress:
    """step: of `steps`, counted from 1, 0 before the first. loss: None where the kind of job has none, or none yet."""

    step: int
    steps: int
    loss: float | None = None
    steps_per_second: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "steps": self.steps, "loss": self.loss, "steps_per_second": self.steps_per_second}

    @classmethod
    def from_json(cls, record: object) -> Progress:
        """Raises BadInput naming the field. A number that is not finite counts as none: JSON has no word for it."""
        if not isinstance(record, Mapping) or set(record) != set(cls.__dataclass_fields__):
            raise BadInput("progress", f"an object with exactly {', '.join(cls.__dataclass_fields__)}", kind_of(record))
        for name in ("step", "steps"):
            if type(record[name]) is not int or not 0 <= record[name] < 2**53:
                raise BadInput(f"progress.{name}", "a whole number from 0", kind_of(record[name]))
        return cls(record["step"], record["steps"], *(_finite(record, name) for name in ("loss", "steps_per_second")))


def _finite(record: Mapping[str, Any], name: str) -> float | None:
    value = record[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"progress.{name}", "a number or null", kind_of(value))
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float holds
        return None


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What is asked for, and what was paid for it.

    did, model_digest: the model. owner: who pays and sees it. payment: the transaction that ordered the model; one job a payment.
    original_order: the order that `payment` ordered again (`reuseOrder`); None: `payment` is the order itself.
    parameters: canonical JSON, as `parameters.canonical` writes it. environment: the id of one that is offered.
    valid_until: until when the order may start a job; seconds since 1970. paid_s: seconds of computing that it pays for, counted
    from when the program starts: time in the queue is not the owner's.
    """

    kind: Kind
    did: Did
    model_digest: Bytes32
    owner: Address
    payment: TransactionHash
    algorithm_did: Did
    parameters: str
    environment: str
    valid_until: UnixSeconds
    paid_s: int
    dataset_did: Did | None = None
    dataset_order: TransactionHash | None = None
    algorithm_order: TransactionHash | None = None
    original_order: TransactionHash | None = None


@dataclass(frozen=True, kw_only=True)
class Job(NewJob):
    """One row of `jobs`. Times are seconds since 1970.

    job_id: 32 hex digits. reason: of a job that ended badly, or was stopped. started_at: when a worker first had it. begun_at:
    when its program first ran; None: nothing of what was paid for was spent.
    stop_requested_at: its owner wants it stopped; the worker that has it obeys. attempts: how often a worker took it.
    worker: the name of the process that has it, or had it at its end; None in the queue, and where it waits to be gone on with.
    result: canonical JSON. holds_payment: the payment is spent on this job; a job that failed gives it back.
    """

    job_id: str
    state: State
    created_at: float
    reason: Reason | None = None
    started_at: float | None = None
    begun_at: float | None = None
    finished_at: float | None = None
    stop_requested_at: float | None = None
    attempts: int = 0
    worker: str | None = None
    progress: Progress | None = None
    result: str | None = None
    weights_digest: Bytes32 | None = None
    derived_did: Did | None = None
    holds_payment: bool = True

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    def to_json(self) -> dict[str, Any]:
        """What its owner is shown: everything but which process has it."""
        return {
            "job_id": self.job_id,
            "kind": self.kind.value,
            "state": self.state.value,
            "reason": None if self.reason is None else {"code": self.reason.code, "message": self.reason.message},
            "did": self.did,
            "model_digest": self.model_digest,
            "owner": self.owner,
            "payment": self.payment,
            "original_order": self.original_order,
            "is_payment_given_back": not self.holds_payment,
            "dataset_did": self.dataset_did,
            "dataset_order": self.dataset_order,
            "algorithm_did": self.algorithm_did,
            "algorithm_order": self.algorithm_order,
            "parameters": json.loads(self.parameters),
            "environment": self.environment,
            "valid_until": self.valid_until,
            "paid_s": self.paid_s,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "begun_at": self.begun_at,
            "finished_at": self.finished_at,
            "stop_requested_at": self.stop_requested_at,
            "attempts": self.attempts,
            "progress": None if self.progress is None else self.progress.to_json(),
            "result": None if self.result is None else json.loads(self.result),
            "weights_digest": self.weights_digest,
            "derived_did": self.derived_did,
        }


def gives_payment_back(state: State, reason: Reason | None, has_begun: bool) -> bool:
    """Whether a job that ends in `state` gives its payment back. has_begun: its program ran, if only for a moment.

    A failure does, except that a program which used up the time it was paid for had what was bought, and that whoever undoes on
    chain what is being made for him has had it, too. A stop does while nothing of
    that time was spent: in the queue, while texts and weights are brought, while it waits for a machine with room.
    """
    if state is State.STOPPED:
        return not has_begun
    return state in FAILURES and (reason is None or reason.code not in (TIMED_OUT, ChangedByOwner.code))


def canonical_json(record: Mapping[str, Any]) -> str:
    """The one JSON text of a record: keys sorted, no spaces, no escapes beyond those JSON needs.

    Raises ValueError for a number that is not finite and UnicodeEncodeError for a text that UTF-8 cannot hold.
    """
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text


def canonical_result(record: object) -> str:
    """Raises BadInput for what is no object of JSON, or is longer than a result may be."""
    if not isinstance(record, Mapping):
        raise BadInput("result", "an object", kind_of(record))
    try:
        text = canonical_json(record)
    except (TypeError, ValueError) as error:
        raise BadInput("result", "JSON: texts, finite numbers, true, false, null, lists and objects", kind_of(record)) from error
    size = len(text.encode("utf-8"))
    if size > MOST_RESULT_BYTES:
        raise BadInput("result", f"at most {MOST_RESULT_BYTES} bytes of JSON", size, code="result_too_long")
    return text
