"""Where a benchmark's findings are kept: its figures as JSON, its pictures, and its table between two marks of a page.

In: a report, a table's text and charts. Out: files below `docs/`. This module must never compute a figure.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plot import Chart, svg

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks.md"
FIGURES = REPOSITORY / "docs" / "benchmarks"


def machine() -> str:
    """What a report says that it was measured on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def write_report(name: str, report: Mapping[str, Any], table: str, page: Path = PAGE, charts: Sequence[Chart] = ()) -> None:
    """`benchmarks/<name>.json` beside the page, pictures of the charts there, and these and the table between the page's marks.

    Again: replaces them. Raises ValueError for a page without both marks of that name, once each, and for a chart that cannot be
    drawn; nothing is written then.
    """
    figures = page.parent / FIGURES.name
    pictures = {chart.name: svg(chart) for chart in charts}
    shown = "".join(f"![{chart.title}]({figures.name}/{chart.name}.svg)\n\n" for chart in charts)
    text = with_marked(page.read_text(encoding="utf-8"), name, f"{shown}{table}", page.name)
    figures.mkdir(parents=True, exist_ok=True)
    (figures / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for picture, drawn in pictures.items():
        (figures / f"{picture}.svg").write_text(drawn, encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def with_marked(text: str, name: str, content: str, page: str) -> str:
    """A page's text with `content` between its marks of that name. Raises ValueError for a page without both, once each."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    found = text.count(begin), text.count(end)
    if found != (1, 1):
        raise ValueError(f"{page}: expected {begin} and {end} once each, found them {found[0]} and {found[1]} times")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"
