"""A causal language model that does not fit into memory, converted from its files, tensor by tensor.

In: a `Source` and a precision. Out: files in the entry's folder, and `Made`. This module must never load a model whole, or keep a
float32 graph beside the smaller one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from converters.errors import ModelRefused
from converters.export.graphs import Exported, Graph
from converters.export.large_route import Skeleton, trace
from converters.export.streamed import open_streamed
from converters.graph import graph_tensors, refuse_external_data
from converters.kinds import open_kind
from converters.make import Made, Stages
from converters.parity.compare import BOUNDS
from converters.parity.large import check_large
from converters.precision.cast import cast
from converters.precision.weights import WeightWriter, save_graph
from converters.probes import write_probes
from converters.room import STREAMED_PRECISIONS
from converters.source import Source
from converters.tasks.task import Task


def make_large(source: Source, task: Task, precision: str, folder: Path, scratch: Path, stages: Stages) -> Made:
    """As `make.make`, for a causal language model; what differs is written into the entry's `export`.

    Raises ModelRefused for a precision that cannot be compared on a CPU one tensor at a time.
    """
    if task.kind != "causal" or precision not in STREAMED_PRECISIONS:
        raise ModelRefused(
            f"precision: expected one of {STREAMED_PRECISIONS} of a causal language model this large, found {precision}"
        )
    with stages("load"):
        kind = open_kind(source, task, folder)
        streamed = open_streamed(source, task)
        kind.adjust(streamed.model)
    with stages("export"):
        skeleton = trace(streamed, task, source.model_type, scratch / "export")
        path = folder / "1" / "model.onnx"
        if precision == "fp32":
            _write(skeleton, path)
        else:
            cast(skeleton.path, path, precision, skeleton.read)
        refuse_external_data(path, path.parent)
        exported = Exported(
            route="streamed",
            why="the model does not fit into memory: traced without weights, which were then written one by one",
            graphs={"model": Graph(path, *graph_tensors(path))},
        )
        details = {**kind.describe(streamed.model, exported), "precision": precision.upper()}
    with stages("parity"):
        lines = check_large(streamed.reading, path, details, BOUNDS[precision])
    with stages("probes"), streamed.reading() as model:
        write_probes(folder, kind.probes(model, details, BOUNDS[precision]))
    export: dict[str, Any] = {"route": exported.route, "why": exported.why}
    if precision != "fp32":
        export["precision"] = {
            "precision": precision,
            "method": f"weights, arithmetic and cache in {precision}; inputs, outputs and norms in fp32",
            "verified": "on a CPU, part by part, in float32 with each node's result rounded",
            "bytes": sum(file.stat().st_size for file in path.parent.glob("model.onnx*")),
        }
    return Made(type(streamed.model).__name__, details, export, lines)


def _write(skeleton: Skeleton, path: Path) -> None:
    """The float32 graph with its weights, one at a time."""
    model = onnx.load(str(skeleton.path), load_external_data=False)
    waiting = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    writer = WeightWriter(path.parent, path.name + "_data", sum(4 * math.prod(tensor.dims) for tensor in waiting))
    for tensor in waiting:
        tensor.CopyFrom(writer.tensor(tensor.name, TensorProto.FLOAT, tensor.dims, skeleton.read(tensor).tobytes()))
    save_graph(model, path)
