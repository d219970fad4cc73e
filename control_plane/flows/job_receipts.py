"""The receipt of a job that answered prompts: what a call's buyer has, of a whole batch.

In: a job as it is finished, inside the transaction that finishes it. Out: its receipt. This module must never charge anything: the
job's order is its payment.

One receipt a job, under the job's id in place of a call's. Its request are the job's parameters and its response the job's result,
each as the canonical JSON that is stored. Result and receipt are there together or not at all.
"""

from __future__ import annotations

import json
from typing import Protocol

from sqlalchemy import Connection

from control_plane.did import UnixMillis, parse_address
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind, State
from control_plane.receipts.receipt import Issued, request_hash, response_hash
from control_plane.receipts.rows import Reservation
from control_plane.receipts.store import ReceiptStore


class LeaveReceipt(Protocol):
    """`leave_receipt` with one market's store."""

    def __call__(self, connection: Connection, job: Job) -> object: ...


def leave_receipt(store: ReceiptStore, connection: Connection, job: Job) -> Issued:
    """Store the receipt of a job of the kind `infer` that this transaction finishes. Raises, and Again: see `ReceiptStore.append`.

    It names the order of the model (where that was ordered again, the first one: an order's receipts are counted together), and the
    job's owner, who is the order's consumer or, where the environment is, its payer.
    """
    if job.kind is not Kind.INFER or job.result is None or job.begun_at is None:
        raise ValueError(f"job {job.job_id}: a receipt is of prompts that were answered")
    result, salt = json.loads(job.result), store.new_salt()
    reservation = Reservation(
        call_id=job.job_id,
        token_hash="",
        did=job.did,
        model_digest=job.model_digest,
        consumer=parse_address(job.owner),
        order=job.original_order or job.payment,
        request_hash=request_hash(salt, job.parameters.encode()),
        salt=salt,
        started_at=UnixMillis(int(job.begun_at * 1000)),
        is_streaming=False,
    )
    answered = response_hash(salt, job.result.encode())
    return store.append(
        connection, reservation, response_hash=answered, units_in=result["prompt_tokens"], units_out=result["tokens"]
    )


def receipt_of(store: ReceiptStore, job: Job) -> Issued | None:
    """The receipt that a job left; None for another kind of job, one that is not finished, and one of an earlier release."""
    return store.receipt_of_call(job.job_id) if job.kind is Kind.INFER and job.state is State.FINISHED else None
