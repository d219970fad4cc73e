"""What checking a receipt has found: named checks, each with its evidence.

In: verdicts. Out: one `Verification`. This module must never check anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Verdict(Enum):
    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    name: stable, for scripts. evidence: what was compared with what, or why it could not be. is_required: a receipt is not verified
    while this is not OK; the others need something that only the buyer has.
    """

    name: str
    verdict: Verdict
    evidence: str
    is_required: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "verdict": self.verdict.value, "evidence": self.evidence, "is_required": self.is_required}


@dataclass(frozen=True)
class Verification:
    """All checks, in the order in which a reader follows them."""

    checks: tuple[Check, ...]

    @property
    def is_verified(self) -> bool:
        """Nothing failed, and everything that can be checked without the buyer was."""
        return all(
            check.verdict is Verdict.OK or (check.verdict is Verdict.NOT_CHECKED and not check.is_required) for check in self.checks
        )

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)

    @property
    def missing(self) -> tuple[Check, ...]:
        """Required checks that could not be made, so far: try again later, or with what their evidence asks for."""
        return tuple(check for check in self.checks if check.verdict is Verdict.NOT_CHECKED and check.is_required)

    def to_json(self) -> dict[str, Any]:
        return {"is_verified": self.is_verified, "checks": [check.to_json() for check in self.checks]}


def ok(name: str, evidence: str, is_required: bool = True) -> Check:
    return Check(name, Verdict.OK, evidence, is_required)


def failed(name: str, evidence: str, is_required: bool = True) -> Check:
    return Check(name, Verdict.FAILED, evidence, is_required)


def not_checked(name: str, evidence: str, is_required: bool = True) -> Check:
    return Check(name, Verdict.NOT_CHECKED, evidence, is_required)
