"""Nonces that nobody stores until they are used: the time, chance, and a code over both that only the market can make.

In: the market's nonce key, the time, random bytes. Out: a nonce as EIP-4361 wants it; later, when it ends, or that it is not ours.
This module must never write to the database: whoever asks for nonces must not be able to fill or lock it.

64 hexadecimal digits: 4 bytes issued at (seconds since 1970), 12 random bytes, 16 bytes HMAC-SHA256 of the other 16. There is one
spelling of each nonce, for the used ones are told apart by their text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import BadInput
from control_plane.receipts.keys import put_once, read_private

NONCE_TTL_S = 600.0
KEY_BYTES = 32
RANDOM_BYTES = 12
_MAC_BYTES = 16
_DOMAIN = b"posthuman.nonce.v1"
_NONCE = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Nonce:
    """expires_at: seconds since 1970."""

    nonce: str
    expires_at: float


def make_nonce(key: bytes, now: float, random: bytes) -> Nonce:
    """now: seconds since 1970. random: 12 bytes that were never given before. Again with the same arguments: the same nonce."""
    issued_at = int(now)
    head = issued_at.to_bytes(4, "big") + random
    return Nonce((head + _mac(key, head)).hex(), issued_at + NONCE_TTL_S)


def read_nonce(key: bytes, text: str) -> Nonce | None:
    """A nonce that was made with this key, however old; None for anything else."""
    if not _NONCE.fullmatch(text):
        return None
    raw = bytes.fromhex(text)
    head, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, head)):
        return None
    return Nonce(text, int.from_bytes(head[:4], "big") + NONCE_TTL_S)


def _mac(key: bytes, head: bytes) -> bytes:
    return hmac.new(key, _DOMAIN + head, hashlib.sha256).digest()[:_MAC_BYTES]


def open_nonce_key(path: Path) -> bytes:
    """The key that the workers of a market share; made at the first start, readable by its owner alone.

    Of several processes at once one makes it, and all go on with that one. Losing it ends nothing but the nonces of the last ten
    minutes. Raises BadInput when others may read the file or it holds something else. Again: the key that is there.
    """
    put_once(path, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
    try:
        key = bytes.fromhex(read_private(path).decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BadInput(str(path), f"{2 * KEY_BYTES} hex digits", "something else (not shown)")
    return key
