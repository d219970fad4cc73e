"""What flows through a graph: values of inner tensors at several sizes, so that a rewrite rests on what was seen.

In: a decoder's graph with past keys and values. Out: arrays by name. This module must never change the graph's file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime

from converters.errors import ConversionFailed
from converters.export.view import View, needed

_DTYPES = {onnx.TensorProto.FLOAT: numpy.float32, onnx.TensorProto.FLOAT16: numpy.float16}


@dataclass(frozen=True)
class Size:
    """batch rows of `new` tokens after `past` ones."""

    batch: int
    new: int
    past: int


@dataclass(frozen=True)
class Look:
    """What was seen at one size: arrays by the names of the graph's tensors."""

    size: Size
    seen: Mapping[str, Any]


_SIZES = (Size(2, 7, 0), Size(3, 5, 11), Size(2, 1, 29))
"""Numbers that are all different, so that one cannot be taken for another."""


def look(path: Path, model: Any, names: Sequence[str], context: int, vocabulary: int) -> list[Look]:
    """Run the graph at several sizes, the longest within `context` tokens. names: inner tensors, or outputs.

    path: the graph's file. model: the same without its weights. Raises ConversionFailed when it cannot be run.
    """
    watched, chances = Watched(path, model, names), numpy.random.default_rng(0)
    sizes = [size for size in _SIZES if size.new + size.past <= context] or [Size(2, 1, context - 1)]
    return [Look(size, watched.run(feeds(model.graph, size, vocabulary, chances), names)) for size in sizes]


def feeds(graph: Any, size: Size, vocabulary: int, chances: numpy.random.Generator) -> dict[str, Any]:
    """Random tokens at their places after random keys and values, nothing padded: what the graph's inputs take, by name."""
    read, whole = (size.batch, size.new), size.past + size.new
    positions = numpy.broadcast_to(numpy.arange(size.past, whole), read).copy()
    known: dict[str, Any] = {
        "input_ids": chances.integers(0, vocabulary, size=read, dtype=numpy.int64),
        "attention_mask": numpy.ones((size.batch, whole), numpy.int64),
        "position_ids": positions.astype(numpy.int64),
    }
    given = {}
    for value in graph.input:
        if value.name in known:
            given[value.name] = known[value.name]
            continue
        kind = value.type.tensor_type
        heads, width = kind.shape.dim[1].dim_value, kind.shape.dim[3].dim_value
        dtype = _DTYPES[kind.elem_type]
        given[value.name] = (
            chances.standard_normal((size.batch, heads, size.past, width), numpy.float32).astype(dtype)
            if math.prod((size.batch, heads, size.past, width)) < 1 << 24
            else numpy.zeros((size.batch, heads, size.past, width), dtype)
        )
    return given


class Watched:
    """The graph at `path` on ONNX Runtime as it is, with inner tensors as further outputs."""

    def __init__(self, path: Path, model: Any, names: Sequence[str]) -> None:
        """model: the graph without its weights. A copy of it stands beside `path` while it is opened."""
        watched = onnx.ModelProto.FromString(model.SerializeToString())
        known = {value.name for value in watched.graph.output}
        for name in names:
            if name not in known:
                watched.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        self._session = _open(path, watched)

    def run(self, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        return dict(zip(names, _run(self._session, names, given), strict=True))


def run_part(path: Path, model: Any, outputs: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    """Values of `outputs` from the nodes between them and `given`, whose names may be inner tensors."""
    view = View(model)
    nodes = needed(view, outputs, given)
    read = {name for node in nodes for name in node.input}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read - given.keys())
    part.graph.input.extend(value for value in model.graph.input if value.name in read)
    for name in given.keys() - {value.name for value in model.graph.input}:
        kind = onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * given[name].ndim))
    part.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    session = _open(path, part)
    return _run(session, outputs, given)


def _open(path: Path, model: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    beside = path.with_name(f"{path.stem}.watched.onnx")  # weights in files are named relative to the graph's own
    try:
        beside.write_bytes(model.SerializeToString())
        return onnxruntime.InferenceSession(str(beside), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors have no class in common.
    except Exception as error:
        raise ConversionFailed(f"a part of the graph cannot be opened: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _run(session: onnxruntime.InferenceSession, names: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    taken = {value.name for value in session.get_inputs()}
    try:
        found: list[Any] = session.run(list(names), {name: array for name, array in given.items() if name in taken})
    except Exception as error:  # as above
        raise ConversionFailed(f"a part of the graph cannot be run: {error}") from error
    return found
