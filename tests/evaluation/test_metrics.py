from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glomtile.errors import InputError
from glomtile.evaluation.metrics import ImageScore, paired_difference, score_image, summarise
from glomtile.types import IGNORE

K = 3
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
label_pairs = sizes.flatmap(
    lambda size: st.tuples(
        arrays(np.uint8, size, elements=st.integers(0, K - 1)),
        arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, IGNORE])),
    )
)
plain_pairs = sizes.flatmap(
    lambda size: st.tuples(*[arrays(np.uint8, size, elements=st.integers(0, K - 1))] * 2)
)
quick = settings(deadline=None, max_examples=60)


def labels(seed: int, size: int = 40, classes: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    plane = np.zeros((size, size), np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, size - 8, 2)
        plane[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = rng.integers(1, classes)
    return plane


def scored(seed: int, mpp: float | None = None) -> ImageScore:
    truth = labels(seed)
    prediction = np.roll(truth, seed % 3, axis=1)
    prediction[:3] |= labels(seed + 50)[:3]
    return score_image(prediction, truth, 2, mpp)


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@given(label_pairs)
@quick
def test_pixel_counts_are_those_of_a_naive_loop(pair):
    prediction, truth = pair
    result = score_image(prediction, truth, K)
    for number, score in enumerate(result.classes, start=1):
        counts = {"tp": 0, "fp": 0, "fn": 0}
        for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
            if t != IGNORE and (p == number or t == number):
                counts["tp" if p == t else "fp" if p == number else "fn"] += 1
        assert (score.tp_px, score.fp_px, score.fn_px) == tuple(counts.values())


@given(plain_pairs)
@quick
def test_exchanging_truth_and_prediction_changes_only_who_is_false_and_who_is_missed(pair):
    for here, there in zip(score_image(*pair, K).classes, score_image(*pair[::-1], K).classes, strict=True):
        assert same(here.dice, there.dice)
        assert same(here.iou, there.iou)
        assert same(here.precision, there.recall)
        assert same(here.object_f1, there.object_f1)
        assert (here.false_positive, here.false_negative) == (there.false_negative, there.false_positive)
        assert sorted(here.hd95_px) == sorted(there.hd95_px)


@given(plain_pairs)
@quick
def test_figures_stay_within_their_bounds(pair):
    result = score_image(*pair, K)
    assert 0 < result.soft_pixel_accuracy <= 1
    for score in result.classes:
        for name in ("dice", "iou", "precision", "recall", "object_f1", "pq"):
            value = getattr(score, name)
            assert math.isnan(value) or 0 <= value <= 1
        assert math.isnan(score.dice) or score.iou <= score.dice
        assert math.isnan(score.pq) or score.pq <= score.object_f1
        assert min(score.true_positive, score.false_positive, score.false_negative) >= 0


@given(plain_pairs)
@quick
def test_pooled_and_mean_dice_of_one_image_are_its_dice(pair):
    result = score_image(*pair, K)
    for score, summary in zip(result.classes, summarise([result]).classes, strict=True):
        assert same(summary.figures["pooled_dice"].value, score.dice)
        assert same(summary.figures["mean_dice"].value, score.dice)
        assert same(summary.figures["pq"].value, score.pq)


@given(st.lists(plain_pairs, min_size=1, max_size=5))
@quick
def test_pq_is_segmentation_quality_times_object_f1(pairs):
    for summary in summarise([score_image(*pair, K) for pair in pairs], draws=10).classes:
        pq, sq, f1 = (summary.figures[name].value for name in ("pq", "sq", "object_f1"))
        if not math.isnan(sq):
            assert pq == pytest.approx(sq * f1)
        elif not math.isnan(pq):
            assert pq == f1 == 0


@given(st.permutations(range(8)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_images_changes_no_value(order):
    scores = [scored(seed) for seed in range(8)]
    one = summarise(scores, draws=5).classes[0].figures
    other = summarise([scores[i] for i in order], draws=5).classes[0].figures
    for name, figure in one.items():
        assert figure.value == pytest.approx(other[name].value)


def test_flipping_and_turning_an_image_changes_no_figure():
    truth, prediction = labels(3), labels(4) | labels(3)
    plain = score_image(prediction, truth, 2).classes[0]
    turned = score_image(np.rot90(prediction)[::-1].copy(), np.rot90(truth)[::-1].copy(), 2).classes[0]
    assert (plain.tp_px, plain.fp_px, plain.fn_px, plain.true_positive) == (
        turned.tp_px,
        turned.fp_px,
        turned.fn_px,
        turned.true_positive,
    )
    assert sorted(plain.hd95_px) == pytest.approx(sorted(turned.hd95_px))


def test_pooled_figures_are_those_of_all_images_laid_side_by_side():
    pairs = [(labels(s + 20), labels(s)) for s in range(5)]
    pooled = summarise([score_image(p, t, 2) for p, t in pairs]).classes[0].figures
    whole = score_image(np.hstack([p for p, _ in pairs]), np.hstack([t for _, t in pairs]), 2).classes[0]
    for name in ("dice", "iou", "precision", "recall"):
        assert pooled[f"pooled_{name}"].value == pytest.approx(getattr(whole, name))


# empty cases


def test_two_empty_masks_have_no_dice_and_the_image_is_left_out_of_the_mean():
    empty = np.zeros((20, 20), np.uint8)
    full = score_image(labels(1, 20), labels(1, 20), 2)
    nothing = score_image(empty, empty, 2)
    assert math.isnan(nothing.classes[0].dice)
    summary = summarise([full, nothing]).classes[0]
    assert summary.figures["mean_dice"].value == 1
    assert summary.figures["mean_dice"].images == 1
    assert summary.images_left_out == 1


def test_predicting_into_an_empty_truth_scores_zero_and_stays_in_the_mean():
    empty = np.zeros((20, 20), np.uint8)
    result = score_image(labels(1, 20), empty, 2)
    score = result.classes[0]
    assert score.dice == score.iou == score.precision == score.object_f1 == 0
    assert math.isnan(score.recall)
    assert summarise([result]).classes[0].figures["mean_dice"].images == 1


def test_predicting_nothing_where_something_is_scores_zero_with_precision_undefined():
    score = score_image(np.zeros((20, 20), np.uint8), labels(1, 20), 2).classes[0]
    assert score.dice == score.recall == score.object_f1 == 0
    assert math.isnan(score.precision)


def test_a_class_never_seen_has_no_figures_and_null_in_json():
    empty = np.zeros((9, 9), np.uint8)
    scores = summarise([score_image(empty, empty, 2)] * 3)
    content = scores.to_dict()
    figures = content["classes"][0]["figures"]
    assert figures["pooled_dice"] == {"value": None, "low": None, "high": None, "images": 0}
    assert figures["hd95"]["value"] is None
    assert figures["count_error"]["value"] == 0
    json.dumps(content, allow_nan=False)


def test_an_image_all_of_whose_pixels_are_ignored_counts_for_nothing():
    truth = np.full((6, 6), IGNORE, np.uint8)
    result = score_image(labels(1, 40)[:6, :6], truth, 2)
    assert result.pixels == 0
    assert result.soft_pixel_accuracy == 1
    assert result.classes[0].predicted_objects == 0
    assert math.isnan(result.classes[0].dice)


def test_ignored_pixels_belong_to_no_object():
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 4] = IGNORE
    prediction = np.zeros((9, 9), np.uint8)
    prediction[4, 2:7] = 1
    score = score_image(prediction, truth, 2).classes[0]
    assert (score.predicted_objects, score.fp_px) == (2, 4)


# refusals


def test_a_prediction_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"expected labels of the truth's shape \(4, 4\), got \(4, 5\)"):
        score_image(np.zeros((4, 5), np.uint8), np.zeros((4, 4), np.uint8), 2)


def test_a_prediction_cannot_choose_to_be_ignored():
    with pytest.raises(InputError, match="expected class numbers below 2, got 255"):
        score_image(np.full((4, 4), IGNORE, np.uint8), np.zeros((4, 4), np.uint8), 2)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.bool_])
