"""Tasks that say one thing of each text: its vector, or its labels.

In: texts. Out: one array per output tensor, first axis = items. This module must never know of Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.refusal import Refused
from opening.texts import read_texts
from predict.encode import MAX_ITEMS, prompt_tokens
from predict.labels import Labels, hypotheses
from predict.parameters import Parameters
from predict.reading import Reader
from predict.scores import best, normalised, pool, softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_LABELS = 64
"""Candidate labels in one call; each is a forward pass for each text."""
MAX_PAIRS = 1024


class FeatureExtraction:
    def __init__(self, entry: OpenEntry) -> None:
        self._reader = Reader(entry, [entry.detail("output")], is_per_token=True)
        self._dimensions = int(entry.detail("dimensions"))
        self._pooling, self._normalises = entry.detail("pooling"), bool(entry.detail("normalize"))
        if self._pooling not in ("mean", "cls", "last"):
            raise EntryUnusable(f"entry.json: pooling must be mean, cls or last, found {self._pooling!r}")

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        normalises = Parameters(tensors, ("normalize",)).flag("normalize", self._normalises)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        encodings = self._reader.encode(texts, "text_input", until)
        embedding: np.ndarray = np.empty((len(encodings), self._dimensions), np.float32)
        for rows in self._reader.read(encodings, until):
            embedding[rows.indices] = pool(rows.outputs[0], rows.mask, self._pooling)
        if normalises:
            embedding = normalised(embedding)
        answer: Arrays = {"embedding": embedding, "prompt_tokens": prompt_tokens(encodings)}
        if RESULT in wanted:
            answer[RESULT] = results_of(vector.tolist() for vector in embedding)
        return answer


class TextClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._labels = Labels(entry)
        self._reader = Reader(entry, [self._labels.output], is_per_token=False)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        asked = self._labels.asked(tensors)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        encodings = self._reader.encode(texts, "text_input", until)
        logits: np.ndarray = np.empty((len(encodings), len(self._labels)), np.float32)
        for rows in self._reader.read(encodings, until):
            (logits[rows.indices],) = rows.outputs
        return {**self._labels.answer(logits, asked, wanted), "prompt_tokens": prompt_tokens(encodings)}


class ZeroShotClassification:
    """Each candidate label becomes a hypothesis; how well it follows from the text is its score.

    Source: Yin, Hay and Roth, 2019, and transformers' zero-shot-classification pipeline, which this equals.
    """

    def __init__(self, entry: OpenEntry) -> None:
        self._reader = Reader(entry, [entry.detail("output")], is_per_token=False)
        self._entailment, self._contradiction, self._template = (
            entry.detail(key) for key in ("entailment", "contradiction", "hypothesis_template")
        )

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        parameters = Parameters(tensors, ("hypothesis_template", "multi_label"))
        is_multiple = parameters.flag("multi_label", False)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        labels = read_texts(items_of(tensors, "candidate_labels"), "candidate_labels", most=MAX_LABELS)
        if len(texts) * len(labels) > MAX_PAIRS:
            raise Refused("candidate_labels", f"at most {MAX_PAIRS} pairs of a text and a label", len(texts) * len(labels))
        sentences = hypotheses(parameters, self._template, labels)
        encodings = self._reader.encode([(text, hypothesis) for text in texts for hypothesis in sentences], "text_input", until)
        logits: np.ndarray = np.empty((len(encodings), 2), np.float32)
        for rows in self._reader.read(encodings, until):
            logits[rows.indices] = rows.outputs[0][:, [self._contradiction, self._entailment]]
        pairs = logits.reshape(len(texts), len(labels), 2)
        is_each_alone = is_multiple or len(labels) == 1
        scores = softmax(pairs)[:, :, 1] if is_each_alone else softmax(pairs[:, :, 1])
        tokens = prompt_tokens(encodings).reshape(len(texts), len(labels)).sum(axis=1, dtype=np.int32)
        answer: Arrays = {"scores": scores.astype(np.float32), "prompt_tokens": tokens}
        if RESULT in wanted:
            answer[RESULT] = results_of(_ordered(*item, labels) for item in zip(texts, scores, strict=True))
        return answer


def _ordered(text: str, scores: np.ndarray, labels: Sequence[str]) -> dict[str, object]:
    order = best(scores, len(labels))
    return {"sequence": text, "labels": [labels[place] for place in order], "scores": [float(scores[place]) for place in order]}


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType(
    {
        "feature-extraction": FeatureExtraction,
        "text-classification": TextClassification,
        "zero-shot-classification": ZeroShotClassification,
    }
)
