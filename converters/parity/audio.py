"""Does the graph of a model that listens give PyTorch's outputs?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.parity.compare import Spread, Worst
from converters.parity.session import Session
from converters.parity.sounds import heard, melody, processed, reference

_SECONDS = ((1, 0.0), (1, 0.31), (3, 0.53), (1, 1.7), (2, 0.23))
"""Sounds in a batch and their length, the first as short as the model takes; the exporter traces with 2 of one second."""


def check_audio(model: Any, path: Path, extractor: Any, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model, on what the extractor makes of sounds of several lengths.

    Raises ParityFailed naming output, difference and bound, or when the model says the same of all sounds of a batch.
    """
    session, worst, spread = Session(path), Worst(str(details["output"]), bound), Spread(str(details["output"]))
    names, rate = [str(tensor["name"]) for tensor in details["graph_inputs"]], int(details["sampling_rate"])
    for seed, (batch, seconds) in enumerate(_SECONDS):
        samples = fitting(int(seconds * rate), details)
        sounds = [heard(melody(samples, rate, 100 * seed + index)) for index in range(batch)]
        feeds = processed(extractor, sounds, names)
        expected = reference(model, feeds)
        worst.compare(session.run(feeds)[worst.output], expected, (batch, samples))
        spread.note(expected)
    spread.refuse_alike("sounds")
    return (worst.line(),)


def fitting(samples: int, details: Mapping[str, Any]) -> int:
    """The length that the model takes which is next to the one that is wanted."""
    most = int(details["longest"]) or samples
    return max(int(details["shortest"]), min(samples, most))
