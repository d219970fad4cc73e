"""Text from tokens, as they come.

In: token ids, pieces of text. Out: text that is final: no half characters, nothing that may turn out to be a stop string.
This module must never take back what it gave out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_CONTEXT = 5
"""Tokens kept before the new ones when decoding, since some decoders write a token differently at the start (a space, for one)."""

_LONGEST_WINDOW = 20

_HELD = 3
"""A UTF-8 character has at most 4 bytes, so at most 3 replacement characters at the end can still become something else."""

_REPLACEMENT = "\ufffd"


class TextStream:
    """Turns one call's tokens into text. decode: ids -> text; bytes that are not a character show as U+FFFD."""

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = ""
        self._move_window(list(prompt))

    def add(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        waiting = min(len(text) - len(text.rstrip(_REPLACEMENT)), _HELD)
        if waiting and not text.startswith(self._given):
            # Decoders with byte tokens show a whole run of them as unknown while its last character is incomplete.
            return ""
        settled = text[len(self._given) : len(text) - waiting]
        if not waiting and len(self._window) > _LONGEST_WINDOW:
            self._move_window(self._window)
        else:
            self._given = text[: len(text) - waiting] if settled else self._given
        return settled

    def end(self) -> str:
        """What was still waiting, as it stands: a half character shows as U+FFFD."""
        text = self._decode(self._window)
        rest, self._given = text[len(self._given) :], text
        return rest

    def _move_window(self, tokens: list[int]) -> None:
        """Keep the last few tokens, from the beginning of a character on."""
        for size in range(_CONTEXT, _CONTEXT + _HELD + 1):
            self._window = tokens[-size:]
            self._given = self._decode(self._window)
            if not self._given.startswith(_REPLACEMENT):
                return


class StopFinder:
    """Lets text through up to the first stop string, wherever tokens divide it; the stop string itself is not let through.

    First is the one that is complete first; of two complete at the same letter, the longer. So how the text is cut changes nothing.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """The text that may go out, and whether a stop string was found: then nothing more may be added."""
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self._held = ""
            return held[: min(found)[1]], True
        waiting = next((size for size in range(min(self._longest - 1, len(held)), 0, -1) if self._may_begin(held[-size:])), 0)
        released, self._held = held[: len(held) - waiting], held[len(held) - waiting :]
        return released, False

    def end(self) -> str:
        """What was held back as the possible beginning of a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _may_begin(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)
