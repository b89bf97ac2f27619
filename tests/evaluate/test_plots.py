"""The pictures: the loop's geometry, and the same bytes and own ids for every SVG."""

from __future__ import annotations

import re

import pytest

from poise.evaluate import plots


def test_two_pictures_share_no_id_and_drawing_twice_changes_nothing() -> None:
    first, again = (plots.curve_plot("a", "A < B", [1, 2, 3], [0.5, None, 0.1], "loss (nats)") for _ in range(2))
    other = plots.curve_plot("b", "A < B", [1, 2, 3], [0.5, None, 0.1], "loss (nats)")
    assert first == again != other
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', other))
    assert '<title id="a-title">A &lt; B</title>' in first and "http" not in first and "metadata" not in first


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_loop_boxes_stay_inside_and_apart(columns: int) -> None:
    svg = plots.loop_svg([(f"stage {i}", "x" * 60) for i in range(9)], columns, "loop")
    _, _, width, height = map(int, re.findall(r'viewBox="([^"]+)"', svg)[0].split())
    corners = {(int(x), int(y)) for x, y in re.findall(r'<rect x="(\d+)" y="(\d+)"', svg)}
    assert len(corners) == 9
    assert all(x + plots.BOX_WIDTH <= width and y + plots.BOX_HEIGHT <= height for x, y in corners)
    assert svg.count('class="arrow"') == 8 and svg.count("arrow back") == 1
    assert plots.loop_svg([], columns, "loop") == ""
