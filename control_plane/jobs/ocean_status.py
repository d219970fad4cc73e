"""A job's state as Ocean's compute status: a code and a text.

In: a job, its place in the queue. Out: what stands in `status` and `statusText`. This module must never say more of a failure than
the reason that its owner may read.

Source: operator-service's API.md for 1 to 70, ocean-node's `C2DStatusNumber` for 41. Stock ocean.py reads the code alone: 31 and 32
are failures to it, and it knows no end but 70; so a job that was stopped ends with 70, and its text says what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.jobs.job import Job
from control_plane.jobs.states import State


@dataclass(frozen=True)
class OceanStatus:
    code: int
    text: str


STATUSES: Mapping[State, OceanStatus] = {
    State.QUEUED: OceanStatus(1, "Warming up"),
    State.PROVISIONING: OceanStatus(20, "Configuring volumes"),
    State.RUNNING: OceanStatus(40, "Running algorithm"),
    State.STORING: OceanStatus(50, "Filtering results"),
    State.DERIVING: OceanStatus(60, "Publishing results"),
    State.FINISHED: OceanStatus(70, "Job finished"),
    State.FAILED_DATA: OceanStatus(31, "Data provisioning failed"),
    State.FAILED_ALGORITHM_PROVISIONING: OceanStatus(32, "Algorithm provisioning failed"),
    State.FAILED: OceanStatus(41, "Algorithm failed"),
    State.STOPPED: OceanStatus(70, "Job stopped"),
}


def ocean_status(job: Job, queue_position: int | None = None) -> OceanStatus:
    """queue_position: counted from 1, as `JobStore.queue_position` gives it; None: not told."""
    plain = STATUSES[job.state]
    if job.state is State.QUEUED and queue_position is not None:
        return OceanStatus(plain.code, f"{plain.text}: number {queue_position} in the queue")
    if job.reason is not None and job.state is not State.STOPPED:
        return OceanStatus(plain.code, f"{plain.text}: {job.reason.message}")
    return plain
