"""Calls and receipts as rows of their tables.

In: values. Out: rows, and values again. This module must never run a statement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from control_plane.did import Address, Bytes32, Did, TransactionHash, UnixMillis
from control_plane.errors import Forbidden, Unauthenticated
from control_plane.receipts.receipt import Issued, SignedReceipt

_KEPT_AS_IT_IS = ("call_id", "token_hash", "did", "model_digest", "consumer", "request_hash", "salt", "started_at")


@dataclass(frozen=True)
class Reservation:
    """A call under way. It is charged when it is reserved or, where it was not, when it is settled."""

    call_id: str
    token_hash: str
    did: Did
    model_digest: Bytes32
    consumer: Address
    order: TransactionHash
    request_hash: Bytes32
    salt: bytes
    started_at: UnixMillis
    is_streaming: bool


def call_row(reservation: Reservation, worker: str) -> dict[str, Any]:
    """worker: the process that has the call."""
    values = {name: getattr(reservation, name) for name in _KEPT_AS_IT_IS}
    return values | {"order_tx": reservation.order, "worker": worker, "is_streaming": int(reservation.is_streaming)}


def receipt_row(issued: Issued, leaf: bytes, call_id: str) -> dict[str, Any]:
    receipt = issued.signed.receipt
    return {
        "receipt_id": issued.id,
        "call_id": call_id,
        "order_tx": receipt.order,
        "sequence": receipt.sequence,
        "did": receipt.did,
        "consumer": receipt.consumer,
        "leaf": leaf,
        "salt": issued.salt,
        "leaf_index": None,
    }


def issued_of(row: Any) -> Issued:
    return Issued(SignedReceipt.from_json(json.loads(row.leaf)), row.salt, Bytes32(row.receipt_id), row.leaf_index)


def reservation_of(row: Any) -> Reservation:
    kept = {name: getattr(row, name) for name in _KEPT_AS_IT_IS}
    return Reservation(**kept, order=row.order_tx, is_streaming=bool(row.is_streaming))


def refusal_of(session: Any, now: float) -> Unauthenticated | Forbidden:
    """Why a session's order could not be charged. session: a row of `SESSION_NOW`, None where there is none."""
    if session is None:
        return Unauthenticated("this session is unknown: sign in again", code="session_unknown")
    revoked_at, revoked_why, expires_at, did, calls_limit = session
    if revoked_at is not None:
        return Unauthenticated(f"this session was revoked: {revoked_why or 'by its owner'}", code="session_revoked")
    if expires_at <= now:
        return Unauthenticated("this session has expired: sign in again", code="session_expired")
    return Forbidden(f"{did}: the {calls_limit} calls of this order are used up", code="quota_exhausted")
