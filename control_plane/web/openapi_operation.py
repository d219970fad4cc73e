"""One method of one path, as `/openapi.json` describes it.

In: nothing. Out: the frozen record `Operation`. This module must never know a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.fields import Table
from control_plane.web.openapi_answers import Schema

JSON, BINARY, TEXT, EVENTS = "application/json", "application/octet-stream", "text/plain", "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One method of one path. path: parameters in braces. query: name to schema; required: those that must be given.
    body: a table, or a ready schema.

    status: of a good answer. answers: its content types. answer: the schema of one in JSON. files: content types of a body that is
    a file instead.
    """

    method: str
    path: str
    summary: str
    is_authenticated: bool = False
    body: Table | None = None
    schema: Schema | None = None
    query: Mapping[str, Schema] | None = None
    answers: tuple[str, ...] = (JSON,)
    answer: Schema | None = None
    files: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    has_receipt: bool = False
    status: int = 200
