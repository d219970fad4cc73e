"""Keys and values of several calls in memory that the graph writes in place: a row a call.

In: the cache's tensors, rows and lengths. Out: memory bound to a run of the graph. This module must never know what a row holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from generate.cache import DTYPES
from opening.entry import EntryUnusable


@dataclass(frozen=True)
class CacheTensor:
    """One layer's keys or values: [rows, heads, length, size], under one name before a step and another after it."""

    past: str
    present: str
    heads: int
    size: int
    dtype: np.dtype


def cache_tensors(graph_inputs: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> tuple[CacheTensor, ...]:
    """pairs: names before and after. Raises EntryUnusable for a dtype that this backend does not keep."""
    inputs = {tensor["name"]: tensor for tensor in graph_inputs}
    if unknown := {str(inputs[past]["dtype"]) for past, _ in pairs} - DTYPES.keys():
        raise EntryUnusable(f"entry.json: the dtype of a shared cache must be one of {sorted(DTYPES)}, found {sorted(unknown)}")
    return tuple(
        CacheTensor(past, present, int(inputs[past]["axes"][1]), int(inputs[past]["axes"][3]), DTYPES[inputs[past]["dtype"]])
        for past, present in pairs
    )


class Buffers:
    """rows, length: what there is room for now."""

    def __init__(self, session: onnxruntime.InferenceSession, tensors: Sequence[CacheTensor]) -> None:
        self._session, self._tensors = session, tuple(tensors)
        self.token_bytes = sum(tensor.heads * tensor.size * tensor.dtype.itemsize for tensor in tensors)
        self.rows = self.length = 0
        self._arrays: list[np.ndarray] = []
        self._bound: dict[tuple[int, int], onnxruntime.IOBinding] = {}

    def resize(self, rows: int, length: int, kept: Sequence[int]) -> None:
        """Make room. kept: tokens of each row, from the first, that stay.

        Raises MemoryError and then all is as it was: the rows that are there go on.
        """
        if (rows, length) == (self.rows, self.length):
            return
        if not kept:
            self.free()
        # All are there before the first one is replaced. Their pages are taken as they are written: no two layers are there twice.
        arrays = [np.empty((rows, tensor.heads, length, tensor.size), tensor.dtype) for tensor in self._tensors]
        self._bound.clear()
        for place, array in enumerate(arrays):
            for row, tokens in enumerate(kept):
                array[row, :, :tokens] = self._arrays[place][row, :, :tokens]
            self._arrays[place : place + 1] = [array]
        self.rows, self.length = rows, length

    def free(self) -> None:
        """Give the memory back."""
        self._bound.clear()
        self._arrays.clear()
        self.rows = self.length = 0

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one row over another."""
        for array in self._arrays:
            array[target, :, :tokens] = array[source, :, :tokens]

    def bound(self, begin: int, count: int) -> onnxruntime.IOBinding:
        """A binding whose cache is rows `begin` to `begin + count`; the same one each time until the room changes."""
        if (begin, count) not in self._bound:
            binding = self._session.io_binding()
            for tensor, array in zip(self._tensors, self._arrays, strict=True):
                rows = array[begin : begin + count]
                where = ("cpu", 0, tensor.dtype.type, rows.shape, rows.ctypes.data)
                binding.bind_input(tensor.past, *where)
                binding.bind_output(tensor.present, *where)
            self._bound[begin, count] = binding
        return self._bound[begin, count]
