"""Jobs as rows of their table.

In: values. Out: rows, and values again. This module must never run a statement.
"""

from __future__ import annotations

import json
from typing import Any

from control_plane.jobs.job import MOST_REASON, Job, NewJob, Progress, Reason, canonical_json
from control_plane.jobs.states import Kind, State

_KEPT_AS_IT_IS = (
    "did",
    "model_digest",
    "owner",
    "payment",
    "original_order",
    "dataset_did",
    "dataset_order",
    "algorithm_did",
    "algorithm_order",
    "parameters",
    "environment",
    "valid_until",
    "paid_s",
)
_OF_THE_RUN = (
    "job_id",
    "created_at",
    "started_at",
    "begun_at",
    "finished_at",
    "stop_requested_at",
    "attempts",
    "worker",
    "result",
    "weights_digest",
    "derived_did",
)


def new_row(asked: NewJob, job_id: str, created_at: float) -> dict[str, Any]:
    values = {name: getattr(asked, name) for name in _KEPT_AS_IT_IS}
    return values | {
        "job_id": job_id,
        "kind": asked.kind.value,
        "held_payment": asked.payment,
        "state": State.QUEUED.value,
        "created_at": created_at,
        "attempts": 0,
    }


def reason_columns(reason: Reason | None) -> dict[str, Any]:
    return {} if reason is None else {"reason_code": reason.code, "reason": reason.message[:MOST_REASON]}


def progress_text(progress: Progress) -> str:
    return canonical_json(progress.to_json())


def job_of(row: Any) -> Job:
    kept = {name: getattr(row, name) for name in (*_KEPT_AS_IT_IS, *_OF_THE_RUN)}
    return Job(
        **kept,
        kind=Kind(row.kind),
        state=State(row.state),
        reason=None if row.reason_code is None else Reason(row.reason_code, row.reason),
        progress=None if row.progress is None else Progress.from_json(json.loads(row.progress)),
        holds_payment=row.held_payment is not None,
    )
