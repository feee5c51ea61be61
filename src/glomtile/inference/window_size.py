"""Tiling settings, and windows chosen from image size, memory and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, UsageError
from glomtile.inference.predictor import MeasuredPredictor
from glomtile.tiling.blending import Blend
from glomtile.tiling.grid import Plan, plan_windows, round_up
from glomtile.types import Predictor
from glomtile.validation import typed_argument, whole_argument

if TYPE_CHECKING:
    from glomtile.config.schema import Config

WINDOW_PX = 1024
"""Side of a window, margins included, unless memory or the network allow less."""

_MARGIN_PX = 128
_MIRRORED_PX = 64
"""Margin of an image in one window, which contains only its own mirror image (docs/results.md)."""

_STRIP_BYTES = 400 * 2**20
"""Memory for the rows being blended, which limits the width of a panel."""


@dataclass(frozen=True)
class TilingSettings:
    """Windows of an image or slide, and resources for them.

    Attributes
    ----------
    tissue_mask : bool
        Skip windows without tissue; slides only.
    window_px : int, "auto" or None
        Side of a window, margins included; ``"auto"`` is the largest that `memory_mb` allows, also beyond
        1,024 px; chosen from the network where ``None``.
    tile_px : int or None
        Side without margins, instead of `window_px`.
    overlap_px : int or None
        Margin per side; the network's context, at most 128 px, where ``None``.
    blend : {"hann", "linear", "none"}
        Weights of overlapping windows.
    batch_size, read_threads : int
    memory_mb : int
        For the network's forward pass.
    force : bool
        Segment also slides that are too coarse for the model.
    network_threads : int or None
        For computing the network, all cores where ``None``; pixels do not depend on it.

    Raises
    ------
    ArgumentError
        One of them has a wrong type or is out of range.
    """

    tissue_mask: bool = True
    window_px: int | Literal["auto"] | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    blend: Blend = "hann"
    batch_size: int = 1
    read_threads: int = 2
    memory_mb: int = 1536
    force: bool = False
    network_threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("tissue_mask", "force"):
            typed_argument(name, getattr(self, name), bool, "True or False")
        for name, least in (("window_px", 1), ("tile_px", 1), ("overlap_px", 0), ("network_threads", 1)):
            if getattr(self, name) not in (None, "auto"):
                whole_argument(name, getattr(self, name), least)
        for name in ("batch_size", "read_threads", "memory_mb"):
            whole_argument(name, getattr(self, name), 1)

    @classmethod
    def of_config(cls, config: Config) -> TilingSettings:
        """Return the settings of ``[tiledinfer]``."""
        section = config.tiledinfer
        return cls(
            window_px=section.window,
            tile_px=section.split_size if section.window is None else None,
            overlap_px=section.overlapping,
            blend=section.blend,
            batch_size=section.batch_size,
            memory_mb=section.memory_mb,
        )


def choose_window(
    predictor: Predictor, settings: TilingSettings, card: ModelCard | None = None
) -> tuple[int, int]:
    """Return side and margin of a window in pixels, multiples of the network's stride.

    Without settings the margin is the network's context, at most 128 px, and the side 1024 px or what memory
    allows; a network that normalises over the window gets the window it was trained with.

    Raises
    ------
    ArgumentError
        The side leaves nothing between the margins.
    """
    stride = predictor.stride_px
    trained = None if getattr(predictor, "local", True) else card
    overlap = _margin(predictor, settings, trained)
    if settings.tile_px is not None:
        return round_up(settings.tile_px, stride) + 2 * overlap, overlap
    if settings.window_px is not None and settings.window_px != "auto":
        window = round_up(settings.window_px, stride)
        if window <= 2 * overlap:
            wanted = f"more than twice the margin of {overlap} px that this network needs"
            raise ArgumentError("window_px", wanted, settings.window_px)
        return window, overlap
    if trained is not None:
        return round_up(min(trained.tile_px), stride), overlap
    window, least = round_up(WINDOW_PX, stride), round_up(2 * overlap + 1, stride)
    if isinstance(predictor, MeasuredPredictor):
        budget = settings.memory_mb * 2**20 / settings.batch_size
        while window > least and window**2 * predictor.bytes_per_px > budget:
            window -= stride
    return max(window, least), overlap


def _margin(predictor: Predictor, settings: TilingSettings, trained: ModelCard | None = None) -> int:
    overlap = settings.overlap_px
    if overlap is None:
        overlap = min(predictor.context_px, _MARGIN_PX) if trained is None else trained.overlap_px
    return round_up(overlap, predictor.stride_px)


def tile_plan(
    size_px: tuple[int, int],
    predictor: Predictor,
    settings: TilingSettings,
    offset_px: tuple[int, int] = (0, 0),
) -> Plan:
    """Plan the windows over an image, none larger than the image and its margins need.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` at the network's scale.
    predictor : Predictor
        Windows are aligned to its stride.
    settings : TilingSettings
        All lengths are rounded up to multiples of the network's stride.
    offset_px : (int, int)
        Moves the grid; rounded down to multiples of the stride.

    Raises
    ------
    UsageError
        The margins leave nothing of the window, or the predictor does not support ``window = "auto"``.

    Notes
    -----
    Reference §6.2: there a tile and its margins are shrunk to the network's input, so the network sees
    another scale than in training. Here both are read at the scale of training, and nothing is resampled.
    """
    stride = predictor.stride_px
    window: int | tuple[int, int]
    if settings.window_px == "auto":
        if not isinstance(predictor, MeasuredPredictor):
            raise UsageError(
                'window = "auto"',
                f"expected a predictor with a known memory per pixel, got {type(predictor).__name__}",
                hint="give the window as a number",
            )
        overlap = _margin(predictor, settings)
        window = _largest_window(predictor, settings, size_px, overlap)
    else:
        side, overlap = choose_window(predictor, settings)
        window = _needed(size_px, side, overlap, stride)
    aligned = (offset_px[0] // stride * stride, offset_px[1] // stride * stride)
    return plan_windows(size_px, window, overlap, stride, aligned)


def slide_plan(size_px: tuple[int, int], window_px: int, overlap_px: int, stride_px: int) -> Plan:
    """Plan windows of `choose_window` over a plane at the network's scale."""
    return plan_windows(size_px, _needed(size_px, window_px, overlap_px, stride_px), overlap_px, stride_px)


def _needed(size_px: tuple[int, int], window_px: int, overlap_px: int, stride_px: int) -> tuple[int, int]:
    height, width = (min(window_px, round_up(n + 2 * overlap_px, stride_px)) for n in size_px)
    return height, width


def _largest_window(
    predictor: MeasuredPredictor, settings: TilingSettings, size_px: tuple[int, int], overlap_px: int
) -> tuple[int, int]:
    """Return the largest window that the memory allows: it has the least overlap to compute twice.

    The budget is for the network's forward pass and the rows being blended, weights apart.
    """
    if not predictor.local:
        raise UsageError(
            'window = "auto"',
            "expected a network whose prediction at a pixel depends on its surroundings only, "
            "got one that normalises over the whole window",
            hint="give the window it was trained with as a number",
        )
    stride, budget = predictor.stride_px, settings.memory_mb * 2**20
    caps = tuple(round_up(length + 2 * overlap_px, stride) for length in size_px)
    per_px = predictor.bytes_per_px * settings.batch_size
    # Two strips: one being blended, one on its way out.
    strip_row = 2 * 4 * size_px[1] * predictor.num_classes
    least = round_up(2 * overlap_px + 1, stride)
    needed = 0.0
    for side in range(max(caps), least - 1, -stride):
        height, width = min(side, caps[0]), min(side, caps[1])
        needed = height * width * per_px + height * strip_row
        if needed <= budget:
            return height, width
    raise UsageError(
        "memory_mb",
        f"expected at least {int(needed / 2**20) + 1} MiB for a window of {least} px, "
        f"got {settings.memory_mb} MiB",
        hint="raise memory_mb or lower overlapping",
    )


def depends_on_window(predictor: Predictor, overlap_px: int) -> bool:
    """Return True if pixels depend on the window's size: its margins do not cover the network's context."""
    return not getattr(predictor, "local", True) or overlap_px < predictor.context_px


def image_margin(
    size_px: tuple[int, int], window: tuple[int, int], settings: TilingSettings, stride_px: int
) -> int:
    """Return the margin of windows over an image, in pixels: smaller where one window covers the image.

    Parameters
    ----------
    size_px : (int, int)
        The image's at the network's scale.
    window : (int, int)
        Side and margin of `choose_window`.
    settings : TilingSettings
        Its margin, if given, is kept.
    stride_px : int
    """
    side_px, overlap_px = window
    mirrored = min(overlap_px, round_up(_MIRRORED_PX, stride_px))
    if settings.overlap_px is None and max(size_px) + 2 * mirrored <= side_px:
        return mirrored
    return overlap_px


def panel_px(plan: Plan, num_classes: int) -> int:
    """Return the largest width of a panel: sums, those before them and rows on their way out are alive."""
    return _STRIP_BYTES // (3 * 4 * num_classes * plan.window_px[0])
