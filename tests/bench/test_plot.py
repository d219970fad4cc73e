"""Pictures of benchmarks: what is measured is drawn to scale, what is not measured is said, and nothing else gets in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plot import WIDTH, Bar, Chart, Group, Mark, svg
from bench.report import write_report

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*groups: Group, one_scale: bool = True) -> ElementTree.Element:
    return ElementTree.fromstring(svg(Chart("speed", "Speed", "calls a second", groups, one_scale)))  # noqa: S314  # our own text


def bars(picture: ElementTree.Element) -> list[float]:
    return [float(one.attrib["width"]) for one in picture.iter(f"{SVG}rect") if one.attrib["class"] in ("ours", "peer")]


def texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in picture.iter(f"{SVG}text")]


def test_a_bar_twice_as_large_is_twice_as_long() -> None:
    one, other = bars(drawn(Group("", [Bar("us", [20.0], ours=True), Bar("them", [10.0])])))
    assert one == pytest.approx(2 * other, abs=0.2)


def test_a_bar_shows_the_median_and_its_whisker_the_least_and_the_most() -> None:
    picture = drawn(Group("", [Bar("us", [10.0, 40.0, 20.0]), Bar("them", [40.0])]))
    ours, full = bars(picture)
    (whisker,) = [one.attrib["d"] for one in picture.iter(f"{SVG}path")]
    left = min(float(one.attrib["x"]) for one in picture.iter(f"{SVG}rect") if one.attrib["class"] == "peer")
    least, most = (float(number) for number in re.match(r"M([0-9.]+) [0-9.]+H([0-9.]+)", whisker).groups())  # type: ignore[union-attr]
    assert [ours / full, (least - left) / full, (most - left) / full] == pytest.approx([0.5, 0.25, 1.0], abs=0.01)
    assert "20.0" in texts(picture)


def test_what_was_not_measured_has_its_line_and_its_reason() -> None:
    picture = drawn(Group("", [Bar("us", [1.0]), Bar("them", (), "pip found no <wheel>")]))
    assert "not measured: pip found no <wheel>" in texts(picture)
    assert len(bars(picture)) == 1


def test_groups_share_a_scale_only_when_asked_to() -> None:
    groups = [Group("slow", [Bar("us", [1.0])]), Group("fast", [Bar("us", [100.0])])]
    slow, fast = bars(drawn(*groups))
    assert slow == pytest.approx(fast / 100, abs=0.1)
    slow, fast = bars(drawn(*groups, one_scale=False))
    assert slow == fast


@pytest.mark.parametrize(
    "groups", [[], [Group("", [])], [Group("", [Bar("us", [float("nan")])])], [Group("", [Bar("us", [float("inf")])])]]
)
def test_a_chart_that_cannot_be_drawn_is_refused(groups: list[Group]) -> None:
    with pytest.raises(ValueError, match="speed: "):
        drawn(*groups)


@given(
    st.lists(st.lists(st.floats(-1e9, 1e9), max_size=4), min_size=1, max_size=5),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
    st.floats(0, 1e9),
)
def test_every_bar_whisker_and_line_stays_inside_the_picture(rounds: list[list[float]], name: str, budget: float) -> None:
    picture = drawn(Group(name, [Bar(name, values, name) for values in rounds], [Mark(name, budget)]))
    height = float(picture.attrib["height"])
    for one in (*picture.iter(f"{SVG}rect"), *picture.iter(f"{SVG}line")):
        across = [float(one.attrib[key]) for key in ("x", "x1", "x2") if key in one.attrib]
        down = [float(one.attrib[key]) for key in ("y", "y1", "y2") if key in one.attrib]
        assert all(0 <= x <= WIDTH for x in across) and all(0 <= y <= height for y in down)


def test_a_report_keeps_figures_pictures_and_table_and_replaces_them_when_written_again(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("Before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nAfter\n", encoding="utf-8")
    for calls in (1.0, 2.0):
        chart = Chart("speed-alone", "Speed", "calls a second", [Group("", [Bar("us", [calls])])])
        write_report("speed", {"calls": calls}, f"| {calls} |", page, [chart])
    shown = "![Speed](benchmarks/speed-alone.svg)\n\n| 2.0 |"
    assert page.read_text(encoding="utf-8") == f"Before\n<!-- speed: begin -->\n{shown}\n<!-- speed: end -->\nAfter\n"
    assert json.loads((tmp_path / "benchmarks" / "speed.json").read_text(encoding="utf-8")) == {"calls": 2.0}
    assert (tmp_path / "benchmarks" / "speed-alone.svg").read_text(encoding="utf-8") == svg(chart)


def test_a_page_without_the_marks_is_left_alone_with_its_figures(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="once each"):
        write_report("speed", {}, "| |", page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.md"]
