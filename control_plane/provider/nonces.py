"""The nonces of Ocean's clients: each address counts up, and no number is good twice.

In: a checksummed address, a nonce as text. Out: the last one that was used, or a refusal. This module must never keep a nonce for
an address that has not signed with it: whoever asks must not be able to fill the database.

Ocean Provider 2.1 takes an equal nonce again, keys its store by the address as it was typed, and takes numbers above 2**53, after
which `ocean.py` (`int(ceil(float(nonce))) + 1`) can never count up again. Here: strictly greater, checksummed, below 2**53.

A nonce may have a fraction: a stock Aquarius signs the time in seconds. Numbers are compared as doubles, so two that a double
cannot tell apart count as one, and the second is refused.
"""

from __future__ import annotations

import re

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.database import reading, user_nonces, writing
from control_plane.did import Address
from control_plane.errors import BadInput

END = 2**53
"""The first number that JavaScript and Python's floats cannot tell from the next one."""
FIRST = 1.0
"""What an address that has never signed is told, as Ocean Provider does: its first signature is over 2 or more."""
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,20})(?:\.[0-9]{1,9})?", re.ASCII)


class UserNonces:
    """One count an address, for all workers: what decides is one statement in the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)

    def last(self, address: Address) -> float:
        """The greatest nonce that `address` has used; the next one must be greater."""
        with self._reading.connect() as connection:
            found = connection.execute(select(user_nonces.c.nonce).where(user_nonces.c.address == address)).scalar()
        return FIRST if found is None else float(found)

    def check(self, address: Address, nonce: float) -> None:
        """Raises BadInput for one that cannot be used any more. Uses nothing: a request that fails leaves its nonce good."""
        last = self.last(address)
        if nonce <= last:
            raise _too_low(last)

    def use(self, address: Address, nonce: float) -> None:
        """Of several workers that use one nonce at once, one gets past this; for the others, and again: BadInput."""
        raised = update(user_nonces).where(user_nonces.c.address == address, user_nonces.c.nonce < nonce).values(nonce=nonce)
        with writing(self._engine) as connection:
            if connection.execute(raised).rowcount:
                return
        if nonce > FIRST:
            try:
                with writing(self._engine) as connection:
                    connection.execute(insert(user_nonces).values(address=address, nonce=nonce))
                return
            except IntegrityError:  # it has a count by now, or had one: then it must be greater than that
                with writing(self._engine) as connection:
                    if connection.execute(raised).rowcount:
                        return
        raise _too_low(self.last(address))


def parse_nonce(text: object) -> float:
    """A nonce as clients send it, as JSON or as text. Raises BadInput, which names the bound."""
    if isinstance(text, bool) or not isinstance(text, int | float | str) or not _NUMBER.fullmatch(str(text)):
        raise BadInput("nonce", "a number in decimal digits", "something else", code="nonce_malformed")
    nonce = float(text)
    if nonce >= END:
        # taken, it would lock the account: no client could count on from there
        expected = f"a number below 2**53 ({END}), such as milliseconds since 1970"
        raise BadInput("nonce", expected, "a greater one", code="nonce_too_large")
    return nonce


def shown_nonce(nonce: float) -> int | float:
    """A nonce as JSON tells it: whole where it is."""
    return int(nonce) if nonce.is_integer() else nonce


def _too_low(last: float) -> BadInput:
    expected = f"a number above {shown_nonce(last)}, the last one that this address used"
    return BadInput("nonce", expected, "one that is not", code="nonce_used")
