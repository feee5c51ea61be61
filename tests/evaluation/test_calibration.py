from __future__ import annotations

import math

import numpy as np
import pytest

from glomtile.errors import InputError
from glomtile.evaluation.calibration import as_levels, count_levels, no_levels, reliability
from glomtile.types import IGNORE


def counted(said: float, true_share: float, pixels: int = 1000) -> np.ndarray:
    probabilities = as_levels(np.full((1, pixels), said, np.float32))
    truth = np.zeros((1, pixels), np.uint8)
    truth[0, : round(true_share * pixels)] = 1
    return count_levels(probabilities, truth, 1)


def test_a_network_that_keeps_its_word_has_no_error():
    bins, error = reliability(counted(0.2, 0.2) + counted(0.8, 0.8))
    assert [round(one.said, 2) for one in bins] == [one.true for one in bins] == [0.2, 0.8]
    assert [one.pixels for one in bins] == [1000, 1000]
    assert error == pytest.approx(0, abs=1e-3)


def test_one_that_is_too_sure_is_off_by_what_it_promises_too_much():
    bins, error = reliability(counted(1.0, 0.6))
    assert (bins[0].said, bins[0].true) == (1.0, 0.6)
    assert error == pytest.approx(0.4)


def test_ignored_pixels_do_not_count_and_nothing_has_no_error():
    truth = np.full((4, 4), IGNORE, np.uint8)
    counts = count_levels(np.full((4, 4), 255, np.uint8), truth, 1)
    assert not counts.any()
    bins, error = reliability(counts)
    assert bins == []
    assert math.isnan(error)


def test_each_class_is_counted_for_itself():
    truth = np.array([[1, 2, 2]], np.uint8)
    counts = no_levels(3)
    for number in (1, 2):
        counts[number - 1] += count_levels(np.array([[255, 255, 0]], np.uint8), truth, number)
    assert counts[:, 0].sum() == 6
    assert (counts[0, 1, 255], counts[1, 1, 255], counts[1, 1, 0]) == (1, 1, 1)


def test_planes_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="one size"):
        count_levels(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 1)
