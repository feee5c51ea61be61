from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glomtile.evaluation.matching import KINDS, Outcome
from glomtile.evaluation.metrics import score_image
from glomtile.objects.labelling import find_objects
from glomtile.types import Box


def plane(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((60, 60), np.uint8)
    for top, left, bottom, right in boxes:
        labels[top:bottom, left:right] = 1
    return labels


def judged(truth: np.ndarray, prediction: np.ndarray) -> dict[str, list[Outcome]]:
    objects = score_image(prediction, truth, 2).classes[0].objects
    return {side: [one for one in objects if one.side == side] for side in ("truth", "prediction")}


def kinds(truth: np.ndarray, prediction: np.ndarray) -> tuple[list[str], list[str]]:
    found = judged(truth, prediction)
    return [one.kind for one in found["truth"]], [one.kind for one in found["prediction"]]


WHOLE = (10, 10, 30, 50)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([WHOLE], [WHOLE], (["found"], ["found"])),
        ([WHOLE], [], (["missed"], [])),
        ([], [WHOLE], ([], ["invented"])),
        ([WHOLE], [(40, 10, 50, 50)], (["missed"], ["invented"])),
        ([WHOLE], [(10, 10, 30, 29), (10, 31, 30, 50)], (["split"], ["split", "split"])),
        ([(10, 10, 30, 29), (10, 31, 30, 50)], [WHOLE], (["merged", "merged"], ["merged"])),
        ([WHOLE], [(10, 30, 30, 58)], (["loose"], ["loose"])),
        ([WHOLE], [(10, 48, 30, 58)], (["missed"], ["invented"])),
        # a large piece that is matched leaves the small one over: nothing was split
        ([WHOLE], [(10, 10, 30, 44), (10, 46, 30, 50)], (["found"], ["found", "invented"])),
    ],
)
def test_each_object_is_told_by_what_became_of_it(truth, prediction, expected):
    assert kinds(plane(*truth), plane(*prediction)) == expected


def test_a_true_object_swallowed_by_a_matched_one_was_merged():
    truth = plane((10, 10, 30, 44), (10, 46, 30, 50))
    assert kinds(truth, plane(WHOLE)) == (["found", "merged"], ["found"])


def test_a_box_holds_all_that_belongs_to_the_mistake():
    found = judged(plane(WHOLE), plane((10, 10, 30, 29), (10, 31, 35, 50)))
    assert {one.box for one in found["truth"] + found["prediction"]} == {Box(10, 10, 35, 50)}
    (missed,) = judged(plane(WHOLE), plane())["truth"]
    assert (missed.box, missed.area_px, missed.iou) == (Box(*WHOLE), 800, 0.0)


def test_a_found_one_knows_how_far_its_outline_is_off():
    (found,) = judged(plane((10, 10, 30, 30)), plane((10, 12, 30, 32)))["truth"]
    assert found.hd95_px == 2.0
    assert found.iou == pytest.approx(18 / 22)


OPPOSITE = {"missed": "invented", "invented": "missed", "split": "merged", "merged": "split"}

specks = arrays(np.uint8, (12, 12), elements=st.integers(0, 1))
sides = st.tuples(st.integers(0, 59), st.integers(1, 40))
blocks = st.lists(st.tuples(sides, sides), max_size=5).map(
    lambda pairs: plane(*((top, left, top + h, left + w) for (top, h), (left, w) in pairs))
)
cut = blocks.map(lambda labels: labels * (np.arange(60) % 23 > 1).astype(np.uint8))
scenes = st.one_of(blocks, cut)


def half_in_a_found_one(own: np.ndarray, others: np.ndarray, judged_others: list[Outcome]) -> list[bool]:
    """For each object of a mask, whether at least half of it lies in one of the others that was found."""
    objects, found = find_objects(own == 1), find_objects(others == 1).ids
    taken = [number for number, one in enumerate(judged_others, start=1) if one.kind == "found"]
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
    assert all(one.kind in KINDS for found in sides.values() for one in found)
    for side, total in (("truth", score.truth_objects), ("prediction", score.predicted_objects)):
        assert len(sides[side]) == total
        assert sum(one.kind == "found" for one in sides[side]) == score.found
    assert not {one.kind for one in sides["truth"]} & {"invented"}
    assert not {one.kind for one in sides["prediction"]} & {"missed"}
    mirrored = judged(prediction, truth)
    for side, other, masks in (
        ("truth", "prediction", (truth, prediction)),
        ("prediction", "truth", (prediction, truth)),
    ):
        special = half_in_a_found_one(*masks, sides[other])
        for here, there, is_special in zip(sides[side], mirrored[other], special, strict=True):
            assert (here.area_px, here.iou) == (there.area_px, there.iou)
            if here.kind == "found" or not is_special:
                assert (there.kind, there.box) == (OPPOSITE.get(here.kind, here.kind), here.box)
            else:  # beside a match a true one is merged, a predicted one invented: no mirror of each other
                assert there.kind != "found"
