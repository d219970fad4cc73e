"""What the classifications of texts, images and sounds have in common: from a graph's logits to scores and labels.

In: an entry's details, a call's parameters, logits. Out: the answer's arrays. This module must never know what was classified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.refusal import Refused
from predict.parameters import Parameters
from predict.scores import ACTIVATIONS, ranked
from predict.task import RESULT, Arrays, results_of

DEFAULT_TOP = 5
MOST_TOP = 10_000
MAX_TEMPLATE = 1000
"""Characters."""


@dataclass(frozen=True)
class Asked:
    """How one call wants its labels: by which activation, and the best `top` of them in `result`."""

    activate: Callable[[np.ndarray], np.ndarray]
    top: int


class Labels:
    """An entry's labels: `output` is the graph's, [items, labels]."""

    def __init__(self, entry: OpenEntry) -> None:
        self.output = str(entry.detail("output"))
        self._names: list[str] = entry.detail("labels")
        self._activation = activation_of(entry)

    def __len__(self) -> int:
        return len(self._names)

    def asked(self, tensors: Mapping[str, np.ndarray]) -> Asked:
        """Raises Refused for a parameter that a classification does not have."""
        parameters = Parameters(tensors, ("function_to_apply", "top_k"))
        activation = parameters.choice("function_to_apply", self._activation, sorted(ACTIVATIONS))
        return Asked(ACTIVATIONS[activation], parameters.count("top_k", min(DEFAULT_TOP, len(self)), most=MOST_TOP))

    def answer(self, logits: np.ndarray, asked: Asked, wanted: AbstractSet[str]) -> Arrays:
        """`scores` float32 [items, labels], the best `label` of each item, and `result` where it is wanted."""
        scores: np.ndarray = asked.activate(logits).astype(np.float32)
        best = np.array([self._names[place].encode() for place in logits.argmax(axis=1)], object)
        answer: Arrays = {"scores": scores, "label": best}
        if RESULT in wanted:
            answer[RESULT] = results_of(ranked(row, self._names, asked.top) for row in scores)
        return answer


def activation_of(entry: OpenEntry) -> str:
    """Raises EntryUnusable for an activation that is none of ours."""
    activation = entry.detail("activation")
    if activation not in ACTIVATIONS:
        raise EntryUnusable(f"entry.json: activation must be one of {sorted(ACTIVATIONS)}, found {activation!r}")
    return str(activation)


def hypotheses(parameters: Parameters, template: str, labels: Sequence[str]) -> list[str]:
    """A sentence for each candidate label, by the caller's template or the entry's. Raises Refused for one without its place."""
    template = parameters.text("hypothesis_template", template, MAX_TEMPLATE)
    # Not `format`: a template from outside could reach into Python's objects with it.
    if template.count("{}") != 1:
        raise Refused("parameters.hypothesis_template", "a text with {} once, where the label goes", template.count("{}"))
    return [template.replace("{}", label) for label in labels]
