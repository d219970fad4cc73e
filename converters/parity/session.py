"""A graph on ONNX Runtime, fed by name.

In: the graph's file and arrays. Out: its outputs by name, or ParityFailed. This module must never change a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

from converters.errors import ParityFailed

CACHE_DTYPES = {"FP32": numpy.float32, "FP16": numpy.float16}
"""Of keys and values, by an entry's `precision`. numpy has no bfloat16, and ONNX Runtime's CPU provider no arithmetic for it."""


def opened(path: Path) -> onnxruntime.InferenceSession:
    """The graph on ONNX Runtime's CPU provider. Raises ParityFailed with its reason."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors have no class in common.
    except Exception as error:
        raise ParityFailed(f"ONNX Runtime cannot load the graph: {error}") from error


class Session:
    """The graph on ONNX Runtime, fed by name."""

    def __init__(self, path: Path) -> None:
        self._session = opened(path)
        self._inputs = {tensor.name: tensor.type for tensor in self._session.get_inputs()}
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = {
            # The cache of a graph in half precision; callers keep caches in float32.
            name: value.astype(numpy.float16) if self._inputs[name] == "tensor(float16)" else value
            for name, value in feeds.items()
            if name in self._inputs
        }
        try:
            return dict(zip(self._outputs, self._session.run(None, given), strict=True))
        # A size that was fixed by tracing shows here, as a Reshape that does not fit.
        except Exception as error:
            sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())
            raise ParityFailed(f"ONNX Runtime cannot run the graph with {sizes}: {error}") from error
