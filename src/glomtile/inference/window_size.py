"""Window size chosen from image size, memory and network."""

from __future__ import annotations

from dataclasses import dataclass

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError
from glomtile.inference.predictor import MeasuredPredictor
from glomtile.tiling.grid import Plan, plan_windows, round_up
from glomtile.types import Predictor
from glomtile.validation import typed_argument, whole_argument

WINDOW_PX = 1024
"""Side of a window, margins included, unless memory or the network allow less."""

_MARGIN_PX = 128
_MIRRORED_PX = 64
"""Margin of a picture in one window, where there is only its own mirror image to see (docs/results.md)."""

_STRIP_BYTES = 400 * 2**20
"""What the rows being blended may take: panels are as wide as this allows."""


@dataclass(frozen=True)
class Settings:
    """How a slide is segmented, apart from the model.

    Attributes
    ----------
    tissue_mask : bool
        Leave windows without tissue unseen.
    window_px, overlap_px : int or None
        Side of a window, margins included, and its margin; chosen from the network where ``None``.
    batch_size, read_threads : int
    memory_mb : int
        What the network's forward pass may take, by which the window is chosen.
    force : bool
        Segment slides too coarse for the model too.
    network_threads : int or None
        That compute the network, as many as there are cores where ``None``; pixels do not depend on it.

    Raises
    ------
    ArgumentError
        One of them has a wrong type or is out of range.
    """

    tissue_mask: bool = True
    window_px: int | None = None
    overlap_px: int | None = None
    batch_size: int = 1
    read_threads: int = 2
    memory_mb: int = 1536
    force: bool = False
    network_threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("tissue_mask", "force"):
            typed_argument(name, getattr(self, name), bool, "True or False")
        for name, least in (("window_px", 1), ("overlap_px", 0), ("network_threads", 1)):
            if getattr(self, name) is not None:
                whole_argument(name, getattr(self, name), least)
        for name in ("batch_size", "read_threads", "memory_mb"):
            whole_argument(name, getattr(self, name), 1)


def slide_plan(size_px: tuple[int, int], window_px: int, overlap_px: int, stride_px: int) -> Plan:
    """Windows of `chosen_window` over a plane at the network's scale, none larger than it needs."""
    height, width = (min(window_px, round_up(n + 2 * overlap_px, stride_px)) for n in size_px)
    return plan_windows(size_px, (height, width), overlap_px, stride_px)


def chosen_window(predictor: Predictor, card: ModelCard, settings: Settings) -> tuple[int, int]:
    """Side and margin of a window in pixels, multiples of the network's stride.

    A given side that leaves nothing between the margins is a UsageError.

    The margin is what the network can see around a pixel, at most 128 px, and the side 1024 px or what memory
    allows; a network that normalises over the window gets the window it was trained with.
    """
    stride = predictor.stride_px
    local = getattr(predictor, "local", True)
    overlap = min(predictor.context_px, _MARGIN_PX) if local else card.overlap_px
    overlap = round_up(settings.overlap_px if settings.overlap_px is not None else overlap, stride)
    if settings.window_px is not None:
        if round_up(settings.window_px, stride) <= 2 * overlap:
            raise ArgumentError(
                "window_px",
                f"more than twice the margin of {overlap} px that this network needs",
                settings.window_px,
            )
        return round_up(settings.window_px, stride), overlap
    if not local:
        return round_up(min(card.tile_px), stride), overlap
    window, least = round_up(WINDOW_PX, stride), round_up(2 * overlap + 1, stride)
    if isinstance(predictor, MeasuredPredictor):
        budget = settings.memory_mb * 2**20 / settings.batch_size
        while window > least and window**2 * predictor.bytes_per_px > budget:
            window -= stride
    return max(window, least), overlap


def windows_decide(predictor: Predictor, overlap_px: int) -> bool:
    """Whether pixels depend on how large windows are: not where their margins hold all that a pixel sees."""
    return not getattr(predictor, "local", True) or overlap_px < predictor.context_px


def picture_margin(
    size_px: tuple[int, int], window: tuple[int, int], settings: Settings, stride_px: int
) -> int:
    """Margin of the windows over a picture, in pixels: less where one window sees all of it.

    Parameters
    ----------
    size_px : (int, int)
        The picture's at the network's scale.
    window : (int, int)
        Side and margin of `chosen_window`.
    settings : Settings
        A margin that it gives is kept.
    stride_px : int
    """
    side_px, overlap_px = window
    mirrored = min(overlap_px, round_up(_MIRRORED_PX, stride_px))
    if settings.overlap_px is None and max(size_px) + 2 * mirrored <= side_px:
        return mirrored
    return overlap_px


def panel_px(plan: Plan, num_classes: int) -> int:
    """How wide a panel may be: the sums, those before them and the rows on their way out live at once."""
    return _STRIP_BYTES // (3 * 4 * num_classes * plan.window_px[0])
