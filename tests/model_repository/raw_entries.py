"""A hand-made entry of the task `tensors`, with tensors of several dtypes, a fixed axis, and an output without axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converters.entry import Entry, write_entry
from converters.graph import graph_tensors
from converters.parity.arrays import numbers
from converters.probes import Probe, write_probes
from converters.tasks import TASKS, inputs_of, outputs_of

ROWS = 5
"""Rows of the table that `ids` look into."""


def table() -> np.ndarray:
    return np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Unsqueeze", ["points", "one"], ["column"]),
        helper.make_node("Add", ["rows", "column"], ["moved"]),
        helper.make_node("ReduceSum", ["points"], ["total"], keepdims=0),
        helper.make_node("Not", ["flags"], ["others"]),
        helper.make_node("Add", ["halves", "halves"], ["wholes"]),
    ]
    given = [
        ("ids", TensorProto.INT64, ["batch_size", "length"]),
        ("points", TensorProto.FLOAT, ["batch_size", 3]),
        ("flags", TensorProto.BOOL, ["batch_size"]),
        ("halves", TensorProto.FLOAT16, ["batch_size", 2]),
    ]
    made = [
        ("moved", TensorProto.FLOAT, ["batch_size", "length", 3]),
        ("total", TensorProto.FLOAT, []),
        ("others", TensorProto.BOOL, ["batch_size"]),
        ("wholes", TensorProto.FLOAT16, ["batch_size", 2]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "raw",
            [helper.make_tensor_value_info(*value) for value in given],
            [helper.make_tensor_value_info(*value) for value in made],
            [numpy_helper.from_array(table(), "table"), numpy_helper.from_array(np.array([1], np.int64), "one")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    chances = np.random.default_rng(batch)
    return {
        "ids": chances.integers(0, ROWS, size=(batch, length)),
        "points": chances.normal(size=(batch, 3)).astype(np.float32),
        "flags": chances.integers(0, 2, size=batch).astype(np.bool_),
        "halves": chances.normal(size=(batch, 2)).astype(np.float16),
    }


def answers(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's arithmetic a second time, in numpy."""
    return {
        "moved": table()[given["ids"]] + given["points"][:, None],
        "total": np.array([given["points"].sum()], np.float32),
        "others": ~given["flags"],
        "wholes": given["halves"] + given["halves"],
    }


def make_entry(folder: Path) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(graph().SerializeToString())
    inputs, outputs = graph_tensors(folder / "1" / "model.onnx")
    task, details = TASKS["tensors"], {"model": "1/model.onnx", "graph_inputs": inputs, "graph_outputs": outputs}
    entry: dict[str, Any] = {"name": "raw", "task": task.name, "backend": task.backend, "architecture": "Raw", "precision": "fp32"}
    write_entry(folder, Entry(**entry, inputs=inputs_of(task, details), outputs=outputs_of(task, details), details=details))
    probes = []
    for batch, length in ((1, 4), (2, 7), (3, 2)):
        given = feeds(batch, length)
        told = [[numbers(name, array) for name, array in each.items()] for each in (given, answers(given))]
        probes.append(Probe(tuple(told[0]), tuple(told[1]), 1e-6))
    write_probes(folder, tuple(probes))
    return folder
