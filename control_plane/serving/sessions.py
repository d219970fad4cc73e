"""Sessions and nonces: who may call, known by a bearer token.

In: a wallet and an order that access.py accepted. Out: an opaque token; later, the `Session` behind it. This module must never keep
a token (it stores its SHA-256), nor decide whether a call is allowed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, delete, func, insert, select, update

from control_plane.database import nonces, reading
from control_plane.database import sessions as table
from control_plane.did import Address, Bytes32, Did, TransactionHash
from control_plane.errors import Unauthenticated

NONCE_TTL_S = 600.0
NONCE_KEPT_S = 86_400.0
"""A used or stale nonce is remembered for a day, so that a replay is told what it is; after that it is unknown."""
_TOKEN = re.compile(r"ph_[A-Za-z0-9_-]{43}", re.ASCII)
_CACHED_MOST = 20_000


@dataclass(frozen=True)
class Nonce:
    nonce: str
    expires_at: float


@dataclass(frozen=True)
class Session:
    """calls_used may be a cache's age behind; the reservation of a call counts exactly. expires_at: seconds since 1970."""

    token_hash: str
    wallet: Address
    did: Did
    order: TransactionHash
    order_block: int
    order_block_hash: Bytes32
    expires_at: float
    calls_limit: int
    calls_used: int = 0
    revoked_at: float | None = None
    revoked_why: str = ""


def token_hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions:
    """The sessions of one market; safe to share between threads, and between workers through the database.

    cache_ttl_s: how long a worker may answer from memory. A revocation in another worker is seen after this long at the latest
    by `find`, and at once by the reservation that each call makes.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float] = time.time,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        cache_ttl_s: float = 2.0,
    ) -> None:
        self._engine, self._reading = engine, reading(engine)
        self._clock, self._token_bytes, self._cache_ttl_s = clock, token_bytes, cache_ttl_s
        self._cache: dict[str, tuple[float, Session]] = {}
        self._lock = threading.Lock()

    def issue_nonce(self) -> Nonce:
        """A new nonce, good once and for ten minutes. Old ones are forgotten here, so the table stays small."""
        now = self._clock()
        nonce = self._token_bytes(16).hex()
        with self._engine.begin() as connection:
            connection.execute(delete(nonces).where(nonces.c.issued_at < now - NONCE_KEPT_S))
            connection.execute(insert(nonces).values(nonce=nonce, issued_at=now, used_at=None))
        return Nonce(nonce, now + NONCE_TTL_S)

    def use_nonce(self, nonce: str) -> None:
        """Use it up. One statement decides, so of two that come at the same moment only one passes.

        Raises Unauthenticated with code nonce_unknown, nonce_used or nonce_expired. Again: nonce_used.
        """
        now = self._clock()
        is_fresh = (nonces.c.nonce == nonce) & nonces.c.used_at.is_(None) & (nonces.c.issued_at >= now - NONCE_TTL_S)
        with self._engine.begin() as connection:
            if connection.execute(update(nonces).where(is_fresh).values(used_at=now)).rowcount == 1:
                return
            row = connection.execute(select(nonces).where(nonces.c.nonce == nonce)).first()
        raise _nonce_refused(row)

    def check_nonce(self, nonce: str) -> None:
        """Refuse early what `use_nonce` would refuse; uses nothing up, so a sign-in that cannot end today can be sent again."""
        with self._reading.connect() as connection:
            row = connection.execute(select(nonces).where(nonces.c.nonce == nonce)).first()
        if row is None or row.used_at is not None or row.issued_at < self._clock() - NONCE_TTL_S:
            raise _nonce_refused(row)

    def calls_used_by(self, order: TransactionHash) -> int:
        """Calls that all sessions of an order have used together."""
        with self._reading.connect() as connection:
            return int(connection.execute(select(func.sum(table.c.calls_used)).where(table.c.order_tx == order)).scalar() or 0)

    def open(
        self,
        wallet: Address,
        did: Did,
        order: TransactionHash,
        order_block: int,
        order_block_hash: Bytes32,
        expires_at: float,
        calls_limit: int,
    ) -> tuple[str, Session]:
        """Open a session; the token is shown here and never again. Again: another session of the same order."""
        token = "ph_" + urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode("ascii")
        session = Session(token_hash_of(token), wallet, did, order, order_block, order_block_hash, expires_at, calls_limit)
        with self._engine.begin() as connection:
            connection.execute(
                insert(table).values(
                    token_hash=session.token_hash,
                    wallet=wallet,
                    did=did,
                    order_tx=order,
                    order_block=order_block,
                    order_block_hash=order_block_hash,
                    expires_at=expires_at,
                    calls_limit=calls_limit,
                    calls_used=0,
                    revoked_at=None,
                    revoked_why="",
                )
            )
        return token, session

    def find(self, token: str) -> Session | None:
        """The session of a token, from memory where fresh enough, or None. Whether it is still good, access.py says."""
        if not _TOKEN.fullmatch(token):
            return None
        token_hash = token_hash_of(token)
        held = self._cache.get(token_hash)
        if held is not None and time.monotonic() - held[0] < self._cache_ttl_s:
            return held[1]
        return self._read(token_hash)

    def _read(self, token_hash: str) -> Session | None:
        read_at = time.monotonic()
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(table.c.token_hash == token_hash)).first()
        if row is None:
            return None
        session = Session(
            row.token_hash,
            row.wallet,
            row.did,
            row.order_tx,
            row.order_block,
            row.order_block_hash,
            row.expires_at,
            row.calls_limit,
            row.calls_used,
            row.revoked_at,
            row.revoked_why,
        )
        with self._lock:
            if len(self._cache) >= _CACHED_MOST:
                self._cache.clear()
            self._cache[token_hash] = (read_at, session)
        return session

    def revoke(self, token_hash: str, why: str) -> bool:
        """End one session; False when there is none. Again: changes nothing, the first reason stays."""
        return self._revoke(table.c.token_hash == token_hash, why) > 0 or self._read(token_hash) is not None

    def revoke_order(self, order: TransactionHash, why: str) -> int:
        """End every session of an order (it was undone by the chain, for one); how many were ended now."""
        return self._revoke(table.c.order_tx == order, why)

    def _revoke(self, which: ColumnElement[bool], why: str) -> int:
        change = update(table).where(which, table.c.revoked_at.is_(None))
        with self._engine.begin() as connection:
            ended = connection.execute(change.values(revoked_at=self._clock(), revoked_why=why)).rowcount
        with self._lock:
            self._cache.clear()
        return ended


def _nonce_refused(row: Row[Any] | None) -> Unauthenticated:
    expected = "nonce: expected one from POST /v1/auth/nonce that was not used and is younger than ten minutes, found "
    if row is None:
        return Unauthenticated(expected + "one that was never given out", code="nonce_unknown")
    if row.used_at is not None:
        return Unauthenticated(expected + "one that was used before", code="nonce_used")
    return Unauthenticated(expected + "one that is too old", code="nonce_expired")
