"""The drawing of a line of assets."""

from __future__ import annotations

from xml.etree import ElementTree

from deploy.line_svg import Box, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_is_drawn_with_a_box_an_asset_and_an_arrow_between_two() -> None:
    boxes = [Box("M3 <b>&amp;", ["did", "owner"], True), Box("M2", ["did"], False), Box("M1", [], True)]
    drawing = ElementTree.fromstring(draw(boxes, ["500 steps", "on <text>"]))  # noqa: S314  our own drawing
    assert [rect.get("stroke") for rect in drawing.iter(f"{SVG}rect")] == ["#1a7f37", "#cf222e", "#1a7f37"]
    assert len(list(drawing.iter(f"{SVG}path"))) == 2
    texts = [text.text for text in drawing.iter(f"{SVG}text")]
    assert texts == ["M3 <b>&amp;", "did", "owner", "500 steps", "M2", "did", "on <text>", "M1"]
    places = [float(rect.get("y") or 0) + float(rect.get("height") or 0) for rect in drawing.iter(f"{SVG}rect")]
    assert places == sorted(places) and places[-1] < float(drawing.get("height") or 0)
