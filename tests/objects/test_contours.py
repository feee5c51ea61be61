"""Polygons are valid, keep area, place and holes, and stay straight where the picture cuts."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from glomtile.objects.contours import Sides, outline_polygon
from glomtile.objects.labelling import find_objects
from glomtile.types import Box

EIGHT = np.ones((3, 3), int)
masks = arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10)))


def one_object(mask: np.ndarray) -> np.ndarray:
    ids, _ = label(mask, EIGHT)
    return ids == ids[np.unravel_index(mask.argmax(), mask.shape)] if mask.any() else mask


def disc(radius: float, size: int, row: float | None = None, column: float | None = None) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    middle = size / 2
    return (rows - (row or middle)) ** 2 + (columns - (column or middle)) ** 2 < radius**2


def blob(seed: int, size: int = 120) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    found = find_objects(cv2.GaussianBlur(noise, (0, 0), 6) > 0)
    return found.ids == 1 + int(found.areas_px.argmax())


@given(masks.map(one_object).filter(np.any))
@settings(max_examples=200)
def test_the_exact_outline_is_the_union_of_the_pixels(mask):
    polygon = outline_polygon(mask, (3, 7))
    pixels = shapely.union_all([shapely.box(7 + c, 3 + r, 8 + c, 4 + r) for r, c in np.argwhere(mask)])
    assert polygon.is_valid
    assert polygon.geom_type == "Polygon"
    assert polygon.symmetric_difference(pixels).area < 0.0051 * mask.size
    holes = label(~np.pad(mask, 1))[1] - 1
    assert len(polygon.interiors) == holes


@given(masks.map(one_object).filter(np.any))
@settings(max_examples=100)
def test_without_corner_touches_the_area_is_the_pixel_count(mask):
    closed = cv2.dilate(np.kron(mask, np.ones((4, 4), np.uint8)), np.ones((3, 3), np.uint8)).astype(bool)
    assert outline_polygon(closed).area == closed.sum()


def test_a_chain_of_corners_is_one_valid_polygon():
    polygon = outline_polygon(np.eye(6, dtype=bool))
    assert polygon.is_valid
    assert polygon.area == pytest.approx(6, abs=0.05)


@pytest.mark.parametrize("radius", [6, 9, 20, 60])
@pytest.mark.parametrize("smooth_px", [1.0, 2.0, 4.0])
def test_a_smooth_disc_keeps_area_centre_and_perimeter(radius, smooth_px):
    mask = disc(radius, 2 * radius + 7)
    polygon = outline_polygon(mask, (5, 11), smooth_px)
    middle = (2 * radius + 7) / 2
    assert polygon.area == pytest.approx(mask.sum(), rel=0.02)
    assert polygon.centroid.x == pytest.approx(11 + middle, abs=0.05)
    assert polygon.centroid.y == pytest.approx(5 + middle, abs=0.05)
    assert polygon.length == pytest.approx(2 * math.pi * radius, rel=0.03)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.7, 1.5, 3.0]))
@settings(max_examples=60)
@example(seed=57, smooth_px=3.0)
@example(seed=952, smooth_px=3.0)
@example(seed=1417, smooth_px=1.5)
@example(seed=1198, smooth_px=0.7)
def test_outlines_of_random_blobs_are_valid_and_keep_area(seed, smooth_px):
    """Those named hang together by threads that blurring cuts: half of the object was lost with them."""
    mask = blob(seed)
    polygon = outline_polygon(mask, (0, 0), smooth_px)
    assert polygon.is_valid
    assert polygon.exterior.is_ccw
    assert polygon.area == pytest.approx(mask.sum(), rel=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), unique=True), st.sampled_from([0.0, 1.0, 2.0])
)
@settings(max_examples=40)
def test_holes_are_kept_where_they_are(places, smooth_px):
    mask, corners = np.zeros((100, 100), bool), [(5 + 24 * i, 5 + 24 * j) for i, j in places]
    mask[2:98, 2:98] = True
    for row, column in corners:
        mask[row : row + 14, column : column + 14] = False
    polygon = outline_polygon(mask, (0, 0), smooth_px)
    middles = [shapely.Polygon(ring).centroid for ring in polygon.interiors]
    assert len(middles) == len(corners)
    for row, column in corners:
        assert min(middle.distance(shapely.Point(column + 7, row + 7)) for middle in middles) < 0.6
    assert polygon.area == pytest.approx(mask.sum(), rel=0.02)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_smooth_outline_keeps_to_the_pixels(seed):
    mask = blob(seed)
    smooth, exact = outline_polygon(mask, (0, 0), 1.0), outline_polygon(mask)
    corners = shapely.points(shapely.get_coordinates(smooth))
    assert shapely.distance(corners, exact.boundary).max() < 1


@pytest.mark.parametrize("side", ["top", "left", "bottom", "right"])
def test_an_object_cut_by_the_picture_keeps_its_straight_cut(side):
    whole = disc(40, 101)
    cuts = {"top": np.s_[50:], "bottom": np.s_[:51], "left": np.s_[:, 50:], "right": np.s_[:, :51]}
    mask = whole[cuts[side]]
    height, width = mask.shape
    polygon = outline_polygon(mask, (0, 0), 3.0, Sides(**{side: True}))
    line = {
        "top": shapely.LineString([(0, 0), (width, 0)]),
        "bottom": shapely.LineString([(0, height), (width, height)]),
        "left": shapely.LineString([(0, 0), (0, height)]),
        "right": shapely.LineString([(width, 0), (width, height)]),
    }[side]
    assert shapely.box(0, 0, width, height).covers(polygon)
    assert polygon.boundary.intersection(line).length == pytest.approx(80, abs=1.5)
    assert polygon.area == pytest.approx(mask.sum(), rel=0.02)
    free = outline_polygon(mask, (0, 0), 3.0)
    assert free.boundary.intersection(line).length < 70


def test_a_mask_too_thin_to_blur_keeps_an_outline():
    assert outline_polygon(np.ones((1, 1), bool), (0, 0), 5.0).area > 0.5
    assert outline_polygon(np.ones((1, 40), bool), (0, 0), 5.0).area == pytest.approx(40, rel=0.25)


def test_a_picture_filled_to_all_sides_is_its_rectangle():
    polygon = outline_polygon(np.ones((9, 13), bool), (0, 0), 3.0, Sides(True, True, True, True))
    assert polygon.equals(shapely.box(0, 0, 13, 9))


def test_an_empty_mask_has_no_outline():
    assert outline_polygon(np.zeros((4, 4), bool)) is None
    assert outline_polygon(np.zeros((0, 4), bool), smooth_px=2.0) is None


def test_sides_of_a_box_are_those_at_the_picture_s_edge():
    assert Sides.of(Box(0, 3, 10, 20), (10, 21)) == Sides(top=True, bottom=True)
