"""`/v1/jobs`: ordered, followed and stopped by who paid; `/v1/environments` and what a job costs before anything is paid.

In: a session of an order that pays for jobs, what is asked of the model. Out: the job as its owner may see it. This module must
never show a job to anybody else, nor set a price.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from control_plane.did import parse_address, parse_did, parse_transaction_hash
from control_plane.errors import BadInput, Forbidden, NotFound
from control_plane.fields import Field, Table, parse_fields, patterned, text, whole
from control_plane.flows.ask_job import Wanted, ask_for_job, job_offer
from control_plane.flows.job_receipts import receipt_of
from control_plane.flows.jobs import job_of, stop_job
from control_plane.flows.services import Services
from control_plane.jobs.access import has_room
from control_plane.jobs.environments import find
from control_plane.jobs.job import Job
from control_plane.jobs.ocean_status import ocean_status
from control_plane.jobs.states import Kind, State
from control_plane.serving.access import on_sale_only, session_only
from control_plane.serving.sessions import Session
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_object
from control_plane.web.unstored import unstored

MOST = 100
_KINDS = [kind.value for kind in Kind]
_KIND = Field(" or ".join(_KINDS), lambda value: isinstance(value, str) and value in _KINDS, {"enum": _KINDS}, is_required=True)
_PARAMETERS = Field("an object", lambda value: isinstance(value, Mapping), {"type": "object"})
_ENVIRONMENT = text("the id of an environment, see GET /v1/environments", 100, is_required=True)
_HEX32 = "^0x[0-9a-fA-F]{64}$"
OFFER: Table = {
    "consumer": patterned(
        "the address that will pay and own the job: 0x and 40 hex digits", "^0x[0-9a-fA-F]{40}$", is_required=True
    ),
    "kind": _KIND,
    "parameters": _PARAMETERS,
    "environment": _ENVIRONMENT,
    "duration_s": whole("seconds of computing, from 1", 1, 2**31 - 1),
    "dataset_order": patterned("an order of the dataset that parameters name by its DID, to ask whether it is still good", _HEX32),
}
JOB: Table = {
    "kind": _KIND,
    "parameters": _PARAMETERS,
    "environment": _ENVIRONMENT,
    "order": patterned("the transaction that paid for the job; this token's", _HEX32),
    "dataset_order": patterned("the transaction that ordered the dataset, where parameters name one by its DID", _HEX32),
}


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("jobs", __name__)
    jobs = services.jobs

    @pages.get("/v1/environments")
    def environments() -> Response:
        shown = [
            {
                "id": each.id,
                "description": each.description,
                "price_per_minute": str(each.price),
                "fee_token": each.fee_token,
                "max_duration_s": each.max_duration_s,
                "max_jobs": each.max_jobs,
                "max_jobs_of_an_owner": each.max_jobs_of_an_owner,
                "under_way": jobs.under_way(each.id),
                "cpus": each.cpus,
                "gpus": each.gpus,
                "ram_gb": each.ram_gb,
            }
            for each in services.environments
        ]
        return unstored(jsonify(environments=shown))

    @pages.post("/v1/offers/<did>/jobs")
    def offer(did: str) -> Response:
        listing = services.catalogue.find(parse_did(did, "did"))
        on_sale_only(listing).enforce()
        fields = parse_fields(read_object()[1], OFFER)
        consumer, given = parse_address(fields["consumer"], "consumer"), fields["dataset_order"]
        environment = find(services.environments, fields["environment"])
        has_room(environment, jobs.standing_in(environment.id, consumer)).enforce()
        wanted = Wanted(Kind(fields["kind"]), fields["parameters"] or {}, environment)
        dataset_order = None if given is None else parse_transaction_hash(given, "dataset_order")
        made = job_offer(services, listing, wanted, fields["duration_s"] or environment.max_duration_s, consumer, dataset_order)
        dataset, order_refused = (
            (None, None) if made.dataset is None else (made.dataset.offer.to_json(), made.dataset.order_refused)
        )
        parameters = json.loads(made.parameters)
        told = {
            "offer": made.model.to_json(),
            "dataset_offer": dataset,
            "dataset_order_refused": order_refused,
            "parameters": parameters,
        }
        return unstored(jsonify(told))

    @pages.post("/v1/jobs")
    def order() -> Response:
        session = jobs_session(services)
        fields = parse_fields(read_object()[1], JOB)
        if fields["order"] is not None and parse_transaction_hash(fields["order"], "order") != session.order:
            found = f"order: expected {session.order}, which this token is for, found another"
            raise Forbidden(found, code="token_of_another_order")
        given = fields["dataset_order"]
        job = ask_for_job(
            services,
            session,
            Wanted(Kind(fields["kind"]), fields["parameters"] or {}, find(services.environments, fields["environment"])),
            None if given is None else parse_transaction_hash(given, "dataset_order"),
        )
        return unstored(jsonify(_shown(services, job)))

    @pages.get("/v1/jobs")
    def listed() -> Response:
        session = jobs_session(services)
        for name in request.args:
            if name not in ("did", "limit"):
                raise BadInput("query", "only did and limit", name, code="unknown_parameter")
        did = request.args.get("did")
        chosen = None if did is None else parse_did(did, "did")
        found = jobs.jobs_of(session.wallet, chosen, limit_in(request.args.get("limit", str(MOST))))
        return unstored(jsonify(jobs=[_shown(services, job) for job in found]))

    @pages.get("/v1/jobs/<job_id>")
    def one(job_id: str) -> Response:
        session = jobs_session(services)
        return unstored(jsonify(_shown(services, job_of(jobs, job_id, session.wallet))))

    @pages.post("/v1/jobs/<job_id>/stop")
    def stop(job_id: str) -> Response:
        session = jobs_session(services)
        return unstored(jsonify(_shown(services, stop_job(jobs, job_id, session.wallet))))

    return pages


def jobs_session(services: Services) -> Session:
    """Whoever signed in with an order of jobs sees all jobs of the wallet, whichever order paid for them."""
    session = bearer_session(services.sessions)
    session_only(session, services.clock()).enforce()
    if not session.is_for_jobs:
        expected = "a token of an order that pays for jobs, found one of an order that pays for calls"
        raise Forbidden(f"Authorization: expected {expected}", code="order_for_calls")
    return session


def _shown(services: Services, job: Job) -> dict[str, Any]:
    position = services.jobs.queue_position(job.job_id) if job.state is State.QUEUED else None
    status, receipt = ocean_status(job, position), receipt_of(services.store, job)
    return {
        **job.to_json(),
        "status": status.code,
        "status_text": status.text,
        "queue_position": position,
        "receipt": None if receipt is None else receipt.to_json(),
        "lineage": _lineage(services, job),
    }


def _lineage(services: Services, job: Job) -> Any:
    """How the derived asset came to be, once it is on sale."""
    if job.derived_did is None:
        return None
    try:
        statement = services.catalogue.find(job.derived_did).statement
    except NotFound:
        return None
    return None if statement is None else json.loads(statement)


def limit_in(asked: str) -> int:
    if not (asked.isascii() and asked.isdigit()) or len(asked) > 9 or not 1 <= int(asked) <= MOST:
        raise BadInput("limit", f"a whole number from 1 to {MOST}", asked)
    return int(asked)