def test_class_numbers_of_another_type_are_refused(dtype):
    labels, wrong = np.ones((3, 3), np.uint8), np.ones((3, 3)).astype(dtype)
    with pytest.raises(InputError, match=f"prediction: expected uint8 class numbers, got {np.dtype(dtype)}"):
        score_image(wrong, labels, 2)
    with pytest.raises(InputError, match=f"truth: expected uint8 class numbers, got {np.dtype(dtype)}"):
        score_image(labels, wrong, 2)


def test_a_truth_with_a_class_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="expected class numbers below 2 or 255, got 7"):
        score_image(np.zeros((4, 4), np.uint8), np.full((4, 4), 7, np.uint8), 2)


def test_images_of_differing_numbers_of_classes_are_refused():
    empty = np.zeros((3, 3), np.uint8)
    two, three = score_image(empty, empty, 2), score_image(empty, empty, 3)
    with pytest.raises(InputError, match="scores: expected images of one number of classes, got 2, 3"):
        summarise([two, three])
    for a, b in (([two, two], [two, three]), ([two, three], [two, two]), ([two], [three])):
        with pytest.raises(InputError, match="paired difference: expected images of one number"):
            paired_difference(a, b)


def test_no_image_and_a_group_list_of_another_length_are_refused():
    with pytest.raises(InputError, match="at least one scored image"):
        summarise([])
    with pytest.raises(InputError, match="one group for each of 2 images, got 1"):
        summarise([scored(1), scored(2)], groups=["a"])


