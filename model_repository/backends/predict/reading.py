"""Texts through an entry's graph, together with those of the other calls that wait.

In: encoded texts. Out: the graph's outputs for them, in parts. This module must never know a task, or let a text's answer depend on
who else asks: whether padding or neighbours change it is tried when the entry is opened, and what changes it is not done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from predict.encode import Encoder, Row, row_of
from predict.groups import Joining
from predict.independence import look
from predict.passes import Passes

_MOST_TOKENS = 512
"""Of one pass on a CPU: MiniLM costs as much a token from 128 tokens on, and more from 2,048 on, where caches overflow."""
_MOST_TOKENS_ELSEWHERE = 4096
_TOLERANCE_ELSEWHERE = 2e-2
"""Of the largest value, on a GPU: the bound of fp16. Its libraries add in another order for another number of rows."""


@dataclass(frozen=True)
class Rows:
    """Some of a call's texts. indices: which. mask: INT64 [rows, longest], 1 for tokens. outputs: as asked, first axis = rows."""

    indices: list[int]
    mask: np.ndarray
    outputs: list[np.ndarray]


class Reader:
    """An entry's tokenizer and graph."""

    def __init__(
        self,
        entry: OpenEntry,
        outputs: Sequence[str],
        *,
        is_per_token: bool,
        most_tokens: int = _MOST_TOKENS_ELSEWHERE,
        are_choices: bool = False,
    ) -> None:
        """is_per_token: outputs are [rows, tokens, ...], else [rows, ...]. most_tokens: bounds a pass' memory further.
        are_choices: the graph takes [1, rows, tokens] and gives [1, rows]."""
        self._entry, self._outputs, self._are_choices = entry, list(outputs), are_choices
        self._encoder = Encoder(entry)
        is_cpu = entry.session.get_providers()[0] == "CPUExecutionProvider"
        found = look(
            self._compute, self._encoder.samples(), is_per_token=is_per_token, tolerance=0.0 if is_cpu else _TOLERANCE_ELSEWHERE
        )
        joining = Joining(
            most=min(most_tokens, _MOST_TOKENS if is_cpu else _MOST_TOKENS_ELSEWHERE),
            pads=found.of_padding and self._encoder.has_mask,
            joins=found.of_rows,
        )
        self._passes = Passes(self._compute, joining)

    def encode(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], field: str, until: float = math.inf
    ) -> list[tokenizers.Encoding]:
        """As `Encoder.encode`."""
        return self._encoder.encode(texts, field, until)

    def read(self, encodings: Sequence[tokenizers.Encoding], until: float = math.inf) -> Iterator[Rows]:
        """Every text once, in any order. until: as `Passes.through` has it."""
        rows = [row_of(encoding) for encoding in encodings]
        for part in self._passes.through(rows, [len(row.ids) for row in rows], until):
            mask, *outputs = part.arrays
            yield Rows(part.indices, mask, outputs)

    def _compute(self, rows: Sequence[Row]) -> list[np.ndarray]:
        mask, inputs = self._encoder.batch(rows)
        if not self._are_choices:
            return [mask, *self._entry.session.run(self._outputs, inputs)]
        given = self._entry.session.run(self._outputs, {name: value[np.newaxis] for name, value in inputs.items()})
        return [mask, *(output[0] for output in given)]
