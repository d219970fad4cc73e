"""Keys and values: their dtypes, the place where they lie, and what they are before the first token.

In: shapes and dtypes as `entry.json` names them, an opened graph. Out: empty values, and runs whose caches stay where the graph
computes. This module must never convert a cache: it goes from one step to the next as the graph made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from opening.entry import EntryUnusable


@dataclass(frozen=True)
class Kind:
    """A dtype. number: ONNX's. words: numpy's of the same width; it has no bfloat16, and we only move those."""

    number: int
    words: np.dtype


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "FP32": Kind(1, np.dtype(np.float32)),
        "FP16": Kind(10, np.dtype(np.float16)),
        "BF16": Kind(16, np.dtype(np.uint16)),
    }
)


@dataclass(frozen=True)
class Place:
    """Whose memory. device: as ONNX Runtime names it. number: of several alike."""

    device: str = "cpu"
    number: int = 0


HOST = Place()
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}


def place_of(session: onnxruntime.InferenceSession) -> Place:
    """Where the session's preferred provider computes."""
    first = session.get_providers()[0]
    if first not in _DEVICES:
        return HOST
    return Place(_DEVICES[first], int(session.get_provider_options()[first].get("device_id", 0)))


def kind_of(tensor: Mapping[str, Any]) -> Kind:
    """Raises EntryUnusable for a dtype that no cache has."""
    if tensor["dtype"] not in KINDS:
        raise EntryUnusable(f"entry.json: the dtype of a cache must be one of {sorted(KINDS)}, found {tensor['dtype']!r}")
    return KINDS[tensor["dtype"]]


def empty_cache(
    graph_inputs: Sequence[Mapping[str, Any]], names: Sequence[str], place: Place = HOST
) -> dict[str, onnxruntime.OrtValue]:
    """The tensors of `names`, of one call and no token.

    graph_inputs: as in the entry's details; the axes of a cache are batch, heads, tokens, size.
    """
    inputs = {tensor["name"]: tensor for tensor in graph_inputs}
    return {
        name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            [1, int(inputs[name]["axes"][1]), 0, int(inputs[name]["axes"][3])],
            kind_of(inputs[name]).number,
            place.device,
            place.number,
        )
        for name in names
    }


def run(
    session: onnxruntime.InferenceSession,
    place: Place,
    feeds: Mapping[str, onnxruntime.OrtValue],
    read: Sequence[str],
    kept: Sequence[str],
) -> tuple[list[np.ndarray], list[onnxruntime.OrtValue]]:
    """Run the graph. place: the session's. read: outputs that come to the host. kept: those that stay where they were computed.

    `run_with_ort_values` would bring every output of a GPU to the host, and the next step back.
    """
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, value)
    for name in read:
        binding.bind_output(name, HOST.device)
    for name in kept:
        binding.bind_output(name, place.device, place.number)
    session.run_with_iobinding(binding)
    made = binding.get_outputs()
    return [value.numpy() for value in made[: len(read)]], made[len(read) :]
