"""Draws a benchmark's figures: bars lying down, in groups, each with its spread, its value and what it is held against.

In: a `Chart`, which a bench makes of its report. Out: an SVG that reads well on light and on dark pages, since it brings its own
background and follows the reader's scheme. This module must never measure, and never leave out a bar: one that was not measured
has a line that says why.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
_EDGE, _TITLE, _HEADING, _MARK, _ROW, _BAR, _TICKS = 20, 54, 26, 16, 24, 14, 26
"""Pixels: the margin, and the heights of what stands below each other."""
_LETTER = 6.8
"""Pixels of one letter of 12 px text, generously: fonts differ from reader to reader, and nothing may overlap."""
_SMALLEST = 1e-12
"""A difference that is drawn; less is nothing measured, and numbers that small have no logarithm in the end."""
_STYLE = """
svg {
  --paper: #ffffff; --edge: #d1d9e0; --grid: #e4e8ec; --ink: #1f2328; --faint: #59636e;
  --peer: #a9b4c0; --ours: #2f81f7; --budget: #bc4c00
}
@media (prefers-color-scheme: dark) { svg {
  --paper: #151b23; --edge: #3d444d; --grid: #2a313a; --ink: #e6edf3; --faint: #9da7b1;
  --peer: #667381; --ours: #4c9bff; --budget: #f0883e
} }
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif; fill: var(--ink) }
.title { font-size: 16px; font-weight: 600 }
.heading, .value { font-weight: 600 }
.note { font-weight: 400 }
.faint { fill: var(--faint) }
.middle { text-anchor: middle }
.right { text-anchor: end }
.label { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round }
.paper { fill: var(--paper); stroke: var(--edge) }
.grid { stroke: var(--grid) }
.axis { stroke: var(--faint) }
.peer { fill: var(--peer) }
.ours { fill: var(--ours) }
.spread { stroke: var(--ink); stroke-width: 1.5; fill: none }
.mark { stroke: var(--budget); stroke-width: 1.5; stroke-dasharray: 5 3 }
.marked { fill: var(--budget) }
""".strip()


@dataclass(frozen=True)
class Bar:
    """One thing measured. values: one a round; the bar shows their median, its whisker the least and the most.

    note: said after the value; of a bar without values the reason why there are none. ours: drawn in the colour that stands out.
    """

    name: str
    values: Sequence[float]
    note: str = ""
    ours: bool = False

    def said(self) -> str:
        """What stands after the bar."""
        if not self.values:
            return f"not measured: {self.note}" if self.note else "not measured"
        return f"{_number(statistics.median(self.values))} {self.note}".strip()


@dataclass(frozen=True)
class Mark:
    """A line across a group: a budget, or a bound."""

    name: str
    value: float


@dataclass(frozen=True)
class Group:
    """Bars that are compared with each other, and the lines that they are held against."""

    heading: str
    bars: Sequence[Bar]
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Chart:
    """name: of the file, without its ending. axis: what is measured, in which unit, and which way is better.

    one_scale: all groups on one scale, so that they can be compared with each other; else each on its own.
    """

    name: str
    title: str
    axis: str
    groups: Sequence[Group]
    one_scale: bool = True


@dataclass(frozen=True)
class _Scale:
    """From values to pixels: `low` lies at `left`, `high` at `right`; a tick at each multiple of `step`."""

    low: float
    high: float
    step: float
    left: float
    right: float

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        return [self.step * count for count in range(math.ceil(self.low / self.step), math.floor(self.high / self.step) + 1)]


def svg(chart: Chart) -> str:
    """The picture, as text. Raises ValueError for a chart or a group without bars, and for a value that is not finite."""
    if not chart.groups or not all(group.bars for group in chart.groups):
        raise ValueError(f"{chart.name}: expected groups with bars, found {chart.groups}")
    for group in chart.groups:
        if not all(math.isfinite(number) for number in _numbers(group)):
            raise ValueError(f"{chart.name}: {group.heading}: expected finite values, found {_numbers(group)}")
    bars = [bar for group in chart.groups for bar in group.bars]
    left = _EDGE + 10 + _LETTER * max(len(bar.name) for bar in bars)
    right = WIDTH - _EDGE - 12 - _LETTER * max((len(bar.said()) for bar in bars if bar.values), default=0)
    parts, top = [], float(_EDGE + _TITLE)
    for group in chart.groups:
        scale = _scale(chart.groups if chart.one_scale else [group], left, right)
        has_ticks = group is chart.groups[-1] or not chart.one_scale
        drawn, top = _group(group, scale, top, has_ticks)
        parts += drawn
    height = top + _EDGE - 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}">',
            f"<title>{escape(chart.title)}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>',
            _text("title", _EDGE, _EDGE + 16, chart.title),
            _text("faint", _EDGE, _EDGE + 37, chart.axis),
            *parts,
            "</svg>\n",
        ]
    )


def _group(group: Group, scale: _Scale, top: float, has_ticks: bool) -> tuple[list[str], float]:
    """What a group looks like, and where the next one begins."""
    first = top + _HEADING + _MARK * len(group.marks)
    last = first + _ROW * len(group.bars)
    parts = [_text("heading", _EDGE, top + 16, group.heading)]
    for tick in scale.ticks():
        parts.append(_line("axis" if tick == 0 else "grid", scale.x(tick), first, scale.x(tick), last))
        if has_ticks:
            parts.append(_text("faint middle", scale.x(tick), last + 15, f"{tick:,g}"))
    labels = []  # drawn last: no line goes through a word
    for number, bar in enumerate(group.bars):
        drawn, label = _bar(bar, scale, first + _ROW * number + _ROW / 2)
        parts += drawn
        labels.append(label)
    for number, mark in enumerate(group.marks):
        x, y = scale.x(mark.value), top + _HEADING + _MARK * number + 8
        half = len(mark.name) * _LETTER / 2
        parts.append(_line("mark", x, y + 4, x, last))
        labels.append(_text("label marked middle", min(max(x, _EDGE + half), WIDTH - _EDGE - half), y, mark.name))
    return parts + labels, last + (_TICKS if has_ticks else 8)


def _bar(bar: Bar, scale: _Scale, middle: float) -> tuple[list[str], str]:
    """What a bar looks like, and its label."""
    parts = [_text("right" if bar.values else "right faint", scale.left - 8, middle + 4, bar.name)]
    if not bar.values:
        return parts, _text("label faint", scale.left + 6, middle + 4, _shortened(bar.said(), WIDTH - _EDGE - scale.left - 6))
    ends = sorted((scale.x(0), scale.x(statistics.median(bar.values))))
    parts.append(
        f'<rect class="{"ours" if bar.ours else "peer"}" x="{ends[0]:.1f}" y="{middle - _BAR / 2:g}" '
        f'width="{ends[1] - ends[0]:.1f}" height="{_BAR}" rx="2"/>'
    )
    least, most = scale.x(min(bar.values)), scale.x(max(bar.values))
    if len(bar.values) > 1:
        parts.append(f'<path class="spread" d="M{least:.1f} {middle:g}H{most:.1f}m0-4v8M{least:.1f} {middle - 4:g}v8"/>')
    value = _number(statistics.median(bar.values))
    note = f' <tspan class="note">{escape(bar.note)}</tspan>' if bar.note else ""
    return parts, f'<text class="label value" x="{max(ends[1], most) + 8:.1f}" y="{middle + 4:.1f}">{value}{note}</text>'


def _numbers(group: Group) -> list[float]:
    return [*(value for bar in group.bars for value in bar.values), *(mark.value for mark in group.marks)]


def _scale(groups: Sequence[Group], left: float, right: float) -> _Scale:
    """Ticks at 1, 2 or 5 times a power of ten, five or so of them; nought is always on it."""
    numbers = [0.0, *(number for group in groups for number in _numbers(group))]
    low, high = min(numbers), max(numbers)
    if high - low < _SMALLEST:
        high = low + 1.0
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return _Scale(low, high, step, left, right)


def _number(value: float) -> str:
    """Three digits, as a person would write them."""
    return f"{value:#.3g}".removesuffix(".") if abs(value) < 999.5 else f"{value:,.0f}"


def _shortened(text: str, pixels: float) -> str:
    letters = int(pixels / _LETTER)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}"/>'
