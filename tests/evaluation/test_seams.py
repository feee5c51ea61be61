from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glomtile.errors import InputError
from glomtile.evaluation.seams import SeamCount, count_seams, grid_sensitivity, seam_ratio

planes = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


def naive(labels: np.ndarray, tile_px: int, offset: tuple[int, int]) -> SeamCount:
    flips, lines = {True: 0, False: 0}, {True: 0, False: 0}
    for axis in (0, 1):
        plane = labels if axis == 0 else labels.T
        for i in range(1, plane.shape[0]):
            border = (i - offset[axis]) % tile_px == 0
            lines[border] += 1
            flips[border] += sum(int(a != b) for a, b in zip(plane[i], plane[i - 1], strict=True))
    return SeamCount(flips[True], lines[True], flips[False], lines[False])


@given(planes, st.integers(1, 6), st.tuples(st.integers(0, 9), st.integers(0, 9)))
@settings(deadline=None)
def test_flips_are_those_of_a_naive_loop(labels, tile_px, offset):
    assert count_seams(labels, tile_px, offset) == naive(labels, tile_px, offset)


def test_a_mask_cut_at_tile_borders_has_a_seam():
    rng = np.random.default_rng(0)
    smooth = (np.add.outer(np.arange(256), np.arange(256)) % 97 < 40).astype(np.uint8)
    assert seam_ratio(smooth, 64) == pytest.approx(1, abs=0.05)
    cut = smooth.copy()
    for row in range(0, 256, 64):
        for column in range(0, 256, 64):
            tile = cut[row : row + 64, column : column + 64]
            tile[:] = np.roll(tile, rng.integers(10, 40), axis=1)
    assert seam_ratio(cut, 64) > 5


def test_a_set_of_images_is_pooled_not_averaged():
    a, b = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    a[4:, :] = 1
    b[3, 3] = 1
    pooled = count_seams(a, 4) + count_seams(b, 4)
    assert seam_ratio([a, b], 4) == pooled.ratio
    assert seam_ratio(iter([a, b]), 4) == pooled.ratio


def test_no_flip_no_border_and_nothing_but_border_are_told_apart():
    flat, cut = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    cut[4:] = 1
    assert math.isnan(seam_ratio(flat, 4))
    assert math.isnan(seam_ratio(cut, 100))
    assert seam_ratio(cut, 4) == math.inf


def test_a_tile_of_no_size_is_refused():
    with pytest.raises(InputError, match="a tile of at least 1 px"):
        count_seams(np.zeros((4, 4), np.uint8), 0)


def test_grid_sensitivity_is_the_share_of_changed_pixels_over_all_images():
    a = [np.zeros((10, 10), np.uint8), np.zeros((20, 15), np.uint8)]
    b = [plane.copy() for plane in a]
    b[0][0, :4] = 1
    assert grid_sensitivity(a, b) == 4 / 400
    assert grid_sensitivity(a[0], b[0]) == 4 / 100
    assert math.isnan(grid_sensitivity([], []))


def test_grid_sensitivity_of_other_images_is_refused():
    with pytest.raises(InputError, match="expected the same images twice"):
        grid_sensitivity(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))


@pytest.mark.shared
def test_the_reference_predictions_have_seams_and_the_truth_has_none(shared_data):
    from glomtile.io.masks import read_mask
    from glomtile.palette import GLOMERULI

    def ratio(folder: str) -> float:
        paths = sorted((shared_data / "glomeruli" / folder).glob("*.png"))
        return seam_ratio((read_mask(path, GLOMERULI) for path in paths), 512)

    assert ratio("reference_predictions") == pytest.approx(22, abs=0.5)
    assert ratio("masks") < 1
