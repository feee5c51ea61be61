"""A result says what there is to doubt: tissue unlike training's, a wrong scale, an unsure network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.config.load import make_config
from glomtile.config.model_card import FamiliarTissue, ModelCard, ObjectSettings
from glomtile.config.schema import Config, ModelSettings
from glomtile.datasets.pairing import Pair
from glomtile.errors import InputError, ModelError
from glomtile.inference.quality_control import QualityFlags, sampled_boxes
from glomtile.inference.segmenter import Segmenter
from glomtile.inference.window_size import Settings
from glomtile.io.images import write_png
from glomtile.palette import GLOMERULI
from glomtile.slides.tissue import TissueMap
from glomtile.synthetic import paint
from glomtile.training.train import familiar_tissue
from glomtile.types import Box, Float32, UInt8

MPP, SIDE_PX = 2.0, 256


class Reddish:
    """A network without context that is as sure as it is told to be."""

    num_classes, stride_px, context_px, mpp = 2, 16, 0, MPP

    def __init__(self, sure: float = 1.0, fails_at: int | None = None) -> None:
        self._sure, self._fails_at, self.calls = sure, fails_at, 0

    def __call__(self, batch: UInt8) -> Float32:
        if self.calls == self._fails_at:
            raise InputError("slide", "expected a slide, got none: it vanished")
        self.calls += 1
        hit = (batch[..., 1] < 90).astype(np.float32) * np.float32(self._sure)
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
def familiar(pairs: list[Pair]) -> FamiliarTissue:
    found = familiar_tissue(training(stain=0.5, scales=[0.8, 1.25]), pairs)
    assert found is not None
    return found


def segmenter(
    familiar: FamiliarTissue | None, network: Reddish | None = None, window: int = 256
) -> Segmenter:
    card = ModelCard(
        network=ModelSettings(num_classes=2, mpp=MPP),
        classes=ModelCard.classes_of(GLOMERULI),
        mpp=MPP,
        tile_px=(256, 256),
        stride_px=16,
        context_px=0,
        objects=ObjectSettings(split=False, smooth_um=0),
        familiar=familiar,
        sha256={"model.keras": "0f" * 32},
    )
    return Segmenter(network or Reddish(), card, Settings(window_px=window))


def silver(image: UInt8) -> UInt8:
    """The same tissue in black and green."""
    density = -np.log((image + 1.0) / 244).mean(axis=2, keepdims=True) * (1.1, 0.8, 1.0)
    return np.clip(np.rint(244 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def test_what_is_like_training_is_not_doubted(familiar: FamiliarTissue) -> None:
    doubts = [segmenter(familiar).segment(Slide(biopsy(seed), plain=True)).doubts for seed in range(4)]
    assert [one.warnings for one in doubts] == [()] * 4
    assert all(value < 1.25 for one in doubts for value in one.distances.values())


@pytest.mark.parametrize("plain", [True, False])
def test_another_stain_is_told_of(familiar: FamiliarTissue, plain: bool) -> None:
    doubts = segmenter(familiar).segment(Slide(silver(biopsy(2)), plain)).doubts
    assert doubts.distances["stain"] > 2
    assert any(text.startswith("stain: ") for text in doubts.warnings)


@pytest.mark.parametrize(("sure", "unsure"), [(1.0, False), (0.6, True)])
def test_an_unsure_network_is_told_of(familiar: FamiliarTissue, sure: float, unsure: bool) -> None:
    doubts = segmenter(familiar, Reddish(sure)).segment(Slide(biopsy(3), plain=True)).doubts
    assert doubts.expected_dice == pytest.approx(2 * sure / (1 + sure), abs=0.01)
    assert any(text.startswith("unsure: ") for text in doubts.warnings) == unsure


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_wrong_scale_is_told_of(familiar: FamiliarTissue, factor: float) -> None:
    doubts = segmenter(familiar).segment(Slide(biopsy(20, 512, MPP / factor), plain=True)).doubts
    assert doubts.enlargement == pytest.approx(factor, rel=0.35)
    assert any(text.startswith("scale: ") for text in doubts.warnings)


def test_a_model_that_says_nothing_of_its_training_has_no_doubts() -> None:
    found = segmenter(None, Reddish(0.6)).segment(Slide(silver(biopsy(2)), plain=True))
    assert found.doubts == QualityFlags()
    assert found.figures()["quality_flags"] == found.figures()["stain_distance"] == ""


def test_a_model_of_another_edition_has_no_doubts(familiar: FamiliarTissue) -> None:
    later = familiar.model_copy(update={"edition": familiar.edition + 1})
    assert segmenter(later).segment(Slide(silver(biopsy(2)), plain=True)).doubts == QualityFlags()


def test_bare_glass_has_neither_distance_nor_promise(familiar: FamiliarTissue) -> None:
    doubts = segmenter(familiar).segment(Slide(np.full((300, 400, 3), 243, np.uint8))).doubts
    assert dict(doubts.distances) == {}
    assert np.isnan(doubts.expected_dice)
    assert [text.partition(",")[0] for text in doubts.warnings] == ["tissue: none was found"]


def test_a_dark_picture_without_tissue_is_held_against_training_all_the_same(
    familiar: FamiliarTissue,
) -> None:
    """As of fluorescence: the tissue mask finds none, and its distances are what tells that it is no PAS."""
    dark = np.full((300, 400, 3), (4, 4, 18), np.uint8)
    dark[100:140, 100:140] = (30, 30, 200)
    found = segmenter(familiar).segment(Slide(dark, plain=True))
    assert found.tissue.area_mm2 == 0
    assert found.doubts.distances["brightness"] > 1.25
    assert found.doubts.warnings[0] == "tissue: none was found"


def test_where_nothing_is_found_nothing_is_promised(familiar: FamiliarTissue) -> None:
    doubts = segmenter(familiar, Reddish(0.0)).segment(Slide(biopsy(3), plain=True)).doubts
    assert doubts.distances
    assert doubts.figures()["expected_dice"] == ""


def test_a_stopped_run_ends_with_the_same_doubts(familiar: FamiliarTissue, tmp_path: Path) -> None:
    picture = np.tile(biopsy(4, 512), (3, 3, 1))
    whole = segmenter(familiar, network := Reddish(0.9)).segment(Slide(picture))
    with pytest.raises(InputError, match="vanished"):
        segmenter(familiar, Reddish(0.9, network.calls // 2)).segment(Slide(picture), work=tmp_path / "work")
    again = segmenter(familiar, Reddish(0.9)).segment(Slide(picture), work=tmp_path / "work")
    assert again.doubts == whole.doubts
    assert whole.doubts.distances


def test_the_card_keeps_what_is_familiar(familiar: FamiliarTissue) -> None:
    card = segmenter(familiar).card
    again = ModelCard.from_json(card.to_json())
    assert again.familiar == familiar


def test_a_card_of_before_says_nothing_of_it(familiar: FamiliarTissue) -> None:
    facts = json.loads(segmenter(familiar).card.to_json())
    del facts["familiar"], facts["card_sha256"]
    assert ModelCard.from_json(json.dumps(facts)).familiar is None


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
def test_a_damaged_memory_is_no_model_card(familiar: FamiliarTissue, aspect: str, change: object) -> None:
    facts = json.loads(segmenter(familiar).card.to_json())
    part = facts["familiar"][aspect]
    facts["familiar"][aspect] = part | change if isinstance(change, dict) else change
    with pytest.raises(ModelError, match=f"familiar.{aspect}"):
        ModelCard.from_json(json.dumps(facts))


def test_training_images_are_remembered_the_same_way_twice(
    pairs: list[Pair], familiar: FamiliarTissue
) -> None:
    assert familiar_tissue(training(stain=0.5, scales=[0.8, 1.25]), pairs) == familiar
    assert familiar.images == 8


def test_what_augmentation_teaches_is_familiar(pairs: list[Pair], familiar: FamiliarTissue) -> None:
    plain = familiar_tissue(training(), pairs)
    assert plain is not None
    strange = [
        segmenter(known).segment(Slide(silver(biopsy(5)), plain=True)).doubts.distances["stain"]
        for known in (plain, familiar)
    ]
    assert strange[0] > strange[1]


def test_images_without_tissue_or_too_few_leave_nothing_to_remember(
    tmp_path: Path, pairs: list[Pair]
) -> None:
    write_png(tmp_path / "glass.png", np.full((256, 256, 3), 243, np.uint8))
    glass = Pair("glass", tmp_path / "glass.png", tmp_path / "glass.png")
    assert familiar_tissue(training(), [glass] * 6) is None
    assert familiar_tissue(training(), pairs[:3]) is None
    assert familiar_tissue(training(), [*pairs, glass]) == familiar_tissue(training(), pairs)


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


def test_sampled_boxes_lie_on_tissue() -> None:
    tissue = np.zeros((40, 40), np.bool_)
    tissue[5:15, 20:35] = True
    boxes = sampled_boxes((4000, 4000), TissueMap(tissue, tissue, 100.0, MPP))
    assert len(boxes) >= 12
    assert all(500 <= (b.top + b.bottom) / 2 < 1500 and 2000 <= (b.left + b.right) / 2 < 3500 for b in boxes)
