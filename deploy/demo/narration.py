"""How the story is told: chapters, facts, and checks that are counted.

In: sentences and truths. Out: lines, and a verdict at the end. This module must never decide a check itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from deploy.progress import Steps


@dataclass(frozen=True)
class Claim:
    """One thing the story says is so, whether it was, and what was seen. chapter: its number."""

    chapter: int
    text: str
    holds: bool
    evidence: str


class Narrator:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._chapter = 0
        self._began = time.monotonic()
        self.steps = Steps(stream, indent="   ")
        self.claims: list[Claim] = []

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        self._chapter += 1
        began = time.monotonic()
        self._print(f"\n{self._chapter}. {title}")
        yield
        self._print(f"   ({time.monotonic() - began:.1f} s)")

    def fact(self, name: str, value: object) -> None:
        self._print(f"   {name:<18} {value}")

    def say(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._print(f"   {line}")

    def check(self, text: str, holds: bool, evidence: object = "") -> bool:
        claim = Claim(self._chapter, text, bool(holds), str(evidence))
        self.claims.append(claim)
        shown = f": {claim.evidence}" if claim.evidence else ""
        self._print(f"   [{'ok' if claim.holds else 'FAILED'}] {text}{shown}")
        return claim.holds

    def verdict(self) -> bool:
        """Print how many checks hold; True when all do."""
        good = sum(claim.holds for claim in self.claims)
        seconds = time.monotonic() - self._began
        self._print("")
        for claim in self.claims:
            if not claim.holds:
                self._print(f"NOT verified, in {claim.chapter}: {claim.text}: {claim.evidence}")
        word = "every check verified" if good == len(self.claims) else "checks verified"
        self._print(f"{word}: {good} of {len(self.claims)} ({seconds:.0f} s)")
        return good == len(self.claims) and good > 0

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
