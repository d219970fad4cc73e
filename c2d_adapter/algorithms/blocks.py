"""Texts as blocks of tokens of one length, and which blocks each step trains on.

In: texts, a tokenizer, a seed. Out: int64 arrays of token ids [batch, sequence]. This module must never keep a state: which blocks
a step gets follows from the seed and the step's number alone, so neither a restart nor the number of workers changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy

from c2d_adapter.job_io import JobFailed

_PIECE_LETTERS = 1 << 14
"""Long texts are cut at line ends before they are tokenised: a tokenizer keeps offsets of everything that it is given at once."""
_PIECES_AT_ONCE = 64
"""The library tokenises them side by side, in threads."""


@dataclass(frozen=True)
class Blocks:
    """tokens: int32 [tokens], all texts one after the other; what does not fill the last block is left out."""

    tokens: Any
    length: int
    seed: int

    @property
    def count(self) -> int:
        return len(self.tokens) // self.length

    def batch(self, step: int, size: int) -> Any:
        """What a step trains on, int64 [size, length].

        Each round over the texts has an order of its own, and meets every block once.
        """
        first = step * size
        chosen = [self._block(number) for number in range(first, first + size)]
        return numpy.stack([self.tokens[at : at + self.length] for at in chosen]).astype(numpy.int64)

    def _block(self, number: int) -> int:
        turn, place = divmod(number, self.count)
        return int(_order(self.seed, turn, self.count)[place]) * self.length


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> Any:
    return numpy.random.default_rng([seed, turn]).permutation(count)


def tokens_of(texts: list[str], tokenizer: Any, vocabulary: int) -> Any:
    """All texts as int32 [tokens], the tokenizer's end token after each text where it has one.

    vocabulary: how many tokens the model knows. Raises JobFailed when the tokenizer gives one beyond.
    """
    end = tokenizer.eos_token_id
    found: list[Any] = []
    for text in texts:
        pieces = _pieces(text)
        while some := list(islice(pieces, _PIECES_AT_ONCE)):
            ids = tokenizer(some, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False)
            found += [numpy.asarray(one, dtype=numpy.int32) for one in ids["input_ids"]]
        if end is not None:
            found.append(numpy.asarray([end], dtype=numpy.int32))
    tokens = numpy.concatenate(found) if found else numpy.zeros(0, dtype=numpy.int32)
    if len(tokens) and int(tokens.max()) >= vocabulary:
        raise JobFailed(
            "unsupported_model",
            f"The tokenizer gives token {int(tokens.max())}, and the model knows {vocabulary} tokens, counted from 0.",
        )
    return tokens


def blocks_of(tokens: Any, length: int, seed: int, batch_size: int) -> Blocks:
    """Raises JobFailed when there are fewer blocks than one batch takes: it would hold the same text twice."""
    blocks = Blocks(tokens, length, seed)
    if blocks.count < batch_size:
        raise JobFailed(
            "dataset_too_small",
            f"The data set has {len(tokens)} tokens; a batch of {batch_size} sequences of {length} takes {batch_size * length}.",
        )
    return blocks


def _pieces(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = text.find("\n", at + _PIECE_LETTERS)
        end = len(text) if end < 0 else end + 1
        yield text[at:end]
        at = end
