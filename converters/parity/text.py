"""Does the graph of a text model give PyTorch's outputs?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from converters.parity.compare import Spread, Worst
from converters.parity.session import Session
from converters.parity.texts import PER_TOKEN, PyTorchRefuses, batch_of, outputs_of, reference, sizes_for
from converters.pooling import Pooling, pool
from converters.tasks.task import Task

_TOLD_APART = 19
"""Tokens of texts that a model must tell apart: a length that it has been compared at."""


def check_text(model: Any, path: Path, task: Task, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model; the lines state what was found, rounded up to 1, 2 or 5.

    Raises ParityFailed naming output, difference and bound, or when the model says the same of all texts of one length.
    """
    chances = numpy.random.default_rng(0)
    with torch.inference_mode():
        lines = _check_prediction(model, Session(path), task, details, bound, chances)
        _refuse_alike(model, task, details, chances)
    return lines


def _refuse_alike(model: Any, task: Task, details: Mapping[str, Any], chances: numpy.random.Generator) -> None:
    """Of one length and padded alike, so that only their tokens differ."""
    size = (1, min(_TOLD_APART, int(details["context_length"])))
    texts = [_feeds(model, task, details, size, 2, chances) for _ in range(4)]
    answers = reference(model, {name: numpy.concatenate([text[name] for text in texts]) for name in texts[0]}, details)
    for name in outputs_of(details):
        spread = Spread(name)
        spread.note(answers[name][:, : size[1]] if task.name in PER_TOKEN else answers[name])
        spread.refuse_alike("texts")


def _check_prediction(
    model: Any, session: Session, task: Task, details: Mapping[str, Any], bound: float, chances: numpy.random.Generator
) -> tuple[Mapping[str, Any], ...]:
    names = outputs_of(details)
    worst = {name: Worst(name, bound) for name in names}
    embedding = Worst("embedding", bound)
    for number, size in enumerate(sizes_for(model, details)):
        feeds = _feeds(model, task, details, size, 2 + number % 2, chances)
        try:
            expected = reference(model, feeds, details)
        except PyTorchRefuses:
            # One token alone, which no text of a model with special tokens is, is too short for some (Funnel).
            if size[1] > 1:
                raise
            continue
        found = session.run(feeds)
        mask = feeds["attention_mask"]
        for name in names:
            # Of a per-token output only the tokens count; what stands at padding is nobody's answer.
            rows = mask.astype(bool) if task.name in PER_TOKEN else slice(None)
            given, wanted = (each[name][:, : size[1]] if task.name in PER_TOKEN else each[name] for each in (found, expected))
            worst[name].compare(given[rows], wanted[rows], size)
        if task.name == "feature-extraction":
            pooling = Pooling(details["pooling"], details["normalize"], None)
            embedding.compare(pool(found[names[0]], mask, pooling), pool(expected[names[0]], mask, pooling), size)
    lines = [worst[name].line() for name in names]
    return (*lines, embedding.line()) if task.name == "feature-extraction" else tuple(lines)


def _feeds(
    model: Any, task: Task, details: Mapping[str, Any], size: tuple[int, int], choices: int, chances: numpy.random.Generator
) -> dict[str, Any]:
    """What the graph takes; for multiple choice [batch, choices, sequence], where the exporter traces with four choices."""
    batch, length = size
    rows = batch * choices if task.name == "multiple-choice" else batch
    feeds = batch_of(details, (rows, length), chances)
    feeds["token_type_ids"][:, length // 2 :] = int(getattr(model.config, "type_vocab_size", 1) > 1)
    return {name: value.reshape(batch, choices, length) for name, value in feeds.items()} if rows != batch else feeds
