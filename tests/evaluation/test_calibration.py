from __future__ import annotations

import math

import numpy as np
import pytest

from glomtile.evaluation.calibration import CalibrationAccumulator, count_levels, reliability
from glomtile.palette import Palette
from glomtile.types import IGNORE

THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2})


def counted(predicted: float, observed: float, pixels: int = 1000) -> np.ndarray:
    truth = np.zeros((1, pixels), np.uint8)
    truth[0, : round(observed * pixels)] = 1
    return count_levels(np.full((1, pixels), round(255 * predicted), np.uint8), truth, 1)


def test_a_calibrated_network_has_no_error():
    bins, error = reliability(counted(0.2, 0.2) + counted(0.8, 0.8))
    assert (
        [round(predicted, 2) for predicted, _, _ in bins]
        == [observed for _, observed, _ in bins]
        == [0.2, 0.8]
    )
    assert [pixels for _, _, pixels in bins] == [1000, 1000]
    assert error == pytest.approx(0, abs=1e-3)


def test_an_overconfident_network_is_off_by_its_excess():
    bins, error = reliability(counted(1.0, 0.6))
    assert bins[0][:2] == (1.0, 0.6)
    assert error == pytest.approx(0.4)


def test_ignored_pixels_do_not_count_and_nothing_has_no_error():
    truth = np.full((4, 4), IGNORE, np.uint8)
    counts = count_levels(np.full((4, 4), 255, np.uint8), truth, 1)
    assert not counts.any()
    bins, error = reliability(counts)
    assert bins == []
    assert math.isnan(error)


def test_each_class_is_counted_for_itself():
    truth = np.array([[1], [2], [2]], np.uint8)
    ones = np.ones((2, 1, 3), np.float32)
    accumulator = CalibrationAccumulator(THREE)
    accumulator.add_probs([(0, ones), (2, ones[:1] * 0)], truth)
    assert accumulator.levels[:, 0].sum() == 6
    assert accumulator.levels[0, 1].nonzero()[0].tolist() == [255]
    assert accumulator.levels[1, 1].nonzero()[0].tolist() == [0, 255]
