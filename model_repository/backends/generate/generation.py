"""One generation: from scores to tokens, and from tokens to pieces of text.

In: a checked `Call`, a tokenizer's decode, the scores of each next token. Out: pieces. This module must never run a model, look at
a clock or at other calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generate.call import Call
from generate.detokenise import StopFinder, TextStream
from generate.penalties import Penalties
from generate.sampling import Sampler, log_probability


@dataclass(frozen=True)
class Piece:
    """Text that came since the piece before, and every token computed since then.

    completion_tokens: computed so far in the whole call: an end token counts, and so do the tokens of a stop string.
    finish_reason: "stop" (an end token or a stop string), "length" (max_tokens, or the end of the context), or "" while it goes on.
    logprobs, token_texts: of each of `token_ids` where the call asks for them, else empty; see `converters/tasks/generation.py`.
    """

    text: str
    token_ids: tuple[int, ...]
    completion_tokens: int
    finish_reason: str
    logprobs: tuple[float, ...] = ()
    token_texts: tuple[str, ...] = ()


class Generation:
    """token: the last that was chosen, which the model reads next. is_finished: nothing is to be read any more."""

    def __init__(self, call: Call, decode: Callable[[list[int]], str], end_tokens: frozenset[int], seed: int) -> None:
        """decode: token ids -> text. seed: used when the call names none."""
        self.call = call
        self.token, self.is_finished = -1, False
        self._end_tokens = end_tokens
        self._sampler = Sampler(
            temperature=call.temperature,
            top_p=call.top_p,
            top_k=call.top_k,
            min_p=call.min_p,
            seed=seed if call.seed is None else call.seed,
        )
        self._penalties = Penalties(
            repetition=call.repetition_penalty,
            frequency=call.frequency_penalty,
            presence=call.presence_penalty,
            read=(*call.begun, *call.prompt),
            most=call.max_tokens,
        )
        self._text_stream, self._stop_finder = TextStream(decode, call.prompt), StopFinder(call.stops)
        self._count = 0
        self._untold: list[int] = []
        self._logprobs: list[float] = []
        self._texts: list[str] = []

    def take(self, logits: np.ndarray) -> Piece | None:
        """Choose the next token; None when it gave no text yet. The last piece has a finish_reason.

        logits: float32 [vocabulary], of what comes after the token before.
        """
        self.token = self._sampler.pick(self._penalties.apply(logits) if self._penalties.is_on else logits)
        if self._penalties.is_on:
            self._penalties.add(self.token)
        self._count += 1
        self._untold.append(self.token)
        is_end, is_last = self.token in self._end_tokens, self._count == self.call.max_tokens
        new_text = "" if is_end else self._text_stream.add(self.token)
        if is_end or is_last:
            new_text += self._text_stream.end()
        if self.call.has_logprobs:
            self._logprobs.append(log_probability(logits, self.token))
            self._texts.append(new_text)
        text, is_stopped = self._stop_finder.add(new_text)
        if (is_end or is_last) and not is_stopped:
            text += self._stop_finder.end()
        finish_reason = "stop" if is_end or is_stopped else "length" if is_last else ""
        self.is_finished = bool(finish_reason)
        if not (text or finish_reason):
            return None
        piece = Piece(text, tuple(self._untold), self._count, finish_reason, tuple(self._logprobs), tuple(self._texts))
        self._untold, self._logprobs, self._texts = [], [], []
        return piece
