"""Flags of results: tissue unlike that of training, a wrong scale, low confidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.config.load import make_config
from glomtile.config.model_card import ModelCard, ObjectSettings, ReferenceStatistics
from glomtile.config.schema import Config, ModelSettings
from glomtile.datasets.pairing import Pair
from glomtile.errors import InputError, ModelError
from glomtile.inference.image import TilingSettings
from glomtile.inference.quality_control import QualityFlags, sampled_boxes
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.palette import GLOMERULI
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


class Slide:
    """An array as a slide at the model's scale."""

    kind, plain, mpp_source, zoom = "array", False, "given", 1.0

    def __init__(self, pixels: UInt8, plain: bool = False) -> None:
        self._pixels, self.mpp, self.plain = pixels, MPP, plain
        self.size_px = (pixels.shape[0], pixels.shape[1])

    def at(self, mpp: float | None) -> Slide:
        return self

    def read(self, box: Box) -> UInt8:
        rows = np.arange(box.top, box.bottom).clip(0, self.size_px[0] - 1)
        columns = np.arange(box.left, box.right).clip(0, self.size_px[1] - 1)
        return self._pixels[rows[:, None], columns]

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        return self._pixels, 1.0


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
    card = ModelCard(
        network=ModelSettings(num_classes=2, mpp=MPP),
        classes=ModelCard.classes_of(GLOMERULI),
        mpp=MPP,
        tile_px=(256, 256),
        stride_px=16,
        context_px=0,
        objects=ObjectSettings(split=False, smooth_um=0),
        reference_statistics=reference,
        sha256={"model.keras": "0f" * 32},
    )
    return Segmenter(network or Reddish(), card, TilingSettings(window_px=window))


def silver(image: UInt8) -> UInt8:
    """The same tissue in black and green."""
    density = -np.log((image + 1.0) / 244).mean(axis=2, keepdims=True) * (1.1, 0.8, 1.0)
    return np.clip(np.rint(244 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def test_images_like_those_of_training_are_not_flagged(reference: ReferenceStatistics) -> None:
    quality = [segmenter(reference).segment(Slide(biopsy(seed), plain=True)).quality for seed in range(4)]
    assert [one.warnings for one in quality] == [()] * 4
    assert all(value < 1.25 for one in quality for value in one.distances.values())


@pytest.mark.parametrize("plain", [True, False])
def test_another_stain_is_flagged(reference: ReferenceStatistics, plain: bool) -> None:
    quality = segmenter(reference).segment(Slide(silver(biopsy(2)), plain)).quality
    assert quality.distances["stain"] > 2
    assert any(text.startswith("stain: ") for text in quality.warnings)


@pytest.mark.parametrize(("confidence", "flagged"), [(1.0, False), (0.6, True)])
def test_low_confidence_is_flagged(reference: ReferenceStatistics, confidence: float, flagged: bool) -> None:
    quality = segmenter(reference, Reddish(confidence)).segment(Slide(biopsy(3), plain=True)).quality
    assert quality.expected_dice == pytest.approx(2 * confidence / (1 + confidence), abs=0.01)
    assert any(text.startswith("low confidence") for text in quality.warnings) == flagged


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_wrong_scale_is_flagged(reference: ReferenceStatistics, factor: float) -> None:
    quality = segmenter(reference).segment(Slide(biopsy(20, 512, MPP / factor), plain=True)).quality
    assert quality.enlargement == pytest.approx(factor, rel=0.35)
    assert any(text.startswith("scale: ") for text in quality.warnings)


def test_without_reference_statistics_nothing_is_flagged() -> None:
    found = segmenter(None, Reddish(0.6)).segment(Slide(silver(biopsy(2)), plain=True))
    assert found.quality == QualityFlags()
    assert found.figures()["quality_flags"] == found.figures()["stain_distance"] == ""


def test_statistics_of_another_feature_version_are_not_compared(reference: ReferenceStatistics) -> None:
    later = reference.model_copy(update={"feature_version": reference.feature_version + 1})
    assert segmenter(later).segment(Slide(silver(biopsy(2)), plain=True)).quality == QualityFlags()


def test_bare_glass_has_neither_distances_nor_expected_dice(reference: ReferenceStatistics) -> None:
    quality = segmenter(reference).segment(Slide(np.full((300, 400, 3), 243, np.uint8))).quality
    assert dict(quality.distances) == {}
    assert np.isnan(quality.expected_dice)
    assert [text.partition(",")[0] for text in quality.warnings] == ["tissue: none found"]


def test_a_dark_image_without_tissue_is_compared_too(
    reference: ReferenceStatistics,
) -> None:
    """An image of fluorescence has no tissue; only its distances show that it is no PAS section."""
    dark = np.full((300, 400, 3), (4, 4, 18), np.uint8)
    dark[100:140, 100:140] = (30, 30, 200)
    found = segmenter(reference).segment(Slide(dark, plain=True))
    assert found.tissue.area_mm2 == 0
    assert found.quality.distances["brightness"] > 1.25
    assert found.quality.warnings[0] == "tissue: none found"


def test_without_any_prediction_expected_dice_is_empty(reference: ReferenceStatistics) -> None:
    quality = segmenter(reference, Reddish(0.0)).segment(Slide(biopsy(3), plain=True)).quality
    assert quality.distances
    assert quality.figures()["expected_dice"] == ""


def test_a_continued_run_has_the_same_flags(reference: ReferenceStatistics, tmp_path: Path) -> None:
    picture = np.tile(biopsy(4, 512), (3, 3, 1))
    whole = segmenter(reference, network := Reddish(0.9)).segment(Slide(picture))
    with pytest.raises(InputError, match="vanished"):
        segmenter(reference, Reddish(0.9, network.calls // 2)).segment(Slide(picture), work=tmp_path / "work")
    again = segmenter(reference, Reddish(0.9)).segment(Slide(picture), work=tmp_path / "work")
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
        segmenter(known).segment(Slide(silver(biopsy(5)), plain=True)).quality.distances["stain"]
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
