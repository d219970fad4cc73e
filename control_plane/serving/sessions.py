"""Sessions and nonces: who may call, known by a bearer token.

In: a wallet and an order that access.py accepted. Out: an opaque token; later, the `Session` behind it. This module must never keep
a token (it stores its SHA-256), nor a nonce that nobody has used, nor decide whether a call is allowed.
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

from sqlalchemy import ColumnElement, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.database import delete_free, nonces, reading, writing
from control_plane.database import sessions as table
from control_plane.did import Address, Bytes32, Did, TransactionHash
from control_plane.errors import Unauthenticated
from control_plane.serving.nonces import RANDOM_BYTES, Nonce, make_nonce, read_nonce

NONCE_KEPT_S = 3600.0
"""A used nonce is remembered this long after its end, so that a clock set back by less makes none good again."""
JOBS_ONLY = 0
"""Calls of an order that pays for jobs; every other allows at least one."""
_TOKEN = re.compile(r"ph_[A-Za-z0-9_-]{43}", re.ASCII)
_CACHED_MOST = 20_000


@dataclass(frozen=True)
class Session:
    """calls_limit: JOBS_ONLY where the order pays for jobs.
    calls_used: of its order, by all sessions together; may be a cache's age behind: what charges a call counts exactly.
    expires_at: seconds since 1970."""

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

    @property
    def is_for_jobs(self) -> bool:
        """Its order pays for jobs, and for no calls."""
        return self.calls_limit == JOBS_ONLY


@dataclass(frozen=True)
class OpenOrder:
    """An order that open sessions rest on, and the block it was in when they were opened."""

    transaction: TransactionHash
    did: Did
    block: int
    block_hash: Bytes32


def token_hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions:
    """The sessions of one market; safe to share between threads, and between workers through the database.

    nonce_key: the same in every worker, as `open_nonce_key` gives it, so that one may use what another gave out.
    cache_ttl_s: how long a worker may answer from memory. A revocation in another worker is seen after this long at the latest
    by `find`, and at once by what charges each call.
    """

    def __init__(
        self,
        engine: Engine,
        nonce_key: bytes,
        clock: Callable[[], float] = time.time,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        cache_ttl_s: float = 2.0,
    ) -> None:
        self._engine, self._reading, self._nonce_key = engine, reading(engine), nonce_key
        self._clock, self._token_bytes, self._cache_ttl_s = clock, token_bytes, cache_ttl_s
        self._cache: dict[str, tuple[float, Session]] = {}
        self._lock = threading.Lock()

    def issue_nonce(self) -> Nonce:
        """A new nonce, good once and for ten minutes. Nothing is stored: anyone may ask, as often as they like."""
        return make_nonce(self._nonce_key, self._clock(), self._token_bytes(RANDOM_BYTES))

    def use_nonce(self, nonce: str) -> None:
        """Use it up. The row's primary key decides, so of two that come at the same moment only one passes.

        Raises Unauthenticated with code nonce_unknown, nonce_used or nonce_expired. Again: nonce_used.
        """
        found = self._read_nonce(nonce)
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(nonces).values(nonce=found.nonce, expires_at=found.expires_at))
                connection.execute(delete_free(nonces.c.nonce, nonces.c.expires_at < self._clock() - NONCE_KEPT_S))
        except IntegrityError as error:
            raise _nonce_refused("nonce_used") from error

    def check_nonce(self, nonce: str) -> None:
        """Refuse early what `use_nonce` would refuse; uses nothing up, so a sign-in that cannot end today can be sent again."""
        found = self._read_nonce(nonce)
        with self._reading.connect() as connection:
            if connection.execute(select(nonces.c.nonce).where(nonces.c.nonce == found.nonce)).first() is not None:
                raise _nonce_refused("nonce_used")

    def _read_nonce(self, text: str) -> Nonce:
        found = read_nonce(self._nonce_key, text)
        if found is None:
            raise _nonce_refused("nonce_unknown")
        if found.expires_at < self._clock():
            raise _nonce_refused("nonce_expired")
        return found

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
        with writing(self._engine) as connection:
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
        same_order = table.alias("same_order")
        used = select(func.sum(same_order.c.calls_used)).where(same_order.c.order_tx == table.c.order_tx).scalar_subquery()
        with self._reading.connect() as connection:
            row = connection.execute(select(table, used.label("used")).where(table.c.token_hash == token_hash)).first()
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
            row.used,
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

    def open_orders(self, from_block: int) -> tuple[OpenOrder, ...]:
        """The orders in `from_block` or later that have a session which is neither over nor revoked."""
        columns = (table.c.order_tx, table.c.did, table.c.order_block, table.c.order_block_hash)
        is_open = table.c.revoked_at.is_(None) & (table.c.expires_at > self._clock()) & (table.c.order_block >= from_block)
        with self._reading.connect() as connection:
            return tuple(OpenOrder(*row) for row in connection.execute(select(*columns).where(is_open).distinct()))

    def revoke_order(self, order: TransactionHash, why: str) -> int:
        """End every session of an order (it was undone by the chain, for one); how many were ended now."""
        return self._revoke(table.c.order_tx == order, why)

    def _revoke(self, which: ColumnElement[bool], why: str) -> int:
        change = update(table).where(which, table.c.revoked_at.is_(None))
        with writing(self._engine) as connection:
            ended = connection.execute(change.values(revoked_at=self._clock(), revoked_why=why)).rowcount
        with self._lock:
            self._cache.clear()
        return ended


_NONCE_FAULTS = {
    "nonce_unknown": "one that was never given out",
    "nonce_used": "one that was used before",
    "nonce_expired": "one that is too old",
}


def _nonce_refused(code: str) -> Unauthenticated:
    expected = "nonce: expected one from POST /v1/auth/nonce that was not used and is younger than ten minutes, found "
    return Unauthenticated(expected + _NONCE_FAULTS[code], code=code)
