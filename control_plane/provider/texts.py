"""The values of a document, taken out of it once, so that a search walks through no document.

In: a document as Aquarius shows it. Out: its values by field, with their words. This module must never know a clause.

Documents are strangers': one of a kilobyte on chain may hold a megabyte of text. So all that looks at values counts what it costs.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.errors import BadInput

_WORD = re.compile(r"\w+", re.UNICODE)
_AFTER_A_DOT = chr(ord(".") + 1)
LETTERS_A_STEP = 64
"""Letters of a text that are looked through in about the time that one value takes."""


@dataclass(frozen=True)
class Value:
    """words: in lower case, with a space before and behind each of them, so that some of them in a row are a part of it; empty
    where there is none. As UTF-8, for one strange letter makes a text four times as large in memory. steps: what looking for words
    in it costs."""

    value: Any
    words: bytes
    steps: int


class Budget:
    """What one search may still cost, in steps: one value looked at, or so many letters of one."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Raises BadInput with code query_too_costly when there is not as much left."""
        self._left -= steps
        if self._left < 0:
            expected = "fewer clauses, or ones that name their fields: this one takes too long over all assets"
            raise BadInput("query", expected, "more", code="query_too_costly")


class Texts:
    """The values of one document by their dotted fields, lists walked through."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._by_field: dict[str, list[Value]] = {}
        known: dict[tuple[type, Any], Value] = {}
        for field, value in _flat(document, ""):
            key = (type(value), value)
            if key not in known:
                words = spaced(words_of(value))
                known[key] = Value(value, words, 1 + len(words) // LETTERS_A_STEP)
            self._by_field.setdefault(field, []).append(known[key])
        self._fields = sorted(self._by_field)
        self.size = len(json.dumps(document))
        """Bytes that it takes to show it: a strange letter is twelve of them, and the names of its fields are shown too."""

    def under(self, field: str | None) -> Iterator[Value]:
        """The values of a field, those of fields inside it too; under None: all."""
        if not field or field == "*":
            for values in self._by_field.values():
                yield from values
            return
        name = field.removesuffix(".keyword")
        yield from self._by_field.get(name, ())
        at = bisect_left(self._fields, name + ".")
        while at < len(self._fields) and self._fields[at] < name + _AFTER_A_DOT:
            yield from self._by_field[self._fields[at]]
            at += 1


def words_of(value: object) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [word.lower() for word in _WORD.findall(str(value))] if value is not None else []


def spaced(words: Sequence[str]) -> bytes:
    """See `Value.words`."""
    return f" {' '.join(words)} ".encode("utf-8", "surrogatepass") if words else b""


def _flat(document: Any, field: str) -> Iterator[tuple[str, Any]]:
    if isinstance(document, list):
        for each in document:
            yield from _flat(each, field)
    elif isinstance(document, Mapping):
        for name, each in document.items():
            yield from _flat(each, f"{field}.{name}" if field else str(name))
    else:
        yield field, document
