"""Texts as rows of a batch.

In: texts, or pairs of them. Out: token ids, masks and positions as the graph wants them. This module must never cut a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from opening.refusal import Refused

MAX_ITEMS = 256
"""Texts in one call."""
MAX_CHARACTERS = 1 << 23
"""Of one call, a text counted as often as it is read: with each label or choice again. About ten seconds of tokenising."""

_PART_CHARACTERS = 1 << 20
"""Tokenised at once: a token takes some 300 bytes until its text is known to fit."""
_BATCH_ROWS = 32
_BATCH_TOKENS = 4096
"""Padded tokens in one forward pass: bounds its memory, whatever a call asks for."""

FED = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})


@dataclass(frozen=True)
class Rows:
    """A batch. indices: which items its rows are. mask: INT64 [rows, longest], 1 for tokens. inputs: what the graph takes of it."""

    indices: list[int]
    mask: np.ndarray
    inputs: dict[str, np.ndarray]


class Encoder:
    """An entry's tokenizer together with its limits."""

    def __init__(self, entry: OpenEntry, beside: frozenset[str] = frozenset()) -> None:
        """beside: inputs of the graph that are not made of texts, and are fed by another."""
        self._tokenizer = entry.tokenizer
        self._context_length = int(entry.detail("context_length"))
        self._vocabulary = int(entry.detail("vocabulary"))
        self._pad_token = int(entry.detail("pad_token_id"))
        self._pads_left = entry.detail("padding_side") == "left"
        self._add_special_tokens = bool(entry.detail("add_special_tokens"))
        self._input_names = tuple(name for name in entry.graph_input_names(FED | beside) if name in FED)
        # A graph without a mask reads padding as text: then only items of one length go together.
        self._knows_padding = "attention_mask" in self._input_names

    def encode(self, texts: Sequence[str] | Sequence[tuple[str, str]], field: str) -> list[tokenizers.Encoding]:
        """Raises Refused when an item has no token, or more than the context holds; `field` is what the caller can shorten."""
        lengths = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
        if sum(lengths) > MAX_CHARACTERS:
            raise Refused(field, f"at most {MAX_CHARACTERS} characters to read, all pairs counted", sum(lengths))
        encodings: list[tokenizers.Encoding] = []
        for begin, end in _parts(lengths):
            made = self._tokenizer.encode_batch(list(texts[begin:end]), add_special_tokens=self._add_special_tokens)
            self._check(made, begin, field)
            encodings += made
        return encodings

    def _check(self, encodings: Sequence[tokenizers.Encoding], begin: int, field: str) -> None:
        for index, encoding in enumerate(encodings, start=begin):
            if not 1 <= len(encoding.ids) <= self._context_length:
                raise Refused(
                    field,
                    f"1 to {self._context_length} tokens in each text, special tokens counted",
                    f"{len(encoding.ids)} tokens in item {index}",
                )
            if max(encoding.ids) >= self._vocabulary:
                raise Refused(field, f"tokens below {self._vocabulary}", f"token {max(encoding.ids)} in item {index}")

    def batches(self, encodings: Sequence[tokenizers.Encoding], *, most_tokens: int = _BATCH_TOKENS) -> Iterator[Rows]:
        """Items of similar length together. most_tokens: in one batch, padding counted, if a single item is not longer."""
        by_length = sorted(range(len(encodings)), key=lambda index: len(encodings[index].ids))
        while by_length:
            longest = len(encodings[by_length[-1]].ids)
            rows = max(1, min(_BATCH_ROWS, most_tokens // longest))
            if not self._knows_padding:
                rows = min(rows, sum(len(encodings[index].ids) == longest for index in by_length))
            indices, by_length = by_length[-rows:], by_length[:-rows]
            yield self._rows(indices, [encodings[index] for index in indices], longest)

    def _rows(self, indices: list[int], encodings: Sequence[tokenizers.Encoding], longest: int) -> Rows:
        shape = (len(encodings), longest)
        ids: np.ndarray
        mask: np.ndarray
        types: np.ndarray
        ids, mask, types = np.full(shape, self._pad_token, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            place = slice(longest - length, longest) if self._pads_left else slice(0, length)
            ids[row, place], mask[row, place], types[row, place] = encoding.ids, 1, encoding.type_ids
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "position_ids": np.where(mask == 1, np.cumsum(mask, axis=1) - 1, 1),
        }
        return Rows(indices, mask, {name: inputs[name] for name in self._input_names})


def _parts(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where to begin and end, so that each part has at most `_PART_CHARACTERS`, or one item."""
    begin = total = 0
    for index, length in enumerate(lengths):
        if index > begin and total + length > _PART_CHARACTERS:
            yield begin, index
            begin, total = index, 0
        total += length
    yield begin, len(lengths)


def prompt_tokens(encodings: Sequence[tokenizers.Encoding]) -> np.ndarray:
    """Tokens of each item, special ones counted: int32 [items]."""
    return np.array([len(encoding.ids) for encoding in encodings], np.int32)
