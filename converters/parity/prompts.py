"""Texts to ask a model, made of plain words: seeded, of any length, and never longer than its context.

In: a tokenizer as transformers loads it, and a seed. Out: texts. This module must never cut a text at a token.
"""

from __future__ import annotations

from typing import Any

import numpy

_TEXT = (
    "the a of and in to it was on for with that as at by from his her not which one two three 1998 2024 42 3.14 river market"
    " music winter city house water night light paper garden engine letter school people morning village bridge story doctor"
    " small old green early open quick quiet red north said made found came went wrote built called sold left began Anna Paris"
    " London Berlin naïve café Übung, however; because (perhaps) often never again before under between without"
)
_WORDS = tuple(_TEXT.split())


def text_of(chances: numpy.random.Generator, words: int) -> str:
    chosen = [_WORDS[place] for place in chances.integers(0, len(_WORDS), size=max(1, words))]
    return " ".join(chosen) + "."


def fitting(loaded: Any, chances: numpy.random.Generator, words: int, room: int) -> str:
    """A text of at most `words` words and `room` tokens, special ones counted; at least one word, however little room there is."""
    while True:
        text = text_of(chances, words)
        if words <= 1 or tokens_in(loaded, text) <= room:
            return text
        words = words * 2 // 3


def tokens_in(loaded: Any, *texts: str) -> int:
    """Tokens of a text, or of a pair, special ones counted."""
    return len(loaded(*texts, verbose=False)["input_ids"])
