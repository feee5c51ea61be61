"""Level lines are scikit-image's to the last bit, and stay whole where it has to choose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import find_contours

from glomtile.objects.contours import level_rings

sides = st.tuples(st.integers(2, 14), st.integers(2, 14))
stairs = arrays(np.float32, sides, elements=st.integers(0, 4).map(float))


def island(field: np.ndarray) -> np.ndarray:
    """The field with its rim under water."""
    return np.pad(field, 1)


def smooth(seed: int, size: int, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    return island(np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma)))


def enclosed(rings: list[np.ndarray]) -> float:
    """Hills less their holes, by the shoelace formula."""
    return sum(float(np.sum(ring[:-1, 1] * ring[1:, 0] - ring[1:, 1] * ring[:-1, 0])) / 2 for ring in rings)


@given(st.integers(0, 10_000), st.integers(2, 90), st.sampled_from([0.5, 2.0, 6.0]), st.floats(0.001, 0.5))
@settings(max_examples=150)
def test_lines_are_scikit_images_to_the_bit(seed, size, sigma, level):
    field = smooth(seed, size, sigma)
    ours, theirs = level_rings(field, level), find_contours(field, level)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@given(stairs, st.integers(0, 3))
@settings(max_examples=300)
def test_lines_through_pixels_of_the_level_are_closed_and_enclose_as_much_as_scikit_images(hill, level):
    field = island(hill)
    rings = level_rings(field, level)
    assert all((ring[0] == ring[-1]).all() for ring in rings)
    assert all((ring[1:] != ring[:-1]).any(axis=1).all() for ring in rings)
    assert enclosed(rings) == pytest.approx(enclosed(find_contours(field, level)), abs=1e-9)


def test_a_level_between_two_floats_is_not_rounded_to_one_of_them():
    """A line went through a pixel of the level's value where its neighbours' ran beside it."""
    value = np.float32(0.51073929)
    level = (float(value) + float(np.nextafter(value, np.float32(1)))) / 2 - 1e-12
    field = island(np.full((3, 3), value, np.float32))
    field[2, 2] = np.nextafter(value, np.float32(1))
    (ours,), (theirs,) = level_rings(field, level), find_contours(field, level)
    np.testing.assert_array_equal(ours, theirs)


def test_a_hole_winds_the_other_way_and_comes_after_what_holds_it():
    field = island(np.ones((9, 9), np.float32))
    field[4:7, 4:7] = 0
    outer, inner = level_rings(field, 0.5)
    assert shapely.Polygon(outer).exterior.is_ccw != shapely.Polygon(inner).exterior.is_ccw
    assert shapely.Polygon(outer).contains(shapely.Polygon(inner))


def test_where_nothing_is_higher_there_is_no_line():
    assert level_rings(np.zeros((4, 5), np.float32), 0.5) == []
    assert level_rings(np.full((4, 5), 0.5, np.float32), 0.5) == []
