"""Elasticsearch's `query_string`: words, phrases, fields, AND, OR, NOT, parentheses, wildcards.

In: a text, what makes a test of one word. Out: one test. This module must never look at a document.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from control_plane.errors import BadInput
from control_plane.provider.texts import Texts

Test = Callable[[Texts], bool]
Leaf = Callable[[str | None, str, bool], Test]
"""field or None, text, whether it is a phrase."""

DEEPEST = 32
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>\() | (?P<close>\)) | (?P<sign>[+!-](?=\S))
        | (?:(?P<field>(?:[^\s:()"\\]|\\.)+):)? (?: "(?P<phrase>(?:[^"\\]|\\.)*)" | (?P<word>(?:[^\s()"\\]|\\.)+) )
    )""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")


def parse_query_string(text: str, leaf: Leaf, is_and: bool) -> Test:
    """is_and: whether words that stand beside each other must all be there. Raises BadInput for what cannot be read."""
    tokens: list[re.Match[str]] = []
    at = 0
    stripped = text.rstrip()
    while at < len(stripped):
        found = _TOKEN.match(stripped, at)
        if found is None:
            raise _unreadable()
        tokens.append(found)
        at = found.end()
    return _Parser(tokens, leaf, is_and).whole()


def wildcard(text: str) -> re.Pattern[str]:
    """`*` is any letters, `?` is one. A stranger writes it: what a star has taken is not tried again (fnmatch, from Python 3.9)."""
    return re.compile(fnmatch.translate(text.lower().replace("[", "[[]")))


class _Parser:
    def __init__(self, tokens: list[re.Match[str]], leaf: Leaf, is_and: bool) -> None:
        self._tokens, self._leaf, self._is_and, self._at = tokens, leaf, is_and, 0

    def whole(self) -> Test:
        if not self._tokens:
            return lambda _: True
        found = self._group(0)
        if self._at < len(self._tokens):
            raise _unreadable()
        return found

    def _group(self, depth: int) -> Test:
        """Alternatives of things that must all be there. Signs: `+` must be there, `-` must not."""
        if depth > DEEPEST:
            raise _unreadable()
        needed: list[Test] = []
        wished: list[Test] = []
        unwanted: list[Test] = []
        is_joined = False
        while self._at < len(self._tokens) and not self._tokens[self._at]["close"]:
            word = self._tokens[self._at]["word"] if not self._tokens[self._at]["field"] else None
            if word in ("AND", "&&", "OR", "||"):
                is_joined = word in ("AND", "&&")
                if is_joined and wished and not needed:
                    needed.append(wished.pop())
                self._at += 1
                continue
            sign = self._sign()
            one = self._one(depth)
            if sign in ("-", "!"):
                unwanted.append(one)
            elif sign == "+" or is_joined or self._is_and:
                needed.append(one)
            else:
                wished.append(one)
            is_joined = False

        def is_hit(asset: Texts) -> bool:
            if any(each(asset) for each in unwanted) or not all(each(asset) for each in needed):
                return False
            return bool(needed) or not wished or any(each(asset) for each in wished)

        return is_hit

    def _sign(self) -> str:
        sign = ""
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token["sign"]:
                sign = token["sign"]
            elif token["word"] == "NOT" and not token["field"]:
                sign = "-"
            else:
                break
            self._at += 1
        return sign

    def _one(self, depth: int) -> Test:
        if self._at >= len(self._tokens):
            raise _unreadable()
        token = self._tokens[self._at]
        self._at += 1
        if token["open"]:
            found = self._group(depth + 1)
            if self._at >= len(self._tokens):
                raise _unreadable()
            self._at += 1
            return found
        if token["close"]:
            raise _unreadable()
        is_phrase = token["phrase"] is not None
        field = token["field"]
        return self._leaf(
            _ESCAPED.sub(r"\1", field) if field else None,
            _ESCAPED.sub(r"\1", token["phrase"] if is_phrase else token["word"]),
            is_phrase,
        )


def _unreadable() -> BadInput:
    return BadInput(
        "query", "words, phrases, fields, AND, OR, NOT and matching parentheses", "something else", code="query_unreadable"
    )
