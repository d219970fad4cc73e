"""A call as the generate backend's own parts take it, for tests that ask them without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from generate.call import Call
from generate.generation import Generation, Piece
from generate.model_rows import rows_of
from generate.scoring import Scoring
from opening.entry import OpenEntry

CACHE_BYTES = 1 << 28


def call_of(prompt: Sequence[int]) -> Call:
    """One greedy token after `prompt`."""
    return Call(
        prompt=tuple(prompt),
        prompt_tokens=len(prompt),
        feeds={},
        max_tokens=1,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=None,
        stops=(),
        is_streamed=False,
    )


def pieces_of(entry: OpenEntry, call: Call) -> list[Piece]:
    """All that the call gets, alone in its model."""
    rows = rows_of(entry, CACHE_BYTES)
    generation = Generation(call, entry.tokenizer.decode, frozenset(entry.detail("eos_token_ids")), seed=0)
    place = rows.enter(call)
    while (logits := rows.begin(place)) is None:
        pass
    pieces = [generation.take(logits)]
    while not generation.is_finished:
        (logits,) = rows.step([place], [generation.token])
        pieces.append(generation.take(logits))
    rows.leave(place)
    return [piece for piece in pieces if piece is not None]


def scored_call(prompt: Sequence[int]) -> Call:
    """`prompt`, to be scored."""
    return replace(call_of(prompt), max_tokens=0, has_logprobs=True, is_scored=True)


def scored(entry: OpenEntry, call: Call) -> Piece:
    """The scores of the call's text, alone in its model."""
    rows, scoring = rows_of(entry, CACHE_BYTES), Scoring(call, entry.tokenizer.decode)
    place = rows.enter(call)
    while True:
        logits = rows.begin(place)
        assert logits is not None
        if (piece := scoring.take(logits)) is not None:
            rows.leave(place)
            return piece
