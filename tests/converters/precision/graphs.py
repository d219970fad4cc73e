"""Small graphs, made by hand, one for each thing a rewrite must not get wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def graph_file(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Any],
    *,
    integers: Sequence[str] = (),
) -> Path:
    """Write a float32 graph; `integers` names the inputs and outputs that are INT64."""

    def described(values: Mapping[str, Sequence[Any]]) -> list[Any]:
        kinds = {name: TensorProto.INT64 if name in integers else TensorProto.FLOAT for name in values}
        return [helper.make_tensor_value_info(name, kinds[name], list(axes)) for name, axes in values.items()]

    initializers = [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "made by hand", described(inputs), described(outputs), initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


def run(path: Path, **feeds: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]


def matrix(rows: int, columns: int, *, seed: int = 0, scale: float = 1.0) -> Any:
    return (numpy.random.default_rng(seed).normal(size=(rows, columns)) * scale).astype(numpy.float32)
