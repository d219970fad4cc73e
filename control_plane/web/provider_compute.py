"""`/api/services/initializeCompute`, `/compute`, `/computeResult`: a job is priced, started, followed, stopped, its result read.

In: requests as the stock `ocean.py` 3.1.2 sends them, each signed. Out: operator-service's records. This module must never tell
of a job to anybody but its owner: Ocean Provider 2.1 lists any owner's jobs to whoever asks, since it verifies no signature there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, jsonify

from control_plane.errors import BadInput, Conflict, NotFound
from control_plane.flows.consume import to_ocean
from control_plane.flows.job_receipts import receipt_of
from control_plane.flows.jobs import job_of, stop_job
from control_plane.flows.ocean_jobs import Part, Priced, price_job, start_job
from control_plane.flows.services import Services
from control_plane.jobs.job import Job
from control_plane.provider.compute import job_record, result_files
from control_plane.web.body import parse_object
from control_plane.web.provider import SERVICES
from control_plane.web.provider_input import (
    Invalid,
    Proven,
    Workflow,
    address_in,
    body,
    did_in,
    proven,
    query,
    text_in,
    transaction_in,
    whole_in,
)
from control_plane.web.unstored import unstored


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("provider_compute", __name__)
    jobs = services.jobs

    def told_of(found: list[Job]) -> Response:
        store = services.store
        return unstored(jsonify([job_record(job, jobs.queue_position(job.job_id), receipt_of(store, job)) for job in found]))

    @pages.post(f"{SERVICES}/initializeCompute")
    def initialize() -> Response:
        values = body("datasets", "algorithm", "compute", "consumerAddress")
        owner, compute = address_in(values, "consumerAddress"), values["compute"]
        if not isinstance(compute, dict):
            raise BadInput("compute", "an object with env and validUntil", "something else")
        environment, valid_until = text_in(compute, "env"), whole_in(compute, "validUntil")
        model, *datasets = _parts(values["datasets"], "datasets")
        algorithm, told = _algorithm(values["algorithm"]), _told(values["algorithm"])
        prices = price_job(services, owner, model, algorithm, datasets, environment, valid_until, told)
        priced = [_shown(each) for each in (prices.model, *prices.datasets)]
        return unstored(jsonify(datasets=priced, algorithm=_shown(prices.algorithm)))

    @pages.post(f"{SERVICES}/compute")
    def start() -> Response:
        values = body("dataset", "algorithm", "environment", "consumerAddress", "nonce")
        (model,) = _parts([values["dataset"]], "dataset")
        asked = proven(services, values, "consumerAddress", f"{values['consumerAddress']}{model.did}")
        given = values.get("additionalDatasets") or []
        datasets = _parts(given, "additionalDatasets") if given else []
        algorithm, told = _algorithm(values["algorithm"]), _told(values["algorithm"])
        job = start_job(services, asked.address, model, algorithm, datasets, values["environment"], told)
        asked.use()  # afterwards: the same request again, at the same time, finds the same job
        return told_of([job])

    @pages.get(f"{SERVICES}/compute")
    def status() -> Response:
        values = query("consumerAddress", "nonce")
        asked = _asked(services, values)
        did = did_in(values, "documentId") if values.get("documentId") else None
        found = [_job(services, values, asked)] if values.get("jobId") else list(jobs.jobs_of(asked.address, did))
        asked.use()
        return told_of(found)

    @pages.put(f"{SERVICES}/compute")
    def stop() -> Response:
        values = query("consumerAddress", "jobId", "nonce")
        asked = _asked(services, values)
        job = _job(services, values, asked)
        asked.use()
        return told_of([stop_job(jobs, job.job_id, asked.address)])

    @pages.delete(f"{SERVICES}/compute")
    def delete() -> Response:
        """Stops a job that still runs. Its record stays, since its payment is spent on it; with stock servers nothing is
        removed.
        """
        values = query("consumerAddress", "jobId", "nonce")
        asked = _asked(services, values)
        job = _job(services, values, asked)
        asked.use()
        with suppress(Conflict):  # it is over, or can no longer be stopped
            stop_job(jobs, job.job_id, asked.address)
        return told_of([jobs.get(job.job_id)])

    @pages.get(f"{SERVICES}/computeResult")
    def result() -> Response:
        values = query("consumerAddress", "jobId", "index", "nonce")
        message = f"{values['consumerAddress']}{values['jobId']}{values['index']}"
        asked = proven(services, values, "consumerAddress", message)
        job = _job(services, values, asked)
        files = result_files(job, receipt_of(services.store, job))
        index = whole_in(values, "index")
        if index >= len(files):
            raise BadInput("index", f"the position of one of {len(files)} results of this job", "a greater one")
        asked.use()
        response = Response(files[index].content, mimetype="application/octet-stream")
        response.headers["Content-Disposition"] = f"attachment;filename={files[index].name}"
        return unstored(response)

    return pages


def _asked(services: Services, values: Mapping[str, Any]) -> Proven:
    """Whoever signed the request's address, job and document, each as it was written."""
    message = f"{values['consumerAddress']}{values.get('jobId', '')}{values.get('documentId', '')}"
    return proven(services, values, "consumerAddress", message)


def _job(services: Services, values: Mapping[str, Any], asked: Proven) -> Job:
    """Raises NotFound, the same for another's job, for none, and for one of another document."""
    job = job_of(services.jobs, text_in(values, "jobId", 64), asked.address)
    if values.get("documentId") and values["documentId"] not in (job.did, job.dataset_did):
        raise NotFound("jobId: expected the id of a job of this document, found none", code="job_unknown")
    return job


def _parts(given: object, field: str) -> list[Part]:
    if not isinstance(given, list) or not given:
        raise BadInput(field, "a list of assets", "something else")
    return [_part(each, field) for each in given]


def _part(given: object, field: str) -> Part:
    """Raises Invalid as flask-sieve names fields inside others."""
    if not isinstance(given, dict):
        raise BadInput(field, "an object with documentId and serviceId", "something else")
    needed = [f"{field}.{name}" for name in ("documentId", "serviceId") if not given.get(name)]
    missing = {name: f"The {name} field is required." for name in needed}
    if missing:
        raise Invalid(missing)
    order = transaction_in(given, "transferTxId") if given.get("transferTxId") else None
    return Part(did_in(given, "documentId"), text_in(given, "serviceId"), order)


def _algorithm(given: object) -> Part:
    """An algorithm is a published one: a job brings parameters, never code."""
    if (
        isinstance(given, dict)
        and not given.get("documentId")
        and (given.get("meta") or "container" in given or "rawcode" in given)
    ):
        raise Workflow("algorithm", "no_raw_algo_allowed")
    return _part(given, "algorithm")


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, which `ocean.py` sends as `algocustomdata`, an object or the text of one. Before the payment it sends of an
    algorithm its `userdata` alone, so they count where there are no others."""
    found = given.get("algocustomdata") or given.get("userdata") or {}
    if isinstance(found, str):
        return parse_object(found.encode("utf-8", "replace"), "algorithm.algocustomdata")
    if not isinstance(found, dict):
        raise BadInput("algorithm.algocustomdata", "an object with the job's parameters", "something else")
    return found


def _shown(priced: Priced) -> dict[str, Any]:
    if priced.fee is None:
        return {"validOrder": priced.order}
    told: dict[str, Any] = {"datatoken": priced.datatoken, "providerFee": to_ocean(priced.fee)}
    return told if priced.order is None else {**told, "validOrder": priced.order}
