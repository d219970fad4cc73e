"""From float32 weights to 8 or 4 bits: matrices that activations are multiplied with, in blocks of 32 with one scale each.

In: a graph's file. Out: another file, and how much of it was quantised. This module must never leave a graph as it was in silence.

ONNX Runtime quantises (`MatMulNBitsQuantizer`) and computes (`MatMulNBits`, a contributed operator: the graph runs on ONNX Runtime
alone). It looks for MatMul with a constant matrix; GPT-2 and its relatives export Gemm, and a head tied to the embedding as a
transposed constant, so these are rewritten first. Embeddings and convolutions stay float32: rows that are looked up cost no time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from converters.precision.weights import WeightWriter, array_of, inputs_within, read_graph, save_graph, size_of

logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)  # a line a node otherwise

BITS = {"int8": 8, "int4": 4}
BLOCK = 32
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits too, block by block, and products are integers: the fast path on processors with VNNI."""


@dataclass(frozen=True)
class Quantised:
    """matrices: how many were quantised. weights, of_weights: their elements, and those of all float weights of the graph."""

    matrices: int
    weights: int
    of_weights: int


def quantise(source: Path, target: Path, precision: str) -> Quantised:
    """Write the graph at `source` as `target` with weights in "int8" or "int4"; `<target>_data` beside it when it passes 2 GB.

    Holds the graph in memory. A graph without a constant matrix is written as it is; `matrices` is then 0.
    """
    model = read_graph(source)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            tensor.CopyFrom(numpy_helper.from_array(array_of(tensor, source.parent), tensor.name))
    _rewrite(model.graph)
    _drop_unused(model.graph)
    total = sum(size_of(tensor) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    chosen = {node.input[1]: constants[node.input[1]] for node in products if _is_worth_it(constants.get(node.input[1]))}
    weights = sum(map(size_of, chosen.values()))
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=BITS[precision],
        block_size=BLOCK,
        is_symmetric=False,
        accuracy_level=ACCURACY_LEVEL,
        nodes_to_exclude=[node.name for node in products if node.input[1] not in chosen],
    )
    quantizer.process()
    model = quantizer.model.model
    _drop_unused(model.graph)
    _save(model, target)
    return Quantised(len(chosen), weights, total)


def _is_worth_it(matrix: Any) -> bool:
    """Two axes, and at least one whole block of each column."""
    return matrix is not None and len(matrix.dims) == 2 and matrix.dims[0] >= BLOCK and matrix.data_type == TensorProto.FLOAT


def _rewrite(graph: Any) -> None:
    """Gemm becomes MatMul and Add; a constant matrix that is transposed first becomes the transposed constant."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    # Exporters write equal weights once, and names for the others.
    others = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity" and node.input[0] in constants}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = others.get(name, name)
    transposed = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose"
        and node.input[0] in constants
        and len(constants[node.input[0]].dims) == 2
        and [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"] in ([], [[1, 0]])
    }
    added: dict[str, Any] = {}

    def turned(name: str) -> str:
        if name + ".turned" not in added:
            values = numpy.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
            added[name + ".turned"] = numpy_helper.from_array(values, name + ".turned")
        return name + ".turned"

    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in transposed:
            node.input[1] = turned(transposed[node.input[1]])
        if node.op_type == "Gemm" and node.input[1] in constants:
            nodes += _as_matmul(node, turned)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added.values())


def _as_matmul(node: Any, turned: Any) -> Iterator[Any]:
    settings = {attribute.name: attribute.f if attribute.name in ("alpha", "beta") else attribute.i for attribute in node.attribute}
    if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
        yield node
        return
    matrix = turned(node.input[1]) if settings.get("transB", 0) else node.input[1]
    has_bias = len(node.input) > 2 and bool(node.input[2])
    product = node.output[0] + ".product" if has_bias else node.output[0]
    yield helper.make_node("MatMul", [node.input[0], matrix], [product], name=node.name + ".matmul")
    if has_bias:
        yield helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=node.name + ".add")


def _drop_unused(graph: Any) -> None:
    """A constant that only the rewritten nodes used would travel for nothing."""
    while True:
        used = {value.name for value in graph.output} | {name for node in graph.node for name in inputs_within(node)}
        idle = [node for node in graph.node if node.op_type in ("Identity", "Transpose") and not set(node.output) & used]
        for node in idle:
            graph.node.remove(node)
        if not idle:
            break
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _save(model: Any, target: Path) -> None:
    tensors = list(model.graph.initializer)
    writer = WeightWriter(target.parent, target.name + "_data", sum(len(tensor.raw_data) for tensor in tensors))
    del model.graph.initializer[:]
    for tensor in tensors:
        placed = writer.tensor(tensor.name, tensor.data_type, tensor.dims, tensor.raw_data) if tensor.raw_data else tensor
        model.graph.initializer.append(placed)
    save_graph(model, target)
