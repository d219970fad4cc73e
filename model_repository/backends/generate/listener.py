"""Who waits for a generation's pieces.

In: nothing. Out: the protocol between the engine and Triton's door. This module must never know of either.
"""

from __future__ import annotations

from typing import Protocol

from generate.generation import Piece
from opening.refusal import Cancelled, TooBusy, TooLate

__all__ = ["Cancelled", "Listener", "TooBusy", "TooLate"]


class Listener(Protocol):
    """Whoever asked. `deliver` gets the pieces in order; after `fail` nothing follows. One that raises is heard no more."""

    def is_cancelled(self) -> bool: ...

    def deliver(self, piece: Piece) -> None: ...

    def fail(self, error: BaseException) -> None: ...
