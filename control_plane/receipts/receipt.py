"""The receipt: the signed record of one call, as a value with one canonical byte form.

In: the facts of a call. Out: `Receipt`, `SignedReceipt`, `Issued`, salted hashes and leaf bytes. This module must never do I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cached_property
from typing import Any

from control_plane.did import (
    ZERO_BYTES32,
    Address,
    Bytes32,
    Did,
    TransactionHash,
    UnixMillis,
    parse_address,
    parse_bytes32,
    parse_did,
    parse_transaction_hash,
)
from control_plane.errors import BadInput
from control_plane.receipts.signed import read_signed, signed_record

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
VERSION = 1
REQUEST_PREFIX = b"posthuman/request/v1\0"
RESPONSE_PREFIX = b"posthuman/response/v1\0"


class CallStatus(IntEnum):
    """How a call ended. Only `DONE` and `CUT` are charged."""

    DONE = 0
    CUT = 1
    """The caller went away, or the control plane died, after the stream had begun; the hash covers what was sent, or is zero."""


@dataclass(frozen=True)
class Receipt:
    """One call, as EIP-712 signs it; field order is the type's.

    request_hash, response_hash: SHA-256(prefix + 32-byte salt + body bytes), so that a published leaf leaks nothing guessable.
    sequence: 0 for the order's first receipt, then one more each. previous: `receipt_id` of the order's receipt before, or zero.
    started_at, finished_at, merge_by: milliseconds since 1970, UTC; merge_by promises when the receipt is in an anchored log.
    units_in, units_out: tokens where the task has them, otherwise items.
    """

    did: Did
    model_digest: Bytes32
    request_hash: Bytes32
    response_hash: Bytes32
    consumer: Address
    order: TransactionHash
    sequence: int
    previous: Bytes32
    started_at: UnixMillis
    finished_at: UnixMillis
    units_in: int
    units_out: int
    status: CallStatus
    merge_by: UnixMillis

    def to_json(self) -> dict[str, Any]:
        record = dict(self.__dict__)  # all fields are plain values; `asdict` copies each deeply, which takes 15 microseconds
        record["status"] = int(self.status)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Receipt:
        """Raises BadInput for a missing, unknown or ill-typed field."""
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            found = sorted(record) if isinstance(record, Mapping) else record
            raise BadInput("receipt", f"exactly the fields {sorted(names)}", found)
        for name in ("sequence", "started_at", "finished_at", "units_in", "units_out", "merge_by"):
            value = record[name]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
                raise BadInput(f"receipt.{name}", "a whole number below 2**64", value)
        if record["status"] not in tuple(CallStatus) or isinstance(record["status"], bool):
            raise BadInput("receipt.status", f"one of {[int(status) for status in CallStatus]}", record["status"])
        return cls(
            did=parse_did(record["did"], "receipt.did"),
            model_digest=parse_bytes32(record["model_digest"], "receipt.model_digest"),
            request_hash=parse_bytes32(record["request_hash"], "receipt.request_hash"),
            response_hash=parse_bytes32(record["response_hash"], "receipt.response_hash"),
            consumer=parse_address(record["consumer"], "receipt.consumer"),
            order=parse_transaction_hash(record["order"], "receipt.order"),
            sequence=record["sequence"],
            previous=parse_bytes32(record["previous"], "receipt.previous"),
            started_at=UnixMillis(record["started_at"]),
            finished_at=UnixMillis(record["finished_at"]),
            units_in=record["units_in"],
            units_out=record["units_out"],
            status=CallStatus(record["status"]),
            merge_by=UnixMillis(record["merge_by"]),
        )


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt, the log's EIP-712 domain, and the operator's signature (65 bytes r, s, v; low s; v 27 or 28)."""

    receipt: Receipt
    chain_id: int
    log: Address
    signature: bytes

    @cached_property
    def leaf(self) -> bytes:
        """See `leaf_bytes`; made once, for the log and for the answer's header."""
        return _canonical(self.to_json()).encode("ascii")

    def to_json(self) -> dict[str, Any]:
        return signed_record(VERSION, "receipt", self.receipt.to_json(), self.chain_id, self.log, self.signature)

    @classmethod
    def from_json(cls, record: object) -> SignedReceipt:
        """Raises BadInput as `read_signed` does, and for a receipt that is none."""
        said, chain_id, log, signature = read_signed(record, VERSION, "receipt")
        return cls(Receipt.from_json(said), chain_id, log, signature)


def leaf_bytes(signed: SignedReceipt) -> bytes:
    """The one canonical byte form: JSON with sorted keys and no spaces. It is the log's entry."""
    return signed.leaf


def leaf_id(leaf: bytes) -> Bytes32:
    """Name of the receipt whose leaf bytes these are: the RFC 6962 leaf hash, SHA-256(0x00 + leaf bytes)."""
    return Bytes32("0x" + hashlib.sha256(b"\0" + leaf).hexdigest())


def receipt_id(signed: SignedReceipt) -> Bytes32:
    """Name of a receipt: `leaf_id` of its leaf bytes."""
    return leaf_id(leaf_bytes(signed))


@dataclass(frozen=True)
class Issued:
    """A stored receipt with its salt: what its buyer gets. leaf_index: None until the log keeper has given it a place."""

    signed: SignedReceipt
    salt: bytes
    id: Bytes32
    leaf_index: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The envelope that travels in `X-Posthuman-Receipt`, in streams and in files."""
        return {"signed": self.signed.to_json(), "salt": "0x" + self.salt.hex(), "id": self.id}

    def json_bytes(self) -> bytes:
        """The same envelope in JSON, around the leaf's own bytes."""
        return b'{"signed":%b,"salt":"0x%b","id":"%b"}' % (self.signed.leaf, self.salt.hex().encode(), self.id.encode())

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Issued:
        """Raises BadInput for a missing, unknown or ill-typed field, and for an `id` that is not the receipt's own."""
        names = {"signed", "salt", "id"}
        if not isinstance(record, Mapping) or set(record) != names:
            raise BadInput(
                "receipt envelope", f"exactly the fields {sorted(names)}", sorted(record) if isinstance(record, Mapping) else record
            )
        signed = SignedReceipt.from_json(record["signed"])
        salt = bytes.fromhex(parse_bytes32(record["salt"], "salt")[2:])
        if record["id"] != receipt_id(signed):
            raise BadInput("id", f"this receipt's own, {receipt_id(signed)}", record["id"])
        return cls(signed, salt, receipt_id(signed))


def request_hash(salt: bytes, body: bytes) -> Bytes32:
    return Bytes32("0x" + hashlib.sha256(REQUEST_PREFIX + salt + body).hexdigest())


def response_hash(salt: bytes, body: bytes) -> Bytes32:
    return Bytes32("0x" + hashlib.sha256(RESPONSE_PREFIX + salt + body).hexdigest())


FIRST_PREVIOUS = ZERO_BYTES32
