"""The task that says which of several endings fits a text best.

In: one text and its choices. Out: one probability a choice. This module must never know of Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np

from opening.entry import OpenEntry
from opening.texts import read_texts
from predict.parameters import Parameters
from predict.reading import Reader
from predict.scores import ranked, softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_CHOICES = 64


class MultipleChoice:
    """The model reads each choice after the text, by itself; the choices meet in the softmax alone."""

    def __init__(self, entry: OpenEntry) -> None:
        self._reader = Reader(entry, [entry.detail("output")], is_per_token=False, are_choices=True)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        Parameters(tensors, ())
        (text,) = read_texts(items_of(tensors, "text_input"), "text_input", most=1)
        choices = read_texts(items_of(tensors, "choices"), "choices", most=MAX_CHOICES)
        encodings = self._reader.encode([(text, choice) for choice in choices], "text_input", until)
        logits: np.ndarray = np.empty(len(choices), np.float32)
        for rows in self._reader.read(encodings, until):
            (logits[rows.indices],) = rows.outputs
        scores: np.ndarray = softmax(logits).astype(np.float32)
        total = sum(len(encoding) for encoding in encodings)
        answer: Arrays = {"scores": scores, "prompt_tokens": np.array([total], np.int32)}
        if RESULT in wanted:
            answer[RESULT] = results_of([ranked(scores, choices, len(choices))])
        return answer


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType({"multiple-choice": MultipleChoice})
