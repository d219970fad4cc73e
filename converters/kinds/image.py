"""Models that look at images and answer in one forward pass.

In: a staged source, then its PyTorch model and graph. Out: details, parity lines and probes of the tasks in `tasks/image.py`.
This module must never write a value that no backend reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from converters.errors import ModelRefused
from converters.export.graphs import Exported, Graph
from converters.kinds.facts import activation_of, graph_facts, labels_of, output_of, tokenizer_facts
from converters.kinds.processors import PROCESSOR, load_image_processor, write_processor
from converters.parity.image import check_image, check_image_and_texts
from converters.parity.image_answers import image_probes, zero_shot_probes
from converters.parity.images import SIZES, picture, processed, reference
from converters.probes import Probe
from converters.source import Source
from converters.tasks.task import Task
from converters.tokenizer import load_tokenizer, write_tokenizer

_TEXTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_SIGLIP_TEXT_LENGTH = 64
"""What transformers' pipeline pads SigLIP's texts to; the model reads its answer from the last place, so padding is part of it."""
_DEFORMABLE_MOST = 100
"""`top_k` of transformers' processors for Deformable, Conditional and DAB DETR; RT-DETR's takes as many as it has queries."""


class Image:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        self._task, self._is_zero_shot = task, task.name == "zero-shot-image-classification"
        self._processor = load_image_processor(source)
        write_processor(self._processor, folder)
        self._loaded: Any = None
        if self._is_zero_shot:
            self._loaded = load_tokenizer(source.folder)
            self._tokenizer = write_tokenizer(self._loaded, folder / "1" / "tokenizer.json")

    def adjust(self, model: Any) -> None:
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        if hasattr(getattr(model, "embeddings", None), "random_masking"):
            _mask_nothing(model)

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        graph = exported.graphs["model"]
        given = processed(self._processor, [picture(*SIZES[0], 0)])
        names = [str(tensor["name"]) for tensor in graph.inputs]
        known = set(given) | (_TEXTS if self._is_zero_shot else set())
        if unknown := sorted(set(names) - known):
            raise ModelRefused(f"graph: expected inputs among what the processor gives, {sorted(known)}; found {unknown}")
        facts = {**graph_facts(graph), "processor": PROCESSOR}
        if self._is_zero_shot:
            return {**facts, **self._zero_shot(model, graph)}
        outputs = reference(model, given, names)
        return {**facts, **self._described(model, graph, outputs)}

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        checks = check_image_and_texts if self._is_zero_shot else check_image
        return checks(model, exported.graphs["model"].path, self._processor, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        if self._is_zero_shot:
            return zero_shot_probes(model, self._processor, self._loaded, details, bound)
        return image_probes(model, self._processor, self._task.name, details, bound)

    def _described(self, model: Any, graph: Graph, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """outputs: what PyTorch gives for one image; the exporter leaves lengths open that the model fixes."""
        if self._task.name == "depth-estimation":
            output_of(graph, "predicted_depth", 3)
            return {"output": "predicted_depth"}
        if self._task.name == "image-feature-extraction":
            return _features(graph, outputs)
        labels = labels_of(model.config.id2label)
        if self._task.name == "object-detection":
            return self._detection(labels, graph, outputs)
        if self._task.name == "image-segmentation":
            return _segmentation(labels, graph, outputs)
        output_of(graph, "logits", 2)
        _refuse_labels_unlike(labels, outputs["logits"].shape[1])
        return {"output": "logits", "labels": labels, "activation": activation_of(model.config.problem_type, len(labels))}

    def _detection(self, labels: list[str], graph: Graph, outputs: Mapping[str, Any]) -> dict[str, Any]:
        output_of(graph, "logits", 3)
        output_of(graph, "pred_boxes", 3)
        _, queries, width = outputs["logits"].shape
        if width not in (len(labels), len(labels) + 1):
            raise ModelRefused(f"config.json: expected {width} labels, or {width - 1} and nothing; found {len(labels)}")
        is_softmax = width == len(labels) + 1
        takes_all = is_softmax or type(self._processor).__name__.startswith("RTDetr")
        return {
            "output": "logits",
            "boxes_output": "pred_boxes",
            "labels": labels,
            "activation": "softmax" if is_softmax else "sigmoid",
            "most": queries if takes_all else _DEFORMABLE_MOST,
        }

    def _zero_shot(self, model: Any, graph: Graph) -> dict[str, Any]:
        output_of(graph, "logits_per_image", 2)
        text = model.config.text_config
        side = SimpleNamespace(
            config=text,
            get_input_embeddings=lambda: SimpleNamespace(num_embeddings=text.vocab_size),
            named_modules=model.named_modules,
        )
        is_siglip = "siglip" in model.config.model_type
        facts = tokenizer_facts(side, self._tokenizer)
        if not is_siglip and all(tensor["name"] != "attention_mask" for tensor in graph.inputs):
            raise ModelRefused("graph: expected an input 'attention_mask', since texts of different lengths are padded; found none")
        return {
            **facts,
            "output": "logits_per_image",
            "activation": "sigmoid" if is_siglip else "softmax",
            "hypothesis_template": "This is a photo of {}.",
            "text_length": min(_SIGLIP_TEXT_LENGTH, int(facts["context_length"])) if is_siglip else 0,
        }


def _mask_nothing(model: Any) -> None:
    """A masked autoencoder hides places at random and shuffles the rest, so no two calls agree. Hiding none, it need not shuffle.

    Raises ModelRefused for a model whose configuration says that it hides some: that is for the publisher to change.
    """
    if model.config.mask_ratio > 0:
        raise ModelRefused(
            f"config.json: mask_ratio must be 0, or the model says something else of an image at each call; found"
            f" {model.config.mask_ratio}"
        )
    model.embeddings.random_masking = _all_in_order


def _all_in_order(sequence: Any, _noise: Any = None, **_: Any) -> tuple[Any, Any, Any]:
    """Every place, what was masked (nothing), and how to restore the order. sequence: [batch, places, dimensions]."""
    order = torch.arange(sequence.shape[1]).expand(sequence.shape[0], -1)
    return sequence, torch.zeros_like(sequence[..., 0]), order


def _refuse_labels_unlike(labels: list[str], count: int) -> None:
    if len(labels) != count:
        raise ModelRefused(f"config.json: expected {count} labels, as many as the model has; found {len(labels)}")


def _segmentation(labels: list[str], graph: Graph, outputs: Mapping[str, Any]) -> dict[str, Any]:
    if "masks_queries_logits" in outputs:
        output_of(graph, "class_queries_logits", 3)
        output_of(graph, "masks_queries_logits", 4)
        found = outputs["class_queries_logits"].shape[2] - 1
        names: dict[str, Any] = {"form": "queries", "output": "class_queries_logits", "masks_output": "masks_queries_logits"}
    else:
        output_of(graph, "logits", 4)
        found = outputs["logits"].shape[1]
        names = {"form": "semantic", "output": "logits", "masks_output": None}
    _refuse_labels_unlike(labels, found)
    return {**names, "labels": labels}


def _features(graph: Graph, outputs: Mapping[str, Any]) -> dict[str, Any]:
    hidden = outputs["last_hidden_state"]
    if hidden.ndim not in (3, 4):
        raise ModelRefused(f"graph: last_hidden_state must have 3 or 4 axes, found {list(hidden.shape)}")
    output_of(graph, "last_hidden_state", hidden.ndim)
    is_pooled = "pooler_output" in outputs and any(tensor["name"] == "pooler_output" for tensor in graph.outputs)
    pooled = outputs["pooler_output"].reshape(len(hidden), -1) if is_pooled else None
    width = pooled.shape[1] if pooled is not None else hidden.shape[2 if hidden.ndim == 3 else 1]
    return {"output": "last_hidden_state", "pooled_output": "pooler_output" if is_pooled else None, "dimensions": int(width)}
