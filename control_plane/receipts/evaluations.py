"""Published evaluations: the operator's signed statements that their evaluators wanted everybody to see.

In: statements. Out: the same, newest first. This module must never publish by itself: whoever calls `publish` has the evaluator's
word for it.

They are in no log and on no chain: each stands for itself (`verify_evaluation.py`), and that one is left out nobody can see. Two
statements that differ in their time alone say the same, and are one record: the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from control_plane.database import answering, reading, writing
from control_plane.database import evaluations as table
from control_plane.did import Address, Bytes32, Did, UnixMillis
from control_plane.errors import Conflict, NotFound
from control_plane.receipts.evaluation import SignedEvaluation, statement_bytes, statement_hash

MOST_OF_AN_EVALUATOR = 100
"""Of one asset: each costs a job, but jobs for trying are free."""
MOST_SHOWN_OF_AN_EVALUATOR = 10
"""In the list of all evaluators of an asset: whoever publishes much hides nobody else."""
FINDING_PREFIX = b"posthuman/finding/v1\0"


@dataclass(frozen=True)
class Published:
    """published_at: seconds since 1970, by the market's clock."""

    signed: SignedEvaluation
    published_at: float

    def to_json(self) -> dict[str, Any]:
        return {"id": statement_hash(self.signed), "published_at": self.published_at, "statement": self.signed.to_json()}


class Evaluations:
    """Rows of `evaluations`. Every method raises Unavailable when the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine, self._reading, self._clock = engine, reading(engine), clock

    def publish(self, signed: SignedEvaluation) -> Published:
        """Again, or with the same finding at another time: the record that is there."""
        found = self.find(signed)
        if found is not None:
            return found
        said, finding = signed.evaluation, finding_of(signed)
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
            with answering("publish an evaluation"), writing(self._engine) as connection:
                connection.execute(insert(table).values(**row))
        except IntegrityError:  # another process was quicker
            found = self.find(signed)
            if found is None:
                raise
            return found
        return Published(signed, now)

    def find(self, signed: SignedEvaluation) -> Published | None:
        """The record of this finding, whenever it was stated."""
        with self._asking() as connection:
            row = connection.execute(select(table).where(table.c.finding == finding_of(signed))).one_or_none()
        return None if row is None else _published(row)

    def of_asset(self, did: Did, limit: int, evaluator: Address | None = None, before: Bytes32 | None = None) -> list[Published]:
        """Newest first: all of one evaluator, or the newest MOST_SHOWN_OF_AN_EVALUATOR of each.

        before: id of a record of this asset; only older ones are listed. Raises NotFound for an id that is none.
        """
        newest = (table.c.published_at.desc(), table.c.finding)
        place = func.row_number().over(partition_by=table.c.evaluator, order_by=newest).label("place")
        chosen = select(table, place).where(table.c.did == did)
        if evaluator is not None:
            chosen = chosen.where(table.c.evaluator == evaluator)
        placed = chosen.subquery()
        listed = select(placed).order_by(placed.c.published_at.desc(), placed.c.finding).limit(limit)
        if evaluator is None:
            listed = listed.where(placed.c.place <= MOST_SHOWN_OF_AN_EVALUATOR)
        with self._asking() as connection:
            if before is not None:
                named = select(table).where(table.c.did == did, table.c.statement_hash == before)
                row = connection.execute(named).first()
                if row is None:
                    expected = "the id of a published evaluation of this model"
                    raise NotFound.named("before", expected, before, code="evaluation_unknown")
                is_as_old = and_(placed.c.published_at == row.published_at, placed.c.finding > row.finding)
                listed = listed.where(or_(placed.c.published_at < row.published_at, is_as_old))
            return [_published(row) for row in connection.execute(listed)]

    def check_room(self, did: Did, evaluator: Address, beside: Connection | None = None) -> None:
        """Raises Conflict with code too_many_evaluations where one more would be too many. beside: a transaction that is under way,
        to read in it."""
        counted = select(func.count()).select_from(table).where(table.c.did == did, table.c.evaluator == evaluator)
        with self._asking() if beside is None else nullcontext(beside) as connection:
            count = int(connection.execute(counted).scalar_one())
        if count >= MOST_OF_AN_EVALUATOR:
            message = f"{did}: expected fewer than {MOST_OF_AN_EVALUATOR} published evaluations by {evaluator}, found {count}"
            raise Conflict(message, code="too_many_evaluations")

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        with answering("read evaluations"), self._reading.connect() as connection:
            yield connection


def finding_of(signed: SignedEvaluation) -> Bytes32:
    """What was found, by whom, of what: the same for two statements that differ in time and signature alone."""
    timeless = replace(signed, evaluation=replace(signed.evaluation, evaluated_at=UnixMillis(0)), signature=bytes(65))
    return Bytes32("0x" + hashlib.sha256(FINDING_PREFIX + statement_bytes(timeless)).hexdigest())


def _published(row: Row[Any]) -> Published:
    return Published(SignedEvaluation.from_json(json.loads(row.statement)), float(row.published_at))
