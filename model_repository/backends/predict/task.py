"""What every task of `predict` is, and the tensors it works on.

In: nothing. Out: the interface `Task`. This module must never know one task from another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import numpy as np

from opening.refusal import Refused

Arrays = dict[str, np.ndarray]

RESULT = "result"


class Task(Protocol):
    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        """At least the outputs in `wanted`; one that costs something and is not wanted may be left out.

        until: by `time.monotonic`, how long it may wait for others before a graph computes any of it.

        Raises Refused when an input is not what it should be, TooLate when it has waited until then.
        """


def items_of(tensors: Mapping[str, np.ndarray], name: str) -> Sequence[bytes]:
    """The elements of a BYTES input. Raises Refused when the caller left it out."""
    if name not in tensors:
        raise Refused(name, "a tensor of texts", "none")
    return [bytes(item) for item in tensors[name].reshape(-1)]


def results_of(answers: Iterable[Any]) -> np.ndarray:
    """The output `result`: one JSON text an item, as the Hugging Face inference API answers for it."""
    return np.array([json.dumps(answer, ensure_ascii=False, allow_nan=False).encode() for answer in answers], object)
