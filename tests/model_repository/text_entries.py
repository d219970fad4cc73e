"""A tiny model of each task that reads texts, and its entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converters.offline import go_offline
from converters.pipeline import convert
from tests.converters.tiny_models import tiny_model
from tests.fixtures_triton import Converted

_NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
_PARTS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
HEADS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = MappingProxyType(
    {
        "feature-extraction": ("bert", "Model", {}),
        "text-classification": ("bert", "ForSequenceClassification", {"id2label": {0: "no", 1: "yes", 2: "maybe"}}),
        "zero-shot-classification": (
            "bert",
            "ForSequenceClassification",
            {"id2label": _NLI, "label2id": {label: number for number, label in _NLI.items()}},
        ),
        "token-classification": ("bert", "ForTokenClassification", {"id2label": _PARTS}),
        "fill-mask": ("bert", "ForMaskedLM", {}),
        "question-answering": ("bert", "ForQuestionAnswering", {}),
        "multiple-choice": ("bert", "ForMultipleChoice", {}),
    }
)


def make_entry(folder: Path, task: str) -> Converted:
    """Convert a random model of the task. Weights are spread wide, so that its answers differ."""
    go_offline()
    family, head, overrides = HEADS[task]
    model = tiny_model(folder / "model", family, head, words=True, initializer_range=0.5, **{"pad_token_id": 0, **overrides})
    return Converted(model, convert(str(model), folder / "out", task=task).folder)


def result_of(item: bytes) -> Any:
    return json.loads(item)
