from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial.distance import cdist, directed_hausdorff
from skimage.measure import label, regionprops

from glomtile.objects.labelling import (
    MATCH_IOU,
    exact_distance,
    find_objects,
    hausdorff_px,
    match_objects,
    matched_hausdorff_px,
    outline,
)

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))
mask_pairs = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda size: st.tuples(arrays(bool, size), arrays(bool, size))
)


def blobs(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, bool)
    for _ in range(6):
        y, x, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(3, 11)
        mask |= (rows - y) ** 2 + (columns - x) ** 2 < r**2
    return mask


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


def naive_match(truth: np.ndarray, prediction: np.ndarray) -> set[tuple[frozenset, frozenset, float]]:
    def pixels(mask: np.ndarray) -> list[frozenset]:
        return [frozenset(map(tuple, region.coords)) for region in regionprops(label(mask, connectivity=2))]

    return {
        (t, p, len(t & p) / len(t | p))
        for t in pixels(truth)
        for p in pixels(prediction)
        if len(t & p) / len(t | p) > MATCH_IOU
    }


@given(mask_pairs)
@settings(deadline=None)
def test_matches_are_those_of_trying_every_pair(pair):
    truth, prediction = find_objects(pair[0]), find_objects(pair[1])
    matching = match_objects(truth, prediction)
    ours = {
        (
            frozenset(map(tuple, np.argwhere(truth.ids == t))),
            frozenset(map(tuple, np.argwhere(prediction.ids == p))),
            float(iou),
        )
        for (t, p), iou in zip(matching.pairs, matching.ious, strict=True)
    }
    assert ours == naive_match(*pair)


@given(mask_pairs)
@settings(deadline=None)
def test_a_match_is_unique_on_both_sides_and_the_same_seen_from_either(pair):
    a, b = find_objects(pair[0]), find_objects(pair[1])
    there, back = match_objects(a, b), match_objects(b, a)
    assert len(set(there.pairs[:, 0])) == len(set(there.pairs[:, 1])) == len(there.pairs)
    assert {tuple(p) for p in there.pairs} == {tuple(p[::-1]) for p in back.pairs}


def test_an_iou_of_exactly_one_half_is_no_match():
    truth, prediction = np.zeros((3, 8), bool), np.zeros((3, 8), bool)
    truth[1, 1:5] = True
    prediction[1, 1:3] = True
    assert len(match_objects(find_objects(truth), find_objects(prediction)).pairs) == 0


@given(masks)
def test_the_outline_is_what_erosion_takes_away(mask):
    np.testing.assert_array_equal(outline(mask), mask & ~binary_erosion(mask))


@pytest.mark.parametrize("seed", range(6))
def test_the_full_hausdorff_distance_is_that_of_scipy(seed):
    a, b = blobs(seed), blobs(seed + 100)
    points = np.argwhere(outline(a)), np.argwhere(outline(b))
    expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff_px(a, b, percentile=100) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_hd95_is_the_larger_directed_percentile_of_all_distances(seed):
    a, b = blobs(seed), blobs(seed + 100)
    distances = cdist(np.argwhere(outline(a)), np.argwhere(outline(b)))
    expected = max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1))
    assert hausdorff_px(a, b) == pytest.approx(expected, rel=1e-6)
    assert hausdorff_px(b, a) == hausdorff_px(a, b)


def test_the_distance_to_nothing_is_undefined_and_to_itself_zero():
    mask = blobs(1)
    assert np.isnan(hausdorff_px(mask, np.zeros_like(mask)))
    assert np.isnan(hausdorff_px(np.zeros_like(mask), mask))
    assert hausdorff_px(mask, mask) == 0


def test_a_shifted_square_is_as_far_away_as_it_was_shifted():
    a, b = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    a[5:25, 5:25] = True
    b[5:25, 8:28] = True
    assert hausdorff_px(a, b) == 3


def test_distances_of_matched_objects_do_not_depend_on_the_rest_of_the_image():
    truth, prediction = np.zeros((90, 90), bool), np.zeros((90, 90), bool)
    truth[10:30, 10:30] = prediction[12:30, 10:30] = True
    truth[60:80, 50:70] = prediction[60:80, 51:71] = True
    prediction[0, 89] = True
    t, p = find_objects(truth), find_objects(prediction)
    matching = match_objects(t, p)
    whole = [hausdorff_px(t.ids == i, p.ids == j) for i, j in matching.pairs]
    np.testing.assert_array_equal(matched_hausdorff_px(t, p, matching), whole)
    assert len(whole) == 2


@pytest.mark.parametrize("size", [(60, 80), (301, 407)])
def test_distances_are_the_same_bits_wherever_a_mask_lies_in_memory(size):
    mask = blobs(5, size) | (np.random.default_rng(1).random(size) < 0.4)
    expected = np.sqrt(np.rint(distance_transform_edt(mask) ** 2)).astype(np.float32)
    shifted = np.pad(blobs(6, size), 3)
    far = {hausdorff_px(np.pad(mask, 3), shifted)}
    for start in range(0, 64, 7):
        room = np.zeros(mask.size + 64, bool)
        placed = room[start : start + mask.size].reshape(size)
        placed[:] = mask
        assert np.array_equal(exact_distance(placed), expected)
        # A wider picture around the same objects moves every row in memory.
        wide = ((3, 3), (3 + start, 3))
        far.add(hausdorff_px(np.pad(mask, wide), np.pad(shifted[3:-3, 3:-3], wide)))
    assert len(far) == 1
