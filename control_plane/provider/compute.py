"""A job as Ocean's clients see it: operator-service's record, and the files that it may hand out.

In: a `Job`. Out: JSON, bytes. This module must never hand out more than the result, which is bounded and holds no weights, and the
sentence of a failure.

Source: operator-service 1.1 `create_response`; `ocean.py` 3.1.2 reads `jobId`, `status`, `results[i].type` and asks by position.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from control_plane.jobs.job import Job
from control_plane.jobs.ocean_status import ocean_status
from control_plane.jobs.states import State
from control_plane.receipts.receipt import Issued


@dataclass(frozen=True)
class ResultFile:
    """type: `output` or `algorithmLog`, Ocean's words."""

    name: str
    type: str
    content: bytes


def result_files(job: Job, receipt: Issued | None) -> tuple[ResultFile, ...]:
    """What `computeResult` gives, by position; nothing before the job is over. receipt: that the job has left."""
    if not job.is_over:
        return ()
    found = [] if job.result is None else [ResultFile("result.json", "output", job.result.encode())]
    if receipt is not None:
        found.append(ResultFile("receipt.json", "output", json.dumps(receipt.to_json()).encode()))
    if job.reason is not None:
        found.append(ResultFile("algorithm.log", "algorithmLog", f"{job.reason.code}: {job.reason.message}\n".encode()))
    return tuple(found)


def job_record(job: Job, queue_position: int | None, receipt: Issued | None) -> dict[str, Any]:
    """As a list of one stands in each answer of `/api/services/compute`. Times are text, seconds since 1970, as operator-service
    has them. `posthuman` holds what Ocean has no words for."""
    status = ocean_status(job, queue_position)
    files = [{"filename": each.name, "filesize": len(each.content), "type": each.type} for each in result_files(job, receipt)]
    return {
        "agreementId": job.payment,
        "jobId": job.job_id,
        "owner": job.owner,
        "status": status.code,
        "statusText": status.text,
        "dateCreated": str(job.created_at),
        "dateFinished": None if job.finished_at is None else str(job.finished_at),
        "results": files or "",
        "stopreq": int(job.stop_requested_at is not None),
        "removed": 0,
        "algoDID": job.algorithm_did,
        "inputDID": [job.did, *([] if job.dataset_did is None else [job.dataset_did])],
        "posthuman": {
            "kind": job.kind.value,
            "state": job.state.value,
            "has_failed": job.state in (State.FAILED, State.FAILED_DATA, State.FAILED_ALGORITHM_PROVISIONING),
            "reason": None if job.reason is None else {"code": job.reason.code, "message": job.reason.message},
            "progress": None if job.progress is None else job.progress.to_json(),
            "derived_did": job.derived_did,
            "queue_position": queue_position,
        },
    }
