"""Does the graph of a causal language model too large for memory give PyTorch's logits?

In: a model that reads its weights layer by layer, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never let PyTorch and ONNX Runtime hold weights at the same time, or widen a bound.

The same questions as in `parity/causal.py`, asked fewer times: a step of a model of 6e9 parameters reads 12 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy
import torch

from converters.parity.causal import GREEDY_TOKENS
from converters.parity.compare import Worst
from converters.parity.parted import PartedSession
from converters.parity.session import CACHE_DTYPES
from converters.parity.texts import batch_of, positions_of, reference

_SIZES = ((1, 5), (3, 19))
_GREEDY_SIZE = (2, 9)


def check_large(
    reading: Callable[[], AbstractContextManager[Any]], path: Path, details: Mapping[str, Any], bound: float
) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model. reading: gives the model for as long as its weights may be read.

    Raises ParityFailed naming output, difference and bound.
    """
    chances = numpy.random.default_rng(0)
    feeds = {size: batch_of(details, size, chances) for size in _SIZES}
    prompts = batch_of(details, _GREEDY_SIZE, chances)
    logits, greedy = Worst("logits", bound), Worst("greedy", 2 * bound)
    with torch.inference_mode(), reading() as model:
        expected = {size: reference(model, given, details)["logits"] for size, given in feeds.items()}
    session = PartedSession(path)
    for size, given in feeds.items():
        mask = given["attention_mask"].astype(bool)
        logits.compare(session.run({**given, **_no_cache(details, size[0])})["logits"][mask], expected[size][mask], size)
        halves = _in_two(session, given, details)
        logits.compare(halves[mask], expected[size][mask], size)
    chosen = _greedy_tokens(session, prompts, details)
    del session
    with torch.inference_mode(), reading() as model:
        for row, kept in enumerate(prompts["attention_mask"].astype(bool)):
            whole = numpy.concatenate([prompts["input_ids"][row][kept], chosen[row]])[None, :]
            ones = numpy.ones_like(whole)
            given = {"input_ids": whole, "attention_mask": ones, "position_ids": positions_of(ones)}
            steps = reference(model, given, details)["logits"][0, kept.sum() - 1 : -1]
            regrets = steps.max(axis=-1) - steps[numpy.arange(len(steps)), chosen[row]]
            size = (_GREEDY_SIZE[0], _GREEDY_SIZE[1] + chosen.shape[1])
            greedy.regret(float(regrets.max()), steps, size)
    return logits.line(), greedy.line()


def _in_two(session: PartedSession, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> Any:
    """Logits of half the tokens, then of the rest with the cache of the first half."""
    half = feeds["input_ids"].shape[1] // 2
    first = {name: feeds[name][:, :half] for name in ("input_ids", "position_ids", "attention_mask")}
    before = session.run({**first, **_no_cache(details, len(feeds["input_ids"]))})
    second = {name: feeds[name][:, half:] for name in ("input_ids", "position_ids")}
    after = session.run({**second, "attention_mask": feeds["attention_mask"], **_cache(details, before)})
    return numpy.concatenate([before["logits"], after["logits"]], axis=1)


def _greedy_tokens(session: PartedSession, prompts: Mapping[str, Any], details: Mapping[str, Any]) -> Any:
    """The graph's own choices in a left-padded batch, with its cache: int64 [batch, at most 32]."""
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    cache, tokens = _no_cache(details, len(ids)), []
    for _ in range(max(1, min(GREEDY_TOKENS, int(details["context_length"]) - ids.shape[1]))):
        positions = positions_of(mask)[:, -ids.shape[1] :]
        given = session.run({"input_ids": ids, "position_ids": positions, "attention_mask": mask, **cache})
        ids = given["logits"][:, -1].argmax(axis=-1)[:, None].astype(numpy.int64)
        tokens.append(ids)
        cache, mask = _cache(details, given), numpy.concatenate([mask, numpy.ones_like(ids)], axis=1)
    return numpy.concatenate(tokens, axis=1)


def _no_cache(details: Mapping[str, Any], batch: int) -> dict[str, Any]:
    axes = {tensor["name"]: tensor["axes"] for tensor in details["graph_inputs"]}
    names = [layer[kind] for layer in details["layers"] for kind in ("past_key", "past_value")]
    return {name: numpy.zeros((batch, axes[name][1], 0, axes[name][3]), CACHE_DTYPES[details["precision"]]) for name in names}


def _cache(details: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {layer[f"past_{kind}"]: given[layer[f"present_{kind}"]] for layer in details["layers"] for kind in ("key", "value")}
