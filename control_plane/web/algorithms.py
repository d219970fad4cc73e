"""`/v1/algorithms`: what jobs may run here, and the file of each algorithm asset.

In: a kind of job. Out: its asset and checksums; the statement that its checksum is of. This module must never show a program.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from control_plane.errors import NotFound
from control_plane.flows.services import Services
from control_plane.jobs.algorithms import statement
from control_plane.jobs.states import Kind


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("algorithms", __name__)

    @pages.get("/v1/algorithms")
    def algorithms() -> Response:
        return jsonify(
            algorithms=[
                {
                    "kind": kind.value,
                    "did": each.did,
                    "files_checksum": each.files_checksum,
                    "container_checksum": each.container_checksum,
                }
                for kind, each in services.algorithms.items()
            ]
        )

    @pages.get("/v1/algorithms/<kind>")
    def file(kind: str) -> Response:
        """The bytes themselves, for whoever compares them with the checksum."""
        known = next((each for each in Kind if each.value == kind), None)
        if known is None:
            raise NotFound.named("kind", " or ".join(each.value for each in Kind), kind, code="algorithm_unknown")
        return Response(statement(known), mimetype="application/json")

    return pages
