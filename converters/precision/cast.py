"""From float32 to fp16 or bf16: weights, arithmetic and the key-value cache; what a buyer feeds and gets stays float32.

In: a graph's file. Out: another file. This module must never round a weight beyond the dtype's range in silence.

ONNX Runtime's converter changes the nodes (`onnxruntime.transformers.float16`); for bf16 what it made is renamed, since it knows
one dtype alone. The weights go past it, one at a time, so that a large model needs no memory. What stays float32:

- every input and output but the cache (names that begin with `past` or `present`), so that answers are float32 and a caller needs
  to know nothing;
- squares, powers, means, sums and roots: a value of 256 squared is beyond fp16, and the norms of models trained in half precision
  compute in float32 too;
- arithmetic of positions that ends in a sine, a cosine, a logarithm or an integer: fp16 counts to 2,048, then by twos.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers import float16

from converters.errors import ModelRefused
from converters.precision.weights import LARGE, WeightWriter, array_of, branches, inputs_within, read_graph, save_graph, size_of

logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.WARNING)  # it lists what shares a constant

_KINDS = {"fp16": (TensorProto.FLOAT16, torch.float16), "bf16": (TensorProto.BFLOAT16, torch.bfloat16)}
HALVES = frozenset(kind for kind, _ in _KINDS.values())

_CACHE = ("past", "present")
_WIDE = ("Pow", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Reciprocal", "Sqrt")
_EXACT = frozenset({"Sin", "Cos", "Log"})
_INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})
_MASKS = {"fp16": (1e9, 3e4), "bf16": (1e38, 1e38)}
"""Constants from the first number on stand for "masked" (-3.4e38 is usual) and become the second: two masks added must stay finite
in the dtype, or a row of nothing but padding becomes NaN."""


def is_cache(name: str) -> bool:
    return name.startswith(_CACHE)


def cast(source: Path, target: Path, precision: str, read: Callable[[Any], Any] | None = None) -> None:
    """Write the graph at `source` as `target` in "fp16" or "bf16", with `<target>_data` beside it when it passes protobuf's 2 GB.

    read: gives the float32 values of a large initializer; by default they are read from where the graph says they lie.
    Raises ModelRefused for a weight that the dtype cannot hold.
    """
    kind, torch_kind = _KINDS[precision]
    model = read_graph(source)
    _soften_masks(model.graph, *_MASKS[precision])
    kept_wide = _position_nodes(model.graph)
    weights, small = _take_weights(model.graph), _small_constants(model.graph)
    outside = [value.name for value in (*model.graph.input, *model.graph.output) if not is_cache(value.name)]
    blocked = {*float16.DEFAULT_OP_BLOCK_LIST, *_WIDE, *(_without(kind, model) if kind == TensorProto.BFLOAT16 else ())}
    model = float16.convert_float_to_float16(
        model,
        keep_io_types=[name for name in outside if name not in weights],
        op_block_list=sorted(blocked),
        node_block_list=sorted(kept_wide),
        max_finite_val=_MASKS["fp16"][1],
    )
    _join_wide(model.graph)
    if kind == TensorProto.BFLOAT16:
        _rename(model.graph, small)
    _put_weights(model.graph, weights, read or (lambda tensor: array_of(tensor, source.parent)), target, kind, torch_kind)
    # The types between the nodes are ONNX Runtime's to infer; those from the conversion are partly of the nodes that were removed.
    del model.graph.value_info[:]
    save_graph(model, target)


def _soften_masks(graph: Any, least: float, most: float) -> None:
    """Before the converter sees them: what it leaves in float32 is rounded to the half dtype, and to infinity, further on."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and _is_float(attribute.t):
                attribute.t.CopyFrom(_softened(attribute.t, least, most))
        for inner in branches(node):
            _soften_masks(inner, least, most)
    for tensor in graph.initializer:
        if _is_float(tensor) and size_of(tensor) < LARGE:
            tensor.CopyFrom(_softened(tensor, least, most))


def _softened(tensor: Any, least: float, most: float) -> Any:
    values = array_of(tensor, Path())
    softened = numpy.where(numpy.isfinite(values) & (numpy.abs(values) >= least), numpy.copysign(most, values), values)
    return numpy_helper.from_array(softened.astype(numpy.float32), tensor.name)


def _take_weights(graph: Any) -> dict[str, Any]:
    """Replace each large initializer by an input of its name: the converter then changes types and sees no data."""
    taken = {tensor.name: tensor for tensor in graph.initializer if _is_float(tensor) and size_of(tensor) >= LARGE}
    kept = [tensor for tensor in graph.initializer if tensor.name not in taken]
    named = [value for value in graph.input if value.name not in taken]  # old graphs list initializers among the inputs
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(kept)
    graph.input.extend(named)
    for name, tensor in taken.items():
        graph.input.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.dims)))
    return taken


