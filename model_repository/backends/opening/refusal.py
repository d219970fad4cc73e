"""How a backend refuses a call: the field, what was expected, and what was found; and why it may not compute one at all.

In: a field's name and values. Out: `Refused`, whose JSON travels as Triton's error message. This module must never show a prompt.
"""

from __future__ import annotations

import json


class Refused(Exception):
    """The caller must act. `found` is short: a count or a number, never the text itself. code: for a refusal that has a name."""

    def __init__(self, field: str, expected: str, found: object, code: str = "") -> None:
        self.field, self.expected, self.found, self.code = field, expected, str(found)[:80], code
        super().__init__(self.to_json())

    def to_json(self) -> str:
        if self.code:
            return json.dumps({"field": self.field, "expected": self.expected, "found": self.found, "code": self.code})
        return json.dumps({"field": self.field, "expected": self.expected, "found": self.found})


class TooBusy(Exception):
    """Nobody must act: try again. Nothing was computed."""


class TooLate(TooBusy):
    """As above, of a call that has waited as long as it may."""

    def __init__(self) -> None:
        super().__init__("this call has waited for this model as long as it may")


class Cancelled(Exception):
    """The caller has gone."""
