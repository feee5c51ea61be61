"""Public Python names: a wrong argument is named, with what was expected and received."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glomtile
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import ModelSettings
from glomtile.errors import ArgumentError, UsageError
from glomtile.inference.image import TilingSettings
from glomtile.inference.segmenter import Segmenter
from glomtile.palette import GLOMERULI


class Blank:
    """A network that finds nothing."""

    num_classes, stride_px, context_px, mpp = 2, 16, 0, 2.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(batch.shape[:3], np.float32), np.zeros(batch.shape[:3], np.float32)], -1)


def segmenter() -> Segmenter:
    card = ModelCard(
        network=ModelSettings(num_classes=2, mpp=2.0), classes=ModelCard.classes_of(GLOMERULI), mpp=2.0,
        tile_px=(64, 64), stride_px=16, context_px=0,
    )  # fmt: skip
    return Segmenter(Blank(), card)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segmenter().segment(3), "source: expected a path or a slide, got 3 (int)"),
        (lambda: segmenter().segment(None), "source: expected a path or a slide, got None"),
        (
            lambda: segmenter().segment("a.png", mpp="0.5"),
            "mpp: expected 0.05 to 20 µm per pixel, got '0.5'",
        ),
        (
            lambda: segmenter().segment("a.png", mpp=float("nan")),
            "mpp: expected 0.05 to 20 µm per pixel, got nan (float)",
        ),
        (lambda: segmenter().segment("a.png", work=1), "work: expected a path, got 1 (int)"),
        (lambda: Segmenter.load(5), "folder: expected a path, got 5 (int)"),
        (lambda: Segmenter.load(settings=5), "settings: expected TilingSettings, got 5 (int)"),
        (lambda: Segmenter.load(tta="x"), "tta: expected one of none, flips, rotations, all, got 'x'"),
        (lambda: Segmenter.load(runtime="foo"), "runtime: expected one of auto, openvino, keras, got 'foo'"),
        (lambda: glomtile.open_slide(7), "path: expected a path, got 7 (int)"),
        (lambda: glomtile.load_config(None), "path: expected a path, got None"),
        (
            lambda: glomtile.load_config("a.toml", "train.epochs=2"),
            "overrides: expected texts section.key=value in a list or tuple, got 'train.epochs=2'",
        ),
        (
            lambda: glomtile.train("a.toml"),
            "config: expected a config, as load_config(…) gives, got 'a.toml'",
        ),
        (
            lambda: glomtile.evaluate("a.toml"),
            "config: expected a config, as load_config(…) gives, got 'a.toml'",
        ),
        (lambda: glomtile.score(1, "b", "c"), "predictions: expected a path, got 1 (int)"),
        (lambda: glomtile.score("a", "b", "c", palette=3), "palette: expected a Palette, got 3 (int)"),
        (
            lambda: glomtile.score("a", "b", "c", tolerance=256),
            "tolerance: expected a whole number from 0 to 255, got 256 (int)",
        ),
        (
            lambda: glomtile.build_model("FlexUNet"),
            "settings: expected [model] of a config, as load_config(…).model, got 'FlexUNet'",
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("name", "value", "received"),
    [
        ("window_px", "x", "'x'"),
        ("batch_size", 0, "0 (int)"),
        ("read_threads", 1.5, "1.5 (float)"),
        ("network_threads", -3, "-3 (int)"),
        ("network_threads", "x", "'x'"),
        ("force", "no", "'no'"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any, received: str) -> None:
    expected = "True or False" if name == "force" else "a whole number of at least 1"
    with pytest.raises(ArgumentError) as caught:
        TilingSettings(**{name: value})
    assert str(caught.value) == f"{name}: expected {expected}, got {received}"


def test_a_long_argument_is_cut() -> None:
    with pytest.raises(ArgumentError) as caught:
        Segmenter.load(runtime="x" * 10_000)
    assert len(str(caught.value)) < 200


def test_numbers_of_numpy_are_numbers() -> None:
    assert TilingSettings(window_px=np.int64(64)).window_px == 64


def test_folders_may_be_strings(tmp_path: Path) -> None:
    from glomtile.io.images import write_png

    for name in ("a", "b"):
        mask = np.zeros((32, 32, 3), np.uint8)
        mask[8:24, 8:24, 0] = 255
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "1.png", mask)
    result = glomtile.score(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "out"))
    assert result.scores.classes[0].figures["pooled_dice"].value == 1
