"""Does a text's answer depend on what stands beside it? Found by trying, when an entry is opened.

In: a graph and some texts. Out: what may be joined. This module must never trust a graph's inputs: one with a mask may still let
padding through (FNet mixes all places, Nystromformer takes means over them), or one row into another (a mean over the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from predict.encode import Row


@dataclass(frozen=True)
class Independence:
    """of_rows: texts of one length may go together. of_padding: those of different lengths too, padded to the longest."""

    of_rows: bool
    of_padding: bool


def look(
    compute: Callable[[Sequence[Row]], Sequence[np.ndarray]], samples: Sequence[Row], *, is_per_token: bool, tolerance: float
) -> Independence:
    """compute: gives a mask [rows, longest] and outputs [rows, tokens, ...] where is_per_token, else [rows, ...].
    tolerance: a part of each output's largest value; 0 asks for the same bits.

    A graph that cannot compute the samples is not looked at further: its texts stay alone.
    """
    lengths = {len(row.ids) for row in samples}
    if not samples:
        return Independence(of_rows=False, of_padding=False)
    longest = max(samples, key=lambda row: len(row.ids))
    turned = Row([*longest.ids[:1], *longest.ids[-2:0:-1], *longest.ids[1:][-1:]], longest.types)
    rows = [*samples, turned]
    try:
        alone = [_answers(compute([row]), is_per_token)[0] for row in rows]
        beside = _answers(compute([longest, turned, longest]), is_per_token)
        of_rows = _are_same(beside, [alone[samples.index(longest)], alone[-1], alone[samples.index(longest)]], tolerance)
        padded = _answers(compute(rows * 2), is_per_token)
        return Independence(of_rows, of_rows and len(lengths) > 1 and _are_same(padded, alone * 2, tolerance))
    except Exception:  # whatever a library raises for a text that is too short for its graph
        return Independence(of_rows=False, of_padding=False)


def _answers(arrays: Sequence[np.ndarray], is_per_token: bool) -> list[list[np.ndarray]]:
    """For each row its outputs, of its own tokens alone."""
    mask, *outputs = arrays
    if not is_per_token:
        return [[output[row] for output in outputs] for row in range(len(mask))]
    return [[output[row, : mask.shape[1]][mask[row] == 1] for output in outputs] for row in range(len(mask))]


def _are_same(found: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[np.ndarray]], tolerance: float) -> bool:
    return all(
        one.shape == other.shape and bool(np.all(np.abs(one - other) <= tolerance * np.abs(other).max()))
        for row, wanted in zip(found, expected, strict=True)
        for one, other in zip(row, wanted, strict=True)
    )
