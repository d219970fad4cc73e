"""A graph whose cache is one buffer, run as the serving engine runs it.

In: the graph's file, an entry's details, rows and a length. Out: logits, or ParityFailed. This module must never change a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

from converters.errors import ParityFailed
from converters.parity.session import CACHE_DTYPES, opened
from converters.tasks.generation import KEPT, LENGTHS, TOTAL


class SharedSession:
    """Rows of tokens of lengths of their own, each up to `length`."""

    def __init__(self, path: Path, details: Mapping[str, Any], rows: int, length: int) -> None:
        self._session = opened(path)
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        tensors = {tensor["name"]: tensor for tensor in details["graph_inputs"]}
        self._buffers = {
            (layer[f"past_{kind}"], layer[f"present_{kind}"]): numpy.zeros(
                (rows, tensors[layer[f"past_{kind}"]]["axes"][1], length, tensors[layer[f"past_{kind}"]]["axes"][3]),
                CACHE_DTYPES[tensors[layer[f"past_{kind}"]]["dtype"]],
            )
            for layer in details["layers"]
            for kind in ("key", "value")
        }
        self._lengths = [0] * rows

    def forget(self) -> None:
        """All rows are empty again."""
        self._lengths = [0] * len(self._lengths)

    def read(self, begin: int, tokens: Sequence[Sequence[int]]) -> Any:
        """Read as many tokens into each row from `begin` on; the logits of each: [rows, tokens, vocabulary]."""
        ids = numpy.array(tokens, numpy.int64)
        count, new = ids.shape
        before = numpy.array(self._lengths[begin : begin + count], numpy.int64)
        fed = {
            "input_ids": ids,
            "position_ids": before[:, None] + numpy.arange(new, dtype=numpy.int64),
            LENGTHS: (before + new - 1).astype(numpy.int32),
            TOTAL: numpy.array([before.max() + new], numpy.int32),
            KEPT: numpy.array([new], numpy.int64),
        }
        binding = self._session.io_binding()
        for name in self._inputs & fed.keys():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(fed[name]))
        for (past, present), buffer in self._buffers.items():
            rows = buffer[begin : begin + count]
            where = ("cpu", 0, buffer.dtype.type, rows.shape, rows.ctypes.data)
            binding.bind_input(past, *where)
            binding.bind_output(present, *where)
        binding.bind_output("logits", "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as above
            raise ParityFailed(f"ONNX Runtime cannot run the graph with {count} rows of {new} tokens: {error}") from error
        for row in range(begin, begin + count):
            self._lengths[row] += new
        return binding.get_outputs()[-1].numpy()
