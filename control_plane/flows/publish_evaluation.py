"""Publish what a job has found of a model, because its owner wants it.

In: a finished job, or a statement whose evaluator asked for it when he ordered. Out: the record that everybody can see. This module
must never publish a job of the owner's without his word.
"""

from __future__ import annotations

import json

from control_plane.did import Address
from control_plane.errors import BadInput
from control_plane.fields import Kind as Described
from control_plane.flows.jobs import job_of
from control_plane.flows.services import Services
from control_plane.jobs.states import Kind, State
from control_plane.receipts.evaluation import SignedEvaluation
from control_plane.receipts.evaluations import Published


def publish_job(services: Services, job_id: str, owner: Address) -> Published:
    """Publish the statement of an owner's evaluation. Again: the same record.

    Raises NotFound as `job_of`, BadInput with code no_evaluation for another kind of job or one that has not finished, Conflict
    with code too_many_evaluations.
    """
    job = job_of(services.jobs, job_id, owner)
    if job.kind is not Kind.EVALUATE or job.state is not State.FINISHED or job.result is None:
        raise BadInput(
            "job_id",
            "an evaluation that has finished",
            Described(f"one of the kind {job.kind.value}, {job.state.value}"),
            code="no_evaluation",
        )
    signed = SignedEvaluation.from_json(json.loads(json.loads(job.result)["statement"]))
    found = services.evaluations.find(signed)
    if found is not None:
        return found
    services.evaluations.check_room(signed.evaluation.did, owner)
    return services.evaluations.publish(signed)
