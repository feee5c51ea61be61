"""Weights and accumulated rows on small examples."""

from __future__ import annotations

import numpy as np
import pytest

from glomtile.errors import UsageError
from glomtile.tiling.blending import RowAccumulator, axis_weights, window_profile
from glomtile.tiling.grid import Axis, plan_windows


def test_a_linear_profile_is_a_trapezium_over_the_shared_stretch():
    rise = [0.125, 0.375, 0.625, 0.875]
    assert window_profile(16, 2, 0, "linear").tolist() == [*rise, *[1] * 8, *rise[::-1]]


def test_a_hann_profile_rises_as_a_squared_sine():
    rise = window_profile(64, 8, 0, "hann")[:16]
    assert rise == pytest.approx(np.sin((np.arange(16) + 0.5) / 16 * np.pi / 2) ** 2)
    assert rise + rise[::-1] == pytest.approx(np.ones(16))


@pytest.mark.parametrize("blend", ["hann", "linear"])
def test_pixels_with_cut_context_weigh_nothing_where_the_margin_allows(blend):
    weights = window_profile(64, 12, 5, blend)
    assert (weights[:5] == 0).all()
    assert (weights[5:32] > 0).all()
    assert (weights[-5:] == 0).all()


@pytest.mark.parametrize("blend", ["hann", "linear"])
def test_a_margin_as_wide_as_the_context_cuts_where_ownership_changes(blend):
    assert window_profile(64, 12, 12, blend).tolist() == window_profile(64, 12, 0, "none").tolist()
    assert window_profile(64, 12, 12, blend).tolist() == [0.0] * 12 + [1.0] * 40 + [0.0] * 12


def test_a_context_wider_than_the_margin_blends_over_all_of_it():
    assert window_profile(64, 12, 1000, "hann").tolist() == window_profile(64, 12, 0, "hann").tolist()


def test_without_margin_all_weights_are_one():
    assert window_profile(8, 0, 3, "hann").tolist() == [1.0] * 8


def test_an_unknown_blend_is_refused():
    with pytest.raises(UsageError, match="expected one of hann, linear, none, got 'cosine'"):
        window_profile(8, 1, 0, "cosine")  # type: ignore[arg-type]


def test_weights_do_not_fall_towards_the_edge_of_the_image():
    first, *_, last = axis_weights(Axis(100, 40, 10), 0)
    assert first.weights[:10] == pytest.approx(np.ones(10))
    assert last.weights[-10:] == pytest.approx(np.ones(10))


def test_rows_are_returned_as_soon_as_no_later_window_touches_them():
    plan = plan_windows((64, 16), 32, 8)
    strip = RowAccumulator(plan, 2, context_px=0)
    ready = []
    for row in range(len(plan.rows)):
        for column in range(len(plan.columns)):
            strip.add(row, column, np.full((32, 32, 2), 0.5, np.float32))
        top, rows = strip.finish(row)
        ready.append((top, top + rows.shape[0]))
        assert rows == pytest.approx(np.full(rows.shape, 0.5), abs=1e-6)
    # The second window's weights start at row 8: without context, it touches all that it reads.
    assert ready == [(0, 8), (8, 24), (24, 40), (40, 64)]


def test_returned_rows_do_not_change_later():
    plan = plan_windows((96, 8), 32, 8)
    strip = RowAccumulator(plan, 2, context_px=0)
    kept, copies = [], []
    for row in range(len(plan.rows)):
        strip.add(row, 0, np.full((32, 32, 2), row, np.float32))
        _, rows = strip.finish(row)
        kept.append(rows)
        copies.append(rows.copy())
    assert all((now == then).all() for now, then in zip(kept, copies, strict=True))


def test_a_background_window_has_probability_1():
    plan = plan_windows((10, 10), 32, 8)
    strip = RowAccumulator(plan, 3, context_px=0)
    strip.add_background(0, 0)
    _, rows = strip.finish(0)
    assert rows.shape == (10, 10, 3)
    assert rows[..., 0] == pytest.approx(np.ones((10, 10)))
    assert (rows[..., 1:] == 0).all()
