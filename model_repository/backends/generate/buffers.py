"""Keys and values of several calls in memory that the graph writes in place: a row a call.

In: the cache's tensors, rows and lengths. Out: memory bound to a run of the graph. This module must never know what a row holds, or
whose memory it is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

from generate.cache import kind_of
from generate.stores import CacheTensor, Held, Store


def cache_tensors(graph_inputs: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> tuple[CacheTensor, ...]:
    """pairs: names before and after. Raises EntryUnusable for a dtype that this backend does not keep."""
    inputs = {tensor["name"]: tensor for tensor in graph_inputs}
    return tuple(
        CacheTensor(past, present, int(inputs[past]["axes"][1]), int(inputs[past]["axes"][3]), kind_of(inputs[past]))
        for past, present in pairs
    )


class Buffers:
    """rows, length: what there is room for now."""

    def __init__(self, session: onnxruntime.InferenceSession, tensors: Sequence[CacheTensor], store: Store) -> None:
        self._session, self._tensors, self._store = session, tuple(tensors), store
        self.token_bytes = sum(tensor.token_bytes for tensor in tensors)
        self.rows = self.length = 0
        self._held: list[Held] = []
        self._bound: dict[tuple[int, int], onnxruntime.IOBinding] = {}

    def resize(self, rows: int, length: int, kept: Sequence[int]) -> None:
        """Make room. kept: tokens of each row, from the first, that stay.

        Raises MemoryError and then all is as it was: the rows that are there go on.
        """
        if (rows, length) == (self.rows, self.length):
            return
        if not kept:
            self.free()
        made = self._store.make(self._tensors, rows, length)  # all are there before the first one is replaced
        self._bound.clear()
        for index, target in enumerate(made):
            if kept:
                self._store.copy(self._held[index], target, kept)
            self._held[index : index + 1] = [target]
        self.rows, self.length = rows, length

    def free(self) -> None:
        """Give the memory back."""
        self._bound.clear()
        self._held.clear()
        self.rows = self.length = 0

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one row over another."""
        for held in self._held:
            self._store.move(held, source, target, tokens)

    def bound(self, begin: int, count: int) -> onnxruntime.IOBinding:
        """A binding whose cache is rows `begin` to `begin + count`; the same one each time until the room changes."""
        if (begin, count) not in self._bound:
            binding, place = self._session.io_binding(), self._store.place
            for held in self._held:
                tensor = held.tensor
                shape = tensor.shape(count, self.length)
                where = place.device, place.number, tensor.kind.number, shape, held.row(begin)
                binding.bind_input(tensor.past, *where)
                binding.bind_output(tensor.present, *where)
            self._bound[begin, count] = binding
        return self._bound[begin, count]
