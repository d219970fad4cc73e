"""Tasks that say one thing of each image: its labels, its vector, or how well texts fit it.

In: image files. Out: one array per output tensor, first axis = images. This module must never know of Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from opening.feeds import Feeds
from opening.images import read_images
from opening.refusal import Refused
from opening.texts import read_texts
from predict.encode import FED, Encoder
from predict.labels import Labels, activation_of, hypotheses
from predict.parameters import Parameters
from predict.pixels import Pixels
from predict.scores import ACTIVATIONS, ranked
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_LABELS = 256
"""Candidate labels in one call."""


class ImageClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry)
        self._labels = Labels(entry)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        asked = self._labels.asked(tensors)
        images = read_images(items_of(tensors, "image"))
        logits: np.ndarray = np.empty((len(images), len(self._labels)), np.float32)
        for indices, feeds in self._pixels.batches(images):
            (logits[indices],) = self._entry.session.run([self._labels.output], feeds)
        return self._labels.answer(logits, asked, wanted)


class ImageFeatureExtraction:
    """`embedding` is one vector an image; `result` is what the model says of each place, or its own pooling of it with `pool`."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry)
        self._output, self._pooled = entry.detail("output"), entry.detail("pooled_output")

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        pools = Parameters(tensors, ("pool",)).flag("pool", False)
        if pools and self._pooled is None:
            raise Refused("parameters.pool", "false: this model has no pooling of its own", "true")
        images = read_images(items_of(tensors, "image"))
        names = [self._output] if self._pooled is None else [self._output, self._pooled]
        vectors: list[np.ndarray] = [np.empty(0)] * len(images)
        said: list[np.ndarray] = [np.empty(0)] * len(images)
        for indices, feeds in self._pixels.batches(images):
            given = self._entry.session.run(names, feeds)
            embedding = embedding_of(given[0], None if self._pooled is None else given[1])
            for row, index in enumerate(indices):
                vectors[index], said[index] = embedding[row], given[1 if pools else 0][row]
        answer: Arrays = {"embedding": np.stack(vectors).astype(np.float32)}
        if RESULT in wanted:
            answer[RESULT] = results_of(hidden.tolist() for hidden in said)
        return answer


def embedding_of(hidden: np.ndarray, pooled: np.ndarray | None) -> np.ndarray:
    """One vector an image: the model's own pooling where it has one, else the mean over tokens, or over rows and columns."""
    if pooled is not None:
        return pooled.reshape(len(pooled), -1)
    return hidden.mean(axis=1) if hidden.ndim == 3 else hidden.mean(axis=(2, 3))


class ZeroShotImageClassification:
    """Each candidate label becomes a sentence; how well it fits the image is its score."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry, FED)
        self._encoder = Encoder(entry, frozenset(str(tensor["name"]) for tensor in entry.detail("graph_inputs")) - FED)
        self._output, self._template, self._text_length = (
            entry.detail(key) for key in ("output", "hypothesis_template", "text_length")
        )
        self._pad_token, self._pads_left = int(entry.detail("pad_token_id")), entry.detail("padding_side") == "left"
        self._text_inputs = [str(tensor["name"]) for tensor in entry.detail("graph_inputs") if tensor["name"] in FED]
        self._activation = activation_of(entry)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        parameters = Parameters(tensors, ("hypothesis_template",))
        labels = read_texts(items_of(tensors, "candidate_labels"), "candidate_labels", most=MAX_LABELS)
        texts = self._texts(self._encoder.encode(hypotheses(parameters, self._template, labels), "candidate_labels"))
        images = read_images(items_of(tensors, "image"))
        logits: np.ndarray = np.empty((len(images), len(labels)), np.float32)
        for indices, feeds in self._pixels.batches(images):
            (logits[indices],) = self._entry.session.run([self._output], {**feeds, **texts})
        scores: np.ndarray = ACTIVATIONS[self._activation](logits).astype(np.float32)
        answer: Arrays = {"scores": scores, "logits": logits}
        if RESULT in wanted:
            answer[RESULT] = results_of(ranked(row, labels, len(labels)) for row in scores)
        return answer

    def _texts(self, encodings: Sequence[tokenizers.Encoding]) -> Feeds:
        """The graph's text inputs, INT64 [labels, longest], or [labels, text_length] for a model that knows no other length."""
        longest = self._text_length or max(len(encoding.ids) for encoding in encodings)
        ids: np.ndarray = np.full((len(encodings), longest), self._pad_token, np.int64)
        mask: np.ndarray = np.zeros(ids.shape, np.int64)
        for row, encoding in enumerate(encodings):
            place = slice(longest - len(encoding.ids), longest) if self._pads_left else slice(0, len(encoding.ids))
            ids[row, place], mask[row, place] = encoding.ids, 1
        positions = np.where(mask == 1, np.cumsum(mask, axis=1) - 1, 1)
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids), "position_ids": positions}
        return {name: made[name] for name in self._text_inputs}


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType(
    {
        "image-classification": ImageClassification,
        "image-feature-extraction": ImageFeatureExtraction,
        "zero-shot-image-classification": ZeroShotImageClassification,
    }
)
