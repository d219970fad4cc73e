"""A line of assets as a drawing: a box each, an arrow from parent to child.

In: the rows of each box. Out: SVG text. This module must never know what the rows mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LINE, PAD, GAP = 760, 20, 14, 34


@dataclass(frozen=True)
class Box:
    """title: in bold. rows: below it. is_verified: a green or a red edge."""

    title: str
    rows: Sequence[str]
    is_verified: bool


def draw(boxes: Sequence[Box], arrows: Sequence[str]) -> str:
    """The boxes from top to bottom. arrows: what stands beside the arrow between a box and the next; one fewer than boxes."""
    parts: list[str] = []
    top = PAD
    for place, box in enumerate(boxes):
        height = 2 * PAD + LINE * (1 + len(box.rows))
        colour = "#1a7f37" if box.is_verified else "#cf222e"
        size = f'x="{PAD}" y="{top}" width="{WIDTH - 2 * PAD}" height="{height}" rx="6"'
        parts.append(f'<rect {size} fill="#fff" stroke="{colour}" stroke-width="2"/>')
        for number, text in enumerate((box.title, *box.rows)):
            weight = ' font-weight="bold"' if number == 0 else ""
            parts.append(f'<text x="{2 * PAD}" y="{top + PAD + LINE * number + 14}"{weight}>{escape(text)}</text>')
        top += height
        if place < len(boxes) - 1:
            middle = WIDTH // 2
            parts.append(f'<line x1="{middle}" y1="{top}" x2="{middle}" y2="{top + GAP - 8}" stroke="#57606a" stroke-width="2"/>')
            parts.append(f'<path d="M{middle - 6} {top + GAP - 9} h12 l-6 9 z" fill="#57606a"/>')
            parts.append(f'<text x="{middle + 14}" y="{top + GAP // 2 + 4}" fill="#57606a">{escape(arrows[place])}</text>')
            top += GAP
    whole = top + PAD
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{whole}" viewBox="0 0 {WIDTH} {whole}"'
    return "\n".join((f'{head} font-family="monospace" font-size="13">', *parts, "</svg>", ""))
