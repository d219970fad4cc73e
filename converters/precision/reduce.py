"""One step of a conversion: the float32 graphs replaced by smaller ones, compared with PyTorch again, and their cost measured.

In: a model, its graphs and a precision. Out: what the entry states of it. This module must never serve or keep a graph that was not
compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converters.errors import ConversionFailed, ModelRefused
from converters.export.graphs import Exported, Graph
from converters.graph import graph_tensors, refuse_external_data
from converters.kinds.kind import Kind
from converters.parity.compare import BOUNDS
from converters.precision.cast import cast, is_cache
from converters.precision.quality import measure, worst_of
from converters.precision.quantise import ACCURACY_LEVEL, BITS, BLOCK, quantise
from converters.precision.stand_in import stand_in
from converters.tasks.task import Task

_HALVES = {
    "fp16": "on a CPU: in float32, each node's result rounded to fp16; and the graph itself as ONNX Runtime's CPU provider runs it,"
    " which rounds less often",
    "bf16": "on a CPU: in float32, each node's result rounded to bf16; the graph itself needs a GPU and was not run",
}


@dataclass(frozen=True)
class Reduced:
    """details, parity and quality as `Entry` has them. facts: for `Entry.export["precision"]`. probe_bound: for the probes.

    A probe of numbers keeps the precision's bound. A probe of tokens asks only for tokens that lead the next best one by ten
    bounds, a rule for float32 that would leave none here: so ten of this bound are three times the worst difference found.
    """

    details: Mapping[str, Any]
    parity: tuple[Mapping[str, Any], ...]
    quality: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any]
    probe_bound: float


def reduce(
    kind: Kind,
    model: Any,
    task: Task,
    exported: Exported,
    details: Mapping[str, Any],
    precision: str,
    folder: Path,
    aside: Path,
) -> Reduced:
    """Replace the graphs of `exported`, in their place, by those of `precision`.

    model: PyTorch's, in float32. details: of the float32 graphs. folder: the entry's. aside: a new folder on the same file system;
    it takes the float32 graphs, which the quality is compared with.

    Raises ModelRefused for a model that the precision cannot hold or does not touch, ParityFailed past the precision's bound.
    """
    aside.mkdir()
    full = _move(exported.graphs, aside)
    graphs = {role: graph.path for role, graph in exported.graphs.items()}
    facts = _halve(full, graphs, precision) if precision in _HALVES else _quantise(full, graphs, precision)
    made = {role: Graph(path, *graph_tensors(path)) for role, path in graphs.items()}
    served = dataclasses.replace(exported, graphs=made)
    stated = _with_cache(kind.describe(model, served), served)
    compared = {
        role: path.with_name(f"{path.stem}.stand-in.onnx") if precision in _HALVES else path for role, path in graphs.items()
    }
    if precision in _HALVES:
        for role, path in graphs.items():
            stand_in(path, compared[role])
    # A stand-in has the float32 graph's inputs and outputs, so the float32 details are its own.
    alike = dataclasses.replace(
        exported, graphs={role: dataclasses.replace(graph, path=compared[role]) for role, graph in exported.graphs.items()}
    )
    parity = kind.check(model, alike, details, BOUNDS[precision])
    if precision == "fp16":
        kind.check(model, served, stated, BOUNDS[precision])
    quality = measure(task, details, folder, full, compared) or worst_of(parity)
    for path in set(compared.values()) - set(graphs.values()):
        path.unlink()
    sizes = {"bytes": graph_bytes(graphs), "full_precision_bytes": graph_bytes(full)}
    worst = max(line["worst_relative"] for line in parity if line["output"] != "greedy")
    probe_bound = 0.3 * worst if task.backend == "generate" else BOUNDS[precision]
    return Reduced(stated, parity, quality, {"precision": precision, **facts, **sizes}, probe_bound)


def _halve(full: Mapping[str, Path], graphs: Mapping[str, Path], precision: str) -> dict[str, Any]:
    for role, path in graphs.items():
        cast(full[role], path, precision)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ConversionFailed(f"precision {precision}: the graph {path.name} is not valid: {error}") from error
    return {
        "method": f"weights, arithmetic and cache in {precision}; inputs, outputs and norms in fp32",
        "verified": _HALVES[precision],
    }


def _quantise(full: Mapping[str, Path], graphs: Mapping[str, Path], precision: str) -> dict[str, Any]:
    found = [quantise(full[role], path, precision) for role, path in graphs.items()]
    if not any(one.matrices for one in found):
        raise ModelRefused(
            f"precision {precision}: expected matrix multiplications with constant weights of {BLOCK} rows and more, found none"
        )
    return {
        "method": f"MatMulNBits, {BITS[precision]} bits in blocks of {BLOCK}, accuracy level {ACCURACY_LEVEL}",
        "matrices": sum(one.matrices for one in found),
        "share_of_weights": round(sum(one.weights for one in found) / sum(one.of_weights for one in found), 3),
        "verified": "on a CPU, as it is served",
    }


def _move(graphs: Mapping[str, Graph], aside: Path) -> dict[str, Path]:
    """Graphs and the files with their weights to another folder; two graphs may have one such file."""
    paths = {role: graph.path for role, graph in graphs.items()}
    for beside in {path.with_name(name) for path in paths.values() for name in refuse_external_data(path, path.parent)}:
        beside.rename(aside / beside.name)
    return {role: path.rename(aside / path.name) for role, path in paths.items()}


def graph_bytes(graphs: Mapping[str, Path]) -> int:
    """Of the graphs and the files with their weights, each once."""
    beside = {path.with_name(name) for path in graphs.values() for name in refuse_external_data(path, path.parent)}
    return sum(path.stat().st_size for path in {*graphs.values(), *beside})


def _with_cache(details: dict[str, Any], served: Exported) -> dict[str, Any]:
    """`precision`, the cache's dtype, as the graphs have it."""
    kinds = {tensor["dtype"] for graph in served.graphs.values() for tensor in graph.inputs if is_cache(tensor["name"])}
    return {**details, "precision": kinds.pop()} if "precision" in details and len(kinds) == 1 else details
