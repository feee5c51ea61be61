"""Fake networks and progress reporters for tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glomtile.config.model_card import ModelCard, ObjectSettings
from glomtile.config.schema import ModelSettings
from glomtile.palette import GLOMERULI
from glomtile.types import Float32, UInt8


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
