"""What PyTorch, with transformers' own processor and tokenizer, answers to a buyer's images: the probes of an image entry.

In: the PyTorch model, its processor and tokenizer. Out: probes. This module must never use the graph, or the backend's arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from transformers.image_transforms import center_to_corners_format

from converters.parity.arrays import numbers
from converters.parity.images import SIZES, picture, png, processed
from converters.probes import Probe, texts

_CALLS = ((SIZES[0],), (SIZES[1], SIZES[1]), (SIZES[2], SIZES[2], SIZES[2]))
"""Sizes of the images of each call: alike within one, since maps of different sizes are no tensor."""
_LABELS = (("a cat", "a dog"), ("a market", "the sea at night", "three receipts"), ("one", "none"))
_MAP_VALUES = 6_000
"""Numbers of one call's maps in a probe; their stride follows from it."""


def image_probes(model: Any, processor: Any, task: str, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """One probe a call, for every image task but the one that also reads texts."""
    names = [str(tensor["name"]) for tensor in details["graph_inputs"]]
    probes = []
    for seed, sizes in enumerate(_CALLS):
        images = [picture(*size, 10 * seed + index) for index, size in enumerate(sizes)]
        outputs = [_forward(model, processed(processor, [image]), names) for image in images]
        answers = [_answer(task, output, details) for output in outputs]
        found = {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
        inputs = [texts("image", [png(image) for image in images])]
        if task in ("depth-estimation", "image-segmentation"):
            (name, whole), *_ = found.items()
            stride = _stride_for(whole)
            found = {name: whole[..., ::stride, ::stride]}
            inputs.append(numbers("stride", numpy.array([stride], numpy.int32)))
        if task == "image-classification" and seed > 0:
            # Probabilities near 0 and 1 hide what the scores before them show.
            found = {"scores": torch.cat([output["logits"] for output in outputs])}
            inputs.append(texts("parameters", ['{"function_to_apply": "none"}']))
        probes.append(Probe(tuple(inputs), tuple(numbers(name, value.numpy()) for name, value in found.items()), bound))
    return tuple(probes)


def zero_shot_probes(model: Any, processor: Any, tokenizer: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """One probe a call: images and candidate labels, as transformers' pipeline asks them."""
    names = [str(tensor["name"]) for tensor in details["graph_inputs"]]
    length = int(details["text_length"])
    padding: dict[str, Any] = {"padding": "max_length", "max_length": length, "truncation": True} if length else {"padding": True}
    probes = []
    for seed, (sizes, labels) in enumerate(zip(_CALLS, _LABELS, strict=True)):
        images = [picture(*size, 10 * seed + index) for index, size in enumerate(sizes)]
        sentences = [str(details["hypothesis_template"]).replace("{}", label) for label in labels]
        tokens = {name: numpy.asarray(value) for name, value in tokenizer(sentences, return_tensors="np", **padding).items()}
        rows = [_forward(model, {**processed(processor, [image]), **tokens}, names)["logits_per_image"] for image in images]
        logits = torch.cat(rows)
        scores = torch.sigmoid(logits) if details["activation"] == "sigmoid" else logits.softmax(dim=-1)
        inputs = (texts("image", [png(image) for image in images]), texts("candidate_labels", labels))
        probes.append(Probe(inputs, (numbers("scores", scores.numpy()), numbers("logits", logits.numpy())), bound))
    return tuple(probes)


def _forward(model: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    given = {name: torch.from_numpy(numpy.ascontiguousarray(feeds[name])) for name in names if name in feeds}
    given = {name: value.float() if value.is_floating_point() else value for name, value in given.items()}
    with torch.inference_mode():
        outputs: Mapping[str, Any] = model(**given, return_dict=True)
    return outputs


def _answer(task: str, outputs: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric outputs of one image, in PyTorch's own arithmetic."""
    if task == "depth-estimation":
        return {"depth": outputs["predicted_depth"]}
    if task == "image-feature-extraction":
        if details["pooled_output"] is not None:
            return {"embedding": outputs["pooler_output"].flatten(start_dim=1)}
        hidden = outputs["last_hidden_state"]
        return {"embedding": hidden.mean(dim=1) if hidden.dim() == 3 else hidden.mean(dim=(2, 3))}
    if task == "image-segmentation" and details["form"] == "queries":
        classes = outputs["class_queries_logits"].softmax(dim=-1)[..., :-1]
        return {"scores": torch.einsum("bql,bqrc->blrc", classes, outputs["masks_queries_logits"].sigmoid())}
    logits = outputs["logits"]
    if task == "image-segmentation":
        return {"scores": logits}
    if task == "object-detection":
        scores = logits.softmax(dim=-1)[..., :-1] if details["activation"] == "softmax" else logits.sigmoid()
        return {"scores": scores, "boxes": center_to_corners_format(outputs["pred_boxes"])}
    return {"scores": {"softmax": logits.softmax(dim=-1), "sigmoid": logits.sigmoid(), "none": logits}[details["activation"]]}


def _stride_for(maps: Any) -> int:
    stride = 1
    while maps[..., ::stride, ::stride].numel() > _MAP_VALUES and stride < max(maps.shape[-2:]):
        stride += 1
    return stride
