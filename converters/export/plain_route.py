"""The routes for models without an exporter's configuration: torch.onnx's two exporters, the dynamo one and the TorchScript one.

In: a loaded model and its task. Out: one graph without a cache. This module must never load weights or choose a route.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export import Dim

from converters.errors import ConversionFailed
from converters.export.experts import traceable_experts
from converters.export.graphs import Graph
from converters.export.optimum_route import moved
from converters.export.plain_inputs import Sample, sample_for
from converters.export.quiet import quiet
from converters.export.recurrences import traceable_recurrences
from converters.export.seq2seq_tracing import masks
from converters.export.seq2seq_tracing import traceable as traceable_model
from converters.export.tracing import pools_apart_from_pads, traceable
from converters.tasks.task import Task

OPSET = 18
_INLINE_BYTES = 1_800_000_000
"""protobuf takes 2 GB at most; larger weights go to a file of their own."""
_WANTED: Mapping[str, Sequence[str]] = {
    "text-generation": ("logits",),
    "feature-extraction": ("last_hidden_state",),
    "text-classification": ("logits",),
    "zero-shot-classification": ("logits",),
    "token-classification": ("logits",),
    "fill-mask": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "multiple-choice": ("logits",),
    "image-classification": ("logits",),
    "object-detection": ("logits", "pred_boxes"),
    "depth-estimation": ("predicted_depth",),
    "zero-shot-image-classification": ("logits_per_image",),
    "audio-classification": ("logits",),
    "automatic-speech-recognition": ("logits",),
}
"""What an entry of the task needs; of another task, or where the model has no such output, all that it gives is kept."""


def export_with_dynamo(model: Any, task: Task, scratch: Path, into: Path) -> dict[str, Graph]:
    """Write `model.onnx` into `into`; see `optimum_route.export`. Raises ConversionFailed with the cause."""
    return _export(model, task, scratch, into, is_dynamo=True)


def export_with_torchscript(model: Any, task: Task, scratch: Path, into: Path) -> dict[str, Graph]:
    """As `export_with_dynamo`; a loop over the text is then as long as the traced text, which parity finds."""
    return _export(model, task, scratch, into, is_dynamo=False)


class _Outputs(torch.nn.Module):
    """The model as a function from the sample's tensors, in their order, to the outputs that are kept, in theirs."""

    def __init__(self, model: Any, task: Task, sample: Sample) -> None:
        super().__init__()
        self.model = model
        self._inputs = tuple(sample.feeds)
        with torch.no_grad():
            found = dict(_tensors("", self._called(tuple(sample.feeds.values()))))
        wanted = _WANTED.get(task.name, ())
        self.names = tuple(wanted if wanted and set(wanted) <= set(found) else found)
        if not self.names:
            raise ConversionFailed(f"outputs: expected tensors, found none that {type(model).__name__} gives")

    def _called(self, values: Sequence[torch.Tensor]) -> Any:
        takes_cache = "use_cache" in inspect.signature(self.model.forward).parameters
        without = {"use_cache": False} if takes_cache else {}
        return self.model(**dict(zip(self._inputs, values, strict=True)), **without)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = dict(_tensors("", self._called(values)))
        return tuple(found[name] for name in self.names)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of nested outputs; a place in a list is a part of the name: `hidden_states.0`."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _tensors(f"{name}.{place}" if name else str(place), part)


def _export(model: Any, task: Task, scratch: Path, into: Path, *, is_dynamo: bool) -> dict[str, Graph]:
    scratch.mkdir(parents=True, exist_ok=True)
    written = scratch / "model.onnx"
    model.config.return_dict = True
    with quiet():
        sample = sample_for(model, task)
        outputs = _Outputs(model, task, sample).eval()
        try:
            torch.manual_seed(0)
            with torch.no_grad():
                (_with_dynamo if is_dynamo else _with_torchscript)(outputs, sample, written)
            _tidy(written, sample)
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {_short(error)}") from error
    return moved(scratch, into)


def _short(error: Exception) -> str:
    """torch.export's errors are pages; the cause stands in the line that names it, or in the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error" in line or "error" in line]
    return (causes[-1] if causes else lines[0] if lines else "")[:400]


def _with_dynamo(outputs: _Outputs, sample: Sample, path: Path) -> None:
    shapes = tuple(
        {place: Dim.AUTO for place, axis in enumerate(tensor["axes"]) if isinstance(axis, str)} for tensor in sample.inputs
    )
    size = sum(weight.numel() * weight.element_size() for weight in outputs.parameters())
    with masks(), pools_apart_from_pads(), traceable_experts(outputs):
        _write(outputs, sample, path, dynamo=True, dynamic_shapes=(shapes,), external_data=size > _INLINE_BYTES, verbose=False)


def _with_torchscript(outputs: _Outputs, sample: Sample, path: Path) -> None:
    axes = {
        str(tensor["name"]): {place: axis for place, axis in enumerate(tensor["axes"]) if isinstance(axis, str)}
        for tensor in sample.inputs
    }
    with (
        traceable_model(outputs.model),
        traceable(),
        pools_apart_from_pads(),
        traceable_experts(outputs),
        traceable_recurrences(outputs),
    ):
        _write(outputs, sample, path, dynamo=False, dynamic_axes=axes)


def _write(outputs: _Outputs, sample: Sample, path: Path, **how: Any) -> None:
    """how: what `torch.onnx.export` takes for one of its exporters alone."""
    torch.onnx.export(
        outputs,
        tuple(sample.feeds.values()),
        str(path),
        input_names=list(sample.feeds),
        output_names=list(outputs.names),
        opset_version=OPSET,
        **how,
    )


def _tidy(path: Path, sample: Sample) -> None:
    """Name the axes as we do, and take out what the exporter notes of the source it traced: it names this machine's folders."""
    model = onnx.load(str(path), load_external_data=False)
    stated = {str(tensor["name"]): tensor["axes"] for tensor in sample.inputs}
    names: dict[str, str] = {}
    for value in model.graph.input:
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.HasField("dim_param") and isinstance(stated[value.name][place], str):
                names.setdefault(axis.dim_param, stated[value.name][place])
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param") and axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    _without_notes(model.graph)
    for function in model.functions:
        _without_notes(function)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def _without_notes(part: Any) -> None:
    del part.metadata_props[:]
    part.doc_string = ""
    for node in part.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _without_notes(attribute.g)
    for values in (getattr(part, "input", ()), getattr(part, "output", ()), part.value_info, getattr(part, "initializer", ())):
        for value in values:
            if hasattr(value, "metadata_props"):
                del value.metadata_props[:]
                value.doc_string = ""
