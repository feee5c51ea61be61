from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, directed_hausdorff
from skimage.measure import label, regionprops

from glomtile.evaluation.matching import (
    MATCH_IOU,
    OUTCOMES,
    ObjectMatch,
    hausdorff_px,
    match_objects,
    matched_hausdorff_px,
)
from glomtile.evaluation.metrics import score_image
from glomtile.objects.labelling import find_objects, outline
from glomtile.types import Box

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


def plane(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((60, 60), np.uint8)
    for top, left, bottom, right in boxes:
        labels[top:bottom, left:right] = 1
    return labels


def judged(truth: np.ndarray, prediction: np.ndarray) -> dict[str, list[ObjectMatch]]:
    objects = score_image(prediction, truth, 2).classes[0].objects
    return {side: [one for one in objects if one.side == side] for side in ("truth", "prediction")}


def kinds(truth: np.ndarray, prediction: np.ndarray) -> tuple[list[str], list[str]]:
    found = judged(truth, prediction)
    return [one.outcome for one in found["truth"]], [one.outcome for one in found["prediction"]]


WHOLE = (10, 10, 30, 50)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([WHOLE], [WHOLE], (["true_positive"], ["true_positive"])),
        ([WHOLE], [], (["false_negative"], [])),
        ([], [WHOLE], ([], ["false_positive"])),
        ([WHOLE], [(40, 10, 50, 50)], (["false_negative"], ["false_positive"])),
        ([WHOLE], [(10, 10, 30, 29), (10, 31, 30, 50)], (["split"], ["split", "split"])),
        ([(10, 10, 30, 29), (10, 31, 30, 50)], [WHOLE], (["merged", "merged"], ["merged"])),
        ([WHOLE], [(10, 30, 30, 58)], (["poor_overlap"], ["poor_overlap"])),
        ([WHOLE], [(10, 48, 30, 58)], (["false_negative"], ["false_positive"])),
        # a large piece that is matched leaves the small one over: nothing was split
        (
            [WHOLE],
            [(10, 10, 30, 44), (10, 46, 30, 50)],
            (["true_positive"], ["true_positive", "false_positive"]),
        ),
    ],
)
def test_each_object_is_told_by_what_became_of_it(truth, prediction, expected):
    assert kinds(plane(*truth), plane(*prediction)) == expected


def test_a_true_object_swallowed_by_a_matched_one_was_merged():
    truth = plane((10, 10, 30, 44), (10, 46, 30, 50))
    assert kinds(truth, plane(WHOLE)) == (["true_positive", "merged"], ["true_positive"])


def test_a_box_holds_all_that_belongs_to_the_mistake():
    found = judged(plane(WHOLE), plane((10, 10, 30, 29), (10, 31, 35, 50)))
    assert {one.box for one in found["truth"] + found["prediction"]} == {Box(10, 10, 35, 50)}
    (missed,) = judged(plane(WHOLE), plane())["truth"]
    assert (missed.box, missed.area_px, missed.iou) == (Box(*WHOLE), 800, 0.0)


def test_a_found_one_knows_how_far_its_outline_is_off():
    (found,) = judged(plane((10, 10, 30, 30)), plane((10, 12, 30, 32)))["truth"]
    assert found.hd95_px == 2.0
    assert found.iou == pytest.approx(18 / 22)


OPPOSITE = {
    "false_negative": "false_positive",
    "false_positive": "false_negative",
    "split": "merged",
    "merged": "split",
}

specks = arrays(np.uint8, (12, 12), elements=st.integers(0, 1))
sides = st.tuples(st.integers(0, 59), st.integers(1, 40))
blocks = st.lists(st.tuples(sides, sides), max_size=5).map(
    lambda pairs: plane(*((top, left, top + h, left + w) for (top, h), (left, w) in pairs))
)
cut = blocks.map(lambda labels: labels * (np.arange(60) % 23 > 1).astype(np.uint8))
scenes = st.one_of(blocks, cut)


def half_in_a_found_one(own: np.ndarray, others: np.ndarray, judged_others: list[ObjectMatch]) -> list[bool]:
    """For each object of a mask, whether at least half of it lies in one of the others that was found."""
    objects, found = find_objects(own == 1), find_objects(others == 1).ids
    taken = [number for number, one in enumerate(judged_others, start=1) if one.outcome == "true_positive"]
    return [
        any(2 * np.count_nonzero(found[objects.ids == i + 1] == number) >= area for number in taken)
        for i, area in enumerate(objects.areas_px)
    ]


@given(st.one_of(st.tuples(specks, specks), st.tuples(scenes, scenes)))
@example((plane(WHOLE), plane((10, 10, 30, 29), (10, 31, 30, 50))))
@example((plane((10, 10, 30, 44), (10, 46, 30, 50)), plane(WHOLE)))
@settings(deadline=None, max_examples=150)
def test_outcomes_and_counts_agree_and_the_mirror_sees_the_mirror(pair):
    truth, prediction = pair
    score = score_image(prediction, truth, 2).classes[0]
    sides = judged(truth, prediction)
    assert all(one.outcome in OUTCOMES for found in sides.values() for one in found)
    for side, total in (("truth", score.truth_objects), ("prediction", score.predicted_objects)):
        assert len(sides[side]) == total
        assert sum(one.outcome == "true_positive" for one in sides[side]) == score.true_positive
    assert not {one.outcome for one in sides["truth"]} & {"false_positive"}
    assert not {one.outcome for one in sides["prediction"]} & {"false_negative"}
    mirrored = judged(prediction, truth)
    for side, other, masks in (
        ("truth", "prediction", (truth, prediction)),
        ("prediction", "truth", (prediction, truth)),
    ):
        special = half_in_a_found_one(*masks, sides[other])
        for here, there, is_special in zip(sides[side], mirrored[other], special, strict=True):
            assert (here.area_px, here.iou) == (there.area_px, there.iou)
            if here.outcome == "true_positive" or not is_special:
                assert (there.outcome, there.box) == (OPPOSITE.get(here.outcome, here.outcome), here.box)
            else:  # beside a match a true one is merged, a predicted one invented: no mirror of each other
                assert there.outcome != "true_positive"
