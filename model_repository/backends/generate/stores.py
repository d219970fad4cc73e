"""Memory for keys and values, of this process or of a GPU, and copies within it.

In: a cache's tensors, rows and lengths. Out: memory that a graph may be bound to. This module must never know of a call, or bring a
GPU's keys and values to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime

from generate.cache import HOST, Kind, Place
from generate.copying import CLEARED, COPIED, HELD, KEPT, SHAPE, WORD, WORD_BYTES, clearing_graph, copying_graph


@dataclass(frozen=True)
class CacheTensor:
    """One layer's keys or values: [rows, heads, length, size], under one name before a step and another after it."""

    past: str
    present: str
    heads: int
    size: int
    kind: Kind

    @property
    def token_bytes(self) -> int:
        return self.heads * self.size * self.kind.words.itemsize

    def shape(self, rows: int, length: int) -> tuple[int, int, int, int]:
        return rows, self.heads, length, self.size


@dataclass(frozen=True)
class Held:
    """One tensor's memory: whole rows, one behind the other. owner: it lives as long as this."""

    tensor: CacheTensor
    length: int
    address: int
    owner: Any

    def row(self, index: int) -> int:
        """Address of a row's first byte."""
        return self.address + index * self.length * self.tensor.token_bytes


class Store(Protocol):
    """Whose memory. place: as a binding names it."""

    place: Place

    def make(self, tensors: Sequence[CacheTensor], rows: int, length: int) -> list[Held]:
        """Memory for all of them. Raises MemoryError for want of it, and then none is taken."""

    def copy(self, source: Held, target: Held, kept: Sequence[int]) -> None:
        """The first rows of a tensor into other memory of it. kept: tokens of each row, from the first; what follows may change."""

    def move(self, held: Held, source: int, target: int, tokens: int) -> None:
        """The first tokens of one row over another; what follows may change."""


class HostStore:
    """This process' own. Pages are taken as they are written: while one buffer replaces another, no two layers are there twice."""

    place = HOST

    def make(self, tensors: Sequence[CacheTensor], rows: int, length: int) -> list[Held]:
        arrays = [np.empty(tensor.shape(rows, length), tensor.kind.words) for tensor in tensors]
        return [Held(tensor, length, array.ctypes.data, array) for tensor, array in zip(tensors, arrays, strict=True)]

    def copy(self, source: Held, target: Held, kept: Sequence[int]) -> None:
        for row, tokens in enumerate(kept):
            target.owner[row, :, :tokens] = source.owner[row, :, :tokens]

    def move(self, held: Held, source: int, target: int, tokens: int) -> None:
        held.owner[target, :, :tokens] = held.owner[source, :, :tokens]


class DeviceStore:
    """A GPU's, through ONNX Runtime alone: two graphs of one node or two run where the memory is, and nothing passes the host.

    With a place of "cpu" the same code runs on this process' memory, which is how it is tested.
    """

    def __init__(self, place: Place, providers: Sequence[str | tuple[str, Mapping[str, str]]]) -> None:
        """providers: of the place, as a session takes them."""
        self.place = place
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self._clearing, self._copying = (
            onnxruntime.InferenceSession(graph, options, providers=list(providers)) for graph in (clearing_graph(), copying_graph())
        )
        self._giving_back = onnxruntime.RunOptions()
        arena = f"{'cpu' if place == HOST else 'gpu'}:{place.number}"
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)

    def make(self, tensors: Sequence[CacheTensor], rows: int, length: int) -> list[Held]:
        return [self._cleared(tensor, rows, length) for tensor in tensors]

    def copy(self, source: Held, target: Held, kept: Sequence[int]) -> None:
        if tokens := max(kept):
            self._copy(source, 0, target, 0, len(kept), tokens)

    def move(self, held: Held, source: int, target: int, tokens: int) -> None:
        self._copy(held, source, held, target, 1, tokens)

    def _cleared(self, tensor: CacheTensor, rows: int, length: int) -> Held:
        binding = self._clearing.io_binding()
        binding.bind_cpu_input(SHAPE, np.array(_words(tensor, rows, length), np.int64))
        binding.bind_output(CLEARED, self.place.device, self.place.number)
        try:
            self._clearing.run_with_iobinding(binding, self._giving_back)
        except Exception as error:  # ONNX Runtime's own are bare Exceptions
            raise MemoryError(f"{rows} rows of {length} tokens on {self.place.device} {self.place.number}") from error
        (made,) = binding.get_outputs()
        return Held(tensor, length, made.data_ptr(), made)

    def _copy(self, source: Held, begin: int, target: Held, to: int, rows: int, tokens: int) -> None:
        tensor, binding = source.tensor, self._copying.io_binding()
        binding.bind_cpu_input(KEPT, np.array([tokens], np.int64))
        binding.bind_cpu_input(SHAPE, np.array(_words(tensor, rows, target.length - tokens), np.int64))
        where = self.place.device, self.place.number, WORD
        binding.bind_input(HELD, *where, _words(tensor, rows, source.length), source.row(begin))
        binding.bind_output(COPIED, *where, _words(tensor, rows, target.length), target.row(to))
        self._copying.run_with_iobinding(binding)


def _words(tensor: CacheTensor, rows: int, length: int) -> tuple[int, int, int, int]:
    """The tensor's shape in words of 32 bits."""
    words, odd = divmod(tensor.size * tensor.kind.words.itemsize, WORD_BYTES)
    if odd:
        raise ValueError(f"{tensor.past}: expected a head's values to fill words of {WORD_BYTES} bytes, found {tensor.size} values")
    return rows, tensor.heads, length, words


def store_of(place: Place) -> Store:
    """The memory of a place. Blocks are taken from a GPU as large as they are asked for, and given back when the next are taken."""
    if place == HOST:
        return HostStore()
    options = {"device_id": str(place.number), "arena_extend_strategy": "kSameAsRequested"}
    return DeviceStore(place, [("CUDAExecutionProvider", options), "CPUExecutionProvider"])
