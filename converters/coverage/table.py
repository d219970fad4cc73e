"""The coverage table as documents: which types are converted, served and equal, and why the others are not.

In: rows, and the types that transformers knows. Out: `model-coverage.md` and `model-coverage.json`. This module must never write a
number that was not counted from the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.coverage.attempts import Attempt
from converters.coverage.reasons import SORTS, sort_of
from converters.coverage.rows import Row

MARKDOWN, JSON = "model-coverage.md", "model-coverage.json"
FORMAT = "posthuman/coverage/v1"
_CELL = 240


@dataclass(frozen=True)
class Line:
    """One type. attempt: the one it is judged by. sort: of the failure, None for a supported type and for one not tried."""

    model_type: str
    attempt: Attempt | None
    sort: str | None
    others: tuple[Attempt, ...]

    @property
    def is_supported(self) -> bool:
        return self.attempt is not None and self.attempt.is_equal


def lines_of(rows: Mapping[str, Row], types: Iterable[str]) -> tuple[Line, ...]:
    """A line for each type, sorted by name; a row of a type that transformers does not know is left out."""
    return tuple(_line(model_type, rows.get(model_type)) for model_type in sorted(set(types)))


def _line(model_type: str, row: Row | None) -> Line:
    if row is None or not row.attempts:
        return Line(model_type, None, None, ())
    if row.is_supported:
        judged, sort = row.verdict, None
    else:
        sort, judged = sort_of(row.attempts)
    return Line(model_type, judged, sort, tuple(each for each in row.attempts if each is not judged))


def write_table(rows: Mapping[str, Row], types: Sequence[str], docs: Path) -> str:
    """Write both documents into `docs`; returns a line that says the totals. Again: the same rows give the same bytes."""
    lines = lines_of(rows, types)
    tools = _tools(rows.values())
    docs.mkdir(parents=True, exist_ok=True)
    _replace(docs / MARKDOWN, markdown(lines, tools))
    record = {"format": FORMAT, "tools": tools, "totals": totals(lines), "types": [_record(line) for line in lines]}
    _replace(docs / JSON, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    counted = totals(lines)
    return f"{counted['supported']} of {counted['types']} types converted, served and within the bound"


def totals(lines: Sequence[Line]) -> dict[str, Any]:
    supported = [line.attempt for line in lines if line.is_supported and line.attempt is not None]
    sorts = Counter(line.sort for line in lines if line.sort is not None)
    return {
        "types": len(lines),
        "supported": len(supported),
        "not tried": sum(line.attempt is None for line in lines),
        "failed": {sort: sorts[sort] for sort in SORTS},
        "supported by task": _counted(attempt.task for attempt in supported),
        "supported by route": _counted(attempt.route for attempt in supported),
        "supported by cache": _counted(
            attempt.kv_cache.partition(":")[0].partition(",")[0] for attempt in supported if attempt.kv_cache
        ),
    }


def markdown(lines: Sequence[Line], tools: Mapping[str, str]) -> str:
    counted = totals(lines)
    parts = [
        "# Model coverage",
        "",
        f"Written by `make coverage`: do not edit. Every model type that transformers {tools.get('transformers', '')} knows, as a"
        " tiny model with random weights: converted to ONNX, loaded into a real Triton, and asked calls of several sizes whose"
        " answers PyTorch has given before. Differences are parts of the largest value of an output; texts, labels and tokens must"
        " be equal. A type counts once. Supported means converted, loaded in Triton, and within the bound at every call.",
        "",
        f"**{counted['supported']} of {counted['types']} types are supported.** Of the others:",
        "",
        *(f"- {counted['failed'][sort]} {sort}" for sort in SORTS),
        *([f"- {counted['not tried']} not tried"] if counted["not tried"] else []),
        "",
        f"Tools: {', '.join(f'{tool} {version}' for tool, version in sorted(tools.items()))}.",
        "",
        *_tally("task", counted["supported by task"]),
        *_tally("route", counted["supported by route"]),
        "Decoders that keep keys and values: in one buffer that calls share, written in place, or in one that grows by a copy at"
        " each step; the JSON says of each why.",
        "",
        *_tally("cache", counted["supported by cache"]),
        "## Supported",
        "",
        "In process: the graph against PyTorch. Served: the same through Triton, backend, tokenizer and processor included."
        " Seconds: the whole, from building the tiny model to the last answer, beside other work on two cores.",
        "",
        "| type | task | route, and why | precision | in process | served | bound | calls | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_supported(line.model_type, line.attempt) for line in lines if line.is_supported and line.attempt is not None),
        "",
    ]
    for sort in SORTS:
        failed = [line for line in lines if line.sort == sort and line.attempt is not None]
        parts += [f"## Not supported: {sort}", ""]
        if not failed:
            parts += ["None.", ""]
            continue
        parts += ["| type | task | at | reason |", "|---|---|---|---|", *(_failed(line) for line in failed), ""]
    if untried := [line.model_type for line in lines if line.attempt is None]:
        parts += ["## Not tried", "", ", ".join(untried) + ".", ""]
    return "\n".join(parts)


def _tally(name: str, counted: Mapping[str, int]) -> list[str]:
    return [f"| {name} | types |", "|---|---|", *(f"| {key} | {number} |" for key, number in counted.items()), ""]


def _supported(model_type: str, attempt: Attempt) -> str:
    cells = (
        model_type,
        attempt.task,
        f"{attempt.route}: {attempt.why}",
        attempt.precision,
        _number(attempt.in_process),
        _number(attempt.served),
        _number(attempt.bound),
        str(attempt.probes),
        f"{sum(attempt.seconds.values()):.1f}",
    )
    return _row(cells)


def _failed(line: Line) -> str:
    assert line.attempt is not None  # noqa: S101 - a line with a sort has an attempt
    attempt = line.attempt
    return _row((line.model_type, attempt.task or "none", attempt.step, f"{attempt.error}: {attempt.message}"))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    shown = text if len(text) <= _CELL else text[: _CELL - 3] + "..."
    # A library's words are no markup.
    for sign in "\\|<>*`[]":
        shown = shown.replace(sign, "\\" + sign)
    return shown


def _number(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Most frequent first, then by name."""
    return dict(sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0])))


def _tools(rows: Iterable[Row]) -> dict[str, str]:
    """Versions that all rows agree on; where they do not, all of them."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for tool, version in row.tools.items():
            found.setdefault(tool, set()).add(version)
    return {tool: ", ".join(sorted(versions)) for tool, versions in sorted(found.items())}


def _record(line: Line) -> dict[str, Any]:
    attempts = [] if line.attempt is None else [line.attempt, *line.others]
    return {
        "type": line.model_type,
        "supported": line.is_supported,
        "sort": line.sort,
        "attempts": [attempt.to_json() for attempt in attempts],
    }


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
