"""The learning rate of each step.

In: a step's number, counted from 0. Out: a rate. This module must never keep a state: a restart then needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""Share of the highest rate, by how much of the training after the warm-up is done, from 0 to 1."""


def learning_rate(step: int, *, steps: int, highest: float, shape: str, warmup_steps: int) -> float:
    """As `transformers.get_scheduler` has it: from 0 up to `highest` in the warm-up, and then down by the shape.

    shape: one of SHAPES.
    """
    if step < warmup_steps:
        return highest * step / warmup_steps
    return highest * SHAPES[shape](min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))
