"""Scores of tokens that were said before, made lower or higher as a call asks.

In: a call's tokens as they come, the model's scores. Out: new scores. This module must never change the scores it was given, or do
work that grows with the text rather than with its different tokens.

Source: `RepetitionPenaltyLogitsProcessor` of transformers 4.57 (CTRL, arXiv:1909.05858, section 4.1), over prompt and completion;
frequency and presence as OpenAI's API reference has them, over the completion. One after the other in this order, as vLLM does.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Penalties:
    """One call's. What is off changes nothing."""

    def __init__(self, *, repetition: float, frequency: float, presence: float, read: Iterable[int], most: int) -> None:
        """repetition: above 0, 1 is off. frequency, presence: 0 is off. read: tokens before the first own. most: own tokens."""
        self._repetition, self._frequency, self._presence = repetition, frequency, presence
        before = list(dict.fromkeys(read)) if repetition != 1.0 else []
        self._places = {token: place for place, token in enumerate(before)}
        self._tokens: np.ndarray = np.zeros(len(before) + most, np.int64)
        self._tokens[: len(before)] = before
        self._counts: np.ndarray = np.zeros(len(self._tokens), np.float32)

    @property
    def is_on(self) -> bool:
        return (self._repetition, self._frequency, self._presence) != (1.0, 0.0, 0.0)

    def add(self, token: int) -> None:
        """Count one of the completion's tokens."""
        place = self._places.setdefault(token, len(self._places))
        self._tokens[place] = token
        self._counts[place] += 1.0

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """New scores, float32 as transformers computes them. logits: float [vocabulary], with a place for every token said."""
        scores = np.array(logits, np.float32)
        tokens, counts = self._tokens[: len(self._places)], self._counts[: len(self._places)]
        said = scores[tokens]
        if self._repetition != 1.0:
            said = np.where(said < 0, said * self._repetition, said / self._repetition)
        scores[tokens] = said - counts * self._frequency - (counts > 0) * self._presence
        return scores
