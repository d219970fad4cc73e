"""Every way a request can end badly, sorted by who must act.

In: what was expected and found. Out: an error with an HTTP status and a stable code. This module must never name a library.
Messages carry no keys, no prompts, no answers and no signed URLs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown(value: object, limit: int = 80) -> str:
    """A value as an error may show it: short, on one line, and never a whole body."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class PosthumanError(Exception):
    """Root of every error of the market. `code` is stable and documented; `status` is what HTTP answers."""

    status = 500
    code = "internal_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def details(self) -> dict[str, Any]:
        return {}


class BadInput(PosthumanError):
    """The caller must act: a field is not what it should be."""

    status = 400
    code = "bad_input"

    def __init__(self, field: str, expected: str, found: object, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(f"{field}: expected {expected}, found {shown(found)}", code=code)
        self.field, self.expected, self.found = field, expected, shown(found)
        if status is not None:
            self.status = status

    def details(self) -> dict[str, Any]:
        return {"field": self.field, "expected": self.expected, "found": self.found}


class Unauthenticated(PosthumanError):
    """The caller must sign in: no session, or one that is unknown, expired or revoked."""

    status = 401
    code = "unauthenticated"


class Forbidden(PosthumanError):
    """The caller is known, and may not: no order, an expired or foreign one, a token of another DID, no quota left."""

    status = 403
    code = "forbidden"


class NotFound(PosthumanError):
    """There is no such thing. `named` says which field asked for it."""

    status = 404
    code = "not_found"

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, code=code)
        self._details = dict(details or {})

    @classmethod
    def named(cls, field: str, expected: str, found: object, *, code: str | None = None) -> NotFound:
        """With field, expected and found, as `BadInput` has them."""
        details = {"field": field, "expected": expected, "found": shown(found)}
        return cls(f"{field}: expected {expected}, found {shown(found)}", code=code, details=details)

    def details(self) -> dict[str, Any]:
        return dict(self._details)


class Conflict(PosthumanError):
    """The same thing was asked for before with other content."""

    status = 409
    code = "conflict"


class TooMany(PosthumanError):
    """The caller must wait `retry_after_s`: too many calls at once, or too fast. Nothing was computed, nothing was charged."""

    status = 429

    def __init__(self, message: str, code: str, retry_after_s: int) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(PosthumanError):
    """Nobody must act: try again after `retry_after_s`. Nothing was charged."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 2, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(PosthumanError):
    """Something was sent and nobody can say yet whether it was done: look, do not resend."""

    status = 503
    code = "outcome_unknown"
    retry_after_s = 5


class Refused(PosthumanError):
    """The chain or a component said no, for a reason that repeating will not change (a revert, for one)."""

    status = 422
    code = "refused"


class ChangedByOwner(Refused):
    """Whoever owns an asset changed it on chain while it was being made for him, or his account does not take it, so that it cannot
    be made. Final: only he could undo that, and nobody waits for him."""

    code = "changed_by_owner"


class IntegrityBroken(PosthumanError):
    """The operator must act, and is alarmed: what is on disk is not what the chain says."""

    status = 503
    code = "integrity_broken"
    retry_after_s = 60
