"""What `/openapi.json` says of jobs: algorithms, offers, `/v1/jobs`.

In: the tables that the surfaces parse by. Out: operations. This module must never describe what no path does.
"""

from __future__ import annotations

from control_plane.web import openapi_answers as shapes
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


def job_operations() -> tuple[Operation, ...]:
    return (
        Operation("get", "/v1/algorithms", "What jobs may run: the market's own algorithm assets", answer=_ALGORITHMS),
        Operation("get", "/v1/algorithms/{kind}", "The file of an algorithm asset", answer=_STATEMENT, codes=(404,)),
    )
