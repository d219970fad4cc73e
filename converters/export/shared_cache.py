"""A decoder's graph rewritten so that keys and values stay in one buffer: each step writes its own, and copies nothing.

In: a graph whose cache grows by a copy at each step, and where it attends. Out: another graph. This module must never rewrite what
`attention` has not proved, or change what the graph computes.

The new graph's attention is ONNX Runtime's GroupQueryAttention, whose rows have lengths of their own, so that calls of any length
share a step. What it takes and gives is written down in `tasks/generation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from converters.export.attention import Attention, CannotShare, attention_of, measured, seen_from_afar, watched
from converters.export.graphs import Graph
from converters.export.observe import look
from converters.export.plain_shapes import moving, plain_shapes
from converters.export.plain_values import fix, from_shapes, plain_values
from converters.export.view import View, needed, replace_nodes
from converters.tasks.generation import KEPT, LENGTHS, TOTAL

BUFFER_AXIS = "buffer_length"
_DOMAIN = "com.microsoft"


def is_shared(graph: Graph) -> bool:
    return any(tensor["name"] == LENGTHS for tensor in graph.inputs)


def share_cache(source: Path, target: Path, layers: Sequence[Mapping[str, str]], context: int, vocabulary: int) -> None:
    """Write the graph at `source` as `target`, in the same folder: weights in files beside it serve both.

    layers: as in an entry's details. context: tokens that one row may have. Raises CannotShare with what stood in the way.
    """
    model = onnx.load(str(source), load_external_data=False)
    view = View(model)
    suggested, reshapes, shaped = attention_of(view, layers), moving(view), from_shapes(view)
    names = {*watched(suggested), *(layer["present_key"] for layer in layers), *(name for node in reshapes for name in node.input)}
    looks = look(source, model, sorted({*names, *shaped}), context, vocabulary)
    sizes, values = plain_shapes(reshapes, looks), plain_values(shaped, looks)
    attention = seen_from_afar(source, model, measured(suggested, looks, layers), layers, context, vocabulary)
    del looks
    nodes = list(model.graph.node)
    _attend(model, nodes, attention, layers)
    _keep_last(model, nodes)
    fix(model, nodes, values)
    for node in nodes:
        if node.op_type == "Reshape" and node.output[0] in sizes:
            node.input[1] = _shape_of(model, nodes, sizes[node.output[0]])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    replace_nodes(model, needed(View(model), [value.name for value in model.graph.output]))
    _check(model, layers)
    model.ir_version = min(model.ir_version, 10)
    target.write_bytes(model.SerializeToString())


def _attend(model: Any, nodes: list[Any], attention: Sequence[Attention], layers: Sequence[Mapping[str, str]]) -> None:
    graph = model.graph
    for value in graph.input:
        if value.name in {layer[kind] for layer in layers for kind in ("past_key", "past_value")}:
            value.type.tensor_type.shape.dim[2].dim_param = BUFFER_AXIS
    for value in graph.output:
        if value.name in {layer[kind] for layer in layers for kind in ("present_key", "present_value")}:
            value.type.tensor_type.shape.dim[2].dim_param = BUFFER_AXIS
    graph.input.append(helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["batch_size"]))
    graph.input.append(helper.make_tensor_value_info(TOTAL, TensorProto.INT32, [1]))
    if not any(opset.domain == _DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    makers = {name: node for node in nodes for name in node.output}
    for number, (one, layer) in enumerate(zip(attention, layers, strict=True)):
        past = next(value for value in graph.input if value.name == layer["past_key"]).type.tensor_type
        key_heads, width = past.shape.dim[1].dim_value, past.shape.dim[3].dim_value
        for name in (layer["present_key"], layer["present_value"], one.result):
            nodes.remove(makers[name])
        at = f"shared_cache.{number}"
        flat = [
            _flat(model, nodes, name, f"{at}.{role}", heads * width)
            for role, name, heads in (
                ("query", one.query, one.query_heads),
                ("key", one.new_key, key_heads),
                ("value", one.new_value, key_heads),
            )
        ]
        cache = [layer["past_key"], layer["past_value"], LENGTHS, TOTAL]
        made = [f"{at}.attended", layer["present_key"], layer["present_value"]]
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*flat, *cache],
                made,
                name=at,
                domain=_DOMAIN,
                num_heads=one.query_heads,
                kv_num_heads=key_heads,
                scale=one.scale,
                local_window_size=one.window or -1,
            )
        )
        heads = _constant(model, f"{at}.heads", [0, 0, one.query_heads, width])
        nodes.append(helper.make_node("Reshape", [made[0], heads], [f"{at}.divided"], name=f"{at}.divided"))
        nodes.append(helper.make_node("Transpose", [f"{at}.divided"], [one.result], name=f"{at}.result", perm=[0, 2, 1, 3]))


def _flat(model: Any, nodes: list[Any], name: str, at: str, width: int) -> str:
    """[batch, heads, new, size] -> [batch, new, heads * size]."""
    nodes.append(helper.make_node("Transpose", [name], [f"{at}.turned"], name=f"{at}.turned", perm=[0, 2, 1, 3]))
    shape = _constant(model, f"{at}.shape", [0, 0, width])
    nodes.append(helper.make_node("Reshape", [f"{at}.turned", shape], [f"{at}.flat"], name=f"{at}.flat"))
    return f"{at}.flat"


def _keep_last(model: Any, nodes: list[Any]) -> None:
    """Cut what goes into the last product with a weight to the last tokens: that product is the widest of all."""
    weights = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node for node in nodes for name in node.output}
    name = "logits"
    while True:
        node = makers[name]
        if node.op_type in ("MatMul", "MatMulNBits") and _is_weight(node.input[1], weights, makers):
            break
        if node.op_type not in _PER_TOKEN:
            raise CannotShare(f"{node.name}: expected logits from a product with a weight, found {node.op_type}")
        name = next((read for read in node.input if not _is_weight(read, weights, makers)), node.input[0])
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info(KEPT, TensorProto.INT64, [1]))
    begin, end = "logits_to_keep.begin", _constant(model, "logits_to_keep.end", [(1 << 63) - 1])
    nodes.append(helper.make_node("Neg", [KEPT], [begin], name=begin))
    axis = _constant(model, "logits_to_keep.axis", [1])
    nodes.append(helper.make_node("Slice", [node.input[0], begin, end, axis], ["logits_to_keep.last"], name="logits_to_keep"))
    node.input[0] = "logits_to_keep.last"
    next(value for value in graph.output if value.name == "logits").type.tensor_type.shape.dim[1].dim_param = "kept"


_PER_TOKEN = frozenset({"Cast", "Identity", "Add", "Mul", "Div", "Tanh"})
"""What may follow the product: it treats each token alone."""


def _is_weight(name: str, weights: set[str], makers: Mapping[str, Any]) -> bool:
    """A weight, turned or cast, or a constant."""
    while name not in weights:
        node = makers.get(name)
        if node is None or node.op_type not in ("Transpose", "Cast", "Identity", "Constant"):
            return False
        if node.op_type == "Constant":
            return True
        name = node.input[0]
    return True


def _shape_of(model: Any, nodes: list[Any], dims: Sequence[int | str]) -> str:
    """The name of a tensor that holds the shape: a constant, or batch and new tokens with constants after them. One for all."""
    name = "shape." + ".".join(map(str, dims))
    if any(name in node.output for node in nodes) or any(tensor.name == name for tensor in model.graph.initializer):
        return name
    if all(isinstance(dim, int) for dim in dims):
        return _constant(model, name, dims)
    read = "shape.read"
    if not any(read in node.output for node in nodes):
        nodes.append(helper.make_node("Shape", ["input_ids"], [read], name=read))
    rest = _constant(model, f"{name}.rest", dims[2:])
    nodes.append(helper.make_node("Concat", [read, rest], [name], name=name, axis=0))
    return name


def _constant(model: Any, name: str, values: Sequence[Any]) -> str:
    if not any(tensor.name == name for tensor in model.graph.initializer):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))
    return name


def _check(model: Any, layers: Sequence[Mapping[str, str]]) -> None:
    """Nothing else may look at the cache's length, or at padding, which there is none of."""
    names = {layer[kind] for layer in layers for kind in ("past_key", "past_value")}
    others = {node.op_type for node in model.graph.node if node.op_type != "GroupQueryAttention" and names & set(node.input)}
    if others:
        raise CannotShare(f"expected attention alone to read the cache, found {sorted(others)}")
    if any(value.name == "attention_mask" for value in model.graph.input):
        raise CannotShare("expected attention alone to read attention_mask, found that the graph still does")
