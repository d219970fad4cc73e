"""Where a benchmark's findings are kept: its figures as JSON, its table between two marks of a page.

In: a report and a table's text. Out: files below `docs/`. This module must never compute a figure.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks.md"
FIGURES = REPOSITORY / "docs" / "benchmarks"


def machine() -> str:
    """What a report says that it was measured on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def write_report(name: str, report: Mapping[str, Any], table: str, page: Path = PAGE) -> None:
    """`docs/benchmarks/<name>.json`, and the table between the page's marks of that name. Again: replaces both.

    Raises ValueError for a page without both marks, once each; nothing is written then.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    found = text.count(begin), text.count(end)
    if found != (1, 1):
        raise ValueError(f"{page.name}: expected {begin} and {end} once each, found them {found[0]} and {found[1]} times")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
