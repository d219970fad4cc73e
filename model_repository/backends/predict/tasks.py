"""The tasks of `predict`: what each makes of the graph's outputs.

In: texts. Out: one array per output tensor, first axis = items. This module must never know of Triton.

An item's numbers may differ in their last digits with its neighbours in a call: padding and batch size change the order in which a
processor adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.refusal import Refused
from opening.texts import read_texts
from predict.answers import best_span
from predict.encode import MAX_ITEMS, Encoder, prompt_tokens

Arrays = dict[str, np.ndarray]


class Task(Protocol):
    def answer(self, tensors: Mapping[str, np.ndarray]) -> Arrays:
        """Raises Refused when an input is not what it should be."""


def task_of(entry: OpenEntry) -> Task:
    """Raises EntryUnusable for a task that is not one of `predict`."""
    kinds: dict[str, Callable[[OpenEntry], Task]] = {
        "feature-extraction": FeatureExtraction,
        "text-classification": TextClassification,
        "question-answering": QuestionAnswering,
    }
    if entry.task not in kinds:
        raise EntryUnusable(f"entry.json: task for predict must be one of {sorted(kinds)}, found {entry.task!r}")
    return kinds[entry.task](entry)


def pool(hidden: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    """One vector a row. hidden: float32 [rows, sequence, dimensions]; mask: 1 for tokens, 0 for padding [rows, sequence]."""
    if pooling == "mean":
        weights: np.ndarray = mask[:, :, np.newaxis].astype(np.float32)
        return (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    rows = np.arange(len(hidden))
    if pooling == "cls":
        return hidden[rows, mask.argmax(axis=1)]
    return hidden[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float32 as the models compute it."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Without overflow: exp is only taken of numbers at or below 0."""
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1.0, small) / (1.0 + small)


class FeatureExtraction:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._output, self._pooling, self._normalises = (entry.detail(key) for key in ("output", "pooling", "normalize"))
        if self._pooling not in ("mean", "cls", "last"):
            raise EntryUnusable(f"entry.json: pooling must be mean, cls or last, found {self._pooling!r}")

    def answer(self, tensors: Mapping[str, np.ndarray]) -> Arrays:
        encodings = self._encoder.encode(read_texts(_items(tensors, "text_input"), "text_input", most=MAX_ITEMS), "text_input")
        embedding: np.ndarray = np.empty((len(encodings), int(self._entry.detail("dimensions"))), np.float32)
        for indices, inputs in self._encoder.batches(encodings):
            (hidden,) = self._entry.session.run([self._output], inputs)
            embedding[indices] = pool(hidden, inputs["attention_mask"], self._pooling)
        if self._normalises:
            embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        return {"embedding": embedding, "prompt_tokens": prompt_tokens(encodings)}


class TextClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._output, self._labels, activation = (entry.detail(key) for key in ("output", "labels", "activation"))
        activations: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "softmax": softmax,
            "sigmoid": sigmoid,
            "none": lambda scores: scores,
        }
        if activation not in activations:
            raise EntryUnusable(f"entry.json: activation must be one of {sorted(activations)}, found {activation!r}")
        self._activate = activations[activation]

    def answer(self, tensors: Mapping[str, np.ndarray]) -> Arrays:
        encodings = self._encoder.encode(read_texts(_items(tensors, "text_input"), "text_input", most=MAX_ITEMS), "text_input")
        scores: np.ndarray = np.empty((len(encodings), len(self._labels)), np.float32)
        for indices, inputs in self._encoder.batches(encodings):
            (scores[indices],) = self._entry.session.run([self._output], inputs)
        labels = np.array([self._labels[best].encode() for best in scores.argmax(axis=1)], object)
        return {"scores": self._activate(scores).astype(np.float32), "label": labels, "prompt_tokens": prompt_tokens(encodings)}


class QuestionAnswering:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._encoder = entry, Encoder(entry)
        self._outputs = [entry.detail("start_output"), entry.detail("end_output")]
        self._max_answer_tokens = int(entry.detail("max_answer_tokens"))

    def answer(self, tensors: Mapping[str, np.ndarray]) -> Arrays:
        questions = read_texts(_items(tensors, "question"), "question", most=MAX_ITEMS)
        contexts = read_texts(_items(tensors, "context"), "context", most=MAX_ITEMS)
        if len(questions) != len(contexts):
            raise Refused("context", f"one context for each of the {len(questions)} questions", f"{len(contexts)} contexts")
        encodings = self._encoder.encode(list(zip(questions, contexts, strict=True)), "context")
        for index, encoding in enumerate(encodings):
            if 1 not in encoding.sequence_ids:
                raise Refused("context", "a text with at least one token", f"0 tokens in item {index}")
        found = [("", 0.0, 0, 0)] * len(encodings)
        for indices, inputs in self._encoder.batches(encodings):
            starts, ends = self._entry.session.run(self._outputs, inputs)
            for row, index in enumerate(indices):
                tokens = inputs["attention_mask"][row] == 1
                found[index] = best_span(
                    starts[row][tokens], ends[row][tokens], encodings[index], contexts[index], self._max_answer_tokens
                )
        answer, score, start, end = zip(*found, strict=True)
        return {
            "answer": np.array([text.encode() for text in answer], object),
            "score": np.array(score, np.float32),
            "start": np.array(start, np.int32),
            "end": np.array(end, np.int32),
            "prompt_tokens": prompt_tokens(encodings),
        }


def _items(tensors: Mapping[str, np.ndarray], name: str) -> Sequence[bytes]:
    if name not in tensors:
        raise Refused(name, "a tensor of texts", "none")
    return [bytes(item) for item in tensors[name].reshape(-1)]
