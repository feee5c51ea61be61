from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.evaluation.calibration import Bin
from glomtile.plotting import Curves
from glomtile.report.charts import (
    HEIGHT,
    SQUARE,
    WIDTH,
    area_histogram,
    calibration_chart,
    count_scatter,
    line_chart,
    ticks,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 4))


@given(numbers, numbers, st.integers(2, 12))
def test_ticks_are_round_and_cover_the_range(a, b, most):
    low, high = sorted((a, b))
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most + 3
    assert found == sorted(set(found))
    slack = 1e-6 * max(1, abs(low), abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


def test_whole_ticks_never_fall_between_epochs():
    assert ticks(0, 3, 8, whole=True) == [0, 1, 2, 3]
    assert all(t == int(t) for t in ticks(0, 37, 8, whole=True))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=9))
def test_every_finite_point_is_drawn_inside_the_chart(values):
    chart = line_chart("t", Curves("epoch", tuple(map(float, range(len(values)))), {"loss": tuple(values)}))
    finite = sum(map(math.isfinite, values))
    assert (chart is None) == (finite == 0)
    if chart is not None:
        (line,) = chart.lines
        points = [tuple(map(float, p.split(","))) for part in line.parts for p in part.split()]
        points += line.dots
        assert len(points) == finite
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@given(st.lists(st.floats(0.1, 1e6), max_size=30), st.lists(st.floats(0.1, 1e6), max_size=30))
def test_every_area_is_in_a_bar_of_its_side_and_every_bar_on_the_canvas(truth, prediction):
    chart = area_histogram("t", truth, prediction, "px")
    assert (chart is None) == (not truth and not prediction)
    if chart is not None:
        for bars, areas in ((chart.truth, truth), (chart.prediction, prediction)):
            assert sum(int(bar.said.split()[0]) for bar in bars) == len(areas)
            assert all(bar.left >= 0 and bar.left + bar.width <= WIDTH for bar in bars)
            assert all(bar.top >= 0 and bar.top + bar.height <= HEIGHT for bar in bars)


def test_areas_speak_of_the_truth_only_where_there_is_one():
    assert area_histogram("t", [10, 30], [20], "px").sentence.startswith(
        "Half of the true objects are above 20 px"
    )
    assert area_histogram("t", [], [20], "px").sentence == "Half of the objects are above 20 px."


def test_images_of_the_same_two_numbers_share_a_circle_and_right_ones_lie_on_the_diagonal():
    chart = count_scatter("t", [(2, 2), (2, 2), (1, 3)])
    (x, y, large, said), (_, _, small, _) = chart.circles
    assert said == "2 with 2 true and 2 predicted"
    assert large > small
    assert x - chart.left == pytest.approx(chart.bottom - y)
    assert chart.sentence.startswith("In 2 of 3 images the number is right.")
    assert count_scatter("t", []) is None


def test_a_network_that_keeps_its_word_lies_on_the_diagonal_and_one_too_sure_below():
    chart = calibration_chart("t", "x", [Bin(0.5, 0.5, 10), Bin(0.9, 0.6, 10)], 0.15)
    (x, y, _, _), (sure_x, sure_y, _, _) = chart.circles
    assert x - chart.left == pytest.approx(chart.bottom - y)
    assert sure_x - chart.left > chart.bottom - sure_y
    assert 0 <= sure_x <= SQUARE
    assert "Where the network says 0.90, 60 % of the pixels are x." in chart.sentence
