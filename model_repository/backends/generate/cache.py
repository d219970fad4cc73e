"""The key-value cache before its first token.

In: shapes and dtypes as `entry.json` names them. Out: empty values for ONNX Runtime. This module must never convert a cache:
it goes from one step to the next as the graph made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from opening.entry import EntryUnusable

DTYPES: dict[str, np.dtype] = {"FP32": np.dtype(np.float32), "FP16": np.dtype(np.float16)}
_BF16 = 16
"""ONNX's number of the dtype, which numpy does not have."""


def empty(shape: Sequence[int], dtype: str) -> onnxruntime.OrtValue:
    """A cache tensor of `shape`, one of whose axes is 0. Raises EntryUnusable for a dtype that no cache has."""
    if 0 not in shape:
        raise ValueError(f"an empty cache has an axis of length 0, found {list(shape)}")
    if dtype == "BF16":
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), _BF16)
    if dtype not in DTYPES:
        raise EntryUnusable(f"entry.json: the dtype of a cache must be one of {[*DTYPES, 'BF16']}, found {dtype!r}")
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, DTYPES[dtype]))


def empty_cache(graph_inputs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, onnxruntime.OrtValue]:
    """The tensors of `names`, of one call and no token.

    graph_inputs: as in the entry's details; the axes of a cache are batch, heads, tokens, size.
    """
    inputs = {tensor["name"]: tensor for tensor in graph_inputs}
    return {
        name: empty((1, int(inputs[name]["axes"][1]), 0, int(inputs[name]["axes"][3])), str(inputs[name]["dtype"]))
        for name in names
    }
