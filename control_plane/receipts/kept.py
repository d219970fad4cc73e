"""Answers kept for who sends the same call again: rows of `answers`, written inside the transactions of `store.py`.

In: a connection in the middle of a transaction, a call that its buyer has named. Out: rows, or Conflict. This module must never
begin or end a transaction: a kept answer and its receipt are there together, or not at all.

A name belongs to an order. Its life: `claim` with the call's charge, then `keep` with its receipt or `forget` with its charge given
back; `sweep` ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from control_plane.database import answers, delete_free
from control_plane.did import Bytes32, TransactionHash
from control_plane.errors import Conflict

_SWEPT_AT_ONCE = 200
"""Rows; each may hold an answer of a MiB, and calls wait while they are removed."""


@dataclass(frozen=True)
class Once:
    """A call that is to be done once however often it is sent. key: the buyer's name for it. fingerprint: of what was sent.

    kept_s: how long its name counts, in seconds. most_bytes: a longer answer is not kept.
    """

    key: str
    fingerprint: Bytes32
    kept_s: int
    most_bytes: int


@dataclass(frozen=True)
class KeptAnswer:
    """header_length: as `TensorAnswer` has it."""

    call_id: str
    body: bytes
    header_length: int | None


def find(connection: Connection, order: TransactionHash, once: Once, now: float) -> KeptAnswer | None:
    """The answer that was given before; None when this is the first time. now: seconds since 1970.

    Raises Conflict with code `idempotency_conflict` (something else was sent under this name), `idempotency_in_flight` (the first
    call is under way) or `idempotency_not_kept` (it was answered and charged, and its answer was too long).
    """
    row = _row(connection, order, once.key)
    return None if row is None or row.expires_at <= now else _answer_of(row, once)


def claim(connection: Connection, order: TransactionHash, once: Once, call_id: str, now: float) -> None:
    """Take the name for a call that begins. Raises Conflict as `find` does, and `idempotency_in_flight` for one just answered."""
    row = _row(connection, order, once.key)
    if row is not None and row.expires_at <= now:
        connection.execute(delete(answers).where(answers.c.call_id == row.call_id))
    elif row is not None:
        _answer_of(row, once)
        raise in_flight()
    connection.execute(
        insert(answers).values(
            order_tx=order,
            name=once.key,
            call_id=call_id,
            fingerprint=once.fingerprint,
            state="under_way",
            expires_at=now + once.kept_s,
        )
    )


def keep(connection: Connection, once: Once, answer: KeptAnswer) -> None:
    """Raises Conflict when nobody claimed it for this call."""
    fits = len(answer.body) <= once.most_bytes
    kept = {"state": "kept", "body": answer.body, "header_length": answer.header_length} if fits else {"state": "too_long"}
    if connection.execute(update(answers).where(answers.c.call_id == answer.call_id).values(**kept)).rowcount != 1:
        raise Conflict(f"call {answer.call_id}: its Idempotency-Key is not under way")


def forget(connection: Connection, call_id: str) -> None:
    """Free the name of a call that was not answered. Again, and for a call without a name: does nothing."""
    connection.execute(delete(answers).where(answers.c.call_id == call_id))


def sweep(connection: Connection, now: float) -> int:
    """Remove what is over, some at a time; how many. A call under way is closed by `reap` instead."""
    is_over = (answers.c.expires_at <= now) & (answers.c.state != "under_way")
    return connection.execute(delete_free(answers.c.call_id, is_over, _SWEPT_AT_ONCE)).rowcount


def in_flight() -> Conflict:
    error = Conflict("Idempotency-Key: the first call under this key is under way", code="idempotency_in_flight")
    error.retry_after_s = 1
    return error


def _row(connection: Connection, order: TransactionHash, key: str) -> Row[Any] | None:
    return connection.execute(select(answers).where(answers.c.order_tx == order, answers.c.name == key)).first()


def _answer_of(row: Row[Any], once: Once) -> KeptAnswer:
    if row.fingerprint != once.fingerprint:
        expected = "expected the path and body that were sent under this key before, found others"
        raise Conflict(f"Idempotency-Key: {expected}", code="idempotency_conflict")
    if row.state == "under_way":
        raise in_flight()
    if row.state == "too_long":
        raise Conflict(
            f"Idempotency-Key: call {row.call_id} was answered and charged, and its answer was too long to be kept",
            code="idempotency_not_kept",
        )
    return KeptAnswer(row.call_id, row.body, row.header_length)
