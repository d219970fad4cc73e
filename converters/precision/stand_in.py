"""A graph that computes on any processor what a half-precision graph computes on a GPU, rounded where that one rounds.

In: the file of an fp16 or bf16 graph. Out: another file with float32 inputs, outputs and cache. This module must never be served:
it is for comparing alone.

ONNX Runtime's CPU provider has no bf16 arithmetic, and its fp16 is float32 that is not rounded between the nodes: 200 * 1000 / 1000
gives 200 there and infinity on a GPU. So a comparison on the half graph itself would miss the very failure that fp16 is known for.
Here each node computes in float32, as tensor cores add up, and its result is rounded by a cast there and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from converters.precision.cast import HALVES
from converters.precision.weights import LARGE, branches, save_graph, size_of

_MOVES = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
        "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""What only moves values: nothing to round."""


def stand_in(half: Path, target: Path) -> None:
    """Write the stand-in of the graph at `half` as `target`, in the same folder: it uses the same file of weights.

    half: a graph that `cast` made.
    """
    if target.parent != half.parent:
        raise ValueError(f"a stand-in shares its graph's weights: expected a file in {half.parent}, found {target}")
    model = onnx.load(str(half), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=False)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    _collect(inferred.graph, types)
    _widen(model.graph, types)
    del model.graph.value_info[:]
    save_graph(model, target)


def _collect(graph: Any, types: dict[str, int]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        for inner in branches(node):
            _collect(inner, types)


def _widen(graph: Any, types: Mapping[str, int]) -> None:
    nodes: list[Any] = []
    kept = []
    for tensor in graph.initializer:
        if tensor.data_type not in HALVES:
            kept.append(tensor)
        elif size_of(tensor) < LARGE and not tensor.external_data:
            wide = numpy_helper.to_array(tensor).astype("float32")
            kept.append(numpy_helper.from_array(wide, tensor.name))
        else:
            # Left as it lies in its file; ONNX Runtime widens it as it loads.
            nodes.append(helper.make_node("Cast", [_narrow(tensor.name)], [tensor.name], to=TensorProto.FLOAT))
            tensor.name = _narrow(tensor.name)
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        nodes += _rounded(node, types)
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded(node: Any, types: Mapping[str, int]) -> list[Any]:
    """The node in float32, and after it a cast there and back for each result that the half graph rounds."""
    for attribute in node.attribute:
        if attribute.HasField("t") and attribute.t.data_type in HALVES:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32"), attribute.t.name))
        if attribute.name == "dtype" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
    for inner in branches(node):
        _widen(inner, types)
    made = [node]
    for index, name in enumerate(node.output):
        half = types.get(name, TensorProto.UNDEFINED)
        if half not in HALVES or node.op_type in _MOVES:
            continue
        exact, rounded = name + ".unrounded", name + ".rounded"
        if node.op_type == "Cast":
            rounded = name + ".rounded"
            node.output[index] = rounded  # its `to` is the half dtype already
        else:
            node.output[index] = exact
            made.append(helper.make_node("Cast", [exact], [rounded], to=half))
        made.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    return made


def _narrow(name: str) -> str:
    return name + ".narrow"
