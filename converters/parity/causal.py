"""Does the graph of a causal language model give PyTorch's logits, whole, in pieces and over 32 greedy steps?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from converters.parity.compare import Worst
from converters.parity.session import Session
from converters.parity.texts import batch_of, positions_of, reference, sizes_for

GREEDY_TOKENS = 32


def check_causal(model: Any, path: Path, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model; the lines state what was found, rounded up to 1, 2 or 5.

    Raises ParityFailed naming output, difference and bound.
    """
    with torch.inference_mode():
        return _check_generation(model, Session(path), details, bound, numpy.random.default_rng(0))


def _check_generation(
    model: Any, session: Session, details: Mapping[str, Any], bound: float, chances: numpy.random.Generator
) -> tuple[Mapping[str, Any], ...]:
    logits, greedy = Worst("logits", bound), Worst("greedy", 2 * bound)
    for size in sizes_for(model, details):
        feeds = batch_of(details, size, chances)
        mask = feeds["attention_mask"].astype(bool)
        expected = reference(model, feeds, details)["logits"]
        logits.compare(session.run({**feeds, **_empty_cache(details, size[0])})["logits"][mask], expected[mask], size)
        if details["layers"] and 1 < size[1] <= 64:
            logits.compare(_in_pieces(session, feeds, details)[mask], expected[mask], size)
    for batch in (1, 3):
        length = min(12, max(1, int(details["context_length"]) - GREEDY_TOKENS))
        _check_greedy(model, session, details, (batch, length), greedy, chances)
    return logits.line(), greedy.line()


def _in_pieces(session: Session, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> Any:
    """Logits of a prefill of half the tokens, then a piece of several, then one by one: what serving does with the cache."""
    length = feeds["input_ids"].shape[1]
    ends = sorted({length // 2, length // 2 + 3, *range(length // 2 + 4, length + 1), length} - {0})
    ends = [end for end in ends if end <= length]
    cache, begin, parts = _empty_cache(details, len(feeds["input_ids"])), 0, []
    for end in ends:
        step = {
            "input_ids": feeds["input_ids"][:, begin:end],
            "position_ids": feeds["position_ids"][:, begin:end],
            "attention_mask": feeds["attention_mask"][:, :end],
        }
        given = session.run({**step, **cache})
        parts.append(given["logits"])
        cache, begin = _next_cache(details, given), end
    return numpy.concatenate(parts, axis=1)


def _check_greedy(
    model: Any,
    session: Session,
    details: Mapping[str, Any],
    size: tuple[int, int],
    greedy: Worst,
    chances: numpy.random.Generator,
) -> None:
    """Decode greedily with the cache in a left-padded batch; then ask PyTorch for its own choices."""
    feeds = batch_of(details, size, chances)
    if not _stands_padding(model, feeds, details):
        feeds = {**feeds, "attention_mask": numpy.ones_like(feeds["attention_mask"])}
    prompt, mask = feeds["input_ids"], feeds["attention_mask"]
    ids, cache, tokens = prompt, _empty_cache(details, size[0]), []
    for _ in range(min(GREEDY_TOKENS, int(details["context_length"]) - size[1])):
        positions = positions_of(mask)[:, -ids.shape[1] :]
        given = session.run({"input_ids": ids, "position_ids": positions, "attention_mask": mask, **cache})
        best = given["logits"][:, -1].argmax(axis=-1)[:, None].astype(numpy.int64)
        tokens.append(best)
        ids = best if details["layers"] else numpy.concatenate([ids, best], axis=1)
        cache, mask = _next_cache(details, given), numpy.concatenate([mask, numpy.ones_like(best)], axis=1)
    if not tokens:
        return
    rows = [ids[kept] for ids, kept in zip(prompt, feeds["attention_mask"].astype(bool), strict=True)]
    compare_choices(model, rows, numpy.concatenate(tokens, axis=1), details, greedy)


def compare_choices(model: Any, rows: Sequence[Any], chosen: Any, details: Mapping[str, Any], greedy: Worst) -> None:
    """Ask PyTorch, per row and without padding, for its own choice after each token.

    rows: prompts. chosen: int64 [rows, steps], by the graph. Each token is PyTorch's best after the same prefix, so by induction
    PyTorch's greedy text is the same. Where two tokens are as good as equal either may be chosen; `regret` is then above 0, and
    within the bound.
    """
    size = (len(rows), max(map(len, rows)) + chosen.shape[1])
    for row, made in zip(rows, chosen, strict=True):
        expected = alone(model, numpy.concatenate([row, made]), details)
        steps = expected[len(row) - 1 : -1]
        regrets = steps.max(axis=-1) - steps[numpy.arange(len(steps)), made]
        greedy.regret(float(regrets.max()), steps, size)


def alone(model: Any, tokens: Any, details: Mapping[str, Any]) -> Any:
    """PyTorch's logits of each of one row's tokens: [tokens, vocabulary]."""
    ids = numpy.array([tokens], numpy.int64)
    ones = numpy.ones_like(ids)
    return reference(model, {"input_ids": ids, "attention_mask": ones, "position_ids": positions_of(ones)}, details)["logits"][0]


def _stands_padding(model: Any, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> bool:
    """Does PyTorch give a padded row what it gives the row alone? A model whose recurrence or positions run over padding does not.

    Such a model is decoded in a batch of full rows; what it gives for padded ones has been compared before.
    """
    padded = reference(model, feeds, details)["logits"]
    for row, kept in enumerate(feeds["attention_mask"].astype(bool)):
        if not numpy.allclose(padded[row][kept], alone(model, feeds["input_ids"][row][kept], details), rtol=1e-3, atol=1e-4):
            return False
    return True


def _empty_cache(details: Mapping[str, Any], batch: int) -> dict[str, Any]:
    axes = {tensor["name"]: tensor["axes"] for tensor in details["graph_inputs"]}
    names = [layer[kind] for layer in details["layers"] for kind in ("past_key", "past_value")]
    return {name: numpy.zeros((batch, axes[name][1], 0, axes[name][3]), dtype=numpy.float32) for name in names}


def _next_cache(details: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {layer[f"past_{kind}"]: given[layer[f"present_{kind}"]] for layer in details["layers"] for kind in ("key", "value")}
