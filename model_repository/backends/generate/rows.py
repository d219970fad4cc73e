"""How the engine keeps several calls in one model at once.

In: nothing. Out: the protocol `Rows`, and `Apart` for models that read each call by itself. This module must never choose a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from generate.call import Call


class Reading(Protocol):
    """One call's tokens so far, as the model keeps them."""

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits of what comes after the last: float32 [vocabulary]."""


class Model(Protocol):
    def begin(self, call: Call) -> tuple[Reading, np.ndarray]:
        """Read all that the call gives; return the reading, and the logits of its first token, or of every token of a call that
        is scored, as `Rows.begin` has them.
        """


class Rows(Protocol):
    """Places for calls in one model; a place is a number. most_together: places that one `step` may read for."""

    most_together: int

    def has_place(self, call: Call) -> bool:
        """May it enter now? A call that is alone always may."""

    def enter(self, call: Call) -> int:
        """Take a place. Nothing is computed yet."""

    def begin(self, place: int) -> np.ndarray | None:
        """Read some more of what the call gives; after the last of it the logits of the first token, before that None.

        Of a call that is scored: each time the logits after every token that was read, float32 [tokens, vocabulary].
        """

    def step(self, places: Sequence[int], tokens: Sequence[int]) -> Sequence[np.ndarray]:
        """Read one token at each place; the logits of each next one: float32 [vocabulary]."""

    def leave(self, place: int) -> None:
        """Give the place back."""


class Apart:
    """Each call has a cache of its own, and is read by itself, its beginning at once."""

    most_together = 1

    def __init__(self, model: Model, *, most: int) -> None:
        """most: calls that are in memory at once; each holds its keys and values."""
        self._model, self._most = model, most
        self._calls: dict[int, Call] = {}
        self._readings: dict[int, Reading] = {}

    def has_place(self, call: Call) -> bool:
        return len(self._calls) < self._most

    def enter(self, call: Call) -> int:
        place = next(number for number in range(self._most) if number not in self._calls)
        self._calls[place] = call
        return place

    def begin(self, place: int) -> np.ndarray | None:
        self._readings[place], logits = self._model.begin(self._calls[place])
        return logits

    def step(self, places: Sequence[int], tokens: Sequence[int]) -> Sequence[np.ndarray]:
        return [self._readings[place].read((token,)) for place, token in zip(places, tokens, strict=True)]

    def leave(self, place: int) -> None:
        del self._calls[place]
        self._readings.pop(place, None)