def _put_weights(
    graph: Any, weights: Mapping[str, Any], read: Callable[[Any], Any], target: Path, kind: int, torch_kind: Any
) -> None:
    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)
    writer = WeightWriter(target.parent, target.name + "_data", 2 * sum(map(size_of, weights.values())))
    limit = torch.finfo(torch_kind).max
    for name, tensor in weights.items():
        wide = torch.from_numpy(read(tensor).copy())
        largest = float(wide.abs().max())
        if math.isfinite(largest) and largest > limit:
            raise ModelRefused(f"weight {name!r}: expected values up to {limit:g}, the largest of the precision; found {largest:g}")
        narrow = wide.to(torch_kind).contiguous().view(torch.int16).numpy()
        graph.initializer.append(writer.tensor(name, kind, tensor.dims, narrow.tobytes()))


def _small_constants(graph: Any) -> dict[str, Any]:
    """Constants before the converter rounds them to fp16's range, which bf16 does not have."""
    return {tensor.name: array_of(tensor, Path()).copy() for tensor in graph.initializer if _is_float(tensor)}


def _is_float(tensor: Any) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT)


def _without(kind: int, model: Any) -> Iterator[str]:
    """Operators of the graph that ONNX does not define for the dtype."""
    opset = next(used.version for used in model.opset_import if used.domain in ("", "ai.onnx"))
    wanted = f"tensor({TensorProto.DataType.Name(kind).lower()})"
    for name in {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}:
        types = onnx.defs.get_schema(name, opset, "").type_constraints
        floats = [rule.allowed_type_strs for rule in types if "tensor(float)" in rule.allowed_type_strs]
        if floats and not all(wanted in allowed for allowed in floats):
            yield name


def _position_nodes(graph: Any) -> set[str]:
    """Names of the nodes that compute with positions: what leads to a sine, a logarithm or an integer and has no weight in it."""
    maker = {output: node for node in graph.node for output in node.output}
    weighty = {tensor.name for tensor in graph.initializer if _is_float(tensor) and size_of(tensor) >= LARGE}
    weighty |= {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    found: set[str] = set()
    for root in graph.node:
        is_exact = root.op_type in _EXACT or (
            root.op_type == "Cast" and next(one.i for one in root.attribute if one.name == "to") in _INTEGERS
        )
        if not is_exact:
            continue
        slice_of, waiting, is_free = {root.name}, [root], True
        while waiting and is_free:
            for name in waiting.pop().input:
                is_free = is_free and name not in weighty
                before = maker.get(name)
                if before is not None and before.name not in slice_of:
                    slice_of.add(before.name)
                    waiting.append(before)
        if is_free:
            found |= slice_of
    return found


def _join_wide(graph: Any) -> None:
    """Where one float32 island feeds another, the converter rounds in between: let the value through unrounded."""
    origin = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and node.output[0] + "_cast_to_fp16" == node.input[0]
    }
    replaced = {
        node.output[0]: origin[node.input[0]]
        for node in graph.node
        if node.op_type == "Cast" and node.output[0] == node.input[0] + "_cast_to_fp32" and node.input[0] in origin
    }
    used = {value.name for value in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
    used |= {name for node in graph.node for name in inputs_within(node)}
    kept, seen = [], set()
    for node in graph.node:
        is_cast = node.op_type == "Cast" and (node.output[0] in replaced or node.output[0] in origin)
        # The converter adds one cast for each user of a value, all under one name.
        if (is_cast and node.output[0] not in used) or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        kept.append(node)
    del graph.node[:]
    graph.node.extend(_in_order(kept))


def _in_order(nodes: list[Any]) -> list[Any]:
    """ONNX wants a node after what it uses; the converter appends its casts at the end."""
    maker = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    placed: list[int] = []
    state = [0] * len(nodes)  # 0 untouched, 1 waits for what it uses, 2 placed
    for first in range(len(nodes)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            if state[index] == 2:
                waiting.pop()
                continue
            state[index] = 1
            needed = [maker[name] for name in inputs_within(nodes[index]) if name in maker and maker[name] != index]
            missing = [other for other in needed if state[other] == 0]
            if missing:
                waiting += missing
            else:
                placed.append(index)
                state[index] = 2
                waiting.pop()
    return [nodes[index] for index in placed]


def _rename(graph: Any, small: Mapping[str, Any]) -> None:
    """Make bf16 of what the converter made fp16, constants from their float32 values."""
    half, wanted = TensorProto.FLOAT16, TensorProto.BFLOAT16
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(_bf16(tensor.name, small[tensor.name] if tensor.name in small else array_of(tensor, Path())))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = wanted
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = wanted
            if attribute.HasField("t") and attribute.t.data_type == half:
                attribute.t.CopyFrom(_bf16(attribute.t.name, array_of(attribute.t, Path())))
        for inner in branches(node):
            _rename(inner, {})


def _bf16(name: str, values: Any) -> Any:
    wide, limit = torch.tensor(values, dtype=torch.float32), torch.finfo(torch.bfloat16).max
    # The smallest float32 is a common mask; rounded up it would be infinite.
    rounded = torch.where(wide.isfinite(), wide.clamp(-limit, limit), wide).to(torch.bfloat16)
    return onnx.helper.make_tensor(
        name, TensorProto.BFLOAT16, list(values.shape), rounded.view(torch.int16).numpy().tobytes(), raw=True
    )
