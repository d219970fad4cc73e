"""The body of a request: its exact bytes, and the JSON object in them.

In: the request. Out: bytes, a dict. This module must never accept what JSON does not define, and never show a body in an error.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flask import Response
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from control_plane.errors import BadInput
from control_plane.web.sent import sent

_FORGOTTEN_BYTES = 1 << 16
DEEPEST = 64
"""Levels of lists and objects in one body. What our surfaces take has at most 5."""
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A whole string, so that brackets in texts do not count, or one bracket. Its closing quote is optional: a string that never ends
is read once, not again from each quote in it."""


def read_body() -> bytes:
    """The exact bytes. Raises BadInput: 413 for too many (before reading them, where their number is told), 415 for compressed."""
    request = sent()
    encoding = request.header("Content-Encoding") or "identity"
    if encoding != "identity":
        raise BadInput("Content-Encoding", "identity: receipts are over plain bytes", encoding, status=415, code="wrong_encoding")
    limit = request.most_bytes
    try:
        body = request.body()
    except RequestEntityTooLarge as error:
        raise _too_large(limit, f"{request.content_length} bytes") from error
    if request.content_length is None and len(body) >= limit:
        raise _too_large(limit, "as many or more")  # werkzeug 3.1 cuts a chunked body at the limit and says nothing
    return body


def read_to_the_end(response: Response) -> Response:
    """Read and forget what nobody has read of the request. Where that is too much, say that the connection will be closed.

    granian 2 closes a connection whose request was not read to its end, and says nothing: a client that kept it, as the stock
    clients do, finds out when its next request breaks. So this is for every answer: also one that needed no body.
    """
    if not _is_at_its_end(response.status_code >= 400):
        response.headers["Connection"] = "close"
    return response


def _is_at_its_end(is_refused: bool) -> bool:
    request = sent()
    if request.is_read:
        return True
    if request.content_length is None:
        if request.header("Transfer-Encoding") is None:
            return True
        if is_refused:  # nobody knows how much is to come
            return False
    left = _FORGOTTEN_BYTES
    try:
        while left > 0:
            if not (read := request.stream.read(left)):
                return True
            left -= len(read)
    except (ClientDisconnected, RequestEntityTooLarge):
        pass
    return False


def _too_large(limit: int, found: str) -> BadInput:
    return BadInput("body", f"at most {limit} bytes", found, status=413, code="body_too_large")


def read_object() -> tuple[bytes, dict[str, Any]]:
    """The bytes and the JSON object they hold. Raises BadInput: 415 for another content type, 400 for anything but an object."""
    mimetype = sent().mimetype
    if mimetype != "application/json":
        raise BadInput("Content-Type", "application/json", mimetype or "none", status=415, code="wrong_content_type")
    body = read_body()
    return body, parse_object(body)


def check_nesting(body: bytes, field: str = "body") -> None:
    """Raises BadInput for JSON nested deeper than `DEEPEST`: a parser, ours or Triton's, answers that by running out of stack."""
    if body.count(b"[") + body.count(b"{") <= DEEPEST:
        return  # all but hostile bodies end here: two scans of a memory block
    depth = 0
    for token in _NESTING.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth > DEEPEST:
                raise BadInput(field, f"JSON nested at most {DEEPEST} deep", "deeper", code="not_json")
        elif token[0] in b"]}":
            depth -= 1


def parse_object(body: bytes, field: str = "body") -> dict[str, Any]:
    """Strictly JSON: UTF-8, no NaN or Infinity, no key twice. Raises BadInput."""
    check_nesting(body, field)
    try:
        record = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(field, "JSON in UTF-8", f"bytes that are not, at {error.start}", code="not_json") from error
    except json.JSONDecodeError as error:
        raise BadInput(field, "a JSON object", f"{error.msg} at character {error.pos}", code="not_json") from error
    except ValueError as error:  # also: a number with thousands of digits
        raise BadInput(
            field, "a JSON object without NaN, Infinity, endless numbers or a key twice", error, code="not_json"
        ) from error
    if not isinstance(record, dict):
        raise BadInput(field, "a JSON object", f"a JSON {type(record).__name__}", code="not_json")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key twice")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
