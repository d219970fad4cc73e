"""Weights that several graphs of one model have in common, kept once.

In: graphs as an exporter wrote them. Out: the same graphs, whose equal weights lie at one place. This module must never change a
value.

An encoder and a decoder look up the same embedding, and most models multiply with it once more, turned over, for their logits. The
exporter writes all three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = "weights.onnx_data"
_WORTH_BYTES = 16 << 10
_PAGE = 4096
"""ONNX Runtime maps the file, which the system does in pages."""


@dataclass
class _Graph:
    path: Path
    model: Any
    large: dict[str, Any] = field(default_factory=dict)
    """Initializers by name: those that may be kept elsewhere."""


def share(paths: Sequence[Path], into: Path) -> None:
    """Write each graph into the folder `into` under its own name.

    What more than one of them has, and what an exporter put beside a graph, goes to `weights.onnx_data` in `into`; equal weights of
    one graph become one, and a matrix that is an embedding turned over is turned over when the graph is loaded. Reads one tensor at
    a time. Again: replaces the files.
    """
    graphs = [_read(path) for path in paths]
    digests = {(graph.path, name): _digest(_array(graph, tensor)) for graph in graphs for name, tensor in graph.large.items()}
    for graph in graphs:
        _merge(graph, digests)
        _turn_embeddings(graph, digests)
    uses: dict[str, int] = {}
    for graph in graphs:
        for name in graph.large:
            uses[digests[graph.path, name]] = uses.get(digests[graph.path, name], 0) + 1
    target = into / WEIGHTS
    target.unlink(missing_ok=True)
    places: dict[str, tuple[int, int]] = {}
    for graph in graphs:
        for name, tensor in graph.large.items():
            digest = digests[graph.path, name]
            if uses[digest] > 1 or tensor.data_location == TensorProto.EXTERNAL:
                if digest not in places:
                    places[digest] = _append(target, _array(graph, tensor).tobytes())
                _point(tensor, *places[digest])
        (into / graph.path.name).write_bytes(graph.model.SerializeToString())
        # Whoever runs Triton must be able to read what the exporter wrote for its owner alone.
        (into / graph.path.name).chmod(0o644)
    if places:
        target.chmod(0o644)


def _read(path: Path) -> _Graph:
    graph = _Graph(path, onnx.load(str(path), load_external_data=False))
    for tensor in graph.model.graph.initializer:
        size = int(numpy.prod(tensor.dims, dtype=numpy.int64)) * 4
        if tensor.data_type == TensorProto.FLOAT and (size >= _WORTH_BYTES or tensor.data_location == TensorProto.EXTERNAL):
            graph.large[tensor.name] = tensor
        elif tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(_array(graph, tensor), tensor.name))
    return graph


def _array(graph: _Graph, tensor: Any) -> Any:
    return numpy_helper.to_array(tensor, base_dir=str(graph.path.parent))


def _digest(array: Any) -> str:
    hashed = hashlib.sha256(repr(array.shape).encode())
    hashed.update(numpy.ascontiguousarray(array))
    return hashed.hexdigest()


def _merge(graph: _Graph, digests: dict[tuple[Path, str], str]) -> None:
    """Of equal weights of one graph the first stays."""
    first: dict[str, str] = {}
    instead = {name: kept for name in graph.large if (kept := first.setdefault(digests[graph.path, name], name)) != name}
    for node in graph.model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    for name in instead:
        _drop(graph, name)


def _turn_embeddings(graph: _Graph, digests: dict[tuple[Path, str], str]) -> None:
    looked_up = {node.input[0] for node in graph.model.graph.node if node.op_type == "Gather"} & set(graph.large)
    for name in sorted(looked_up):
        embedding = graph.large[name]
        shape = tuple(embedding.dims)[::-1]
        same = [other for other, tensor in graph.large.items() if tuple(tensor.dims) == shape and other not in looked_up]
        if len(shape) != 2 or not same:
            continue
        turned = _digest(_array(graph, embedding).T)
        for other in same:
            if digests[graph.path, other] == turned:
                graph.model.graph.node.insert(0, helper.make_node("Transpose", [name], [other], f"{other}.turned", perm=[1, 0]))
                _drop(graph, other)


def _drop(graph: _Graph, name: str) -> None:
    graph.model.graph.initializer.remove(graph.large.pop(name))


def _append(target: Path, raw: bytes) -> tuple[int, int]:
    with target.open("ab") as stream:
        stream.write(bytes(-stream.tell() % _PAGE))
        offset = stream.tell()
        stream.write(raw)
    return offset, len(raw)


def _point(tensor: Any, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
