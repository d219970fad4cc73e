"""`/openapi.json`: every path of the control plane, from one table.

In: the tables that the surfaces parse by. Out: an OpenAPI 3.1 document. This module must never describe what no path does; a test
compares it with Flask's own rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, jsonify

from control_plane.fields import Table, only, schema_of
from control_plane.flows.services import Services
from control_plane.jobs.states import Kind
from control_plane.web import openapi_answers as shapes
from control_plane.web.auth import MESSAGE, TOKEN
from control_plane.web.chat import by_url, chat_table
from control_plane.web.hugging_face_inputs import OPTIONS
from control_plane.web.offers import MOST_S
from control_plane.web.oip import generate_table
from control_plane.web.openai import EMBEDDINGS, completion_table
from control_plane.web.openapi_answers import Schema
from control_plane.web.openapi_jobs import job_operations
from control_plane.web.openapi_operation import BINARY, EVENTS, JSON, TEXT, Operation
from control_plane.web.openapi_provider import provider_operations
from control_plane.web.receipts import MOST

_PATH_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "did": shapes.DID,
    "number": {"type": "string", "enum": ["1"]},
    "identity": shapes.HEX32,
    "path": {"type": "string"},
    "job_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "kind": {"type": "string", "enum": [kind.value for kind in Kind]},
    "chain_id": {"type": "string", "pattern": "^[0-9]+$"},
}


_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "shape": {"type": "array", "items": shapes.COUNTED},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
_WANTED: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string", "minLength": 1}, "parameters": {"type": "object"}},
}
_INFER: Schema = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {"type": "array", "items": _WANTED},
        "parameters": {"type": "object"},
    },
}
_HUGGING_FACE: Schema = {
    "type": "object",
    "required": ["inputs"],
    "description": "The parameters of feature-extraction may stand beside inputs.",
    "properties": {
        "inputs": {"description": "a text, a file in base64, or an object, by the model's task; a list of them where it predicts"},
        "parameters": {"type": "object", "description": "of the model's task; an unknown one is refused by its name"},
        "options": schema_of(OPTIONS),
        "stream": {"type": "boolean", "description": "for models that generate"},
    },
}
_ONCE: Mapping[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "a name for this call within its order: sent again with the same body, it is answered as before, not charged. "
    "Not with a stream",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_CALL_CODES = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


def operations(max_new_tokens: int) -> tuple[Operation, ...]:
    generate = generate_table(max_new_tokens)
    versioned = (
        Operation("get", "/v2/models/{did}", "Tensors of a model", answer=shapes.METADATA, codes=(400, 404, 503)),
        Operation("get", "/v2/models/{did}/ready", "Whether a model can answer", answers=(), codes=(400, 404, 503)),
        Operation(
            "post",
            "/v2/models/{did}/infer",
            "One call with tensors, in JSON or as binary data behind a JSON header (Inference-Header-Content-Length)",
            is_authenticated=True,
            schema=_INFER,
            answers=(JSON, BINARY),
            answer=shapes.INFERRED,
            codes=_CALL_CODES,
            has_receipt=True,
        ),
        Operation(
            "post",
            "/v2/models/{did}/generate",
            "Generate text",
            is_authenticated=True,
            schema=_generate_schema({**generate, "stream": only((False,), "a stream; generate_stream gives one, and here it")}),
            answer=shapes.GENERATED,
            codes=_CALL_CODES,
            has_receipt=True,
        ),
        Operation(
            "post",
            "/v2/models/{did}/generate_stream",
            "Generate text piece by piece; the last event holds the receipt",
            is_authenticated=True,
            schema=_generate_schema(generate),
            answers=(EVENTS,),
            codes=_CALL_CODES,
        ),
    )
    return (
        Operation("get", "/v1/models", "Models on sale", answer=shapes.MODELS, codes=(503,)),
        Operation("get", "/v1/models/{did}", "One model", answer=shapes.MODEL, codes=(400, 404, 503)),
        Operation(
            "get",
            "/v1/models/{did}/entry",
            "What the model's entry states: tensors, source, licence, precision, quality, parity",
            answer=shapes.ENTRY,
            codes=(400, 404, 503),
        ),
        Operation(
            "get",
            "/v1/offers/{did}",
            "What an order costs, signed by the operator",
            query={"consumer": shapes.ADDRESS, "valid_for_s": {"type": "integer", "minimum": 1, "maximum": MOST_S}},
            required=("consumer",),
            answer=shapes.OFFER,
            codes=(400, 404, 503),
        ),
        Operation(
            "post",
            "/v1/completions",
            "Generate text; with stream true piece by piece, the receipt in the last event before [DONE]",
            is_authenticated=True,
            body=completion_table(max_new_tokens),
            answers=(JSON, EVENTS),
            answer=shapes.COMPLETION,
            codes=_CALL_CODES,
            has_receipt=True,
        ),
        *(
            Operation(
                "post",
                path,
                "Answer a conversation; with stream true piece by piece, the receipt in the last chunk before [DONE]",
                is_authenticated=True,
                body=table,
                answers=(JSON, EVENTS),
                answer=shapes.CHAT_COMPLETION,
                codes=_CALL_CODES,
                has_receipt=True,
            )
            for path, table in (
                ("/v1/chat/completions", chat_table(max_new_tokens)),
                ("/models/{did}/v1/chat/completions", by_url(chat_table(max_new_tokens))),
            )
        ),
        Operation(
            "post",
            "/v1/embeddings",
            "Embeddings of texts",
            is_authenticated=True,
            body=EMBEDDINGS,
            answer=shapes.EMBEDDINGS_ANSWER,
            codes=_CALL_CODES,
            has_receipt=True,
        ),
        Operation("get", "/v2", "Name and extensions of the server", answer=shapes.SERVER),
        Operation("get", "/v2/health/live", "Whether the server is alive", answers=()),
        Operation("get", "/v2/health/ready", "Whether the server can answer", answers=(), codes=(503,)),
        *versioned,
        *(Operation(**(vars(each) | {"path": each.path.replace("{did}", "{did}/versions/{number}", 1)})) for each in versioned),
        Operation(
            "post",
            "/models/{did}",
            "The Hugging Face inference API: the model's task in its JSON; of a stream the last event holds the receipt",
            is_authenticated=True,
            schema=_HUGGING_FACE,
            files=("image/*", "audio/*", BINARY),
            answers=(JSON, EVENTS),
            codes=_CALL_CODES,
            has_receipt=True,
        ),
        Operation("post", "/v1/auth/nonce", "A nonce for one sign-in", answer=shapes.NONCE),
        Operation(
            "post",
            "/v1/auth/message",
            "The EIP-4361 text to sign, with a new nonce",
            body=MESSAGE,
            answer=shapes.MESSAGE_ANSWER,
            codes=(400, 413, 415),
        ),
        Operation(
            "post",
            "/v1/auth/token",
            "A session for a signed message",
            body=TOKEN,
            answer=shapes.SESSION,
            codes=(400, 401, 403, 404, 413, 415, 503),
        ),
        Operation("delete", "/v1/auth/token", "End this session", is_authenticated=True, answer=shapes.REVOKED, codes=(401, 503)),
        Operation(
            "get",
            "/v1/receipts",
            "Receipts of this session's order, by sequence, or the one of a call",
            is_authenticated=True,
            query={
                "order": shapes.HEX32,
                "from": {**shapes.COUNTED, "maximum": 2**62},
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST},
                "call": {"type": "string"},
            },
            answer=shapes.RECEIPTS,
            codes=(400, 401, 403, 404, 503),
        ),
        Operation(
            "post",
            "/v1/receipts",
            "Hand back a receipt that the log has lost",
            schema=shapes.ENVELOPE,
            answer=shapes.READMITTED,
            codes=(400, 409, 413, 415, 503),
        ),
        Operation(
            "get",
            "/v1/receipts/{identity}",
            "One receipt",
            is_authenticated=True,
            answer=shapes.RECEIPT,
            codes=(400, 401, 403, 404, 503),
        ),
        Operation(
            "get",
            "/v1/receipts/{identity}/proof",
            "Proof that a receipt is in the log (C2SP tlog-proof)",
            answers=(TEXT,),
            codes=(400, 404, 503),
        ),
        Operation(
            "get",
            "/log/{path}",
            "The log's files (C2SP tlog-tiles): checkpoint, anchors.json, tile/...",
            answers=(BINARY, JSON, TEXT),
            codes=(404,),
        ),
        *job_operations(),
        *provider_operations(),
        Operation("get", "/healthz", "Whether this process lives", answer=shapes.ALIVE),
        Operation("get", "/readyz", "States of the components", answer=shapes.READY, codes=(503,)),
        Operation("get", "/metrics", "Prometheus metrics", answers=(TEXT,)),
        Operation("get", "/openapi.json", "This document"),
    )


def document(public_url: str, max_new_tokens: int) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations(max_new_tokens):
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Posthuman control plane", "version": version("posthuman"), "license": {"name": "Apache-2.0"}},
        "servers": [{"url": public_url}],
        "paths": paths,
        "components": {
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": shapes.ERROR, "PlainError": shapes.PLAIN_ERROR, "OceanError": shapes.OCEAN_ERROR},
        },
    }


def _generate_schema(table: Table) -> Schema:
    """Parameters stand beside the text or inside `parameters`."""
    schema = schema_of(table)
    inside = {name: known for name, known in schema["properties"].items() if name not in ("text_input", "messages")}
    held = {"type": "object", "additionalProperties": False, "properties": inside}
    return {**schema, "properties": {**schema["properties"], "parameters": held}}


def _operation(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "done", "content": {kind: {} for kind in operation.answers}}
    if operation.answer is not None:
        good["content"][JSON] = {"schema": operation.answer}
    if operation.has_receipt:
        good["headers"] = {
            "X-Posthuman-Receipt": {
                "description": "base64url of the receipt's JSON envelope (not on streams)",
                "schema": {"type": "string"},
            },
            "Idempotent-Replayed": {
                "description": "true: given before under this Idempotency-Key, and charged then",
                "schema": {"enum": ["true"]},
            },
        }
    shape = "PlainError" if operation.path.startswith(("/v2", "/models/")) else "Error"
    shape = "OceanError" if operation.path.startswith("/api/") else shape
    error = {"content": {JSON: {"schema": {"$ref": f"#/components/schemas/{shape}"}}}}
    record: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": schema}
                for name, schema in _PATH_SCHEMAS.items()
                if f"{{{name}}}" in operation.path
            ),
            *(
                {"name": name, "in": "query", "required": name in operation.required, "schema": schema}
                for name, schema in (operation.query or {}).items()
            ),
            *([_ONCE] if operation.has_receipt else []),
        ],
        "responses": {str(operation.status): good}
        | {str(code): {"description": _MEANINGS[code], **error, **_waiting(code)} for code in operation.codes},
    }
    schema = schema_of(operation.body) if operation.body is not None else operation.schema
    if schema is not None:
        record["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}, **{kind: {} for kind in operation.files}}}
    elif operation.files:
        record["requestBody"] = {"required": True, "content": {kind: {} for kind in operation.files}}
    if operation.is_authenticated:
        record["security"] = [{"session": []}]
    return record


def _waiting(code: int) -> dict[str, Any]:
    """The header of what passes by itself."""
    if code not in (429, 503):
        return {}
    return {"headers": {"Retry-After": {"description": "seconds, at least 1", "schema": {"type": "integer", "minimum": 1}}}}


_MEANINGS = {
    400: "a field is not what it should be",
    401: "sign in",
    403: "not with this order or token",
    404: "no such model, receipt or path",
    409: "the same thing was given before with other content, or (with Retry-After) is under way",
    413: "too large",
    415: "another content type or encoding",
    422: "more tokens than the model can read or make",
    429: "too many calls at once, or too fast: try again after Retry-After seconds; nothing was charged",
    503: "try again after Retry-After seconds; nothing was charged",
}


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("openapi", __name__)
    described = document(services.settings.public_url, services.settings.max_new_tokens)

    @pages.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(described)

    return pages
