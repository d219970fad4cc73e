"""How often an encoder-decoder model in a smaller precision would make the same next token.

In: an entry's details, its graphs in full precision and in the smaller one. Out: rows of scores of both after the same tokens. This
module must never let the smaller one choose a token: after the first other one, two texts cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy

from converters.parity.session import Session
from converters.precision.samples import empty_cache, inputs_of
from converters.tasks.task import Task

TOKENS = 16
"""Made for each sample, by the float32 graphs, greedily."""


def scores_of(
    task: Task, details: Mapping[str, Any], folder: Path, full: Mapping[str, Path], reduced: Mapping[str, Path]
) -> tuple[list[Any], list[Any]]:
    """Scores of each next token, full precision's and the other's: one array a sample, float32 [tokens, vocabulary].

    Raises ParityFailed when a graph cannot be run.
    """
    before, after = [], []
    chosen: list[list[int]] = []
    encoder, decoder = Session(full["encoder"]), Session(full["decoder"])
    for feeds in inputs_of(task, details, folder):
        tokens, encoded = [_start(details)], encoder.run(feeds)
        for _ in range(min(TOKENS, int(details["decoder_length"]) - 1)):
            tokens.append(int(_read(decoder, details, encoded, tokens)[-1].argmax()))
        before.append(_read(decoder, details, encoded, tokens[:-1]))
        chosen.append(tokens)
    encoder, decoder = Session(reduced["encoder"]), Session(reduced["decoder"])
    for feeds, tokens in zip(inputs_of(task, details, folder), chosen, strict=True):
        after.append(_read(decoder, details, encoder.run(feeds), tokens[:-1]))
    return before, after


def _start(details: Mapping[str, Any]) -> int:
    return next(token for token in _plain(details["start_tokens"]))


def _plain(tokens: list[Any]) -> Iterator[int]:
    for token in tokens:
        yield from token if isinstance(token, list) else [token]


def _read(decoder: Session, details: Mapping[str, Any], encoded: Mapping[str, Any], tokens: list[int]) -> Any:
    """Scores after each of the tokens, read at once; ids that the model does not have are left out."""
    carried = {name: encoded[name] for name in details["carried"]}
    feeds = {**empty_cache(details["graph_inputs"]), **carried, "input_ids": numpy.array([tokens], numpy.int64)}
    return decoder.run(feeds)["logits"][0, :, : int(details["vocabulary"])]
