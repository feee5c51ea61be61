"""Windows on small grids; tests/properties covers other sizes."""

from __future__ import annotations

import numpy as np
import pytest

from glomtile.errors import UsageError
from glomtile.tiling.grid import Axis, Span, plan_windows, round_up
from glomtile.types import Box


def test_windows_of_an_axis_start_one_margin_before_the_image():
    axis = Axis(length_px=100, window_px=64, overlap_px=16)
    assert [axis.read(k) for k in range(len(axis))] == [(-16, 48), (16, 80), (48, 112), (80, 144)]
    assert [axis.own(k) for k in range(len(axis))] == [(0, 32), (32, 64), (64, 96), (96, 100)]


def test_the_last_window_extends_over_the_edge_and_is_not_shifted():
    axis = Axis(length_px=33, window_px=48, overlap_px=8)
    assert axis.read(1) == Span(24, 72)
    assert axis.own(1) == Span(32, 33)


def test_the_first_window_of_a_moved_grid_owns_only_the_rest_before_it():
    axis = Axis(length_px=64, window_px=48, overlap_px=8, offset_px=16)
    assert [axis.own(k) for k in range(len(axis))] == [(0, 16), (16, 48), (48, 64)]
    assert axis.read(0) == Span(-24, 24)


def test_moving_a_grid_by_whole_windows_changes_nothing():
    assert list(plan_windows((90, 70), 32, 8, offset_px=(16, -32))) == list(plan_windows((90, 70), 32, 8))


def test_two_axes_are_multiplied_row_by_row():
    plan = plan_windows((40, 70), 48, 8)
    assert [(w.row, w.column) for w in plan] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len(plan) == 6
    assert plan.window(1, 2).read == Box(24, 56, 72, 104)
    assert plan.window(1, 2).own == Box(32, 64, 40, 70)


def test_window_and_margin_are_rounded_up_to_the_stride():
    plan = plan_windows((1000, 1000), 500, 60, align_px=128)
    assert (plan.window_px, plan.overlap_px, plan.core_px) == ((512, 512), 128, (256, 256))
    assert all(start % 128 == 0 for window in plan for start in window.read[:2])


def test_a_window_can_have_two_sides():
    plan = plan_windows((100, 400), (64, 256), 16)
    assert (plan.window_px, plan.core_px) == ((64, 256), (32, 224))


@pytest.mark.parametrize("number", [np.int64, np.uint16])
def test_a_numpy_number_is_a_valid_window_side(number):
    ours, theirs = plan_windows((100, 90), 64, 8), plan_windows((100, 90), number(64), 8)
    assert theirs == ours
    assert [type(side) for side in theirs.window_px] == [int, int]


def test_a_window_larger_than_the_image_covers_it_alone():
    (window,) = plan_windows((5, 1), 64, 8)
    assert window.read == Box(-8, -8, 56, 56)
    assert window.own == Box(0, 0, 5, 1)


def test_printing_a_plan_explains_it():
    text = str(plan_windows((1024, 1000), 640, 64, align_px=16))
    assert "1024 x 1000 px in 2 x 2 windows of 640 x 640 px" in text
    assert "one every 512 x 512 px, margin 64 px per side, aligned to 16 px; 1.60 px read per px" in text


def test_margins_that_leave_nothing_are_refused():
    with pytest.raises(UsageError, match="larger than twice the overlap, got 128 x 128 px and 64 px"):
        plan_windows((512, 512), 128, 64)


def test_an_offset_off_the_stride_is_refused():
    with pytest.raises(UsageError, match="multiples of the network's stride 16, got"):
        plan_windows((512, 512), 128, 16, align_px=16, offset_px=(8, 0))


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_an_empty_image_is_refused(size):
    with pytest.raises(UsageError, match="at least 1 px"):
        plan_windows(size, 64, 0)


@pytest.mark.parametrize(
    ("length", "multiple", "expected"), [(0, 16, 0), (1, 16, 16), (16, 16, 16), (17, 16, 32)]
)
def test_rounding_up_is_to_the_next_multiple(length, multiple, expected):
    assert round_up(length, multiple) == expected
