"""Object rules from training masks: small objects are kept where the truth has small ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomtile.config.load import make_config
from glomtile.config.model_card import ObjectSettings
from glomtile.config.schema import Config
from glomtile.datasets.pairing import pair
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI
from glomtile.training.train import fit_object_settings

MPP = 0.5


def config_of(root: Path, mpp: float | None = 1.0) -> Config:
    return make_config(
        {
            "model": {"model": "FlexUNet", "num_classes": 2, "mpp": mpp},
            "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
            "dataset": {"image_mpp": MPP},
        },
        root,
    )


def masks_of_squares(root: Path, sides_px: list[int]) -> None:
    for number, side in enumerate(sides_px):
        labels = np.zeros((300, 300), np.uint8)
        labels[20 : 20 + side, 20 : 20 + side] = 1
        # Cut by the border: tells nothing about how small a whole object is.
        labels[-2:, 100:103] = 1
        write_mask(root / "masks" / f"{number}.png", labels, GLOMERULI)
        write_png(root / "images" / f"{number}.png", np.zeros((300, 300, 3), np.uint8))


def rules(root: Path, sides_px: list[int], mpp: float | None = 1.0) -> ObjectSettings:
    masks_of_squares(root, sides_px)
    return fit_object_settings(config_of(root, mpp), pair(root / "images", root / "masks"), GLOMERULI)


def test_small_objects_lower_the_smallest_area(tmp_path: Path) -> None:
    area = (10 * MPP) ** 2
    assert rules(tmp_path, [10] * 6).min_area_um2 == pytest.approx(area / 4)


def test_large_objects_do_not_raise_it_above_the_default(tmp_path: Path) -> None:
    assert rules(tmp_path, [250] * 6).min_area_um2 == ObjectSettings().min_area_um2


def test_few_whole_objects_tell_nothing(tmp_path: Path) -> None:
    assert rules(tmp_path, [10] * 4) == ObjectSettings()


def test_a_model_without_scale_has_the_default(tmp_path: Path) -> None:
    assert rules(tmp_path, [10] * 6, mpp=None) == ObjectSettings()


@pytest.mark.parametrize(("bayed", "convex"), [(2, True), (4, False)])
def test_hulls_are_taken_where_most_true_objects_are_convex(tmp_path: Path, bayed: int, convex: bool) -> None:
    masks_of_squares(tmp_path, [100] * 6)
    for number in range(bayed):
        labels = np.zeros((300, 300), np.uint8)
        labels[20:120, 20:120] = 1
        labels[60:80, 60:120] = 0
        write_mask(tmp_path / "masks" / f"{number}.png", labels, GLOMERULI)
    pairs = pair(tmp_path / "images", tmp_path / "masks")
    assert fit_object_settings(config_of(tmp_path), pairs, GLOMERULI).convex is convex
