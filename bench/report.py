"""Where a benchmark's findings are kept: its figures as JSON, its table between two marks of a page.

In: a report and a table's text. Out: files below `docs/`. This module must never compute a figure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks.md"
FIGURES = REPOSITORY / "docs" / "benchmarks"


def write_figures(name: str, report: Mapping[str, Any]) -> None:
    """`docs/benchmarks/<name>.json`. Again: replaces the file."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def write_table(name: str, table: str, page: Path = PAGE) -> None:
    """Put the table between the page's marks of that name. Again: replaces what stood there.

    Raises ValueError for a page without both marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
