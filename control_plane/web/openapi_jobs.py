"""What `/openapi.json` says of jobs: algorithms, offers, `/v1/jobs`.

In: the tables that the surfaces parse by. Out: operations. This module must never describe what no path does.
"""

from __future__ import annotations

from control_plane.jobs.states import Kind, State
from control_plane.web import openapi_answers as shapes
from control_plane.web.jobs import JOB, MOST, OFFER
from control_plane.web.openapi_answers import Schema
from control_plane.web.openapi_operation import Operation

_DIGITS: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ALGORITHM: Schema = {
    "type": "object",
    "required": ["kind", "did", "files_checksum", "container_checksum"],
    "properties": {
        "kind": {"type": "string"},
        "did": shapes.DID,
        "files_checksum": _DIGITS,
        "container_checksum": _DIGITS,
    },
}
_ALGORITHMS: Schema = {
    "type": "object",
    "required": ["algorithms"],
    "properties": {"algorithms": {"type": "array", "items": _ALGORITHM}},
}
_STATEMENT: Schema = {
    "type": "object",
    "required": ["format", "kind"],
    "properties": {"format": {"type": "string"}, "kind": {"type": "string"}},
}


_OFFERED: Schema = {
    "type": "object",
    "required": ["offer", "dataset_offer", "dataset_order_refused", "parameters"],
    "properties": {
        "offer": shapes.OFFER,
        "dataset_offer": {
            "anyOf": [shapes.OFFER, {"type": "null"}],
            "description": "what is to be ordered besides; null: no dataset asset is read, or its order is good",
        },
        "dataset_order_refused": {
            "type": ["string", "null"],
            "description": "why the order of the dataset that was given is none for this job, so that another is offered",
        },
        "parameters": {"type": "object"},
    },
}
_ENVIRONMENTS: Schema = {
    "type": "object",
    "required": ["environments"],
    "properties": {
        "environments": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "description", "price_per_minute", "fee_token", "max_duration_s", "max_jobs", "under_way"],
                "properties": {
                    "id": {"type": "string"},
                    "price_per_minute": {"type": "string", "pattern": "^[0-9]+$", "description": "token wei"},
                    "fee_token": shapes.ADDRESS,
                    "max_duration_s": shapes.COUNTED,
                    "max_jobs": shapes.COUNTED,
                    "under_way": shapes.COUNTED,
                },
            },
        }
    },
}
_JOB_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_JOB: Schema = {
    "type": "object",
    "required": [
        *("job_id", "kind", "did", "owner", "payment", "parameters", "environment", "paid_s", "state", "reason"),
        *("status", "status_text", "queue_position", "progress", "result", "receipt", "derived_did", "lineage"),
    ],
    "properties": {
        "job_id": _JOB_ID,
        "kind": {"enum": [kind.value for kind in Kind]},
        "did": shapes.DID,
        "owner": shapes.ADDRESS,
        "payment": shapes.HEX32,
        "parameters": {"type": "object", "description": "with every default filled in"},
        "environment": {"type": "string"},
        "paid_s": {**shapes.COUNTED, "description": "seconds of computing that were paid for, from when the program starts"},
        "state": {"enum": [state.value for state in State]},
        "reason": {"type": ["object", "null"], "description": "code and message, of a job that ended badly or was stopped"},
        "is_payment_given_back": {"type": "boolean", "description": "the same order starts one more job"},
        "begun_at": {"type": ["number", "null"], "description": "when its program first ran; a stop before gives the payment back"},
        "status": {"type": "integer", "description": "the state as Ocean's clients know it"},
        "status_text": {"type": "string"},
        "queue_position": {"type": ["integer", "null"], "minimum": 1},
        "progress": {"type": ["object", "null"], "description": "step, steps, loss, steps_per_second"},
        "original_order": {"anyOf": [shapes.HEX32, {"type": "null"}], "description": "the order that `payment` ordered again"},
        "result": {"type": ["object", "null"]},
        "receipt": {
            "type": ["object", "null"],
            "description": "of a batch of prompts: signed, salt and id; its hashes are of parameters and result as canonical JSON",
        },
        "derived_did": {"anyOf": [shapes.DID, {"type": "null"}]},
        "lineage": {"type": ["object", "null"], "description": "how the derived asset came to be"},
    },
}
_PUBLISHED: Schema = {
    "type": "object",
    "required": ["id", "published_at", "statement"],
    "properties": {
        "id": shapes.HEX32,
        "published_at": {"type": "number", "description": "seconds since 1970"},
        "statement": {"type": "object", "description": "signed by the operator; `posthuman verify` checks it"},
    },
}
_PUBLISHED_LIST: Schema = {
    "type": "object",
    "required": ["evaluations"],
    "properties": {"evaluations": {"type": "array", "items": _PUBLISHED}},
}
_JOBS: Schema = {"type": "object", "required": ["jobs"], "properties": {"jobs": {"type": "array", "items": _JOB}}}
_ORDER_CODES = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


def job_operations() -> tuple[Operation, ...]:
    return (
        Operation("get", "/v1/algorithms", "What jobs may run: the market's own algorithm assets", answer=_ALGORITHMS),
        Operation("get", "/v1/algorithms/{kind}", "The file of an algorithm asset", answer=_STATEMENT, codes=(404,)),
        Operation("get", "/v1/environments", "What jobs may run on, and what a minute costs", answer=_ENVIRONMENTS, codes=(503,)),
        Operation(
            "post",
            "/v1/offers/{did}/jobs",
            "What a job costs, signed by the operator for its environment; refused where the job would be",
            body=OFFER,
            answer=_OFFERED,
            codes=(400, 403, 404, 409, 413, 415, 422, 429, 503),
        ),
        Operation(
            "post",
            "/v1/jobs",
            "Put a job into the queue for the order of this token; sent again, the same job while it is not over",
            is_authenticated=True,
            body=JOB,
            answer=_JOB,
            codes=_ORDER_CODES,
        ),
        Operation(
            "get",
            "/v1/jobs",
            "The wallet's jobs, newest first",
            is_authenticated=True,
            query={"did": shapes.DID, "limit": {"type": "integer", "minimum": 1, "maximum": MOST}},
            answer=_JOBS,
            codes=(400, 401, 403, 503),
        ),
        Operation("get", "/v1/jobs/{job_id}", "One of them", is_authenticated=True, answer=_JOB, codes=(401, 403, 404, 503)),
        Operation(
            "post",
            "/v1/jobs/{job_id}/publish",
            "Let everybody see what an evaluation has found",
            is_authenticated=True,
            answer=_PUBLISHED,
            codes=(400, 401, 403, 404, 409, 503),
        ),
        Operation(
            "get",
            "/v1/models/{did}/evaluations",
            "What evaluators found of the model and wanted published, newest first: the newest ten of each, or all of one",
            query={
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST},
                "evaluator": shapes.ADDRESS,
                "before": {**shapes.HEX32, "description": "an id; only what was published before it"},
            },
            answer=_PUBLISHED_LIST,
            codes=(400, 404, 503),
        ),
        Operation(
            "post",
            "/v1/jobs/{job_id}/stop",
            "Stop a job: in the queue at once, later as soon as its worker obeys",
            is_authenticated=True,
            answer=_JOB,
            codes=(401, 403, 404, 409, 503),
        ),
    )
