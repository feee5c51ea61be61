from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from glomtile.files.figures import Curves
from glomtile.verbs.reportcharts import HEIGHT, WIDTH, line_chart, ticks

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
