"""Objects and regions are those of scikit-image, in memory and at any heights of bands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.measure import label, regionprops

from glomtile.objects.labelling import Region, exact_distance, find_objects, find_regions, outline, own_pixels
from glomtile.types import IGNORE, Box

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))
sizes = st.tuples(st.integers(1, 16), st.integers(1, 12))
images = sizes.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 2)))


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


def regions_of(labels: np.ndarray, cuts: list[int], num_classes: int = 3) -> list[Region]:
    edges = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    bands = (labels[top:bottom] for top, bottom in pairwise(edges))
    return list(find_regions(bands, labels.shape[1], num_classes))


def by_scikit_image(labels: np.ndarray, num_classes: int = 3) -> list[Region]:
    out = []
    for class_number in range(1, num_classes):
        for region in regionprops(label(labels == class_number, connectivity=2)):
            out.append(Region(class_number, Box(*region.bbox), min(map(tuple, region.coords.tolist()))))
    return sorted(out, key=lambda region: region.seed)


@given(images, st.lists(st.integers(0, 16), max_size=6))
@settings(max_examples=300)
def test_regions_are_those_of_the_whole_image_in_reading_order(labels, cuts):
    assert regions_of(labels, cuts) == by_scikit_image(labels)


@given(st.integers(0, 1000), st.floats(0.2, 0.8), st.lists(st.integers(0, 90), max_size=8))
@settings(max_examples=40)
def test_spirals_of_noise_are_joined_over_many_bands(seed, share, cuts):
    labels = (np.random.default_rng(seed).random((90, 70)) < share).astype(np.uint8)
    assert regions_of(labels, cuts, 2) == by_scikit_image(labels, 2)


def test_the_arms_of_a_u_are_one_region_with_the_earlier_seed():
    labels = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    assert regions_of(labels, [1, 2]) == [Region(1, Box(0, 0, 3, 3), (0, 2))]


def test_background_and_ignored_pixels_are_no_region():
    assert regions_of(np.array([[0, IGNORE, 3]], np.uint8), []) == []


@given(images, st.integers(1, 7))
@settings(max_examples=200)
def test_own_pixels_are_those_connected_to_the_seed(labels, step):
    for region in regions_of(labels, []):
        box = labels[region.box.top : region.box.bottom, region.box.left : region.box.right]
        ids = label(box == region.class_number, connectivity=2)
        expected = ids == ids[0, region.seed[1] - region.box.left]
        bands = own_pixels(lambda b=box: (b[top : top + step] for top in range(0, len(b), step)), region)
        np.testing.assert_array_equal(np.concatenate(list(bands)), expected)


def test_a_region_is_yielded_once_no_earlier_one_can_grow() -> None:
    image = np.zeros((40, 9), np.uint8)
    image[1:3, 1:3] = image[5:30, 5] = image[8:10, 1:3] = 1
    taken: list[int] = []

    def bands() -> Iterator[np.ndarray]:
        for top in range(0, 40, 4):
            taken.append(top)
            yield image[top : top + 4]

    yielded_at = [(region.seed, taken[-1]) for region in find_regions(bands(), 9, 2)]
    # The third ends in the band of row 8, and waits for the second, whose first pixel is earlier.
    assert yielded_at == [((1, 1), 0), ((5, 5), 28), ((8, 1), 28)]
