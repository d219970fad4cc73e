"""Errors as each surface's clients expect them.

In: any exception of a request. Out: a JSON response. This module must never show details of an error that is not ours: they may
hold a prompt, a path or a key.
"""

from __future__ import annotations

import json
import secrets
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from control_plane.database import SILENT, kind_of
from control_plane.did import parse_did
from control_plane.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    PosthumanError,
    Refused,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from control_plane.serving.request_ids import asked
from control_plane.web.journal import Journal
from control_plane.web.metrics import count_refusal
from control_plane.web.provider_input import Invalid
from control_plane.web.sent import sent

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


class Route(PosthumanError):
    """A path, method or body that Flask refused itself."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, code={404: "no_such_path", 405: "wrong_method", 413: "body_too_large"}.get(status, "bad_request"))
        self.status = status


def error_record(error: PosthumanError) -> dict[str, Any]:
    """OpenAI's error object, with what was expected and found beside it."""
    details = error.details()
    return {
        "message": error.message,
        "type": _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error"),
        "param": details.get("field"),
        "code": error.code,
        "expected": details.get("expected"),
        "found": details.get("found"),
    }


def error_body(error: PosthumanError, path: str) -> bytes:
    """`{"error": {...}}`; under `/v2` and `/models` the clients print `error` as text, so it is one, and the rest stands beside it.

    Under `/api` it is Ocean's. Under `/models` there is also `error_type`, by which `huggingface_hub` chooses what its text
    generation raises.
    """
    if path.startswith("/api/"):
        return json.dumps(_for_ocean(error)).encode()
    record = error_record(error)
    if path.startswith("/models/"):
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), None)
        return json.dumps({"error": record.pop("message"), "error_type": kind, **record}).encode()
    if path.startswith("/v2"):
        return json.dumps({"error": record.pop("message"), **record}).encode()
    return json.dumps({"error": record}).encode()


_KINDS = ((BadInput, "validation"), (TooMany, "overloaded"), (Unavailable, "overloaded"))
"""The names of text-generation-inference for what the caller must change, and for what will pass."""


def _for_ocean(error: PosthumanError) -> dict[str, Any]:
    """flask-sieve's shape for fields, `{"error": text}` for the rest. What was found is left out: it may be the request itself."""
    if isinstance(error, Invalid):
        return error.body()
    details = error.details()
    message = f"{details['field']}: expected {details['expected']}" if details.get("expected") else error.message
    return {"error": message, "code": error.code}


_SHOWN_AS_400 = (Unauthenticated, Forbidden, NotFound, Conflict, Refused)


def _status(error: PosthumanError) -> int:
    """`ocean.py` shows the text of a 400, and of other refusals only raw bytes."""
    return 400 if sent().path.startswith("/api/services/") and isinstance(error, _SHOWN_AS_400) else error.status


def respond(error: PosthumanError) -> Response:
    status = _status(error)
    response = Response(error_body(error, sent().path), status=status, mimetype="application/json")
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="posthuman"'
    count_refusal(status, error.code)
    return response


def _place(_endpoint: str | None, values: Mapping[str, Any] | None) -> None:
    """What Flask has found out of a request's path: its pattern, and the model that it names."""
    sent().route = request.url_rule.rule if request.url_rule is not None else None
    sent().did = (values or {}).get("did")


def _where() -> dict[str, str | None]:
    """The path's pattern: a path that nothing answers was written by a stranger, and may hold anything; and its model's DID."""
    try:
        return {"route": sent().route, "did": parse_did(sent().did)}
    except BadInput:
        return {"route": sent().route, "did": None}


def place_of(error: Exception) -> str:
    """The innermost places that an error passed, without its text."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return " < ".join(reversed(places[-6:]))


def register(app: Flask, journal: Journal) -> Callable[[Exception], Response]:
    """Let Flask answer errors so; returns what answers one, for who has caught it himself."""

    def ours(error: PosthumanError) -> Response:
        if asked().is_told:  # a call that was admitted: its line says it
            return respond(error)
        event, why = ("failed", error.message) if error.status >= 500 else ("refused", None)
        journal.note(event, **_where(), status=error.status, code=error.code, why=why)
        return respond(error)

    def flasks(error: HTTPException) -> Response:
        status = error.code or 500
        response = ours(Route(status, f"{sent().method} {sent().path[:200]}: {error.description or error.name}"))
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    def unknown(error: Exception) -> Response:
        """The client gets an id; the operator finds the same id beside the kind and the place of the error, never its text."""
        identity = secrets.token_hex(8)
        journal.note("error", id=identity, **_where(), kind=type(error).__name__, where=place_of(error))
        return respond(PosthumanError(f"something broke here; the operator finds it under {identity}"))

    def silent_database(error: Exception) -> Response:
        """Locked, full or gone. Nothing was charged: a transaction that does not end is rolled back."""
        journal.note("database", **_where(), kind=kind_of(error), where=place_of(error))
        return ours(Unavailable("the database does not answer"))

    kinds: dict[type[Exception], Callable[[Any], Response]] = {
        PosthumanError: ours,
        **dict.fromkeys(SILENT, silent_database),
        HTTPException: flasks,
        Exception: unknown,  # the last, since every other is one
    }
    for kind, answer in kinds.items():
        app.register_error_handler(kind, answer)
    app.url_value_preprocessor(_place)
    return lambda error: next(answer for kind, answer in kinds.items() if isinstance(error, kind))(error)
