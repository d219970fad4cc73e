"""Does the graph of an image model give PyTorch's outputs?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from converters.parity.compare import Spread, Worst
from converters.parity.images import SIZES, like, picture, processed, reference, size_of
from converters.parity.session import Session

_BATCHES = (1, 3)
"""The exporter traces with 2 images."""
_OUTPUTS = ("output", "boxes_output", "masks_output", "pooled_output")


def check_image(model: Any, path: Path, processor: Any, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model, on what the processor makes of images of several sizes and on random pixels.

    A fixed size is what the processor gives for every image: then only the batch varies. Raises ParityFailed naming output,
    difference and bound.
    """
    chances = numpy.random.default_rng(0)
    names = [str(tensor["name"]) for tensor in details["graph_inputs"]]
    trials: list[dict[str, Any]] = []
    for seed, (width, height) in enumerate(SIZES):
        feeds = processed(processor, [picture(width, height, seed)])
        trials.append(feeds)
        if size_of(feeds) not in [size_of(trial) for trial in trials[:-1]]:
            trials.extend(like(feeds, batch, chances) for batch in _BATCHES)
    return compared(model, Session(path), trials, names, details, bound)


def check_image_and_texts(
    model: Any, path: Path, processor: Any, details: Mapping[str, Any], bound: float
) -> tuple[Mapping[str, Any], ...]:
    """The same for a graph that takes images and texts: as many of one as of the other, fewer, and more."""
    chances = numpy.random.default_rng(0)
    names = [str(tensor["name"]) for tensor in details["graph_inputs"]]
    pixels = processed(processor, [picture(*SIZES[0], 0)])
    context = int(details["text_length"]) or min(int(details["context_length"]), 40)
    trials = [
        {**like(pixels, images, chances), **random_texts(details, texts, min(length, context), chances)}
        for images, texts, length in ((1, 1, context), (1, 5, 9), (3, 2, 21))
    ]
    return compared(model, Session(path), trials, names, details, bound)


def random_texts(details: Mapping[str, Any], batch: int, length: int, chances: numpy.random.Generator) -> dict[str, Any]:
    """Token ids with padding in every second row; at `text_length` where the model knows no other."""
    length = int(details["text_length"]) or length
    vocabulary, pad = int(details["vocabulary"]), int(details["pad_token_id"])
    ids = chances.integers(0, vocabulary, size=(batch, length), dtype=numpy.int64)
    ids[ids == pad] = (pad + 1) % vocabulary
    mask: Any = numpy.ones_like(ids)
    mask[1::2, max(1, length // 2) :] = 0
    ids[mask == 0] = pad
    positions = numpy.where(mask == 1, mask.cumsum(axis=1) - 1, 1)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids), "position_ids": positions}


def compared(
    model: Any,
    session: Session,
    trials: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    details: Mapping[str, Any],
    bound: float,
) -> tuple[Mapping[str, Any], ...]:
    """One line for each output of the graph that the details name."""
    outputs = [str(details[key]) for key in _OUTPUTS if details.get(key) is not None]
    worst = {name: Worst(name, bound) for name in outputs}
    spreads = [Spread(name) for name in outputs]
    for feeds in trials:
        given = {name: feeds[name] for name in names}
        found, expected = session.run(given), reference(model, given, names)
        pixels = {name: value for name, value in given.items() if name.startswith("pixel")} or given
        for name in outputs:
            worst[name].compare(found[name], expected[name], size_of(pixels))
        for spread in spreads:
            spread.note(expected[spread.output])
    for spread in spreads:
        spread.refuse_alike("images")
    return tuple(worst[name].line() for name in outputs)
