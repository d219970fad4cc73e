"""How a backend refuses a call: the field, what was expected, and what was found; and why it may not compute one at all.

In: a field's name and values. Out: `Refused`, whose JSON travels as Triton's error message. This module must never show a prompt.
"""

from __future__ import annotations

import json


class Refused(Exception):
    """The caller must act. `found` is short: a count or a number, never the text itself."""

    def __init__(self, field: str, expected: str, found: object) -> None:
        self.field, self.expected, self.found = field, expected, str(found)[:80]
        super().__init__(self.to_json())

    def to_json(self) -> str:
        return json.dumps({"field": self.field, "expected": self.expected, "found": self.found})


class TooBusy(Exception):
    """Nobody must act: try again. Nothing was computed."""


class Cancelled(Exception):
    """The caller has gone."""
