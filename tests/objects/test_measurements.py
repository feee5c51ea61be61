"""Measures agree with scikit-image on pixels and with geometry on outlines."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from glomtile.errors import InputError
from glomtile.objects.contours import Sides, outline_polygon
from glomtile.objects.labelling import find_objects
from glomtile.objects.measurements import Measures, measure
from glomtile.types import Box


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((60, 70)).astype(np.float32)
    found = find_objects(cv2.GaussianBlur(noise, (0, 0), 4) > 0)
    return found.ids == 1 + int(found.areas_px.argmax())


def measured(mask: np.ndarray, at: tuple[int, int] = (20, 30), mpp: float = 0.5, **more: object) -> Measures:
    box = Box(*at, at[0] + mask.shape[0], at[1] + mask.shape[1])
    confidence = more.pop("confidence", np.full(mask.shape, 255, np.uint8))
    polygon = outline_polygon(mask, at, more.pop("smooth_px", 1.0))
    return measure(mask, box, polygon, confidence, mpp, **more)


@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 2.0]))
@settings(max_examples=60)
def test_pixel_measures_are_those_of_scikit_image(seed, mpp):
    mask = blob(seed)
    expected = regionprops(mask.astype(int))[0]
    ours = measured(mask, (20, 30), mpp, smooth_px=0.0)
    assert ours.area_um2 == pytest.approx(expected.area * mpp**2)
    assert ours.equivalent_diameter_um == pytest.approx(expected.equivalent_diameter_area * mpp)
    assert ours.eccentricity == pytest.approx(expected.eccentricity, abs=1e-6)
    assert ours.centroid_y_px == pytest.approx(20.5 + expected.centroid[0])
    assert ours.centroid_x_px == pytest.approx(30.5 + expected.centroid[1])
    assert ours.feret_max_um == pytest.approx(expected.feret_diameter_max * mpp, abs=1.5 * mpp)


@pytest.mark.parametrize("half", [(40, 40), (60, 30), (80, 20)])
def test_an_ellipse_measures_as_geometry_says(half):
    a, b = half
    rows, columns = np.mgrid[:200, :200] - 99.5
    x, y = (columns + rows) / math.sqrt(2), (columns - rows) / math.sqrt(2)
    ours = measured((x / a) ** 2 + (y / b) ** 2 < 1)
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert ours.area_um2 == pytest.approx(math.pi * a * b / 4, rel=0.01)
    assert ours.perimeter_um == pytest.approx(perimeter / 2, rel=0.01)
    assert ours.feret_max_um == pytest.approx(a, rel=0.015)
    assert ours.feret_min_um == pytest.approx(b, rel=0.015)
    assert ours.eccentricity == pytest.approx(math.sqrt(1 - (b / a) ** 2), abs=0.02)
    assert ours.circularity == pytest.approx(4 * math.pi**2 * a * b / perimeter**2, rel=0.02)
    assert ours.solidity > 0.99


def test_a_turned_square_has_its_side_as_smallest_width():
    square = shapely.affinity.rotate(shapely.box(0, 0, 20, 20), 33)
    ours = measure(np.ones((4, 4), bool), Box(0, 0, 4, 4), square, np.zeros((4, 4), np.uint8), 2.0)
    assert ours.feret_min_um == pytest.approx(40)
    assert ours.feret_max_um == pytest.approx(40 * math.sqrt(2))


def test_a_bay_lowers_solidity():
    mask = np.ones((60, 60), bool)
    mask[20:40, 20:] = False
    assert measured(mask).solidity == pytest.approx(2800 / 3600, rel=0.02)


def test_probabilities_are_of_pixels_called_so():
    mask = np.zeros((6, 6), bool)
    mask[1:5, 1:5] = True
    confidence = np.full((6, 6), 51, np.uint8)
    confidence[1:3, 1:5] = 255
    assert measured(mask, confidence=confidence).mean_probability == pytest.approx(0.6)
    assert measured(mask, confidence=confidence).min_probability == pytest.approx(0.2)
    called = confidence == 255
    assert measured(mask, confidence=confidence, called=called).min_probability == 1.0
    assert math.isnan(measured(mask, confidence=confidence, called=~mask).mean_probability)


@pytest.mark.parametrize("edge", [Sides(), *(Sides(**{side: True}) for side in Sides._fields)])
def test_an_object_at_the_picture_s_edge_is_told(edge):
    assert measured(np.ones((4, 4), bool), image_edge=edge).touches_border is any(edge)


@given(st.integers(0, 7), st.integers(0, 7))
@settings(max_examples=64)
def test_an_object_in_or_beside_glass_is_told(row, column):
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[3:6, 3:6] = True
    glass = np.zeros((8, 8), bool)
    glass[row, column] = True
    nearest = min(max(abs(row - 1 - r), abs(column - 1 - c)) for r, c in np.argwhere(mask))
    assert measured(mask, glass=glass).touches_tissue_edge == (nearest <= 1)


@pytest.mark.parametrize(
    "wrong", [{"confidence": np.zeros((3, 4), np.uint8)}, {"glass": np.zeros((4, 4), bool)}]
)
def test_planes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        measured(np.ones((4, 4), bool), **wrong)


def test_an_empty_mask_is_refused():
    empty = np.zeros((4, 4), bool)
    with pytest.raises(InputError, match="empty"):
        measure(empty, Box(0, 0, 4, 4), shapely.box(0, 0, 1, 1), np.zeros((4, 4), np.uint8), 1.0)
