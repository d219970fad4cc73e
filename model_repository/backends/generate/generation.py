"""One generation: from a call to its pieces of text.

In: a checked `Call`, a `Model`, a tokenizer. Out: pieces, one model step at a time, so that whoever holds the iterator decides
when the next token is computed, and whether. This module must never look at a clock or at other calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from generate.call import Call
from generate.detokenise import StopFinder, TextStream
from generate.sampling import Sampler


class Reading(Protocol):
    """One call's tokens so far, as the model keeps them."""

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits of what comes after the last: float32 [vocabulary]."""


class Model(Protocol):
    def begin(self, call: Call) -> tuple[Reading, np.ndarray]:
        """Read all that the call gives; return the reading, and the logits of its first token."""


@dataclass(frozen=True)
class Piece:
    """Text that came since the piece before, and every token computed since then.

    completion_tokens: computed so far in the whole call: an end token counts, and so do the tokens of a stop string.
    finish_reason: "stop" (an end token or a stop string), "length" (max_tokens, or the end of the context), or "" while it goes on.
    """

    text: str
    token_ids: tuple[int, ...]
    completion_tokens: int
    finish_reason: str


def generate(
    call: Call, model: Model, decode: Callable[[list[int]], str], end_tokens: frozenset[int], seed: int
) -> Iterator[Piece | None]:
    """Compute one token each time the iterator is asked; None when it gave no text yet. The last piece has a finish_reason.

    decode: token ids -> text. seed: used when the call names none.
    """
    sampler = Sampler(
        temperature=call.temperature, top_p=call.top_p, top_k=call.top_k, seed=seed if call.seed is None else call.seed
    )
    text_stream, stop_finder = TextStream(decode, call.prompt), StopFinder(call.stops)
    reading, logits = model.begin(call)
    untold: list[int] = []
    for count in range(1, call.max_tokens + 1):
        token = sampler.pick(logits)
        untold.append(token)
        is_end, is_last = token in end_tokens, count == call.max_tokens
        new_text = "" if is_end else text_stream.add(token)
        if is_end or is_last:
            new_text += text_stream.end()
        text, is_stopped = stop_finder.add(new_text)
        if (is_end or is_last) and not is_stopped:
            text += stop_finder.end()
        finish_reason = "stop" if is_end or is_stopped else "length" if is_last else ""
        if text or finish_reason:
            yield Piece(text, tuple(untold), count, finish_reason)
            untold = []
        else:
            yield None
        if finish_reason:
            return
        logits = reading.read((token,))
