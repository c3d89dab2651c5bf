"""Charts are well-formed, say in words what they show, and escape whatever they are called."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._svg import Bar, Point, Reference, Series, bar_chart, line_chart, scatter_chart

HOSTILE = "<script>alert('1')</script>\"&"


def _parsed(chart) -> ET.Element:
    """The chart as a browser would read it; raises where something was not escaped."""
    return ET.fromstring(str(chart))


def _places(element: ET.Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in element.iter()
        if line.tag == "polyline"
    ]


def test_a_line_is_where_its_values_are():
    chart = _parsed(line_chart([Series("a", [0, 5, 10], [0, 10, 5])], title="t", x_label="x", y_label="y"))
    ((first, second, third),) = _places(chart)
    assert first[0] < second[0] < third[0]
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.11)
    assert first[1] > third[1] > second[1]  # larger values are higher up
    assert first[1] - third[1] == pytest.approx(third[1] - second[1], abs=0.11)


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_gap(gap):
    chart = _parsed(line_chart([Series("a", [0, 1, 2, 3, 4], [1, 2, gap, 2, 1])], title="t", x_label="", y_label=""))
    assert [len(run) for run in _places(chart)] == [2, 2]


def test_a_single_value_is_drawn():
    chart = str(line_chart([Series("a", [3], [7])], title="t", x_label="step", y_label=""))
    assert "<circle" in chart
    assert "a 7 at step 3" in chart


def test_nothing_to_draw_is_said():
    for chart in (
        line_chart([Series("a", [], [])], title="The <loss>", x_label="", y_label=""),
        line_chart([Series("a", [1], [math.nan])], title="The <loss>", x_label="", y_label=""),
        scatter_chart([], title="The <loss>", x_label="", y_label=""),
        bar_chart([], title="The <loss>"),
    ):
        assert chart == '<p class="quiet">The &lt;loss&gt;: there is nothing to draw.</p>'


def test_many_points_become_few_and_keep_the_extremes():
    values = [math.sin(i / 900) for i in range(20_000)]
    values[12_345], values[17_001] = 9.0, -9.0
    chart = str(line_chart([Series("a", list(range(20_000)), values)], title="t", x_label="x", y_label="y"))
    assert len(chart) < 12_000
    (line,) = _places(_parsed(chart))
    heights = [y for _, y in line]
    plain = str(line_chart([Series("a", [0, 1], [9, -9])], title="t", x_label="x", y_label="y"))
    ((top, bottom),) = _places(_parsed(plain))
    assert min(heights) == pytest.approx(top[1], abs=0.2)
    assert max(heights) == pytest.approx(bottom[1], abs=0.2)


@pytest.mark.parametrize(
    "values", [[1e308, -1e308], [0.0, 0.0], [5e-324, 0.0], [1e-300, 2e-300], [1e15, 1e15 + 1], [-3.0, -3.0]]
)
def test_no_values_are_too_strange_for_an_axis(values):
    chart = _parsed(line_chart([Series("a", [0, 1], values)], title="t", x_label="", y_label=""))
    ((first, second),) = _places(chart)
    assert all(math.isfinite(place) and -1 <= place <= 401 for pair in (first, second) for place in pair)


def test_a_logarithmic_chart_has_equal_steps_for_equal_factors_and_leaves_zero_out():
    series = Series("roc", [0.0, 0.001, 0.01, 0.1, 1.0], [0.0, 0.002, 0.02, 0.2, 1.0])
    chart = _parsed(line_chart([series], title="t", x_label="", y_label="", log_x=True, log_y=True))
    (line,) = _places(chart)
    steps = [right[0] - left[0] for left, right in itertools.pairwise(line)]
    assert len(line) == 4
    assert max(steps) - min(steps) < 0.3


def test_texts_are_escaped_everywhere():
    charts = [
        line_chart(
            [Series(HOSTILE, [0, 1], [1, 2]), Series("b", [0], [1])],
            title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, references=[Reference(HOSTILE, 1.5)],
        ),
        scatter_chart([Point(1, 2, HOSTILE)], title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, groups=[HOSTILE]),
        bar_chart([Bar(HOSTILE, 0.5, 0.4, 0.6, note=HOSTILE)], title=HOSTILE, x_label=HOSTILE),
    ]  # fmt: skip
    for chart in charts:
        root = _parsed(chart)
        assert "<script" not in chart
        assert not [element for element in root.iter() if "script" in element.tag]
        assert HOSTILE[:20] in "".join(root.itertext())


def test_a_chart_is_an_image_with_a_name_that_tells_its_ends():
    chart = _parsed(line_chart([Series("epsilon", [1, 90], [0.5, 3])], title="Spent", x_label="step", y_label="e"))
    assert chart.get("role") == "img"
    assert chart.get("aria-label") == "Spent: epsilon from 0.5 at step 1 to 3 at step 90"


def test_series_differ_by_more_than_colour():
    series = [Series(str(number), [0, 1, 2], [number, 1, 2]) for number in range(4)]
    root = _parsed(line_chart(series, title="t", x_label="", y_label=""))
    dashes = [line.get("stroke-dasharray") for line in root.iter("polyline")]
    assert len(set(dashes)) == 4
    assert {"circle", "polygon"} <= {element.tag for element in root.iter()}


def test_a_series_of_unequal_lengths_is_refused():
    with pytest.raises(ConfigurationError, match="'a' must have as many x as y"):
        line_chart([Series("a", [1, 2], [1])], title="t", x_label="", y_label="")


def test_bars_have_lengths_intervals_and_words():
    bars = [Bar("all", 0.5, 0.25, 0.75), Bar("few", 1.0), Bar("none", math.nan, note="few")]
    root = _parsed(bar_chart(bars, title="t", percent=True))
    half, whole = [float(bar.get("width")) for bar in root.iter("rect")]
    assert half == pytest.approx(whole / 2, abs=0.1)
    low, high = sorted({float(line.get("x1")) for line in root.iter("line") if line.get("class") == "whisker"})[:2]
    assert low == pytest.approx(16 + whole / 4, abs=0.2)
    assert high == pytest.approx(16 + 3 * whole / 4, abs=0.2)
    assert root.get("aria-label") == "t: all 50.0% (25.0 to 75.0); few 100.0%; none undefined few"


def test_marked_points_are_joined_from_left_to_right():
    points = [Point(8, 0.97, "c", marked=True), Point(1, 0.9, "a", marked=True), Point(3, 0.91, "b")]
    root = _parsed(scatter_chart(points, title="Pareto", x_label="epsilon", y_label="accuracy"))
    ((first, second),) = _places(root)
    assert first[0] < second[0]
    assert root.get("aria-label") == "Pareto: a: 1, 0.9; c: 8, 0.97"
