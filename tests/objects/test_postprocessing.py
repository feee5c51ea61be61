"""Holes are filled, touching discs parted at any size, lobed single objects left whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from glomtile.errors import InputError
from glomtile.objects.labelling import find_objects
from glomtile.objects.postprocessing import ShapingRules, convex_hull, fill_holes, shape_region

EIGHT = np.ones((3, 3), int)
ANY_SIZE = ShapingRules(min_area_um2=0)
masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def discs(*circles: tuple[float, float, float]) -> np.ndarray:
    height = int(max(row + radius for row, _, radius in circles)) + 6
    width = int(max(column + radius for _, column, radius in circles)) + 6
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for row, column, radius in circles:
        mask |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return mask


def rough(mask: np.ndarray, seed: int, depth_px: float) -> np.ndarray:
    """The mask with a noisy outline, its largest piece."""
    noise = np.random.default_rng(seed).standard_normal(mask.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 3)
    inside, outside = (
        cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (mask, ~mask)
    )
    found = find_objects(inside - outside + depth_px * noise / noise.std() > 0)
    return found.ids == 1 + int(found.areas_px.argmax())


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((150, 150)).astype(np.float32)
    found = find_objects(cv2.GaussianBlur(noise, (0, 0), 7) > 0)
    return found.ids == 1 + int(found.areas_px.argmax())


def shape(mask: np.ndarray, mpp: float, rules: ShapingRules) -> list[np.ndarray]:
    ids, count = shape_region(mask, mpp, rules)
    return [ids == number for number in range(1, count + 1)]


@given(masks)
@settings(max_examples=200)
def test_the_hull_is_that_of_the_centres_of_the_pixels(mask):
    found = find_objects(mask)
    for number, box in enumerate(found.boxes, 1):
        own = found.ids[box.top : box.bottom, box.left : box.right] == number
        rows, columns = np.indices(own.shape)
        hull = shapely.convex_hull(shapely.multipoints(np.argwhere(own)[:, ::-1].astype(float)))
        inside = shapely.dwithin(hull, shapely.points(columns.ravel(), rows.ravel()), 1e-9)
        np.testing.assert_array_equal(convex_hull(own), inside.reshape(own.shape))


@pytest.mark.parametrize("seed", range(3))
def test_a_hull_is_its_own_hull(seed):
    found = find_objects(blob(seed))
    box = found.boxes[0]
    hull = convex_hull(blob(seed)[box.top : box.bottom, box.left : box.right])
    np.testing.assert_array_equal(convex_hull(hull), hull)


def test_holes_above_the_limit_and_bays_at_the_rim_stay_open():
    mask = np.ones((20, 20), bool)
    mask[2:4, 2:4] = mask[8:14, 8:14] = mask[17:20, 5:7] = False
    filled = fill_holes(mask, 4)
    assert filled[2:4, 2:4].all()
    assert not filled[8:14, 8:14].any()
    assert not fill_holes(mask)[17:20, 5:7].any()
    np.testing.assert_array_equal(fill_holes(mask, 0), mask)
    (open_ring,) = shape(mask, 2.0, ShapingRules(fill_holes_um2=16.0, min_area_um2=0))
    np.testing.assert_array_equal(open_ring, filled)


@pytest.mark.parametrize("radius", [15, 60, 150])
@pytest.mark.parametrize(("apart", "ratio"), [(1.0, 1.0), (0.9, 1.0), (0.8, 1.0), (1.0, 0.7), (0.9, 0.7)])
def test_two_touching_discs_are_split_near_their_waist(radius, apart, ratio):
    other = ratio * radius
    distance = apart * (radius + other) - (apart == 1.0)
    parts = shape(
        discs((radius + 2, radius + 2, radius), (radius + 2, radius + 2 + distance, other)), 1.0, ANY_SIZE
    )
    assert len(parts) == 2
    whole = np.pi * radius**2
    assert parts[0].sum() == pytest.approx(whole, rel=0.17)
    assert parts[1].sum() == pytest.approx(whole * ratio**2, rel=0.17)


@pytest.mark.parametrize("seed", range(8))
def test_a_rough_outline_changes_nothing(seed):
    two = rough(discs((64, 64, 60), (64, 64 + 105, 60)), seed, 3.0)
    assert len(shape(two, 1.0, ShapingRules(min_area_um2=500))) == 2
    one = rough(discs((64, 64, 60)), seed, 3.0)
    assert len(shape(one, 1.0, ShapingRules(min_area_um2=500))) == 1


@pytest.mark.parametrize("apart", [0.65, 0.5, 0.3])
def test_discs_that_overlap_deeply_are_one_object(apart):
    mask = discs((64, 64, 60), (64, 64 + apart * 120, 60))
    assert len(shape(mask, 1.0, ANY_SIZE)) == 1


@pytest.mark.parametrize("lobes", [3, 4, 5, 6])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_lobed_object_is_left_whole(lobes, seed):
    angle = np.arange(lobes) * 2 * np.pi / lobes
    mask = discs((120, 120, 60), *((120 + 50 * np.sin(a), 120 + 50 * np.cos(a), 35) for a in angle))
    mask = mask if seed is None else rough(mask, seed, 2.0)
    assert len(shape(mask, 1.0, ShapingRules(min_area_um2=500))) == 1


@pytest.mark.parametrize("aspect", [2, 4])
def test_a_long_ellipse_is_left_whole(aspect):
    mask = (
        cv2.ellipse(np.zeros((240, 240), np.uint8), (120, 120), (100, 100 // aspect), 30, 0, 360, 1, -1) > 0
    )
    assert len(shape(mask, 1.0, ANY_SIZE)) == 1


def test_a_chain_of_three_falls_into_three_in_reading_order():
    parts = shape(discs((90, 30, 25), (60, 69, 25), (30, 108, 25)), 1.0, ANY_SIZE)
    assert [round(np.argwhere(part)[:, 1].mean() / 39) for part in parts] == [3, 2, 1]
    firsts = [int(part.argmax()) for part in parts]
    assert firsts == sorted(firsts)


def test_no_part_below_the_smallest_area_is_cut_off():
    mask = discs((64, 64, 60), (64, 64 + 72, 14))
    assert len(shape(mask, 1.0, ShapingRules(min_area_um2=200))) == 2
    (whole,) = shape(mask, 1.0, ShapingRules(min_area_um2=1000))
    np.testing.assert_array_equal(whole, mask)


def test_splitting_can_be_turned_off_and_small_regions_are_left_out():
    mask = discs((64, 64, 60), (64, 180, 60))
    assert len(shape(mask, 1.0, ShapingRules(split=False))) == 1
    assert shape(mask, 0.1, ShapingRules()) == []
    assert shape(np.zeros((5, 5), bool), 1.0, ANY_SIZE) == []


@given(st.integers(0, 10_000), st.sampled_from([0, 300, 2000]))
@settings(max_examples=40)
def test_parts_are_disjoint_connected_ordered_large_enough_and_together_the_whole(seed, smallest):
    mask = blob(seed)
    parts = shape(mask, 1.0, ShapingRules(min_area_um2=smallest))
    again = shape(mask, 1.0, ShapingRules(min_area_um2=smallest))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    if parts:
        np.testing.assert_array_equal(np.sum(parts, axis=0), fill_holes(mask).astype(int))
    assert all(label(part, EIGHT)[1] == 1 and part.sum() >= smallest for part in parts)
    firsts = [int(part.argmax()) for part in parts]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_area_um2": -1.0},
        {"smooth_um": float("nan")},
        {"split_depth": 1.0},
        {"fill_holes_um2": -1.0},
        {"min_mean_probability": 2.0},
    ],
)
def test_a_rule_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ShapingRules(**wrong)
