"""How many tokens a text can have at most, from its length alone: what a tokenizer's file says before its vocabulary.

In: a `tokenizer.json`, as the `tokenizers` library writes it. Out: a `Bound`, or None where its parts can make a text longer by an
amount that is not known. This module must never read a vocabulary, or open a file with the library: that takes up to a second.

A token stands for at least one character of the text as its normaliser leaves it (one byte, where single bytes are tokens), so what
counts is by how much each part may lengthen a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD_CHARACTERS = 1 << 22
"""Where a vocabulary begins after more than this, its tokenizer has no bound here."""

_LONGER: Mapping[str, int] = {
    "NFC": 3,
    "NFD": 3,
    "NFKC": 11,
    "NFKD": 11,
    "Lowercase": 2,
    "Strip": 1,
    "StripAccents": 1,
    "Nmt": 1,
    "ByteLevel": 2,
}
"""By how much a normaliser may lengthen a text in UTF-8. Source: Unicode Standard Annex 15, "Maximum Expansion Factor"; Lowercase
makes 3 bytes of 2 (U+023A) and of U+0130."""
_MODEL_TYPE = re.compile(r'\{\s*"type"\s*:\s*"(\w+)"')
_CUTTERS = frozenset(
    ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Split", "Punctuation", "Digits", "CharDelimiterSplit", "UnicodeScripts")
)
"""They cut a text and add nothing."""


@dataclass(frozen=True)
class Bound:
    """Tokens of a text of n bytes are at most `each * n + more`; more: special tokens, counted whether asked for or not."""

    each: int
    more: int

    def tokens(self, text_bytes: int) -> int:
        return self.each * text_bytes + self.more


def read_bound(path: Path) -> Bound | None:
    """None also for a file of another form: what matters must stand before `model`, whose vocabulary is last."""
    with path.open(encoding="utf-8") as file:
        head = file.read(_HEAD_CHARACTERS)
    try:
        parts = _parts_before_vocabulary(head)
        each = _of_normaliser(parts.get("normalizer"), parts["model"])
        prefix = _of_pre_tokenizer(parts.get("pre_tokenizer"))
        more = _of_post_processor(parts.get("post_processor"))
    except (ValueError, TypeError, KeyError, AttributeError):  # written by another version, or by hand
        return None
    return None if each is None or prefix is None or more is None else Bound(each * prefix, more + prefix)


def _parts_before_vocabulary(head: str) -> dict[str, Any]:
    """The members of the outermost object, of `model`, which the library writes last, only the type."""
    decoder, parts, place = json.JSONDecoder(), dict[str, Any](), _after(head, 0, "{")
    while True:
        name, place = decoder.raw_decode(head, place)
        place = _after(head, place, ":")
        if name == "model":
            found = _MODEL_TYPE.match(head, place)
            return parts | {"model": found[1] if found else ""}
        parts[name], place = decoder.raw_decode(head, place)
        place = _after(head, place, ",")


def _after(head: str, place: int, mark: str) -> int:
    """The place of what follows the mark, white space left out. Raises ValueError where another one stands."""
    while head[place : place + 1].isspace():
        place += 1
    if not head.startswith(mark, place):
        raise ValueError(f"expected {mark!r}")
    place += len(mark)
    while head[place : place + 1].isspace():
        place += 1
    return place


def _of_normaliser(part: Any, model: str) -> int | None:
    """The factor of a text's length in bytes; of characters, where the model knows no single bytes."""
    if part is None:
        return 1
    kind = part["type"]
    if kind == "Sequence":
        product = 1
        for each in part["normalizers"]:
            factor = _of_normaliser(each, model)
            if factor is None:
                return None
            product *= factor
        return product
    if kind == "BertNormalizer":
        if model != "WordPiece":
            return None
        # Spaces around Chinese characters are no tokens. Accents that are taken away leave no more letters than there were bytes.
        takes_accents = part["lowercase"] if part["strip_accents"] is None else part["strip_accents"]
        return 1 if takes_accents or not part["lowercase"] else 2
    if kind == "Prepend":  # before each piece of text between two added tokens, and such a piece has at least a byte
        return 1 + len(part["prepend"].encode())
    if kind == "Replace" and "String" in part["pattern"]:
        return max(1, -(-len(part["content"].encode()) // len(part["pattern"]["String"].encode())))
    return _LONGER.get(kind)


def _of_pre_tokenizer(part: Any) -> int | None:
    """2 where a space may stand before each piece of text between two added tokens, otherwise 1."""
    if part is None:
        return 1
    kind = part["type"]
    if kind == "Sequence":
        found = [_of_pre_tokenizer(each) for each in part["pretokenizers"]]
        return None if None in found else max((each for each in found if each is not None), default=1)
    if kind == "ByteLevel":
        return 2 if part["add_prefix_space"] else 1
    if kind == "Metaspace":  # a space of one byte becomes a sign of three, all of which may be tokens
        return 4
    return 1 if kind in _CUTTERS else None


def _of_post_processor(part: Any) -> int | None:
    """Special tokens that are put around a text."""
    if part is None or part["type"] == "ByteLevel":
        return 0
    if part["type"] == "TemplateProcessing":
        return sum("SpecialToken" in each for each in part["single"]) * _most_ids(part)
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return 2
    if part["type"] == "Sequence":
        found = [_of_post_processor(each) for each in part["processors"]]
        return None if None in found else sum(each for each in found if each is not None)
    return None


def _most_ids(part: Mapping[str, Any]) -> int:
    """A special token of a template may stand for several."""
    return max((len(each["ids"]) for each in part["special_tokens"].values()), default=1)
