"""Does a graph whose cache is one buffer give PyTorch's logits, as it is served: prompts in parts, then rows together?

In: the PyTorch model, the graph, the entry's details. Out: lines for `entry.json`, or ParityFailed. This module must never widen a
bound because a model missed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from converters.parity.causal import GREEDY_TOKENS, alone, compare_choices
from converters.parity.compare import Worst
from converters.parity.shared_session import SharedSession
from converters.parity.texts import sizes_for

_PROMPT = 12
_STEPPED = 6
"""Tokens at each row's end that are read one by one, together with the other rows'."""


def check_shared(model: Any, path: Path, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model; the lines state what was found, rounded up to 1, 2 or 5.

    Raises ParityFailed naming output, difference and bound.
    """
    chances = numpy.random.default_rng(0)
    logits, greedy = Worst("logits", bound), Worst("greedy", 2 * bound)
    context = int(details["context_length"])
    length = min(_PROMPT, max(1, context - GREEDY_TOKENS))
    steps = min(GREEDY_TOKENS, context - length)
    with torch.inference_mode():
        sizes = sizes_for(model, details)
        session = SharedSession(path, details, rows=3, length=max(length + steps, *(size[1] for size in sizes)))
        for size in sizes:
            rows = _rows(details, size, chances)
            session.forget()
            found = _read(session, rows)
            for row, made in zip(rows, found, strict=True):
                logits.compare(made, alone(model, row, details), size)
        for batch in (1, 3) if steps else ():
            rows = _rows(details, (batch, length), chances)
            session.forget()
            compare_choices(model, rows, _decode(session, rows, steps), details, greedy)
    return logits.line(), greedy.line()


def _rows(details: Mapping[str, Any], size: tuple[int, int], chances: numpy.random.Generator) -> list[Any]:
    """Random tokens; of three rows the second is two thirds as long as the first, and the third has nine tokens at most."""
    batch, length = size
    lengths = [(length, max(1, length * 2 // 3), min(length, 9))[row % 3] for row in range(batch)]
    return [chances.integers(0, int(details["vocabulary"]), size=kept, dtype=numpy.int64) for kept in lengths]


def _read(session: SharedSession, rows: Sequence[Any]) -> list[Any]:
    """Logits of every token of every row: a prompt in two parts each, then steps that the rows share."""
    stepped = min([_STEPPED, *(len(row) - 1 for row in rows)])
    found = []
    for place, row in enumerate(rows):
        prompt = row[: len(row) - stepped]
        half = len(prompt) // 2
        found.append([session.read(place, [part])[0] for part in (prompt[:half], prompt[half:]) if len(part)])
    for step in range(stepped):
        together = session.read(0, [[row[len(row) - stepped + step]] for row in rows])
        for parts, made in zip(found, together, strict=True):
            parts.append(made)
    return [numpy.concatenate(parts) for parts in found]


def _decode(session: SharedSession, rows: Sequence[Any], steps: int) -> Any:
    """The graph's own choices: int64 [rows, steps]."""
    best = [int(session.read(place, [row])[0, -1].argmax()) for place, row in enumerate(rows)]
    chosen = [best]
    for _ in range(steps - 1):
        best = [int(made[-1].argmax()) for made in session.read(0, [[token] for token in best])]
        chosen.append(best)
    return numpy.array(chosen, numpy.int64).T
