"""Flags of results: tissue unlike that of training, a wrong scale, low confidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.fakes import ArraySlide, threshold_card

from glomtile.config.load import make_config
from glomtile.config.model_card import ModelCard, ReferenceDistribution, ReferenceStatistics, ScaleEstimator
from glomtile.config.schema import Config
from glomtile.datasets.pairing import Pair
from glomtile.errors import InputError, ModelError
from glomtile.inference.image import TilingSettings
from glomtile.inference.quality_control import (
    QualityFlags,
    appearance_features,
    distances,
    expected_dice,
    fit_reference,
    fit_scale_estimator,
    sampled_boxes,
    scale_distance,
    scale_offset,
)
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.slides.tissue import TissueMap
from glomtile.synthetic import paint
from glomtile.training.train import reference_statistics
from glomtile.types import Box, Float32, UInt8

MPP, SIDE_PX = 2.0, 256


class Reddish:
    """A network without context, of a given confidence."""

    num_classes, stride_px, context_px, mpp = 2, 16, 0, MPP

    def __init__(self, confidence: float = 1.0, fails_at: int | None = None) -> None:
        self._confidence, self._fails_at, self.calls = confidence, fails_at, 0

    def __call__(self, batch: UInt8) -> Float32:
        if self.calls == self._fails_at:
            raise InputError("slide", "expected a slide, got none: it vanished")
        self.calls += 1
        hit = (batch[..., 1] < 90).astype(np.float32) * np.float32(self._confidence)
        return np.stack([1 - hit, hit], -1)


@lru_cache(maxsize=32)
def biopsy(seed: int, side_px: int = SIDE_PX, mpp: float = MPP) -> UInt8:
    return paint(seed, (side_px, side_px), mpp, "hard").image


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("training")
    for seed in range(8):
        write_png(folder / f"{seed}.png", biopsy(seed, 2 * SIDE_PX, MPP / 2))
    return [Pair(str(seed), folder / f"{seed}.png", folder / f"{seed}.png") for seed in range(8)]


def training(**augmentor: object) -> Config:
    return make_config(
        {
            "model": {"num_classes": 2, "mpp": MPP},
            "dataset": {"image_mpp": MPP / 2},
            "augmentor": {"enabled": bool(augmentor), **augmentor},
        }
    )


@pytest.fixture(scope="module")
def reference(pairs: list[Pair]) -> ReferenceStatistics:
    found = reference_statistics(training(stain=0.5, scales=[0.8, 1.25]), pairs)
    assert found is not None
    return found


def segmenter(
    reference: ReferenceStatistics | None, network: Reddish | None = None, window: int = 256
) -> Segmenter:
    facts = {"reference_statistics": reference, "sha256": {"model.keras": "0f" * 32}}
    card = threshold_card().model_copy(update=facts)
    return Segmenter(network or Reddish(), card, TilingSettings(window_px=window))


def silver(image: UInt8) -> UInt8:
    """The same tissue in black and green."""
    density = -np.log((image + 1.0) / 244).mean(axis=2, keepdims=True) * (1.1, 0.8, 1.0)
    return np.clip(np.rint(244 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def test_images_like_those_of_training_are_not_flagged(reference: ReferenceStatistics) -> None:
    quality = [
        segmenter(reference).segment(ArraySlide(biopsy(seed), plain=True)).quality for seed in range(4)
    ]
    assert [one.warnings for one in quality] == [()] * 4
    assert all(value < 1.25 for one in quality for value in one.distances.values())


@pytest.mark.parametrize("plain", [True, False])
def test_another_stain_is_flagged(reference: ReferenceStatistics, plain: bool) -> None:
    quality = segmenter(reference).segment(ArraySlide(silver(biopsy(2)), plain=plain)).quality
    assert quality.distances["stain"] > 2
    assert any(text.startswith("stain: ") for text in quality.warnings)


@pytest.mark.parametrize(("confidence", "flagged"), [(1.0, False), (0.6, True)])
def test_low_confidence_is_flagged(reference: ReferenceStatistics, confidence: float, flagged: bool) -> None:
    quality = segmenter(reference, Reddish(confidence)).segment(ArraySlide(biopsy(3), plain=True)).quality
    assert quality.expected_dice == pytest.approx(2 * confidence / (1 + confidence), abs=0.01)
    assert any(text.startswith("low confidence") for text in quality.warnings) == flagged


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_wrong_scale_is_flagged(reference: ReferenceStatistics, factor: float) -> None:
    quality = segmenter(reference).segment(ArraySlide(biopsy(20, 512, MPP / factor), plain=True)).quality
    assert quality.enlargement == pytest.approx(factor, rel=0.35)
    assert any(text.startswith("scale: ") for text in quality.warnings)


def test_without_reference_statistics_nothing_is_flagged() -> None:
    found = segmenter(None, Reddish(0.6)).segment(ArraySlide(silver(biopsy(2)), plain=True))
    assert found.quality == QualityFlags()
    assert found.figures()["quality_flags"] == found.figures()["stain_distance"] == ""


def test_statistics_of_another_feature_version_are_not_compared(reference: ReferenceStatistics) -> None:
    later = reference.model_copy(update={"feature_version": reference.feature_version + 1})
    assert segmenter(later).segment(ArraySlide(silver(biopsy(2)), plain=True)).quality == QualityFlags()


def test_bare_glass_has_neither_distances_nor_expected_dice(reference: ReferenceStatistics) -> None:
    quality = segmenter(reference).segment(ArraySlide(np.full((300, 400, 3), 243, np.uint8))).quality
    assert dict(quality.distances) == {}
    assert np.isnan(quality.expected_dice)
    assert [text.partition(",")[0] for text in quality.warnings] == ["tissue: none found"]


def test_a_dark_image_without_tissue_is_compared_too(
    reference: ReferenceStatistics,
) -> None:
    """An image of fluorescence has no tissue; only its distances show that it is no PAS section."""
    dark = np.full((300, 400, 3), (4, 4, 18), np.uint8)
    dark[100:140, 100:140] = (30, 30, 200)
    found = segmenter(reference).segment(ArraySlide(dark, plain=True))
    assert found.tissue.area_mm2 == 0
    assert found.quality.distances["brightness"] > 1.25
    assert found.quality.warnings[0] == "tissue: none found"


def test_without_any_prediction_expected_dice_is_empty(reference: ReferenceStatistics) -> None:
    quality = segmenter(reference, Reddish(0.0)).segment(ArraySlide(biopsy(3), plain=True)).quality
    assert quality.distances
    assert quality.figures()["expected_dice"] == ""


def test_a_continued_run_has_the_same_flags(reference: ReferenceStatistics, tmp_path: Path) -> None:
    picture = np.tile(biopsy(4, 512), (3, 3, 1))
    whole = segmenter(reference, network := Reddish(0.9)).segment(ArraySlide(picture))
    with pytest.raises(InputError, match="vanished"):
        segmenter(reference, Reddish(0.9, network.calls // 2)).segment(
            ArraySlide(picture), work=tmp_path / "work"
        )
    again = segmenter(reference, Reddish(0.9)).segment(ArraySlide(picture), work=tmp_path / "work")
    assert again.quality == whole.quality
    assert whole.quality.distances


def test_the_card_keeps_the_statistics(reference: ReferenceStatistics) -> None:
    card = segmenter(reference).card
    again = ModelCard.from_json(card.to_json())
    assert again.reference_statistics == reference


def test_a_card_without_statistics_is_read(reference: ReferenceStatistics) -> None:
    facts = json.loads(segmenter(reference).card.to_json())
    del facts["reference_statistics"], facts["card_sha256"]
    assert ModelCard.from_json(json.dumps(facts)).reference_statistics is None


@pytest.mark.parametrize(
    ("aspect", "change"),
    [
        ("stain", {"precision": [[1.0]]}),
        ("stain", {"limit": 0}),
        ("scale", {"weights": [1.0]}),
        ("scale", {"low": 0.5}),
        ("brightness", None),
    ],
)
def test_a_card_with_damaged_statistics_is_refused(
    reference: ReferenceStatistics, aspect: str, change: object
) -> None:
    facts = json.loads(segmenter(reference).card.to_json())
    part = facts["reference_statistics"][aspect]
    facts["reference_statistics"][aspect] = part | change if isinstance(change, dict) else change
    with pytest.raises(ModelError, match=f"reference_statistics.{aspect}"):
        ModelCard.from_json(json.dumps(facts))


def test_statistics_are_reproducible(pairs: list[Pair], reference: ReferenceStatistics) -> None:
    assert reference_statistics(training(stain=0.5, scales=[0.8, 1.25]), pairs) == reference
    assert reference.images == 8


def test_augmented_copies_widen_the_training_range(pairs: list[Pair], reference: ReferenceStatistics) -> None:
    plain = reference_statistics(training(), pairs)
    assert plain is not None
    strange = [
        segmenter(known).segment(ArraySlide(silver(biopsy(5)), plain=True)).quality.distances["stain"]
        for known in (plain, reference)
    ]
    assert strange[0] > strange[1]


def test_images_without_tissue_or_too_few_give_no_statistics(tmp_path: Path, pairs: list[Pair]) -> None:
    write_png(tmp_path / "glass.png", np.full((256, 256, 3), 243, np.uint8))
    glass = Pair("glass", tmp_path / "glass.png", tmp_path / "glass.png")
    assert reference_statistics(training(), [glass] * 6) is None
    assert reference_statistics(training(), pairs[:3]) is None
    assert reference_statistics(training(), [*pairs, glass]) == reference_statistics(training(), pairs)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    cells=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 9),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
@settings(max_examples=80)
def test_sampled_boxes_are_few_apart_and_inside(
    height: int, width: int, cells: tuple[int, int], seed: int, share: float
) -> None:
    tissue = np.random.default_rng(seed).random(cells) < share
    zoom = max(height / cells[0], width / cells[1])
    boxes = sampled_boxes((height, width), TissueMap(tissue, tissue, zoom, MPP), 64, 9)
    assert len(boxes) <= 9
    assert len({box[:2] for box in boxes}) == len(boxes)
    assert all(0 <= b.top < b.bottom <= height and 0 <= b.left < b.right <= width for b in boxes)
    if height * width <= 9 * 64**2:
        assert boxes == [Box(0, 0, height, width)]
    elif not tissue.any():
        assert boxes == []


def test_sampled_boxes_are_on_tissue() -> None:
    tissue = np.zeros((40, 40), np.bool_)
    tissue[5:15, 20:35] = True
    boxes = sampled_boxes((4000, 4000), TissueMap(tissue, tissue, 100.0, MPP))
    assert len(boxes) >= 12
    assert all(500 <= (b.top + b.bottom) / 2 < 1500 and 2000 <= (b.left + b.right) / 2 < 3500 for b in boxes)


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


def at_scale(seed: int, factor: float) -> UInt8:
    """The same biopsy, really painted `factor` times as large."""
    return biopsy(seed, SIDE_PX, MPP / factor)


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
