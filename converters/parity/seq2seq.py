"""Do the graphs of an encoder-decoder model give PyTorch's numbers, at once, step by step, and over 32 greedy tokens?

In: the PyTorch model, its graphs, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch

from converters.errors import ParityFailed
from converters.export.graphs import Exported
from converters.export.seq2seq_modules import HIDDEN, Parts, parts_of
from converters.export.seq2seq_samples import sample
from converters.parity.compare import Worst
from converters.parity.session import Session
from converters.parity.texts import sizes_for

GREEDY_TOKENS = 32
_SIZES = ((1, 7), (2, 33), (3, 18))
"""Batch and length of what is no text; see `seq2seq_samples`. Traced with batch 3 and length 19."""
_TOKENS = 13


def check_seq2seq(model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare both graphs with the model; the lines state what was found, rounded up to 1, 2 or 5.

    Raises ParityFailed naming output, difference and bound.
    """
    encoder, decoder = (Session(exported.graphs[role].path) for role in ("encoder", "decoder"))
    parts, generator = parts_of(model), torch.Generator().manual_seed(0)
    is_text = parts.encoder_input == "input_ids"
    hidden, logits, greedy = Worst(HIDDEN, bound), Worst("logits", bound), Worst("greedy", 2 * bound)
    with torch.inference_mode():
        for size in sizes_for(model, details) if is_text else _SIZES:
            given, mask = sample(parts, *size, generator)
            states, seen = _encoded(parts, given, mask)
            found = encoder.run(encoder_feeds(parts, given, mask))
            rows = slice(None) if seen is None else seen.numpy().astype(bool)
            hidden.compare(found[HIDDEN].astype(numpy.float32)[rows], states.numpy()[rows], _size(found, 0))
            length = min(_TOKENS, int(details["decoder_length"]))
            tokens = torch.randint(0, parts.vocabulary, (size[0], length), generator=generator)
            # A few decoders take padding for a hole in the text, and no text that they make has one.
            pad = int(details["pad_token_id"])
            tokens[tokens == pad] = (pad + 1) % parts.vocabulary
            expected = parts.step(tokens, states, seen, None).numpy()
            for ends in ((length,), tuple(sorted({1, min(4, length), *range(min(5, length), length + 1)}))):
                pieces = in_pieces(decoder, details, found, tokens.numpy(), ends)
                logits.compare(pieces, expected, _size(found, length))
        for batch in (1, 3):
            _check_greedy(parts, encoder, decoder, details, batch, greedy, generator)
    return hidden.line(), logits.line(), greedy.line()


def encoder_feeds(parts: Parts, given: torch.Tensor, mask: torch.Tensor | None) -> dict[str, Any]:
    return {parts.encoder_input: given.numpy(), **({} if mask is None else {"attention_mask": mask.numpy()})}


def in_pieces(decoder: Session, details: Mapping[str, Any], encoded: Mapping[str, Any], tokens: Any, ends: tuple[int, ...]) -> Any:
    """Logits of all tokens, read in pieces that end at `ends`: what serving does with the cache."""
    cache, begin, parts = empty_cache(details, len(tokens)), 0, []
    for end in ends:
        given = decoder.run({**_carried(details, encoded), **cache, "input_ids": tokens[:, begin:end]})
        parts.append(given["logits"])
        cache, begin = next_cache(details, given), end
    return numpy.concatenate(parts, axis=1)


def empty_cache(details: Mapping[str, Any], batch: int) -> dict[str, Any]:
    nothing = numpy.zeros((batch, details["kv_heads"], 0, details["head_size"]), dtype=numpy.float32)
    return {layer[kind]: nothing for layer in details["layers"] for kind in ("past_key", "past_value")}


def next_cache(details: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {layer[f"past_{kind}"]: given[layer[f"present_{kind}"]] for layer in details["layers"] for kind in ("key", "value")}


def _carried(details: Mapping[str, Any], encoded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encoded[name] for name in details["carried"]}


def _check_greedy(
    parts: Parts,
    encoder: Session,
    decoder: Session,
    details: Mapping[str, Any],
    batch: int,
    greedy: Worst,
    generator: torch.Generator,
) -> None:
    """Decode greedily in a batch with padding; then ask PyTorch, per row and, where the input is text, without padding.

    Each token is PyTorch's best after the same prefix, so by induction PyTorch's greedy text is the same. Where two tokens are as
    good as equal either may be chosen; `regret` is then above 0, and within the bound.
    """
    given, mask = sample(parts, batch, min(12, int(details["context_length"])), generator)
    encoded = encoder.run(encoder_feeds(parts, given, mask))
    first = next(token for token in details["start_tokens"] if isinstance(token, int))
    chosen: Any = numpy.full((batch, 1), first, numpy.int64)
    cache = empty_cache(details, batch)
    for _ in range(min(GREEDY_TOKENS, int(details["decoder_length"]) - 1)):
        given_now = decoder.run({**_carried(details, encoded), **cache, "input_ids": chosen[:, -1:]})
        scores = given_now["logits"][:, -1, : int(details["vocabulary"])]
        chosen = numpy.concatenate([chosen, scores.argmax(axis=-1)[:, None]], axis=1)
        cache = next_cache(details, given_now)
    for row in range(batch):
        one, one_mask = given[row : row + 1], None if mask is None else mask[row : row + 1]
        if parts.encoder_input == "input_ids" and one_mask is not None:
            kept = int(one_mask.sum())
            one, one_mask = one[:, :kept], one_mask[:, :kept]
        states, seen = _encoded(parts, one, one_mask)
        logits = parts.step(torch.from_numpy(chosen[row : row + 1, :-1]), states, seen, None).numpy()[
            0, :, : int(details["vocabulary"])
        ]
        regrets = logits.max(axis=-1) - logits[numpy.arange(len(logits)), chosen[row, 1:]]
        greedy.regret(float(regrets.max()), logits, _size(encoded, chosen.shape[1] - 1))


def _encoded(parts: Parts, given: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    try:
        return parts.encode(given, mask)
    # A context that is longer than the model's tables shows here, as an index out of range.
    except (IndexError, RuntimeError) as error:
        raise ParityFailed(f"PyTorch cannot run the encoder at size {tuple(given.shape)}: {error}") from error


def _size(encoded: Mapping[str, Any], tokens: int) -> tuple[int, ...]:
    """Batch, the encoder's positions, and the decoder's tokens where there are any."""
    batch, length = encoded[HIDDEN].shape[:2]
    return (batch, length, tokens) if tokens else (batch, length)
