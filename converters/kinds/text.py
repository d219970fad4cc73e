"""Models that read texts and answer in one forward pass.

In: a staged source, then its PyTorch model and graph. Out: details, parity lines and probes of the tasks in `tasks/text.py`.
This module must never write a value that no backend reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused
from converters.export.graphs import Exported, Graph
from converters.kinds.facts import (
    activation_of,
    entailment_of,
    graph_facts,
    labels_of,
    length_of,
    mask_of,
    output_of,
    refuse_inputs_beyond,
    tokenizer_facts,
)
from converters.parity.text import check_text
from converters.parity.text_probes import text_probes
from converters.pooling import pooling_of
from converters.probes import Probe
from converters.source import Source
from converters.tasks.task import Task
from converters.tasks.text import HYPOTHESIS, MAX_ANSWER_TOKENS
from converters.tokenizer import load_tokenizer, write_tokenizer

_FED = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}


def _width(model: Any) -> int:
    """Of a token's vector, where the graph leaves it open."""
    for name in ("hidden_size", "d_model", "n_embd", "dim", "d_latents", "embed_dim"):
        if isinstance(width := getattr(model.config, name, None), int):
            return width
    raise ModelRefused("config.json: expected the width of a token's vector in hidden_size or d_model, found neither")


class Text:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        self._task = task
        self._pooling = pooling_of(source) if task.name == "feature-extraction" else None
        self._loaded = load_tokenizer(source.folder)
        self._tokenizer = write_tokenizer(self._loaded, folder / "1" / "tokenizer.json")

    def adjust(self, model: Any) -> None:
        if self._task.auto_classes == ("AutoModelForSequenceClassification",) and model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        # What no route to a graph can change is refused before the first is tried.
        self._meaning(model, int(tokenizer_facts(model, self._tokenizer)["vocabulary"]))

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        graph = exported.graphs["model"]
        limit = None if self._pooling is None else self._pooling.length_limit
        shared = {**tokenizer_facts(model, self._tokenizer, limit), **graph_facts(graph)}
        refuse_inputs_beyond(graph, _FED)
        return {**shared, **self._head(model, graph, int(shared["vocabulary"]))}

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        return check_text(model, exported.graphs["model"].path, self._task, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        return text_probes(model, self._loaded, self._task, details, bound)

    def _head(self, model: Any, graph: Graph, vocabulary: int) -> dict[str, Any]:
        """The keys that the task has for itself."""
        if self._pooling is not None:
            output = output_of(graph, "last_hidden_state", 3)
            return {
                "output": "last_hidden_state",
                "pooling": self._pooling.mode,
                "normalize": self._pooling.normalize,
                "dimensions": length_of(output, 2, _width(model)),
            }
        if self._task.name == "question-answering":
            for name in ("start_logits", "end_logits"):
                output_of(graph, name, 2)
            return {"start_output": "start_logits", "end_output": "end_logits", "max_answer_tokens": MAX_ANSWER_TOKENS}
        output_of(graph, "logits", 3 if self._task.name in ("token-classification", "fill-mask") else 2)
        return {"output": "logits", **self._meaning(model, vocabulary)}

    def _meaning(self, model: Any, vocabulary: int) -> dict[str, Any]:
        """What the numbers of `logits` stand for."""
        if self._task.name == "zero-shot-classification":
            return {**entailment_of(model.config.id2label), "hypothesis_template": HYPOTHESIS}
        if self._task.name == "fill-mask":
            return mask_of(self._loaded, vocabulary)
        if self._task.name in ("feature-extraction", "multiple-choice", "question-answering"):
            return {}
        labels = labels_of(model.config.id2label)
        if self._task.name == "token-classification":
            return {"labels": labels}
        return {"labels": labels, "activation": activation_of(model.config.problem_type, len(labels))}
