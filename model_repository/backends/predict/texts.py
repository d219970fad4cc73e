"""Tasks that say one thing of each text: its vector, or its labels.

In: texts. Out: one array per output tensor, first axis = items. This module must never know of Triton.

An item's numbers may differ in their last digits with its neighbours in a call: padding and batch size change the order in which a
processor adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.refusal import Refused
from opening.texts import read_texts
from predict.encode import MAX_ITEMS, Encoder, prompt_tokens
from predict.labels import Labels, hypotheses
from predict.parameters import Parameters
from predict.scores import best, normalised, pool, softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_LABELS = 64
"""Candidate labels in one call; each is a forward pass for each text."""
MAX_PAIRS = 1024


class FeatureExtraction:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._output, self._pooling, self._normalises = (entry.detail(key) for key in ("output", "pooling", "normalize"))
        if self._pooling not in ("mean", "cls", "last"):
            raise EntryUnusable(f"entry.json: pooling must be mean, cls or last, found {self._pooling!r}")

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str]) -> Arrays:
        normalises = Parameters(tensors, ("normalize",)).flag("normalize", bool(self._normalises))
        encodings = self._encoder.encode(read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS), "text_input")
        embedding: np.ndarray = np.empty((len(encodings), int(self._entry.detail("dimensions"))), np.float32)
        for rows in self._encoder.batches(encodings):
            (hidden,) = self._entry.session.run([self._output], rows.inputs)
            embedding[rows.indices] = pool(hidden, rows.mask, self._pooling)
        if normalises:
            embedding = normalised(embedding)
        answer: Arrays = {"embedding": embedding, "prompt_tokens": prompt_tokens(encodings)}
        if RESULT in wanted:
            answer[RESULT] = results_of(vector.tolist() for vector in embedding)
        return answer


class TextClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._labels = Labels(entry)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str]) -> Arrays:
        asked = self._labels.asked(tensors)
        encodings = self._encoder.encode(read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS), "text_input")
        logits: np.ndarray = np.empty((len(encodings), len(self._labels)), np.float32)
        for rows in self._encoder.batches(encodings):
            (logits[rows.indices],) = self._entry.session.run([self._labels.output], rows.inputs)
        return {**self._labels.answer(logits, asked, wanted), "prompt_tokens": prompt_tokens(encodings)}


class ZeroShotClassification:
    """Each candidate label becomes a hypothesis; how well it follows from the text is its score.

    Source: Yin, Hay and Roth, 2019, and transformers' zero-shot-classification pipeline, which this equals.
    """

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._output, self._entailment, self._contradiction, self._template = (
            entry.detail(key) for key in ("output", "entailment", "contradiction", "hypothesis_template")
        )

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str]) -> Arrays:
        parameters = Parameters(tensors, ("hypothesis_template", "multi_label"))
        is_multiple = parameters.flag("multi_label", False)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        labels = read_texts(items_of(tensors, "candidate_labels"), "candidate_labels", most=MAX_LABELS)
        if len(texts) * len(labels) > MAX_PAIRS:
            raise Refused("candidate_labels", f"at most {MAX_PAIRS} pairs of a text and a label", len(texts) * len(labels))
        sentences = hypotheses(parameters, self._template, labels)
        encodings = self._encoder.encode([(text, hypothesis) for text in texts for hypothesis in sentences], "text_input")
        logits: np.ndarray = np.empty((len(encodings), 2), np.float32)
        for rows in self._encoder.batches(encodings):
            (given,) = self._entry.session.run([self._output], rows.inputs)
            logits[rows.indices] = given[:, [self._contradiction, self._entailment]]
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
