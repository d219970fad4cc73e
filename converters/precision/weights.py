"""A graph's float32 weights, taken out and put back one at a time.

In: an ONNX graph and the folder its external data lies in. Out: the same graph with every constant where a rewrite expects it, and
files on disk. This module must never hold a second copy of more than one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

INLINE_BYTES = 1_800_000_000
"""A protobuf message ends at 2 GiB; past this the weights go to a file beside the graph. The rest is room for the nodes."""


LARGE = 1024
"""Elements from which a constant is a weight and not a number of some formula."""


def read_graph(path: Path) -> Any:
    """The model without its large external weights, its local functions unfolded, each float constant an initializer.

    Exporters write a constant in four ways; the rewrites below know one.
    """
    model = onnx.load(str(path), load_external_data=False)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.external_data and size_of(tensor) < LARGE:
            tensor.CopyFrom(numpy_helper.from_array(array_of(tensor, path.parent), tensor.name))
    kept = []
    for index, node in enumerate(graph.node):
        if not node.name:
            node.name = f"{node.op_type}.{index}"
        tensor = _constant(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _constant(node: Any) -> Any:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    attribute = node.attribute[0]
    if attribute.name in ("value_float", "value_floats"):
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return numpy_helper.from_array(numpy.array(value, numpy.float32))
    if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
        return onnx.TensorProto.FromString(attribute.t.SerializeToString())
    return None


def branches(node: Any) -> Iterator[Any]:
    """The graphs inside a node: the bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def inputs_within(node: Any) -> Iterator[str]:
    """Names a node uses, those of its branches included."""
    yield from node.input
    for inner in branches(node):
        for nested in inner.node:
            yield from inputs_within(nested)
        yield from (value.name for value in inner.output)


def array_of(tensor: Any, folder: Path) -> Any:
    """The tensor's values, read from `folder` when they lie outside the graph."""
    return numpy_helper.to_array(tensor, base_dir=str(folder))


def size_of(tensor: Any) -> int:
    """Elements."""
    return int(numpy.prod(tensor.dims, dtype=numpy.int64))


def raw_tensor(name: str, dtype: int, dims: Iterable[int], raw: bytes) -> Any:
    return helper.make_tensor(name, dtype, list(dims), raw, raw=True)


class WeightWriter:
    """Puts tensors into a graph, or into the file beside it when they are many.

    total: bytes of all that will come. location: the file's name in `folder`. Nothing is written there when the graph has room.
    """

    def __init__(self, folder: Path, location: str, total: int) -> None:
        self._path = folder / location if total > INLINE_BYTES else None
        self._offset = 0
        if self._path is not None:
            self._path.write_bytes(b"")

    def tensor(self, name: str, dtype: int, dims: Iterable[int], raw: bytes) -> Any:
        if self._path is None or len(raw) < 1024:
            return raw_tensor(name, dtype, dims, raw)
        tensor = TensorProto(name=name, data_type=dtype, dims=list(dims), data_location=TensorProto.EXTERNAL)
        with self._path.open("ab") as stream:
            # ONNX Runtime maps the file, which the system does in pages.
            stream.write(bytes(padding := -self._offset % 4096))
            stream.write(raw)
        start = self._offset + padding
        for key, value in (("location", self._path.name), ("offset", start), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        self._offset = start + len(raw)
        return tensor


def save_graph(model: Any, path: Path) -> None:
    """Write the graph as it stands; whoever runs Triton must be able to read it and the file with its weights."""
    path.write_bytes(model.SerializeToString())
    path.chmod(0o644)
    beside = path.with_name(path.name + "_data")
    if beside.exists():
        beside.chmod(0o644)
