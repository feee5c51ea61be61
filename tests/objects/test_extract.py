"""Objects are whole, measured, in one order, and the same however the picture was cut on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import InputError
from glomtile.objects.extraction import FoundObject, found_objects
from glomtile.objects.labelling import find_objects
from glomtile.objects.postprocessing import ShapingRules, convex_hull, fill_holes
from glomtile.objects.regions import Regions
from glomtile.synthetic import paint
from glomtile.types import Box

RULES = ShapingRules(min_area_um2=30.0, smooth_um=1.0)


def picture(seed: int, size: tuple[int, int] = (90, 110)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 5) for _ in range(3)]
    return np.argmax(fields, axis=0).astype(np.uint8), rng.integers(0, 256, size, np.uint8)


def regions_of(labels: np.ndarray, cuts: tuple[int, ...] = ()) -> list:
    regions = Regions(labels.shape[1], 3)
    edges = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    out = [region for top, bottom in pairwise(edges) for region in regions.add(labels[top:bottom])]
    return out + regions.finish()


def found(
    labels: np.ndarray, confidence: np.ndarray, cuts: tuple[int, ...] = (), **more: object
) -> list[FoundObject]:
    rules, mpp = more.pop("rules", RULES), more.pop("mpp", 1.0)
    return list(found_objects(labels, confidence, regions_of(labels, cuts), mpp, rules, labels.shape, **more))


def same(a: list[FoundObject], b: list[FoundObject]) -> bool:
    return len(a) == len(b) and all(
        (x.class_number, x.box, x.measures, x.reduced_by) == (y.class_number, y.box, y.measures, y.reduced_by)
        and np.array_equal(x.mask, y.mask)
        and x.polygon.wkb == y.polygon.wkb
        for x, y in zip(a, b, strict=True)
    )


@given(st.integers(0, 10_000), st.lists(st.integers(0, 90), max_size=6))
@settings(max_examples=40)
def test_any_banding_gives_the_same_objects_in_the_same_order(seed, cuts):
    labels, confidence = picture(seed)
    whole = found(labels, confidence)
    assert whole
    assert same(found(labels, confidence, tuple(cuts)), whole)


def test_a_zarr_array_gives_what_an_array_gives():
    labels, confidence = picture(1)
    stored = [zarr.array(plane, chunks=(32, 32)) for plane in (labels, confidence)]
    regions = regions_of(labels)
    theirs = list(found_objects(*stored, regions, 1.0, RULES, labels.shape))
    assert same(theirs, found(labels, confidence))


@pytest.mark.parametrize("preset", ["plain", "hard"])
@pytest.mark.parametrize("seed", [1, 2])
def test_objects_of_a_phantom_are_its_glomeruli(preset, seed):
    phantom = paint(seed, (1400, 1400), 1.0, preset)
    rules = ShapingRules(split=False)
    ours = found(phantom.labels, np.full_like(phantom.labels, 200), rules=rules)
    truth = find_objects(phantom.labels == 1)
    areas = [area for area in truth.areas_px if area >= 1000]
    assert len(ours) == len(areas) > 3
    assert sum(o.measures.area_um2 for o in ours) == pytest.approx(sum(areas), rel=0.03)
    assert all(o.polygon.area == pytest.approx(o.measures.area_um2, rel=0.03) for o in ours)
    assert all(o.measures.mean_probability == pytest.approx(200 / 255) for o in ours)
    assert len(found(phantom.labels, np.full_like(phantom.labels, 200), rules=ShapingRules())) >= len(ours)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_boxes_masks_and_polygons_lie_on_the_pixels(seed):
    labels, confidence = picture(seed)
    for one in found(labels, confidence):
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
    (one,) = found(labels, confidence)
    assert one.measures.area_um2 == 2500
    assert one.measures.min_probability == 1.0
    assert (
        len(found(labels, confidence, rules=ShapingRules(fill_holes_um2=0.0, min_area_um2=30, split=False)))
        == 2
    )


@pytest.mark.parametrize("largest_px", [40_000, 10_000, 2_000])
@pytest.mark.parametrize("gap", [1, 3, 30])
@pytest.mark.parametrize("shift", range(6))
def test_so_it_is_where_the_object_is_looked_at_reduced(largest_px, gap, shift):
    labels = np.zeros((300, 300), np.uint8)
    cv2.circle(labels, (150, 150), 130, 1, -1)
    cv2.circle(labels, (150, 150), 85, 0, -1)
    cv2.circle(labels, (150 + shift, 66 + gap + 20), 20, 1, -1)
    labels = np.roll(labels, (shift, -2 * shift), (0, 1))
    assert len(regions_of(labels)) == 2
    rules = ShapingRules(min_area_um2=30, smooth_um=1.0, split=False)
    (one,) = found(labels, np.full_like(labels, 200), rules=rules, largest_px=largest_px)
    assert one.reduced_by > 1
    assert one.measures.area_um2 == pytest.approx(np.pi * 130**2, rel=0.02)


@pytest.mark.parametrize("shift", range(6))
def test_a_neighbour_nearer_than_a_cell_is_an_object_of_its_own(shift):
    labels = np.zeros((300, 300), np.uint8)
    labels[10 + shift : 150 + shift, 40:220] = 1
    labels[151 + shift : 290, 40:220] = 1
    rules = ShapingRules(min_area_um2=30, smooth_um=1.0, split=False)
    above, below = found(labels, np.full_like(labels, 200), rules=rules, largest_px=1_500)
    assert (above.reduced_by, below.reduced_by) == (5, 5)


CONVEX = ShapingRules(min_area_um2=30.0, smooth_um=1.0, convex=True)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 90), max_size=6), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_hulls_stay_apart_and_come_the_same_from_any_bands(seed, cuts, split, fill):
    labels, confidence = picture(seed)
    rules = replace(CONVEX, split=split, fill_holes_um2=None if fill else 0.0)
    plain = found(labels, confidence, rules=replace(rules, convex=False))
    ours = found(labels, confidence, rules=rules)
    assert same(found(labels, confidence, tuple(cuts), rules=rules), ours)
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


def place(one: FoundObject) -> tuple[slice, slice]:
    return np.s_[one.box.top : one.box.bottom, one.box.left : one.box.right]


def test_a_crumb_in_a_bay_is_part_of_the_object_and_a_neighbour_that_reaches_in_is_not():
    labels = np.zeros((120, 90), np.uint8)
    cv2.circle(labels, (40, 40), 35, 1, -1)
    labels[30:50, 40:] = 0
    bay = int((labels == 1).sum())  # pixels of the disc less its bay
    labels[36:44, 55:64] = 1
    confidence = np.where(labels == 1, 255, 10).astype(np.uint8)
    assert len(found(labels, confidence)) == 2
    (one,) = found(labels, confidence, rules=CONVEX)
    assert one.measures.area_um2 == pytest.approx(np.pi * 35**2, rel=0.02)
    assert one.measures.min_probability == 1.0

    labels[36:44, 55:90] = 1
    with_a_bay, neighbour = found(labels, confidence, rules=CONVEX)
    assert neighbour.box == Box(36, 55, 44, 90)
    assert neighbour.mask.all()
    inside = (one.mask & (labels[place(one)] == 1)).sum() - bay
    assert with_a_bay.measures.area_um2 == one.measures.area_um2 - inside


@pytest.mark.parametrize("largest_px", [10**6, 400])
@pytest.mark.parametrize(
    ("at", "touches"), [((0, 9), 1), ((9, 0), 1), ((9, 10), 1), ((10, 9), 1), ((9, 9), 0), ((1, 1), 0)]
)
def test_an_object_at_the_picture_s_edge_is_told_by_its_place_in_the_picture(at, touches, largest_px):
    labels = np.zeros((70, 70), np.uint8)
    labels[at[0] : at[0] + 60, at[1] : at[1] + 60] = 1
    (one,) = found(labels, labels, largest_px=largest_px)
    assert (one.reduced_by > 1) == (largest_px < 3600)
    assert one.measures.touches_border == touches


def test_two_that_touch_are_two_and_an_improbable_one_is_left_out():
    labels = np.zeros((100, 190), np.uint8)
    cv2.circle(labels, (50, 50), 40, 1, -1)
    cv2.circle(labels, (128, 50), 40, 1, -1)
    confidence = np.full(labels.shape, 255, np.uint8)
    confidence[:, 89:] = 100
    assert [round(o.measures.centroid_x_px / 10) for o in found(labels, confidence)] == [5, 13]
    sure = ShapingRules(min_area_um2=30, min_mean_probability=0.5)
    assert [round(o.measures.centroid_x_px / 10) for o in found(labels, confidence, rules=sure)] == [5]


def test_rules_by_class_leave_unnamed_classes_out():
    labels, confidence = picture(3)
    assert {o.class_number for o in found(labels, confidence)} == {1, 2}
    assert {o.class_number for o in found(labels, confidence, rules={2: RULES})} == {2}


def test_glass_is_asked_inside_the_picture_and_told_of_the_object():
    labels = np.zeros((60, 60), np.uint8)
    labels[0:20, 0:20] = labels[30:50, 30:50] = 1
    glass = np.zeros(labels.shape, bool)
    glass[50, :] = True
    asked: list[Box] = []

    def glass_of(box: Box) -> np.ndarray:
        asked.append(box)
        return glass[box.top : box.bottom, box.left : box.right]

    first, second = found(labels, labels, glass=glass_of)
    assert asked == [Box(0, 0, 21, 21), Box(29, 29, 51, 51)]
    assert (first.measures.touches_border, first.measures.touches_tissue_edge) == (True, False)
    assert (second.measures.touches_border, second.measures.touches_tissue_edge) == (False, True)


@pytest.mark.parametrize("largest_px", [60_000, 9_000])
def test_a_region_too_large_is_reduced_and_stays_in_place(largest_px):
    labels = np.zeros((500, 600), np.uint8)
    cv2.ellipse(labels, (300, 0), (180, 300), 0, 0, 360, 1, -1)
    confidence = np.full(labels.shape, 153, np.uint8)
    glass = np.zeros(labels.shape, bool)
    glass[:, 481:] = True
    rules = ShapingRules(smooth_um=4.0)

    def glass_of(box: Box) -> np.ndarray:
        return glass[box.top : box.bottom, box.left : box.right]

    (full,) = found(labels, confidence, rules=rules, glass=glass_of)
    (reduced,) = found(labels, confidence, rules=rules, glass=glass_of, largest_px=largest_px)
    assert reduced.reduced_by > 1
    assert reduced.mask.size < 1.2 * largest_px
    assert reduced.polygon.intersection(full.polygon).area > 0.97 * reduced.polygon.union(full.polygon).area
    assert reduced.polygon.bounds[1] == 0
    for name in (
        "area_um2",
        "perimeter_um",
        "feret_max_um",
        "feret_min_um",
        "solidity",
        "eccentricity",
        "mean_probability",
        "min_probability",
    ):
        assert getattr(reduced.measures, name) == pytest.approx(getattr(full.measures, name), rel=0.04), name
    assert reduced.measures.centroid_x_px == pytest.approx(full.measures.centroid_x_px, abs=3)
    assert reduced.measures.centroid_y_px == pytest.approx(full.measures.centroid_y_px, abs=3)
    assert reduced.measures.touches_border
    assert reduced.measures.touches_tissue_edge


@pytest.mark.parametrize("side", range(200, 208))
@pytest.mark.parametrize("largest_px", [20_000, 5_000, 1_000])
def test_an_even_confidence_stays_even_where_cells_reach_beyond_the_region(side, largest_px):
    labels = np.zeros((400, 400), np.uint8)
    labels[50 : 50 + side, 60 : 60 + side] = 1
    (one,) = found(labels, np.full(labels.shape, 200, np.uint8), largest_px=largest_px)
    assert one.reduced_by > 1
    assert one.measures.mean_probability == pytest.approx(200 / 255)
    assert one.measures.min_probability == pytest.approx(200 / 255)


def test_planes_of_another_size_and_regions_of_other_labels_are_refused():
    labels, confidence = picture(1)
    regions = regions_of(labels)
    with pytest.raises(InputError, match="planes"):
        list(found_objects(labels, confidence[:-1], regions, 1.0, RULES, labels.shape))
    with pytest.raises(InputError, match="above 0"):
        list(found_objects(labels, confidence, regions, 0.0, RULES, labels.shape))
    with pytest.raises(InputError, match="expected class"):
        list(found_objects(np.zeros_like(labels), confidence, regions, 1.0, RULES, labels.shape))
