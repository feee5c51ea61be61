from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glomtile.errors import InputError
from glomtile.evaluation.metrics import SeamCount, count_seams

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
    assert count_seams(smooth, 64).ratio == pytest.approx(1, abs=0.05)
    cut = smooth.copy()
    for row in range(0, 256, 64):
        for column in range(0, 256, 64):
            tile = cut[row : row + 64, column : column + 64]
            tile[:] = np.roll(tile, rng.integers(10, 40), axis=1)
    assert count_seams(cut, 64).ratio > 5


def test_a_set_of_images_is_pooled_not_averaged():
    a, b = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    a[4:, :] = 1
    b[3, 3] = 1
    pooled = count_seams(a, 4) + count_seams(b, 4)
    assert pooled == SeamCount(border_flips=10, border_lines=4, other_flips=2, other_lines=24)
    assert pooled.ratio == (10 / 4) / (2 / 24)


def test_no_flip_no_border_and_nothing_but_border_are_told_apart():
    flat, cut = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    cut[4:] = 1
    assert math.isnan(count_seams(flat, 4).ratio)
    assert math.isnan(count_seams(cut, 100).ratio)
    assert count_seams(cut, 4).ratio == math.inf


def test_a_tile_of_no_size_is_refused():
    with pytest.raises(InputError, match="a tile of at least 1 px"):
        count_seams(np.zeros((4, 4), np.uint8), 0)


@pytest.mark.shared
def test_the_reference_predictions_have_seams_and_the_truth_has_none(shared_data):
    from glomtile.io.masks import read_mask
    from glomtile.palette import GLOMERULI

    def ratio(folder: str) -> float:
        paths = sorted((shared_data / "glomeruli" / folder).glob("*.png"))
        return sum((count_seams(read_mask(path, GLOMERULI), 512) for path in paths), SeamCount()).ratio

    assert ratio("reference_predictions") == pytest.approx(22, abs=0.5)
    assert ratio("masks") < 1
