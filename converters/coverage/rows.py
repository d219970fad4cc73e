"""What is known of each type, kept between runs.

In: attempts. Out: `Row`s in a file of JSON lines. This module must never lose a finished row when the run is killed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.coverage.attempts import Attempt

_MESSAGE = 1000
_UNSTEADY = (
    (re.compile(r"(?<!\w)(?<!:/)(?:/[\w.+@-]+){2,}/"), ""),  # folders of whoever ran it; a web address stays whole
    (re.compile(r"\b0x[0-9a-fA-F]{6,}\b"), "0x..."),
    (re.compile(r"m-[0-9a-f]{16}"), "the entry"),
)


@dataclass(frozen=True)
class Row:
    """model_type: as transformers names it. attempts: in the order they were made; the last one is what the type is judged by.

    tools: versions of what was run.
    """

    model_type: str
    attempts: tuple[Attempt, ...]
    tools: Mapping[str, str]

    @property
    def verdict(self) -> Attempt | None:
        """The attempt that stands for the type: the one that is equal, else the first, which was the type's best task."""
        return next((each for each in self.attempts if each.is_equal), self.attempts[0] if self.attempts else None)

    @property
    def is_supported(self) -> bool:
        return self.verdict is not None and self.verdict.is_equal

    def to_json(self) -> dict[str, Any]:
        return {"type": self.model_type, "attempts": [each.to_json() for each in self.attempts], "tools": dict(self.tools)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Row:
        return cls(str(record["type"]), tuple(map(Attempt.from_json, record["attempts"])), dict(record["tools"]))


def read_rows(path: Path) -> dict[str, Row]:
    """The last row of each type; a line that a kill cut short is no row. Empty when there is no such file."""
    rows: dict[str, Row] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = Row.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            rows[row.model_type] = row
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row, on disk when this returns. Again: the later row of a type counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # a kill cut the last line short
                stream.write(b"\n")
        stream.write(json.dumps(row.to_json(), sort_keys=True).encode("utf-8") + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def chosen(types: Iterable[str], rows: Mapping[str, Row], *, retry_failed: bool) -> tuple[str, ...]:
    """Which types a run has to do: those without a row, and on request those whose row is not a supported one."""
    return tuple(name for name in types if name not in rows or (retry_failed and not rows[name].is_supported))


def steady(message: str) -> str:
    """A library's words without what changes from run to run: one line, no folders, no addresses."""
    for pattern, instead in _UNSTEADY:
        message = pattern.sub(instead, message)
    message = " ".join(message.split())
    return message if len(message) <= _MESSAGE else message[: _MESSAGE - 3] + "..."
