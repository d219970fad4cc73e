"""The route of a model that does not fit into memory: traced on weights of zeros that take none, its weights follow one by one.

In: a `Streamed` model. Out: its float32 graph without weights, and a way to read each. This module must never hold more than one
tensor, or write one.

The graph's initializers say `location: <NOWHERE>`: whoever writes the entry asks `Skeleton.read` for the values.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx
import torch
from onnx import TensorProto
from optimum.exporters.onnx.convert import export_pytorch
from optimum.exporters.tasks import TasksManager

from converters.errors import ConversionFailed
from converters.export import optimum_route
from converters.export.decoder_route import MeasuredConfig, measured_cache, takes_positions
from converters.export.quiet import quiet, said_in
from converters.export.streamed import Streamed, Weights
from converters.tasks.task import Task

NOWHERE = "weights-follow"
_SMALL = 1 << 14
"""Elements up to which a weight goes into the graph at once: norms and biases, which rewrites of the graph want to see; `cast`
looks at those below 1,024."""


@dataclass(frozen=True)
class Skeleton:
    """path: the graph. transposed: weights that the graph wants with their two axes exchanged. parameters: values in all."""

    path: Path
    weights: Weights
    transposed: frozenset[str]
    parameters: int

    def read(self, tensor: Any) -> Any:
        """The values of one of the graph's initializers, float32 where it is a weight, as numpy has them."""
        if tensor.name not in self.weights.files:
            return onnx.numpy_helper.to_array(tensor)
        return _wide(self.weights, tensor.name, self.transposed)


def trace(streamed: Streamed, task: Task, model_type: str, scratch: Path) -> Skeleton:
    """Write the graph of a causal language model into the folder `scratch`. Raises ConversionFailed with the cause."""
    path = scratch / "model.onnx"
    scratch.mkdir(parents=True, exist_ok=True)
    with quiet() as noise:
        try:
            torch.manual_seed(0)
            config = _config(streamed.model, task, model_type)
            # As inputs the weights stay out of the file, and are not compared with one another: as zeros they are all alike.
            without = functools.partial(torch.onnx.export, export_params=False, keep_initializers_as_inputs=True)
            with patch.object(torch.onnx, "export", without), patch.object(torch._C, _SHAPES, _shapes_without_values):
                export_pytorch(streamed.model, config, config.DEFAULT_ONNX_OPSET, path, do_constant_folding=False)
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {error}{said_in(noise)}") from error
    model = onnx.load(str(path), load_external_data=False)
    transposed = _fold_transposes(model.graph, streamed.weights)
    parameters = _as_initializers(model.graph, streamed.weights, transposed)
    path.write_bytes(model.SerializeToString())
    return Skeleton(path, streamed.weights, transposed, parameters)


_SHAPES = "_jit_pass_onnx_graph_shape_type_inference"
_shapes = getattr(torch._C, _SHAPES)


def _shapes_without_values(graph: Any, _weights: Any, opset: int) -> None:
    """torch 2.13 copies every weight to infer shapes, and the graph's inputs state theirs anyway."""
    _shapes(graph, {}, opset)


def _wide(weights: Weights, name: str, transposed: frozenset[str]) -> Any:
    wide = weights.read(name).to(torch.float32)
    return (wide.T.contiguous() if name in transposed else wide).numpy()


def _config(model: Any, task: Task, model_type: str) -> Any:
    if not optimum_route.knows(model_type, task):
        return MeasuredConfig(model.config, measured_cache(model), takes_positions=takes_positions(model))
    known = TasksManager.get_exporter_config_constructor(
        exporter="onnx", model=model, task=task.export_task, library_name="transformers"
    )
    return known(model.config, use_past=True, use_past_in_inputs=True)


def _fold_transposes(graph: Any, weights: Weights) -> frozenset[str]:
    """Drop each Transpose of a weight that is used nowhere else: the weight is written the other way round instead."""
    uses: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    inputs = {value.name: value for value in graph.input}
    renamed, dropped = {}, []
    for name in inputs.keys() & weights.files.keys():
        users = uses.get(name, [])
        if len(users) == 1 and users[0].op_type == "Transpose" and list(users[0].attribute[0].ints) == [1, 0]:
            renamed[users[0].output[0]] = name
            dropped.append(users[0])
            dims = inputs[name].type.tensor_type.shape.dim
            dims[0].dim_value, dims[1].dim_value = dims[1].dim_value, dims[0].dim_value
    gone = {id(node) for node in dropped}
    kept = [node for node in graph.node if id(node) not in gone]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copied)
    return frozenset(renamed.values())


def _as_initializers(graph: Any, weights: Weights, transposed: frozenset[str]) -> int:
    """Turn each input that is a weight into an initializer whose data is still to come; returns the number of values."""
    values, parameters = list(graph.input), 0
    del graph.input[:]
    for value in values:
        if value.name not in weights.files:
            graph.input.append(value)
            continue
        dims = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        elements = math.prod(dims)
        parameters += elements
        if elements <= _SMALL:
            values_now = _wide(weights, value.name, transposed)
            graph.initializer.append(onnx.numpy_helper.from_array(values_now, value.name))
            continue
        tensor = TensorProto(name=value.name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=NOWHERE)
        graph.initializer.append(tensor)
    return parameters
