"""Plots for the pages: what is drawn is well-formed, and stands where its value is."""

from xml.etree import ElementTree

import pytest

from benchmarks.plot import HEIGHT, WIDTH, Axis, plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("is_log", [False, True])
def test_every_value_is_a_point_within_the_drawing_and_more_stands_higher(is_log: bool) -> None:
    points = [(1.0, 322.0), (10.0, 572.0), (1000.0, 412.0)]
    lines = {"a < b": points}
    drawn = ElementTree.fromstring(plot("A & B", Axis("x", is_log), Axis("y", is_log), lines))
    at = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in drawn.iter(f"{SVG}circle")]
    assert len(at) == len(points)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in at)
    assert at[0][0] < at[1][0] < at[2][0]
    assert at[1][1] < at[2][1] < at[0][1]
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"A & B", "a < b", "x", "y"} <= set(texts)


def test_a_line_of_nothing_but_zeros_is_drawn_too() -> None:
    assert "<circle" in plot("none", Axis("x"), Axis("y"), {"a": [(0.0, 0.0), (1.0, 0.0)]})
