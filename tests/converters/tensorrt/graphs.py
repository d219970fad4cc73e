"""Details of entries as conversions write them, in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.entry import Entry, write_entry
from converters.tasks import TASKS, outputs_of


def tensor(name: str, *axes: str | int, dtype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "axes": list(axes)}


TEXT: dict[str, Any] = {
    "model": "1/model.onnx",
    "context_length": 64,
    "graph_inputs": [tensor(name, "batch_size", "sequence_length") for name in ("input_ids", "attention_mask")],
    "graph_outputs": [tensor("last_hidden_state", "batch_size", "sequence_length", 32, dtype="FP32")],
    "hidden": 32,
}
CACHED: dict[str, Any] = {
    "model": "1/model.onnx",
    "context_length": 1024,
    "layers": [{"past_key": "past_key_values.0.key", "past_value": "past_key_values.0.value"}],
    "graph_inputs": [
        tensor("input_ids", "batch_size", "sequence_length"),
        tensor("attention_mask", "batch_size", "past_sequence_length + sequence_length"),
        tensor("past_key_values.0.key", "batch_size", 4, "past_sequence_length", 8, dtype="FP16"),
        tensor("past_key_values.0.value", "batch_size", 4, "past_sequence_length", 8, dtype="FP16"),
    ],
    "graph_outputs": [
        tensor("logits", "batch_size", "sequence_length", 320, dtype="FP32"),
        tensor("present.0.key", "batch_size", 4, "past_sequence_length + sequence_length", 8, dtype="FP16"),
        tensor("present.0.value", "batch_size", 4, "past_sequence_length + sequence_length", 8, dtype="FP16"),
    ],
}
IMAGE: dict[str, Any] = {
    "model": "1/model.onnx",
    "labels": ["cat", "dog"],
    "graph_inputs": [tensor("pixel_values", "batch_size", "num_channels", "height", "width", dtype="FP32")],
    "graph_outputs": [tensor("logits", "batch_size", 2, dtype="FP32")],
}


def entry_with(details: dict[str, Any], task: str, precision: str = "fp32") -> Entry:
    row = TASKS[task]
    return Entry("tiny", row.name, row.backend, "X", precision, row.inputs, outputs_of(row, details), details=details)


def write(folder: Path, details: dict[str, Any], task: str, precision: str = "fp32") -> Path:
    """An entry's folder with a graph of a few bytes: nothing here opens it."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"graph")
    (folder / "1" / "model.onnx_data").write_bytes(b"weights")
    write_entry(folder, entry_with(details, task, precision))
    return folder
