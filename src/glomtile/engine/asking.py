"""How a network is asked, the windows apart: in which turned copies, how smooth, and what counts as a yes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np

from glomtile.core.arguments import choice_argument, number_argument
from glomtile.errors import UsageError
from glomtile.types import UInt8

if TYPE_CHECKING:
    from glomtile.config.card import ModelCard
    from glomtile.config.schema import Config

Tta = Literal["none", "flips", "rotations", "all"]
"""Test-time augmentation: over which turned copies of a tile the answer is averaged."""

MOST_SMOOTHING_PX = 3.0


@dataclass(frozen=True)
class Asking:
    """How a network is asked, the windows apart.

    Attributes
    ----------
    tta : {"none", "flips", "rotations", "all"}
        Average over 1, 4, 4 or 8 turned copies.
    color_order : {"RGB", "BGR"}
        Order of the channels that the network was trained with; tiles are always given as RGB.
    threshold : float
        Above 0 and below 1: the probability of not being background that becomes 0.5, see `TilePredictor`.
    smoothing_px : float
        Standard deviation of a Gaussian over the tiles, 0 to 3 px of the network. Samples that training
        turned or scaled were interpolated between pixels, which smooths them (linearly: variance 1/6 px² a
        side, 0.41 px); a network that only met such samples is surprised by sharper ones.

    Raises
    ------
    UsageError
        When `tta` or `color_order` is unknown, or a number is out of range.
    """

    tta: Tta = "none"
    color_order: str = "RGB"
    threshold: float = 0.5
    smoothing_px: float = 0.0

    def __post_init__(self) -> None:
        if self.tta not in get_args(Tta):
            raise UsageError("tta", f"expected one of {', '.join(get_args(Tta))}, got {self.tta!r}")
        if self.color_order not in ("RGB", "BGR"):
            raise UsageError("color_order", f"expected RGB or BGR, got {self.color_order!r}")
        if not 0 < self.threshold < 1:
            raise UsageError("threshold", f"expected a number between 0 and 1, got {self.threshold}")
        if not 0 <= self.smoothing_px <= MOST_SMOOTHING_PX:
            raise UsageError(
                "smoothing_px", f"expected a number from 0 to {MOST_SMOOTHING_PX}, got {self.smoothing_px}"
            )

    @classmethod
    def of_card(cls, card: ModelCard) -> Asking:
        """As the model was meant to be asked."""
        return cls(card.tta, card.color_order, card.threshold, card.smoothing_px)

    @classmethod
    def of_config(cls, config: Config, tta: Tta | None = None) -> Asking:
        """As ``[tiledinfer]`` and ``[image]`` say, in other turned copies where they are given."""
        asked = config.tiledinfer
        return cls(tta or asked.tta, config.image.color_order, asked.threshold, asked.smoothing_px)

    @property
    def reach_px(self) -> int:
        """How much farther a pixel sees than the network."""
        return ceil(3 * self.smoothing_px)

    def smoothed(self, batch: UInt8) -> UInt8:
        """Tiles ``(N, h, w, 3)`` as the network shall see them, channels apart; of whole numbers, exactly."""
        if not self.smoothing_px:
            return batch
        side = 2 * self.reach_px + 1
        kernel, sd = (side, side), self.smoothing_px
        return np.stack([cv2.GaussianBlur(np.ascontiguousarray(tile), kernel, sd) for tile in batch])


PLAINLY = Asking()


def with_asking(
    card: ModelCard,
    tta: Tta | None,
    threshold: float | None,
    smoothing_px: float | None,
    least_expected_dice: float | None = None,
) -> ModelCard:
    """A model's card with what a caller wants otherwise; ``None`` leaves the model's own.

    Raises
    ------
    ArgumentError
        A word is unknown, or a number out of range.
    """
    changed: dict[str, object] = {}
    if tta is not None:
        changed["tta"] = choice_argument("tta", tta, get_args(Tta))
    if threshold is not None:
        changed["threshold"] = number_argument("threshold", threshold, 0, 1)
    if smoothing_px is not None:
        changed["smoothing_px"] = number_argument("smoothing_px", smoothing_px, 0, MOST_SMOOTHING_PX)
    if least_expected_dice is not None:
        changed["least_expected_dice"] = number_argument("least_expected_dice", least_expected_dice, 0, 1)
    return card.model_copy(update=changed)
