"""Out-of-distribution distances grow with the strength of a change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from glomtile.config.model_card import ReferenceDistribution, ScaleEstimator
from glomtile.errors import InputError
from glomtile.inference.quality_control import (
    appearance_features,
    distances,
    expected_dice,
    fit_reference,
    fit_scale_estimator,
    scale_distance,
    scale_offset,
)
from glomtile.synthetic import paint
from glomtile.types import UInt8

SIDE_PX, MPP = 256, 2.0


@lru_cache(maxsize=16)
def biopsy(seed: int) -> UInt8:
    return paint(seed, (SIDE_PX, SIDE_PX), MPP, "hard").image


@cache
def known() -> dict[str, ReferenceDistribution]:
    found = fit_reference([features(biopsy(seed)) for seed in range(16)], list(range(16)))
    assert found is not None
    return found


@cache
def estimator() -> ScaleEstimator:
    image_ids, octaves, seen = [], [], []
    for seed in range(12):
        for factor in (0.5, 0.7, 1.0, 1.4, 2.0):
            for sigma in (0.0, 0.75):
                image = at_scale(seed, factor)
                seen.append(features(blurred(image, sigma) if sigma else image))
                image_ids.append(seed)
                octaves.append(np.log2(factor))
    found = fit_scale_estimator(seen, image_ids, octaves, (-0.2, 0.2))
    assert found is not None
    return found


@lru_cache(maxsize=16)
def at_scale(seed: int, factor: float) -> UInt8:
    """The same biopsy, really painted `factor` times as large."""
    return paint(seed, (SIDE_PX, SIDE_PX), MPP / factor, "hard").image


def features(image: UInt8) -> NDArray[np.float64]:
    found = appearance_features([image])
    assert found is not None
    return found


def distance(image: UInt8, aspect: str) -> float:
    return distances(known(), features(image))[aspect]


def turned(image: UInt8, degrees: float) -> UInt8:
    """All hues turned about the axis of grey, in optical density."""
    axis, angle = np.full(3, 3**-0.5), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    density = -np.log((image + 1.0) / 244) @ turn.T
    return np.clip(np.rint(np.exp(-density) * 244 - 1), 0, 255).astype(np.uint8)


def thicker(image: UInt8, factor: float) -> UInt8:
    return np.clip(np.rint(244 * ((image + 1.0) / 244) ** factor - 1), 0, 255).astype(np.uint8)


def blurred(image: UInt8, sigma: float) -> UInt8:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def enlarged(image: UInt8, factor: float) -> UInt8:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor), np.uint8)


def test_training_images_are_within_the_limits() -> None:
    assert all(distances(known(), features(biopsy(seed)))[name] < 1 for seed in range(16) for name in known())


def test_most_new_images_of_the_same_kind_are_near_the_limits() -> None:
    over = [distance(biopsy(seed), name) > 1.3 for seed in range(100, 110) for name in known()]
    assert np.mean(over) <= 0.1


@pytest.mark.parametrize(
    ("aspect", "change", "steps"),
    [
        ("stain", turned, (15, 30, 60)),
        ("stain", turned, (-15, -30, -60)),
        ("brightness", thicker, (1.4, 1.8, 2.4)),
        ("brightness", thicker, (0.7, 0.5, 0.35)),
        ("sharpness", blurred, (1.0, 2.0, 3.0)),
        ("sharpness", enlarged, (2.0, 4.0)),
    ],
)
def test_the_stronger_a_change_the_farther(
    aspect: str, change: Callable[[UInt8, float], UInt8], steps: tuple[float, ...]
) -> None:
    away = [
        np.median([distance(change(biopsy(seed), step), aspect) for seed in (200, 201, 202)])
        for step in steps
    ]
    unchanged = np.median([distance(biopsy(seed), aspect) for seed in (200, 201, 202)])
    assert [unchanged, *away] == sorted([unchanged, *away])
    assert away[-1] > 1


def test_thickness_does_not_look_like_another_stain() -> None:
    plain = features(biopsy(3))
    thick = features(thicker(biopsy(3), 1.3))
    assert np.allclose(plain[:6], thick[:6], atol=0.04)


@pytest.mark.parametrize("turn", ["flipud", "fliplr", "rot90", "transpose"])
def test_mirroring_and_quarter_turns_change_nothing(turn: str) -> None:
    image = biopsy(5)[:231, :187]
    moved = image.transpose(1, 0, 2) if turn == "transpose" else getattr(np, turn)(image)
    assert np.allclose(features(image), features(moved), atol=1e-4)


def test_windows_together_are_one_image() -> None:
    image = biopsy(6)
    halves = appearance_features([image[:, : SIDE_PX // 2], image[:, SIDE_PX // 2 :]])
    assert halves is not None
    assert np.allclose(halves, features(image), atol=0.12)


@pytest.mark.parametrize(
    "images",
    [
        [],
        [np.full((300, 300, 3), 243, np.uint8)],
        [np.zeros((0, 40, 3), np.uint8)],
        [np.full((20, 20, 3), 120, np.uint8)],
    ],
)
def test_without_tissue_there_are_no_features(images: list[UInt8]) -> None:
    assert appearance_features(images) is None


@pytest.mark.parametrize("value", [0, 120])
def test_one_colour_all_over_is_no_error(value: int) -> None:
    seen = features(np.full((200, 200, 3), value, np.uint8))
    away = distances(known(), seen)
    assert all(np.isfinite(list(away.values())))
    assert away["sharpness"] > 1
    assert np.isfinite(scale_offset(estimator(), seen))


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0, 1.4, 2.0])
def test_the_scale_of_unseen_tissue_is_estimated(factor: float) -> None:
    estimates = [scale_offset(estimator(), features(at_scale(seed, factor))) for seed in range(300, 306)]
    assert np.median(estimates) == pytest.approx(np.log2(factor), abs=0.3)


def test_only_another_scale_is_outside_the_limits() -> None:
    own, double, half = (
        [
            scale_distance(estimator(), scale_offset(estimator(), features(at_scale(seed, factor))))
            for seed in range(300, 306)
        ]
        for factor in (1.0, 2.0, 0.5)
    )
    assert np.median(own) < 1 < min(np.median(double), np.median(half))


def test_a_slight_blur_is_not_taken_for_another_scale() -> None:
    estimates = [scale_offset(estimator(), features(blurred(biopsy(seed), 0.75))) for seed in range(300, 306)]
    assert abs(np.median(estimates)) < 0.3


def test_few_images_are_not_enough_and_equal_images_are_no_error() -> None:
    one = features(biopsy(0))
    assert fit_reference([one] * 12, [0, 1, 2] * 4) is None
    assert fit_scale_estimator([one] * 12, [0, 1, 2] * 4, [0.0] * 12, (0, 0)) is None
    level = fit_scale_estimator([one] * 6, range(6), [0.0] * 6, (0, 0))
    assert level is not None
    assert level.low < scale_offset(level, one) < level.high
    same = fit_reference([one] * 6, range(6))
    assert same is not None
    assert distances(same, one)["stain"] <= 1
    assert distances(same, features(turned(biopsy(0), 30)))["stain"] > 1


def test_arrays_of_another_kind_and_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(h, w, 3\) uint8"):
        appearance_features([np.zeros((30, 30), np.uint8)])
    with pytest.raises(InputError, match="image id"):
        fit_reference([np.zeros(16)], [])
    with pytest.raises(InputError, match="scale"):
        fit_scale_estimator([np.zeros(16)], [1], [], (0, 0))


def counts(**pixels: int) -> NDArray[np.int64]:
    found = np.zeros(256, np.int64)
    for level, number in pixels.items():
        found[int(level[1:])] = number
    return found


def test_expected_dice_falls_with_confidence() -> None:
    confident = expected_dice(counts(_255=500), counts(_0=9000), 10)
    hesitant = expected_dice(counts(_204=500), counts(_0=9000), 10)
    half = expected_dice(counts(_255=500), counts(_0=9000, _102=800), 10)
    assert confident == pytest.approx(1)
    assert hesitant == pytest.approx(2 * 0.8 / 1.8)
    assert half < hesitant


def test_expected_dice_is_the_mean_dice_of_truths_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(30, 256, 20_000)
    answer = levels > 127
    estimate = expected_dice(
        np.bincount(levels[answer], minlength=256), np.bincount(levels[~answer], minlength=256), 10
    )
    truths = rng.random((20, len(levels))) < levels / 255
    dice = [2 * (truth & answer).sum() / (truth.sum() + answer.sum()) for truth in truths]
    assert estimate == pytest.approx(np.mean(dice), abs=0.01)


def test_without_any_prediction_there_is_no_expected_dice() -> None:
    assert np.isnan(expected_dice(counts(), counts(_3=100_000), 250))
    assert np.isnan(expected_dice(counts(), counts(), 0))
    assert expected_dice(counts(), counts(_110=3000), 250) == 0
