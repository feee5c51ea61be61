"""Objects are whole, measured, in one order, and the same however the picture was cut on the way.

Measures agree with scikit-image on pixels and with geometry on outlines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import shapely
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from glomtile.errors import InputError
from glomtile.objects.contours import Sides, outline_polygon
from glomtile.objects.extraction import FoundObject, Measures, extract_objects, measure, paint_objects
from glomtile.objects.labelling import find_objects, find_regions
from glomtile.objects.postprocessing import ShapingRules, convex_hull, fill_holes
from glomtile.synthetic import paint
from glomtile.types import Box

RULES = ShapingRules(min_area_um2=30.0, smooth_um=1.0)


def image(seed: int, size: tuple[int, int] = (90, 110)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 5) for _ in range(3)]
    return np.argmax(fields, axis=0).astype(np.uint8), rng.integers(0, 256, size, np.uint8)


@dataclass(frozen=True)
class Extracted:
    """An object and its pixels."""

    found: FoundObject
    mask: np.ndarray

    def __getattr__(self, name: str) -> object:
        return getattr(self.found, name)


def objects_of(
    labels: np.ndarray, confidence: np.ndarray, cuts: tuple[int, ...] = (), **more: object
) -> list[Extracted]:
    rules, mpp = more.pop("rules", RULES), more.pop("mpp", 1.0)
    edges = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    regions = find_regions((labels[a:b] for a, b in pairwise(edges)), labels.shape[1], 3)
    return [Extracted(*pair) for pair in extract_objects(labels, confidence, regions, mpp, rules, **more)]


def same(a: list[Extracted], b: list[Extracted]) -> bool:
    return len(a) == len(b) and all(
        (x.class_number, x.box, x.measures) == (y.class_number, y.box, y.measures)
        and np.array_equal(x.mask, y.mask)
        and x.polygon.wkb == y.polygon.wkb
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("seed", range(2))
def test_objects_are_painted_from_arrays_and_from_planes_on_disk(seed):
    labels, confidence = image(seed, (1100, 80))
    extracted = objects_of(labels, confidence)
    expected = np.zeros_like(labels)
    for one in extracted:
        expected[place(one)][one.mask] = one.class_number
    assert expected.any()
    stored = [zarr.array(plane, chunks=(64, 64)) for plane in (labels, confidence, np.zeros_like(labels))]
    for planes in ([labels, confidence, np.zeros_like(labels)], stored):
        found, too_large = paint_objects(*planes, 3, 1.0, RULES)
        assert too_large == 0
        assert [one.polygon.wkb for one in found] == [one.polygon.wkb for one in extracted]
        np.testing.assert_array_equal(np.asarray(planes[2][:, :]), expected)


def test_a_region_too_large_for_an_object_is_painted_as_it_is_and_counted():
    labels = np.zeros((4200, 4100), np.uint8)
    labels[10:, 3] = labels[4199, 3:] = 1
    labels[20:60, 100:140] = 1
    canvas = np.zeros_like(labels)
    (small,), too_large = paint_objects(labels, labels, canvas, 2, 1.0, RULES)
    assert small.box == Box(20, 100, 60, 140)
    assert too_large == 1
    np.testing.assert_array_equal(canvas, labels)


@pytest.mark.parametrize("preset", ["plain", "hard"])
@pytest.mark.parametrize("seed", [1, 2])
def test_objects_of_a_biopsy_are_its_glomeruli(preset, seed):
    biopsy = paint(seed, (1400, 1400), 1.0, preset)
    rules = ShapingRules(split=False)
    ours = objects_of(biopsy.labels, np.full_like(biopsy.labels, 200), rules=rules)
    truth = find_objects(biopsy.labels == 1)
    areas = [area for area in truth.areas_px if area >= 1000]
    assert len(ours) == len(areas) > 3
    assert sum(o.measures.area_um2 for o in ours) == pytest.approx(sum(areas), rel=0.03)
    assert all(o.polygon.area == pytest.approx(o.measures.area_um2, rel=0.03) for o in ours)
    assert all(o.measures.mean_probability == pytest.approx(200 / 255) for o in ours)
    assert len(objects_of(biopsy.labels, np.full_like(biopsy.labels, 200), rules=ShapingRules())) >= len(ours)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_boxes_masks_and_polygons_lie_on_the_pixels(seed):
    labels, confidence = image(seed)
    for one in objects_of(labels, confidence):
        assert one.polygon.is_valid
        assert one.mask.shape == (one.box.height, one.box.width)
        assert all(line.any() for line in (one.mask[0], one.mask[-1], one.mask[:, 0], one.mask[:, -1]))
        assert shapely.box(0, 0, labels.shape[1], labels.shape[0]).covers(one.polygon)
        filled = fill_holes(labels == one.class_number)
        assert filled[one.box.top : one.box.bottom, one.box.left : one.box.right][one.mask].all()
        reaches = one.box.top == 0 or one.box.left == 0 or one.box.bottom == 90 or one.box.right == 110
        assert one.measures.touches_border == reaches


def test_a_region_in_a_filled_hole_is_part_of_the_object_around_it():
    labels = np.zeros((60, 60), np.uint8)
    labels[5:55, 5:55] = 1
    labels[10:50, 10:50] = 0
    labels[20:40, 20:40] = 1
    confidence = np.where(labels == 1, 255, 10).astype(np.uint8)
    (one,) = objects_of(labels, confidence)
    assert one.measures.area_um2 == 2500
    assert one.measures.min_probability == 1.0
    assert (
        len(
            objects_of(
                labels, confidence, rules=ShapingRules(fill_holes_um2=0.0, min_area_um2=30, split=False)
            )
        )
        == 2
    )


CONVEX = ShapingRules(min_area_um2=30.0, smooth_um=1.0, convex=True)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 90), max_size=6), st.booleans(), st.booleans())
@example(138, [], False, False)
@settings(max_examples=60)
def test_hulls_stay_apart_and_come_the_same_from_any_bands(seed, cuts, split, fill):
    labels, confidence = image(seed)
    rules = replace(CONVEX, split=split, fill_holes_um2=None if fill else 0.0)
    plain = objects_of(labels, confidence, rules=replace(rules, convex=False))
    ours = objects_of(labels, confidence, rules=rules)
    assert same(objects_of(labels, confidence, tuple(cuts), rules=rules), ours)
    covered = np.zeros(labels.shape, int)
    for one in ours:
        covered[place(one)] += one.mask
    for one in ours:
        (raw,) = [p.mask for p in plain if p.box == one.box and np.array_equal(p.mask & one.mask, p.mask)]
        added = one.mask & ~raw
        assert not (added & ~convex_hull(raw)).any()
        assert find_objects(one.mask).count == 1
        # What is added was nobody's, or of crumbs that are objects no longer.
        assert np.isin(labels[place(one)][added], [0, one.class_number]).all()
        assert (covered[place(one)][added] == 1).all()
    kept = {(p.box, p.class_number) for p in plain} - {(o.box, o.class_number) for o in ours}
    for crumb in (p for p in plain if (p.box, p.class_number) in kept):
        assert (covered[place(crumb)][crumb.mask] == 1).all()


def place(one: Extracted) -> tuple[slice, slice]:
    return np.s_[one.box.top : one.box.bottom, one.box.left : one.box.right]


def test_a_crumb_in_a_bay_is_part_of_the_object_and_a_neighbour_that_reaches_in_is_not():
    labels = np.zeros((120, 90), np.uint8)
    cv2.circle(labels, (40, 40), 35, 1, -1)
    labels[30:50, 40:] = 0
    bay = int((labels == 1).sum())  # pixels of the disc less its bay
    labels[36:44, 55:64] = 1
    confidence = np.where(labels == 1, 255, 10).astype(np.uint8)
    assert len(objects_of(labels, confidence)) == 2
    (one,) = objects_of(labels, confidence, rules=CONVEX)
    assert one.measures.area_um2 == pytest.approx(np.pi * 35**2, rel=0.02)
    assert one.measures.min_probability == 1.0

    labels[36:44, 55:90] = 1
    with_a_bay, neighbour = objects_of(labels, confidence, rules=CONVEX)
    assert neighbour.box == Box(36, 55, 44, 90)
    assert neighbour.mask.all()
    inside = (one.mask & (labels[place(one)] == 1)).sum() - bay
    assert with_a_bay.measures.area_um2 == one.measures.area_um2 - inside


@pytest.mark.parametrize(
    ("at", "touches"), [((0, 9), 1), ((9, 0), 1), ((9, 10), 1), ((10, 9), 1), ((9, 9), 0), ((1, 1), 0)]
)
def test_an_object_at_the_picture_s_edge_is_told_by_its_place_in_the_picture(at, touches):
    labels = np.zeros((70, 70), np.uint8)
    labels[at[0] : at[0] + 60, at[1] : at[1] + 60] = 1
    (one,) = objects_of(labels, labels)
    assert one.measures.touches_border == touches


def test_two_that_touch_are_two_and_an_improbable_one_is_left_out():
    labels = np.zeros((100, 190), np.uint8)
    cv2.circle(labels, (50, 50), 40, 1, -1)
    cv2.circle(labels, (128, 50), 40, 1, -1)
    confidence = np.full(labels.shape, 255, np.uint8)
    confidence[:, 89:] = 100
    assert [round(o.measures.centroid_x_px / 10) for o in objects_of(labels, confidence)] == [5, 13]
    sure = ShapingRules(min_area_um2=30, min_mean_probability=0.5)
    assert [round(o.measures.centroid_x_px / 10) for o in objects_of(labels, confidence, rules=sure)] == [5]


def test_glass_is_asked_inside_the_picture_and_told_of_the_object():
    labels = np.zeros((60, 60), np.uint8)
    labels[0:20, 0:20] = labels[30:50, 30:50] = 1
    glass = np.zeros(labels.shape, bool)
    glass[50, :] = True
    asked: list[Box] = []

    def glass_of(box: Box) -> np.ndarray:
        asked.append(box)
        return glass[box.top : box.bottom, box.left : box.right]

    first, second = objects_of(labels, labels, glass=glass_of)
    assert asked == [Box(0, 0, 21, 21), Box(29, 29, 51, 51)]
    assert (first.measures.touches_border, first.measures.touches_tissue_edge) == (True, False)
    assert (second.measures.touches_border, second.measures.touches_tissue_edge) == (False, True)


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
