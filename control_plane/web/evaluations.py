"""`/v1/models/<did>/evaluations`, `/v1/jobs/<id>/publish`: what evaluators found of a model and wanted published.

In: a DID; a session of an order that pays for jobs. Out: signed statements, each of which stands for itself. This module must never
show what nobody wanted published.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from control_plane.did import parse_address, parse_bytes32, parse_did
from control_plane.errors import BadInput
from control_plane.flows.publish_evaluation import publish_job
from control_plane.flows.services import Services
from control_plane.web.jobs import MOST, jobs_session, limit_in


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("evaluations", __name__)

    @pages.get("/v1/models/<did>/evaluations")
    def listed(did: str) -> Response:
        for name in request.args:
            if name not in ("limit", "evaluator", "before"):
                raise BadInput("query", "only limit, evaluator and before", name, code="unknown_parameter")
        asset = services.catalogue.find(parse_did(did, "model"))
        evaluator, before = request.args.get("evaluator"), request.args.get("before")
        found = services.evaluations.of_asset(
            asset.did,
            limit_in(request.args.get("limit", str(MOST))),
            None if evaluator is None else parse_address(evaluator, "evaluator"),
            None if before is None else parse_bytes32(before, "before"),
        )
        return jsonify(evaluations=[each.to_json() for each in found])

    @pages.post("/v1/jobs/<job_id>/publish")
    def publish(job_id: str) -> Response:
        session = jobs_session(services)
        return jsonify(publish_job(services, job_id, session.wallet).to_json())

    return pages
