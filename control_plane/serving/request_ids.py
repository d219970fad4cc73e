"""The name of the request that is being answered: one id from the caller's header, through every line of ours, to Triton's log.

In: what a caller sent as `X-Request-Id`. Out: an id that may stand in a header, a line and a log. This module must never let a
caller's bytes through that could break a line, or be a token.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar

HEADER = "X-Request-Id"
_GIVEN = re.compile(r"(?!ph_)[A-Za-z0-9._:-]{1,64}", re.ASCII)
"""What callers use: UUIDs, ULIDs, hex. One that begins as our bearer tokens do may be one, put into the wrong header."""


class Asked:
    """A request. began: seconds of `time.perf_counter`. is_told: whether a line says how it ended."""

    __slots__ = ("began", "id", "is_told")

    def __init__(self, id: str = "", began: float | None = None) -> None:  # noqa: A002  # as everybody calls it
        self.id, self.is_told = id, False
        self.began = time.perf_counter() if began is None else began


_NOBODY = Asked(began=0.0)
_current: ContextVar[Asked] = ContextVar("request", default=_NOBODY)


def begin(given: str | None) -> Asked:
    """The request that this thread answers from now on: with the caller's id where it is one, otherwise with one of ours."""
    is_good = given is not None and _GIVEN.fullmatch(given)
    asked = Asked(given if given is not None and is_good else secrets.token_hex(16))
    _current.set(asked)
    return asked


def asked() -> Asked:
    """The request that this thread answers; one without an id where it answers none."""
    return _current.get()
