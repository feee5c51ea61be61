"""Fake networks, slides and progress reporters for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from glomtile.config.model_card import ModelCard, ObjectSettings
from glomtile.config.schema import ModelSettings
from glomtile.palette import GLOMERULI
from glomtile.types import Box, Float32, UInt8


class ThresholdNetwork:
    """Class 1 where green is dark.

    Parameters
    ----------
    at : dict of int to callable, optional
        What is done at the call of this number, before it is answered; the first call is 1.
    """

    num_classes, stride_px, context_px, mpp = 2, 16, 0, 2.0

    def __init__(self, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.calls = 0
        self.at = at or {}

    def __call__(self, batch: UInt8) -> Float32:
        self.calls += 1
        self.at.get(self.calls, int)()
        hit = (batch[..., 1] < 80).astype(np.float32)
        return np.stack([1 - hit, hit], -1)


def threshold_card() -> ModelCard:
    """The card of such a network; objects stay as they are, neither split nor smoothed."""
    return ModelCard(
        network=ModelSettings(num_classes=2, mpp=2.0),
        classes=ModelCard.classes_of(GLOMERULI),
        mpp=2.0,
        tile_px=(256, 256),
        stride_px=16,
        context_px=0,
        objects=ObjectSettings(split=False, smooth_um=0),
    )


class ArraySlide:
    """An array that behaves as a slide at the model's scale; remembers the boxes that are read."""

    kind, mpp_source, zoom = "array", "given", 1.0

    def __init__(self, pixels: UInt8, mpp: float | None = 2.0, *, plain: bool = False) -> None:
        self._pixels, self.mpp, self.plain, self.boxes = pixels, mpp, plain, list[Box]()
        self.size_px = (pixels.shape[0], pixels.shape[1])

    def at(self, mpp: float | None) -> ArraySlide:
        return self

    def read(self, box: Box) -> UInt8:
        self.boxes.append(box)
        rows = np.arange(box.top, box.bottom).clip(0, self.size_px[0] - 1)
        columns = np.arange(box.left, box.right).clip(0, self.size_px[1] - 1)
        return self._pixels[rows[:, None], columns]

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        return self._pixels, 1.0


class RecordingProgress:
    """Keeps notes and warnings, in order; stages and steps are nothing to it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def start(self, title: str, total: int | None = None) -> None:
        pass

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def tree(root: Path) -> dict[str, bytes]:
    """Return the contents of all files of a folder by their relative paths."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
