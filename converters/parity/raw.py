"""Does a graph that is served as it stands give PyTorch's outputs, all of them?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json` and probes, or ParityFailed.
This module must never widen a bound because a model missed it, or leave out an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from converters.errors import ParityFailed
from converters.parity.arrays import numbers
from converters.parity.compare import Worst
from converters.parity.session import Session
from converters.parity.tensors import Size, feeds_of, outputs_of, sizes_of
from converters.probes import Probe

_BATCHES = (1, 2, 3, 1)
_PROBES_BYTES = 220_000
"""Of all probes together, before they are written as text. One is kept whatever its size."""


def check_raw(model: Any, path: Path, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare every output of the graph at `path`: one line for each of floating-point numbers; all others must be equal.

    Raises ParityFailed naming output, difference and bound, and for a model that PyTorch itself cannot run.
    """
    session = Session(path)
    worst: dict[str, Worst] = {}
    with torch.inference_mode():
        for size, feeds, expected in _answered(model, details):
            found = session.run(feeds)
            for name, value in expected.items():
                told = (size.batch, *size.image) if "pixel_values" in feeds else (size.batch, size.length)
                if value.dtype.kind != "f":
                    if not numpy.array_equal(found[name], value):
                        raise ParityFailed(f"ONNX gives another {name!r} than PyTorch, at size {list(told)}")
                    continue
                line = worst.setdefault(name, Worst(name, bound))
                line.compare(found[name].astype(numpy.float32), value.astype(numpy.float32), told)
    return tuple(line.line() for line in worst.values())


def raw_probes(model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """The same tensors, and PyTorch's answers: as many batches as stay small, at least one."""
    probes: list[Probe] = []
    total = 0
    with torch.inference_mode():
        for _, feeds, expected in _answered(model, details):
            inputs, outputs = ([numbers(name, value) for name, value in each.items()] for each in (feeds, expected))
            length = sum(len(tensor.raw) for tensor in (*inputs, *outputs))
            if probes and total + length > _PROBES_BYTES:
                continue
            total += length
            probes.append(Probe(tuple(inputs), tuple(outputs), bound))
    return tuple(probes)


def _answered(model: Any, details: Mapping[str, Any]) -> Iterator[tuple[Size, dict[str, Any], dict[str, Any]]]:
    """Feeds and PyTorch's outputs for each batch, at the first size the model takes. Raises ParityFailed when there is none."""
    chances = numpy.random.default_rng(7)
    names = [str(tensor["name"]) for tensor in details["graph_outputs"]]
    inputs = details["graph_inputs"]
    for turn, batch in enumerate(_BATCHES):
        for size in sizes_of(model, inputs, batch, turn):
            feeds = feeds_of(model, inputs, size, chances)
            expected = outputs_of(model, feeds, names)
            if expected is not None:
                yield size, feeds, expected
                break
        else:
            shapes = {str(tensor["name"]): tensor["axes"] for tensor in inputs}
            raise ParityFailed(f"PyTorch takes no tensors that we can make for {shapes}, batch {batch}")
