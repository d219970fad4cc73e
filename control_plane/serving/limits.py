"""What one session and one buyer may ask at once, and how fast.

In: a session that wants to call. Out: a `Hold` while the call is under way, or TooMany. This module must never count tokens or
bytes: it knows nothing of what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from control_plane.errors import TooMany
from control_plane.serving.rates import Rates
from control_plane.serving.sessions import Session
from control_plane.serving.slots import Slots

_TRY_AGAIN_S = 1
"""When a call of one's own will have ended nobody knows; most end within a second."""


@dataclass(frozen=True)
class Allowed:
    """at_once: calls under way, of one session, and of one buyer in all its sessions. a_minute: calls of one session; 0: any."""

    session_at_once: int
    buyer_at_once: int
    session_a_minute: int


class Hold:
    """A call's places. Giving them back again does nothing."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._places: list[int] = []

    def add(self, owner: str, most: int, whose: str) -> None:
        """Raises TooMany when the owner has no place left."""
        place = self._slots.take(owner, most)
        if place is None:
            found = f"calls: expected at most {most} under way at once in {whose}, found as many"
            raise TooMany(found, "too_many_calls", _TRY_AGAIN_S)
        self._places.append(place)

    def give_back(self) -> None:
        while self._places:
            self._slots.give_back(self._places.pop())

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.give_back()


class CallLimits:
    """The limits of one machine's workers together; safe in several threads and processes."""

    def __init__(self, folder: Path, allowed: Allowed, clock: Callable[[], float]) -> None:
        """folder: the same for all workers. clock: seconds since 1970."""
        self._allowed = allowed
        self._slots = Slots(folder / "slots")
        self._rates = Rates(folder / "rates", clock)

    def take(self, session: Session) -> Hold:
        """Begin a call. Raises TooMany with code `too_many_calls` or `too_fast`; then nothing is held, and nothing was counted."""
        allowed, buyer = self._allowed, session.wallet
        hold = Hold(self._slots)
        try:
            hold.add(f"session {session.token_hash}", allowed.session_at_once, "this session")
            hold.add(f"buyer {buyer}", allowed.buyer_at_once, f"all sessions of {buyer}")
            if allowed.session_a_minute:
                self._check_rate(session, allowed.session_a_minute)
        except BaseException:
            hold.give_back()
            raise
        return hold

    def close(self) -> None:
        """Once."""
        self._slots.close()
        self._rates.close()

    def _check_rate(self, session: Session, per_minute: int) -> None:
        wait = self._rates.take(session.token_hash, per_minute)
        if wait:
            found = f"calls: expected at most {per_minute} a minute in this session, found one that comes {wait:.1f} s too early"
            raise TooMany(found, "too_fast", math.ceil(wait))
