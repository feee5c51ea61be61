"""Parts are those of scikit-image's priority queue; where heights are equal, reading order decides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import segmentation

from glomtile.objects.labelling import exact_distance
from glomtile.objects.watershed import watershed

sides = st.tuples(st.integers(1, 12), st.integers(1, 12))
hills = arrays(np.float32, sides, elements=st.integers(0, 4).map(float))
seeds = st.integers(0, 10_000)


def in_order(height: np.ndarray, mask: np.ndarray, summits: list[tuple[int, int]]) -> np.ndarray:
    """Different heights in the same order: summits first, of equals the first in reading order."""
    order = sorted(zip(*np.nonzero(mask), strict=True), key=lambda place: (-height[place], place))
    ranks = np.zeros(mask.shape)
    for rank, place in enumerate(order):
        ranks[place] = mask.size - rank
    for number, summit in enumerate(summits):
        ranks[summit] = 2 * mask.size - number
    return ranks


def oracle(height: np.ndarray, mask: np.ndarray, summits: list[tuple[int, int]]) -> np.ndarray:
    markers = np.zeros(mask.shape, np.int32)
    for number, summit in enumerate(summits, start=1):
        markers[summit] = number
    return segmentation.watershed(-height, markers, connectivity=2, mask=mask)


def some_of(mask: np.ndarray, seed: int) -> list[tuple[int, int]]:
    random, places = np.random.default_rng(seed), np.argwhere(mask)
    chosen = random.choice(len(places), min(len(places), int(random.integers(1, 6))), replace=False)
    return [(int(row), int(column)) for row, column in places[chosen]]


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((90, 70)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 4) > 0


@given(hills, seeds)
@settings(max_examples=300)
def test_parts_are_scikit_images_on_any_hill(height, seed):
    mask = np.random.default_rng(seed).random(height.shape) < 0.8
    if mask.any():
        summits = some_of(mask, seed)
        np.testing.assert_array_equal(
            watershed(height, mask, summits), oracle(in_order(height, mask, summits), mask, summits)
        )


@given(seeds)
@settings(max_examples=60)
def test_parts_are_scikit_images_on_distances_of_blobs(seed):
    mask = blobs(seed)
    distance, summits = exact_distance(mask), some_of(mask, seed)
    np.testing.assert_array_equal(
        watershed(distance, mask, summits), oracle(in_order(distance, mask, summits), mask, summits)
    )


@given(seeds)
@settings(max_examples=60)
def test_where_no_heights_are_equal_and_summits_are_highest_the_order_is_not_needed(seed):
    mask = blobs(seed)
    summits = some_of(mask, seed)
    height = np.random.default_rng(seed).permutation(mask.size).astype(np.float32).reshape(mask.shape)
    for number, summit in enumerate(summits):
        height[summit] = 2 * mask.size - number
    np.testing.assert_array_equal(watershed(height, mask, summits), oracle(height, mask, summits))


def test_summits_count_as_highest_and_the_water_parts_at_the_pass():
    height = np.array([[1, 2, 3, 4, 5, 4, 3, 2, 1, 2]], np.float32)
    parts = watershed(height, np.ones((1, 10), bool), [(0, 4), (0, 9)])
    assert parts.tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]]


def test_a_hump_without_a_summit_goes_where_its_higher_pass_leads():
    height = np.array([[9, 1, 5, 3, 9]], np.float32)
    assert watershed(height, np.ones((1, 5), bool), [(0, 0), (0, 4)]).tolist() == [[1, 1, 2, 2, 2]]


def test_a_piece_without_a_summit_belongs_to_none():
    mask = np.array([[True, True, False, True]])
    assert watershed(np.ones((1, 4), np.float32), mask, [(0, 1)]).tolist() == [[1, 1, 0, 0]]


def test_without_summits_nothing_is_anybody_s():
    parts = watershed(np.ones((3, 4), np.float32), np.ones((3, 4), bool), [])
    assert parts.dtype == np.int32
    assert np.array_equal(parts, np.zeros((3, 4)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_on_a_plain_every_pixel_belongs_to_someone(count):
    mask = np.ones((20, 30), bool)
    parts = watershed(np.ones(mask.shape, np.float32), mask, [(3 * i, 5 * i) for i in range(count)])
    assert set(np.unique(parts)) == set(range(1, count + 1))
