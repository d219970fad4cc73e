"""A staged model loaded in PyTorch, and its ONNX graph.

In: a `Source` and a task. Out: the PyTorch model, the graph's file and its tensors.
This module must never load a model that has not been staged, or weights that are not safetensors.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager

from converters.errors import ConversionFailed, ModelRefused
from converters.graph import graph_tensors, refuse_external_data
from converters.source import Source
from converters.tasks import Task

PRECISION = "fp32"


@dataclass(frozen=True)
class Graph:
    """An exported graph: `path` and the files with its weights beside it, inputs and outputs as `tasks.py` describes them."""

    path: Path
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def load_model(source: Source, task: Task, pad_token_id: int | None) -> Any:
    """The PyTorch model in float32, ready for inference; half-precision weights are widened, which loses nothing.

    Raises ModelRefused for a type or task that the exporter does not know, ConversionFailed when the weights do not fit the model.
    """
    known = TasksManager.get_supported_model_type_for_task(task.export_task, exporter="onnx")
    if source.model_type not in known:
        raise ModelRefused(f"config.json: model_type must be one of those with the task {task.name}, found {source.model_type!r}")
    with _quiet() as noise:
        try:
            model, report = getattr(transformers, task.auto_class).from_pretrained(
                str(source.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # Whatever a stranger's configuration provokes in a model's constructor; the cause travels along.
        except Exception as error:
            raise ConversionFailed(f"load: {type(error).__name__}: {error}{_said(noise)}") from error
    # Missing weights would be drawn at random: the model would load, and be a different one each time.
    if report["missing_keys"] or report["mismatched_keys"]:
        missing, wrong = sorted(report["missing_keys"]), sorted(str(key) for key in report["mismatched_keys"])
        raise ModelRefused(
            f"weights: expected every tensor of {type(model).__name__}, missing {missing[:5]}, of another shape {wrong[:5]}"
        )
    if task.name == "text-classification" and model.config.pad_token_id is None:
        model.config.pad_token_id = pad_token_id
    if task.name == "text-generation":
        if model.config.is_encoder_decoder:
            raise ModelRefused(f"config.json: expected a decoder for {task.name}, found an encoder with a decoder")
        model.config.use_cache = True
    elif hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model.eval()


def export(model: Any, task: Task, scratch: Path, into: Path) -> Graph:
    """Write `model.onnx` into `into`, with `model.onnx_data` beside it when the weights pass protobuf's 2 GB.

    scratch: a new folder on the same file system, for what the exporter writes besides. Raises ConversionFailed with the cause.
    """
    with _quiet() as noise:
        try:
            torch.manual_seed(0)
            onnx_export_from_model(model, scratch, task=task.export_task, do_validation=False)
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {error}{_said(noise)}") from error
    exported = scratch / "model.onnx"
    if not exported.is_file():
        found = sorted(path.name for path in scratch.iterdir() if path.suffix == ".onnx")
        raise ConversionFailed(f"export: expected one model.onnx, found {found}")
    for name in ("model.onnx", *sorted(refuse_external_data(exported, scratch))):
        # onnx writes external data for its owner alone; whoever runs Triton must be able to read it.
        (scratch / name).chmod(0o644)
        (scratch / name).rename(into / name)
    inputs, outputs = graph_tensors(into / "model.onnx")
    return Graph(into / "model.onnx", inputs, outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep the libraries' chatter from the terminal; what they said is shown when they fail.

    Tracing warns about every `if` on a tensor; parity at sizes other than the traced ones is what answers those warnings.
    """
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    libraries = [logging.getLogger(name) for name in ("transformers", "optimum", "torch.onnx")]
    before = [(library, library.handlers[:], library.propagate) for library in libraries]
    for library in libraries:
        library.handlers, library.propagate = [handler], False
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        for library, handlers, propagate in before:
            library.handlers, library.propagate = handlers, propagate


def _said(noise: io.StringIO) -> str:
    text = " ".join(noise.getvalue().split())
    return f" (the library said: {text[-600:]})" if text else ""
