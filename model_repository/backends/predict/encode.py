"""Texts as tokens, and tokens as rows of a batch.

In: texts, or pairs of them. Out: token ids, masks and positions as the graph wants them. This module must never cut a text.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from opening.feeds import Feeds
from opening.refusal import Refused, TooLate

MAX_ITEMS = 256
"""Texts in one call."""
MAX_CHARACTERS = 1 << 23
"""Of one call, a text counted as often as it is read: with each label or choice again. About ten seconds of tokenising."""

_PART_CHARACTERS = 1 << 20
"""Tokenised at once: a token takes some 300 bytes until its text is known to fit."""
_MANY_CHARACTERS = 1 << 16
"""Calls with more are tokenised one after the other: together they would hold that memory many times."""

_SAMPLES = ("a", "the book of the market", "every stall keeps its own book of what was sold, when, and to whom")

FED = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})


@dataclass(frozen=True)
class Row:
    """A text's tokens. types: the tokenizer's, which tell the texts of a pair apart."""

    ids: list[int]
    types: list[int]


def row_of(encoding: tokenizers.Encoding) -> Row:
    return Row(encoding.ids, encoding.type_ids)


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
        self._one_at_a_time = threading.Lock()

    @property
    def has_mask(self) -> bool:
        """Is the graph told what is padding? One that is not reads it as text."""
        return "attention_mask" in self._input_names

    def encode(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], field: str, until: float = math.inf
    ) -> list[tokenizers.Encoding]:
        """Raises Refused when an item has no token, or more than the context holds; `field` is what the caller can shorten.
        Raises TooLate where others were tokenised until then, by `time.monotonic`.
        """
        lengths = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
        if sum(lengths) > MAX_CHARACTERS:
            raise Refused(field, f"at most {MAX_CHARACTERS} characters to read, all pairs counted", sum(lengths))
        with self._turn(sum(lengths), until):
            encodings: list[tokenizers.Encoding] = []
            for begin, end in _parts(lengths):
                made = self._tokenizer.encode_batch(list(texts[begin:end]), add_special_tokens=self._add_special_tokens)
                self._check(made, begin, field)
                encodings += made
            return encodings

    @contextmanager
    def _turn(self, characters: int, until: float) -> Iterator[None]:
        if characters <= _MANY_CHARACTERS:
            yield
            return
        if not self._one_at_a_time.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)):
            raise TooLate
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _check(self, encodings: Sequence[tokenizers.Encoding], begin: int, field: str) -> None:
        for index, encoding in enumerate(encodings, start=begin):
            if not 1 <= len(encoding.ids) <= self._context_length:
                raise Refused(
                    field,
                    f"1 to {self._context_length} tokens in each text, special tokens counted",
                    f"{len(encoding.ids)} tokens in item {index}",
                    "prompt_too_long" if encoding.ids else "",
                )
            if max(encoding.ids) >= self._vocabulary:
                raise Refused(field, f"tokens below {self._vocabulary}", f"token {max(encoding.ids)} in item {index}")

    def samples(self) -> list[Row]:
        """A few texts of different lengths, as rows; none that the context cannot hold."""
        made = self._tokenizer.encode_batch(list(_SAMPLES), add_special_tokens=self._add_special_tokens)
        rows = [row_of(encoding) for encoding in made]
        return [row for row in rows if 1 <= len(row.ids) <= self._context_length and max(row.ids) < self._vocabulary]

    def batch(self, rows: Sequence[Row]) -> tuple[np.ndarray, Feeds]:
        """The mask, INT64 [rows, longest], 1 for tokens; and what the graph takes, each of the same shape."""
        longest = max(len(row.ids) for row in rows)
        shape = (len(rows), longest)
        ids: np.ndarray
        mask: np.ndarray
        types: np.ndarray
        ids, mask, types = np.full(shape, self._pad_token, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            length = len(row.ids)
            place = slice(longest - length, longest) if self._pads_left else slice(0, length)
            ids[number, place], mask[number, place], types[number, place] = row.ids, 1, row.types
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "position_ids": np.where(mask == 1, np.cumsum(mask, axis=1) - 1, 1),
        }
        return mask, {name: inputs[name] for name in self._input_names}


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
    return np.array([len(encoding) for encoding in encodings], np.int32)
