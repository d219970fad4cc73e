"""Make the one hand-made entry, `model_repository/models/smoke`: an embedding of a few words in a few KB.

Run `python -m tests.make_smoke_entry` from the repository's root to write it anew; the same code gives the same bytes.
The graph looks up a row of a table for each token; the backend averages the rows and normalises. No training, no download.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from converters.entry import Entry, write_entry
from converters.tasks import outputs_of, task_named

FOLDER = Path(__file__).resolve().parent.parent / "model_repository" / "models" / "smoke"
WORDS = (
    "[PAD]",
    "[UNK]",
    "a",
    "an",
    "and",
    "anchor",
    "asset",
    "call",
    "chain",
    "is",
    "log",
    "model",
    "order",
    "receipt",
    "sign",
    "the",
)
DIMENSIONS = 8
CONTEXT_LENGTH = 64


def table() -> np.ndarray:
    """One row a word: float32 [words, dimensions], all rows different."""
    rows = [[math.cos((word + 1) * (axis + 1)) for axis in range(DIMENSIONS)] for word in range(len(WORDS))]
    return np.array(rows, np.float32)


def graph() -> onnx.ModelProto:
    axes = ["batch_size", "sequence_length"]
    # The mask is an input because the backend feeds it; multiplying by it keeps it from being optimised away.
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask_column"]),
        helper.make_node("Mul", ["rows", "mask_column"], ["last_hidden_state"]),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "smoke",
            [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, DIMENSIONS])],
            [numpy_helper.from_array(table(), "table"), numpy_helper.from_array(np.array([-1], np.int64), "last_axis")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
        producer_name="posthuman",
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def write(folder: Path) -> None:
    """Write the entry. Again: the same bytes."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / "model.onnx").write_bytes(graph().SerializeToString(deterministic=True))
    (folder / "1" / "tokenizer.json").write_text(tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    task = task_named("feature-extraction")
    axes = ["batch_size", "sequence_length"]
    details = {
        "model": "1/model.onnx",
        "tokenizer": "1/tokenizer.json",
        "add_special_tokens": False,
        "context_length": CONTEXT_LENGTH,
        "vocabulary": len(WORDS),
        "pad_token_id": 0,
        "padding_side": "right",
        "graph_inputs": [{"name": name, "dtype": "INT64", "axes": axes} for name in ("input_ids", "attention_mask")],
        "graph_outputs": [{"name": "last_hidden_state", "dtype": "FP32", "axes": [*axes, DIMENSIONS]}],
        "output": "last_hidden_state",
        "pooling": "mean",
        "normalize": True,
        "dimensions": DIMENSIONS,
    }
    write_entry(
        folder,
        Entry(
            name="smoke",
            task=task.name,
            backend=task.backend,
            architecture="WordTable",
            precision="fp32",
            inputs=task.inputs,
            outputs=outputs_of(task, details),
            details=details,
            source={"id": "tests/make_smoke_entry.py", "licence": "Apache-2.0"},
        ),
    )


if __name__ == "__main__":
    write(FOLDER)
