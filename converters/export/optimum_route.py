"""The first route: optimum's exporter, with its configuration for the type.

In: a loaded model and a task. Out: its graphs. This module must never load weights or choose a route.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager

from converters.errors import ConversionFailed
from converters.export.experts import traceable_experts
from converters.export.graphs import Graph
from converters.export.quiet import quiet, said_in
from converters.graph import graph_tensors, refuse_external_data
from converters.tasks.task import Task


def knows(model_type: str, task: Task) -> bool:
    """Has optimum a configuration for the type with this task?"""
    return model_type in TasksManager.get_supported_model_type_for_task(task.export_task, exporter="onnx")


def export(model: Any, task: Task, scratch: Path, into: Path) -> dict[str, Graph]:
    """Write `model.onnx` into `into`, with `model.onnx_data` beside it when the weights pass protobuf's 2 GB.

    scratch: a new folder on the same file system, for what the exporter writes besides. Raises ConversionFailed with the cause.
    """
    with quiet() as noise, traceable_experts(model):
        try:
            torch.manual_seed(0)
            onnx_export_from_model(model, scratch, task=task.export_task, do_validation=False)
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {error}{said_in(noise)}") from error
    return moved(scratch, into)


def moved(scratch: Path, into: Path) -> dict[str, Graph]:
    """Bring the one graph that an exporter wrote into `scratch`, and the files with its weights, to `into`."""
    exported = scratch / "model.onnx"
    if not exported.is_file():
        found = sorted(path.name for path in scratch.iterdir() if path.suffix == ".onnx")
        raise ConversionFailed(f"export: expected one model.onnx, found {found}")
    for name in ("model.onnx", *sorted(refuse_external_data(exported, scratch))):
        # onnx writes external data for its owner alone; whoever runs Triton must be able to read it.
        (scratch / name).chmod(0o644)
        (scratch / name).rename(into / name)
    inputs, outputs = graph_tensors(into / "model.onnx")
    return {"model": Graph(into / "model.onnx", inputs, outputs)}
