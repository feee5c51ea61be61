from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.measure import label, regionprops

from glomtile.objects.labelling import exact_distance, find_objects, outline

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@given(masks)
def test_objects_are_those_of_scikit_image_with_eight_neighbours(mask):
    expected, found = label(mask, connectivity=2), find_objects(mask)
    assert found.count == expected.max()
    ours = sorted((tuple(box), int(area)) for box, area in zip(found.boxes, found.areas_px, strict=True))
    theirs = sorted((region.bbox, int(region.area)) for region in regionprops(expected))
    assert ours == theirs
    np.testing.assert_array_equal(found.ids > 0, mask)


def test_pixels_that_touch_at_a_corner_are_one_object():
    assert find_objects(np.eye(5, dtype=bool)).count == 1


def test_an_empty_or_sizeless_mask_has_no_objects():
    assert find_objects(np.zeros((4, 4), bool)).count == 0
    assert find_objects(np.zeros((0, 4), bool)).count == 0


@given(masks)
def test_the_outline_is_what_erosion_takes_away(mask):
    np.testing.assert_array_equal(outline(mask), mask & ~binary_erosion(mask))


@pytest.mark.parametrize("size", [(60, 80), (301, 407)])
def test_distances_are_exact_to_the_last_bit_at_any_memory_offset(size):
    noise = np.random.default_rng(5).standard_normal(size).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 5) > 0
    expected = np.sqrt(np.rint(distance_transform_edt(mask) ** 2)).astype(np.float32)
    for start in range(0, 64, 7):
        placed = np.zeros(mask.size + 64, bool)[start : start + mask.size].reshape(size)
        placed[:] = mask
        np.testing.assert_array_equal(exact_distance(placed), expected)
