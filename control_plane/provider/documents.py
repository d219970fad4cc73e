"""DDOs as they stand on chain: opened, and compared with the hash beside them.

In: flags, bytes, a hash, an NFT's DID. Out: the document and its exact clear text. This module must never give out what is not
the document of that DID: whatever was encrypted to the operator could be written on an NFT of one's own, even another's `files`.

Source: Ocean Provider 2.1 `routes/decrypt.py`: bit 1 of the flags says LZMA, bit 2 ECIES to the provider (compressed first).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from control_plane.chain.ddo import MAX_DOCUMENT_BYTES, unpack
from control_plane.did import Did
from control_plane.errors import BadInput

COMPRESSED, ENCRYPTED = 1, 2
DEEPEST = 32
"""Levels of lists and objects in a document; Ocean's have six."""


class Decryptor(Protocol):
    def decrypt(self, sealed: bytes) -> bytes: ...


@dataclass(frozen=True)
class Opened:
    """document: the DDO. clear: its bytes as they were hashed."""

    document: dict[str, Any]
    clear: bytes


def open_document(flags: int, data: bytes, clear_hash: bytes, did: Did, key: Decryptor) -> Opened:
    """Raises BadInput: encrypted to somebody else, another hash, too large, or not the DDO of `did`."""
    packed = _unhexed(data)
    if flags & ENCRYPTED:
        packed = key.decrypt(packed)
    clear = unpack(packed) if flags & COMPRESSED else packed
    if len(clear) > MAX_DOCUMENT_BYTES:
        raise BadInput("document", f"at most {MAX_DOCUMENT_BYTES} bytes", "more")
    if hashlib.sha256(clear).digest() != clear_hash:
        raise BadInput("document", "the bytes whose SHA-256 stands beside it", "others", code="document_hash")
    try:
        record = json.loads(clear, parse_constant=_finite, parse_float=_finite)
        _check_depth(record)
    except (ValueError, RecursionError) as error:
        raise BadInput("document", "a DDO in JSON", "bytes that are not") from error
    if not isinstance(record, dict) or record.get("id") != did:
        raise BadInput("document", f"the DDO of {did}", "another document", code="document_foreign")
    return Opened(record, clear)


def _finite(text: str) -> float:
    """Raises ValueError for what JSON has no word for: written out again, it would spoil each answer it is part of."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _check_depth(record: object) -> None:
    """Raises ValueError for a document nested so deeply that who walks through it runs out of stack."""
    level: list[object] = [record]
    for _ in range(DEEPEST):
        level = [inside for each in level for inside in _inside(each)]
        if not level:
            return
    raise ValueError("too deep")


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unhexed(data: bytes) -> bytes:
    """Clients that took the encrypt endpoint's answer for text have written its letters on chain."""
    if data[:2] != b"0x":
        return data
    try:
        return bytes.fromhex(data[2:].decode("ascii"))
    except ValueError:
        return data
