"""Auth tokens of Ocean's clients: made for one signature, good for requests instead of further ones.

In: an address that has signed. Out: an opaque token; later, whether it speaks for an address. This module must never keep a token
(it stores its SHA-256), nor say which part of one was wrong.

Ocean Provider's are JWTs under a key that is the provider's wallet; clients only carry them, so ours are random, as sessions are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable

from sqlalchemy import Engine, insert, select, update

from control_plane.database import auth_tokens as table
from control_plane.database import delete_free, reading, writing
from control_plane.did import Address
from control_plane.errors import BadInput

LONGEST_S = 366 * 86_400
_TOKEN = re.compile(r"pa_[A-Za-z0-9_-]{43}", re.ASCII)


class AuthTokens:
    """The tokens of one market, for all workers. clock: seconds since 1970, UTC."""

    def __init__(
        self, engine: Engine, clock: Callable[[], float], token_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._engine, self._reading, self._clock, self._token_bytes = engine, reading(engine), clock, token_bytes

    def make(self, address: Address, expires_at: int) -> str:
        """A token that speaks for `address` until then; shown here and never again. Forgets the ones that are over.

        Raises BadInput for a time that has passed or is more than a year away.
        """
        now = self._clock()
        if not now < expires_at <= now + LONGEST_S:
            raise BadInput("expiration", f"seconds since 1970, after {int(now)} and within a year of it", "another time")
        token = "pa_" + urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode("ascii")
        row = {"token_hash": _hash(token), "address": address, "expires_at": float(expires_at), "revoked_at": None}
        with writing(self._engine) as connection:
            connection.execute(delete_free(table.c.token_hash, table.c.expires_at <= now))
            connection.execute(insert(table).values(row))
        return token

    def check(self, token: str, address: Address) -> None:
        """Raises BadInput unless `token` speaks for `address` now."""
        found = None
        if _TOKEN.fullmatch(token):
            with self._reading.connect() as connection:
                found = connection.execute(select(table).where(table.c.token_hash == _hash(token))).first()
        if found is None or found.address != address or found.revoked_at is not None or found.expires_at <= self._clock():
            raise BadInput("AuthToken", f"a token of {address} that is good now", "another", code="bad_token")

    def revoke(self, token: str, address: Address) -> None:
        """End a token. Raises BadInput for one that does not speak for `address`; so does the second time."""
        self.check(token, address)
        change = update(table).where(table.c.token_hash == _hash(token), table.c.revoked_at.is_(None))
        with writing(self._engine) as connection:
            connection.execute(change.values(revoked_at=self._clock()))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
