"""Published evaluations: the operator's signed statements that their evaluators wanted everybody to see.

In: statements. Out: the same, newest first. This module must never publish by itself: whoever calls `publish` has the evaluator's
word for it.

They are in no log and on no chain: each stands for itself (`verify_evaluation.py`), and that one is left out nobody can see. Two
statements that differ in their time alone say the same, and are one record: the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine, Row, func, insert, select
from sqlalchemy.exc import IntegrityError

from control_plane.database import evaluations as table
from control_plane.database import reading, writing
from control_plane.did import Address, Bytes32, Did, UnixMillis
from control_plane.errors import Conflict
from control_plane.receipts.evaluation import SignedEvaluation, statement_bytes, statement_hash

MOST_OF_AN_EVALUATOR = 100
"""Of one asset: each costs a job, but jobs for trying are free."""
FINDING_PREFIX = b"posthuman/finding/v1\0"


@dataclass(frozen=True)
class Published:
    """published_at: seconds since 1970, by the market's clock."""

    signed: SignedEvaluation
    published_at: float

    def to_json(self) -> dict[str, Any]:
        return {"id": statement_hash(self.signed), "published_at": self.published_at, "statement": self.signed.to_json()}


class Evaluations:
    """Rows of `evaluations`."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine, self._reading, self._clock = engine, reading(engine), clock

    def publish(self, signed: SignedEvaluation) -> Published:
        """Again, or with the same finding at another time: the record that is there."""
        finding = finding_of(signed)
        found = self._find(finding)
        if found is not None:
            return found
        said = signed.evaluation
        now = self._clock()
        row = {
            "finding": finding,
            "statement_hash": statement_hash(signed),
            "did": said.did,
            "evaluator": said.evaluator,
            "published_at": now,
            "statement": statement_bytes(signed).decode("ascii"),
        }
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(table).values(**row))
        except IntegrityError:  # another process was quicker
            found = self._find(finding)
            if found is None:
                raise
            return found
        return Published(signed, now)

    def of_asset(self, did: Did, limit: int) -> list[Published]:
        """Newest first."""
        newest = select(table).where(table.c.did == did).order_by(table.c.published_at.desc(), table.c.finding).limit(limit)
        with self._reading.connect() as connection:
            return [_published(row) for row in connection.execute(newest)]

    def check_room(self, did: Did, evaluator: Address) -> None:
        """Raises Conflict with code too_many_evaluations where one more would be too many."""
        counted = select(func.count()).select_from(table).where(table.c.did == did, table.c.evaluator == evaluator)
        with self._reading.connect() as connection:
            count = int(connection.execute(counted).scalar_one())
        if count >= MOST_OF_AN_EVALUATOR:
            message = f"{did}: expected fewer than {MOST_OF_AN_EVALUATOR} published evaluations by {evaluator}, found {count}"
            raise Conflict(message, code="too_many_evaluations")

    def _find(self, finding: Bytes32) -> Published | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(table.c.finding == finding)).one_or_none()
        return None if row is None else _published(row)


def finding_of(signed: SignedEvaluation) -> Bytes32:
    """What was found, by whom, of what: the same for two statements that differ in time and signature alone."""
    timeless = replace(signed, evaluation=replace(signed.evaluation, evaluated_at=UnixMillis(0)), signature=bytes(65))
    return Bytes32("0x" + hashlib.sha256(FINDING_PREFIX + statement_bytes(timeless)).hexdigest())


def _published(row: Row[Any]) -> Published:
    return Published(SignedEvaluation.from_json(json.loads(row.statement)), float(row.published_at))