# soft pixel accuracy


def test_soft_pixel_accuracy_is_the_reference_formula_over_one_hot_planes():
    truth, prediction = labels(5), labels(6)
    y, p = np.eye(2)[truth], np.eye(2)[prediction]
    expected = (2 * (y * p).sum() + 1) / (y.sum() + p.sum() + 1)
    assert score_image(prediction, truth, 2).soft_pixel_accuracy == pytest.approx(expected)


# distances


def test_hd95_is_in_micrometres_only_when_every_matched_image_has_a_scale():
    known, unknown = [scored(s, 0.5) for s in range(4)], [scored(s) for s in range(4)]
    um, px = summarise(known), summarise(unknown)
    assert (um.hd95_unit, px.hd95_unit) == ("um", "px")
    assert um.classes[0].figures["hd95"].value == pytest.approx(0.5 * px.classes[0].figures["hd95"].value)
    assert summarise([*known, unknown[0]]).hd95_unit == "px"


# intervals


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    scores = [scored(seed) for seed in range(12)]
    one, two = summarise(scores), summarise(scores)
    assert one == two
    for figure in one.classes[0].figures.values():
        assert figure.low <= figure.value <= figure.high
    assert (
        summarise(scores, seed=1).classes[0].figures["pooled_dice"] != one.classes[0].figures["pooled_dice"]
    )


def test_intervals_are_those_of_a_naive_bootstrap():
    scores = [scored(seed) for seed in range(12)]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(4000):
        chosen = [scores[i].classes[0] for i in rng.integers(0, len(scores), len(scores))]
        tp, wrong = sum(c.tp_px for c in chosen), sum(c.fp_px + c.fn_px for c in chosen)
        drawn.append(2 * tp / (2 * tp + wrong))
    figure = summarise(scores, draws=4000).classes[0].figures["pooled_dice"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert figure.low == pytest.approx(low, abs=0.2 * (high - low))
    assert figure.high == pytest.approx(high, abs=0.2 * (high - low))


def test_one_image_or_one_group_has_no_interval():
    single = summarise([scored(1)]).classes[0].figures["pooled_dice"]
    group = summarise([scored(1), scored(2)], groups=["a", "a"]).classes[0].figures["pooled_dice"]
    assert math.isnan(single.low)
    assert math.isnan(group.high)
    assert not math.isnan(group.value)


def test_every_image_its_own_group_is_the_bootstrap_of_images():
    scores = [scored(seed) for seed in range(9)]
    alone = summarise(scores, groups=range(9))
    assert alone.classes == summarise(scores).classes
    assert alone.groups == 9


def test_copies_of_one_image_in_a_group_do_not_narrow_the_interval():
    scores = [scored(seed) for seed in range(6)]
    copied = [score for score in scores for _ in range(10)]
    groups = [i for i in range(6) for _ in range(10)]
    honest = summarise(copied, groups=groups).classes[0].figures["mean_dice"]
    plain = summarise(scores).classes[0].figures["mean_dice"]
    flattered = summarise(copied).classes[0].figures["mean_dice"]
    assert honest.low == pytest.approx(plain.low)
    assert flattered.high - flattered.low < 0.6 * (honest.high - honest.low)


def test_a_set_against_itself_shows_no_difference_and_no_doubt():
    scores = [scored(seed) for seed in range(9)]
    for figure in paired_difference(scores, scores)[0].values():
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_a_paired_difference_is_surer_than_two_intervals_side_by_side():
    truths = [labels(seed) for seed in range(15)]
    worse = [score_image(np.roll(t, 2, axis=0), t, 2) for t in truths]
    better = [score_image(np.roll(t, 1, axis=0), t, 2) for t in truths]
    difference = paired_difference(worse, better)[0]["pooled_dice"]
    a, b = (summarise(s).classes[0].figures["pooled_dice"] for s in (worse, better))
    assert difference.value == pytest.approx(b.value - a.value)
    assert difference.low > 0
    assert difference.high - difference.low < (a.high - a.low) + (b.high - b.low)


def test_a_paired_difference_of_different_sets_is_refused():
    with pytest.raises(InputError, match="expected the same images and classes twice, got 1 and 2"):
        paired_difference([scored(1)], [scored(1), scored(2)])
