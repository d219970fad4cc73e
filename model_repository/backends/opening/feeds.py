"""What a graph is fed of all that a processor makes.

In: the entry's list of a graph's inputs, a processor's tensors. Out: arrays of the graph's dtypes by name. This module must never
choose a dtype that the entry does not state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

import numpy as np

from opening.entry import EntryUnusable

Feeds = dict[str, np.ndarray]

DTYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {
        "BOOL": np.bool_,
        "UINT8": np.uint8,
        "INT8": np.int8,
        "INT32": np.int32,
        "INT64": np.int64,
        "FP16": np.float16,
        "FP32": np.float32,
        "FP64": np.float64,
    }
)
"""Triton's names. BF16 is not among them: numpy has no such numbers."""


class Inputs:
    """A graph's inputs. listed: as in the entry's details; others: those of them that are fed by somebody else."""

    def __init__(self, listed: Iterable[Mapping[str, Any]], others: AbstractSet[str] = frozenset()) -> None:
        """Raises EntryUnusable for a dtype that numpy lacks."""
        self._dtypes = {str(tensor["name"]): check_dtype(tensor) for tensor in listed if tensor["name"] not in others}

    def of(self, made: Mapping[str, Any]) -> Feeds:
        """Raises EntryUnusable when the processor does not give what the graph needs."""
        if missing := sorted(set(self._dtypes) - set(made)):
            raise EntryUnusable(f"the processor gives {sorted(made)}, the graph also needs {missing}")
        return {name: np.ascontiguousarray(made[name], dtype) for name, dtype in self._dtypes.items()}


def check_dtype(tensor: Mapping[str, Any]) -> type[np.generic]:
    """The dtype of a tensor as the entry states it. Raises EntryUnusable for one that numpy lacks."""
    if tensor["dtype"] not in DTYPES:
        raise EntryUnusable(f"entry.json: dtype of {tensor['name']!r} must be one of {sorted(DTYPES)}, found {tensor['dtype']!r}")
    return DTYPES[tensor["dtype"]]
