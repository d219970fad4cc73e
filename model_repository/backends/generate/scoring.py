"""Score one given text: how likely each of its tokens is after those before it.

In: a checked `Call`, a tokenizer's decode, the scores after each token. Out: one piece, when all of it is read. This module must
never keep or tell a probability of a token that the text does not have: many of them give weights away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from generate.call import Call
from generate.detokenise import TextStream
from generate.generation import Piece
from generate.sampling import log_probability


class Scoring:
    """As `Generation`, for a text that is all there. is_finished: all of it was scored. token: none is ever chosen."""

    def __init__(self, call: Call, decode: Callable[[list[int]], str]) -> None:
        """decode: token ids -> text. Takes a few milliseconds for a long text: not for the engine's thread."""
        self.call = call
        self.token, self.is_finished = -1, False
        self._read = 0
        self._logprobs: list[float] = [0.0]
        self._texts = _texts(decode, call.prompt)

    def take(self, logits: np.ndarray) -> Piece | None:
        """The scores after the text's next tokens, float32 [tokens, vocabulary]; None while more of it is to be read.

        The first token has nothing before it: its logarithm is told as 0, which adds nothing to a sum. What comes after the last is
        nobody's business.

        Raises ValueError when a score is no number: the model is broken, not the call.
        """
        following = self.call.prompt[self._read + 1 : self._read + 1 + len(logits)]
        found = [log_probability(scores, token) for scores, token in zip(logits, following, strict=False)]
        if not np.isfinite(found).all():
            raise ValueError("the model gives a token of the text a score that is no number")
        self._logprobs += found
        self._read += len(logits)
        self.is_finished = self._read == len(self.call.prompt)
        if not self.is_finished:
            return None
        return Piece("", self.call.prompt, 0, "length", tuple(self._logprobs), tuple(self._texts))


def _texts(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text."""
    stream = TextStream(decode, ())
    texts = [stream.add(token) for token in tokens]
    texts[-1] += stream.end()
    return texts
