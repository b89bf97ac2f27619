"""The pictures: the loop's geometry, and the same bytes and own ids for every SVG."""

from __future__ import annotations

import re

import numpy as np
import pytest

from poise.evaluate import plots
from poise.metrics import bootstrap_clusters


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


def test_intervals_of_the_quadrant_are_over_prompts() -> None:
    # three equal responses to each of 20 prompts tell no more than one
    values = np.random.default_rng(0).normal(size=20)
    one, one_each = plots._points([(v, v) for v in values], ())
    three, by_prompt = plots._points([(v, v) for v in np.repeat(values, 3)], [f"p{i // 3}" for i in range(60)])
    _, alone = plots._points([(v, v) for v in np.repeat(values, 3)], ())
    narrow, expected, found = (
        plots._mean_interval(points[:, 0], clusters, 0)
        for points, clusters in ((three, alone), (one, one_each), (three, by_prompt))
    )
    assert found == pytest.approx(expected) and found.high - found.low > 1.4 * (narrow.high - narrow.low)
    assert expected == bootstrap_clusters(lambda at: float(values[at].mean()), [[i] for i in range(20)], 0)
    points, clusters = plots._points([(1.0, None), (2.0, 3.0), (4.0, 5.0)], ["a", "a", "b"])
    assert points.tolist() == [[2.0, 3.0], [4.0, 5.0]] and clusters == [[0], [1]]
    with_prompts = plots.quadrant_plot("q", "Q", [(0.0, 1.0)] * 2, [(1.0, 2.0)] * 2, 0, ["a", "a"])
    assert with_prompts and with_prompts == plots.quadrant_plot("q", "Q", [(0.0, 1.0)] * 2, [(1.0, 2.0)] * 2, 0)
