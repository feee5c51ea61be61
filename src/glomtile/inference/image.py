"""Tiling settings, windows, and segmentation of images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, UsageError
from glomtile.tiling.blending import Blend
from glomtile.tiling.grid import Plan, plan_windows, round_up
from glomtile.types import Predictor
from glomtile.validation import typed_argument, whole_argument

if TYPE_CHECKING:
    from glomtile.config.schema import Config


from collections.abc import Iterator

import cv2
import numpy as np

from glomtile.io.images import ArrayReader, resize_to_mpp
from glomtile.tiling.sliding_window import TiledRun, predict_tiled
from glomtile.types import SILENT, Float32, Progress, UInt8

WINDOW_PX = 1024
"""Side of a window, margins included, unless memory or the network allow less."""

_MARGIN_PX = 128
_MIRRORED_PX = 64
"""Margin of an image in one window, which contains only its own mirror image (docs/results.md)."""

_BAND_ROWS = 256


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
    per_px = getattr(predictor, "bytes_per_px", 0.0)
    budget = settings.memory_mb * 2**20 / settings.batch_size
    while window > least and window**2 * per_px > budget:
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
    if settings.window_px == "auto":
        window, overlap = _largest_window(predictor, settings, size_px)
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
    predictor: Predictor, settings: TilingSettings, size_px: tuple[int, int]
) -> tuple[tuple[int, int], int]:
    """Return the largest window that the memory allows, with its margin: it has the least to compute twice.

    The budget is for the network's forward pass and the rows being blended, weights apart.
    """
    per_px: float | None = getattr(predictor, "bytes_per_px", None)
    if per_px is None:
        raise UsageError(
            'window = "auto"',
            f"expected a predictor with a known memory per pixel, got {type(predictor).__name__}",
            hint="give the window as a number",
        )
    if not getattr(predictor, "local", True):
        raise UsageError(
            'window = "auto"',
            "expected a network whose prediction at a pixel depends on its surroundings only, "
            "got one that normalises over the whole window",
            hint="give the window it was trained with as a number",
        )
    stride, budget, overlap = predictor.stride_px, settings.memory_mb * 2**20, _margin(predictor, settings)
    caps = _needed(size_px, max(size_px) + 2 * (overlap + stride), overlap, stride)
    # Two strips: one being blended, one on its way out.
    per_row = 2 * 4 * size_px[1] * predictor.num_classes
    least = round_up(2 * overlap + 1, stride)
    needed = 0.0
    for side in range(max(caps), least - 1, -stride):
        height, width = min(side, caps[0]), min(side, caps[1])
        needed = height * width * per_px * settings.batch_size + height * per_row
        if needed <= budget:
            return (height, width), overlap
    raise UsageError(
        "memory_mb",
        f"expected at least {int(needed / 2**20) + 1} MiB for a window of {least} px, "
        f"got {settings.memory_mb} MiB",
        hint="raise memory_mb or lower overlapping",
    )


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


@dataclass(frozen=True)
class SegmentedImage:
    """Labels of an image.

    Attributes
    ----------
    labels : (H, W) uint8 ndarray
        Class numbers, at the image's own size.
    probs : (h, w, K) float32 ndarray or None
        Probabilities at the network's scale, if they were requested.
    run : TiledRun
    plan : Plan
        The windows, at the network's scale.
    """

    labels: UInt8
    probs: Float32 | None
    run: TiledRun
    plan: Plan


def segment_image(
    image: UInt8,
    predictor: Predictor,
    settings: TilingSettings | None = None,
    image_mpp: float | None = None,
    *,
    offset_px: tuple[int, int] = (0, 0),
    keep_probs: bool = False,
    progress: Progress = SILENT,
) -> SegmentedImage:
    """Segment an image window by window at the network's own scale.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    predictor : Predictor
    settings : TilingSettings, optional
        See `tile_plan`.
    image_mpp : float, optional
        Micrometres per pixel of the image. If it and the predictor's are known and differ, the network gets
        the image resized to its own, and the probabilities are enlarged back (linear) before the class is
        chosen.
    offset_px : (int, int)
        Moves the grid of windows, at the network's scale.
    keep_probs : bool
        Return the probabilities too.
    progress : Progress
    """
    settings = settings or TilingSettings()
    size = (image.shape[0], image.shape[1])
    if image_mpp is not None and predictor.mpp is not None:
        image = resize_to_mpp(image, image_mpp, predictor.mpp)
    reader = ArrayReader(image, predictor.mpp)
    plan = tile_plan(reader.size_px, predictor, settings, offset_px)
    same = reader.size_px == size
    labels = np.empty(size, np.uint8)
    probs = np.empty((*reader.size_px, predictor.num_classes), np.float32) if keep_probs or not same else None

    def take(top: int, rows: Float32) -> None:
        bottom = top + rows.shape[0]
        if same:
            labels[top:bottom] = choose_class(rows)
        if probs is not None:
            probs[top:bottom] = rows

    run = predict_tiled(
        reader, predictor, plan, take, blend=settings.blend, batch_size=settings.batch_size,
        read_threads=settings.read_threads, progress=progress,
    )  # fmt: skip
    if not same:
        assert probs is not None
        labels = enlarged_labels(probs, size)
    return SegmentedImage(labels, probs if keep_probs else None, run, plan)


def segment_whole(image: UInt8, predictor: Predictor, input_px: tuple[int, int]) -> UInt8:
    """Segment an image in one pass, stretched to the network's input.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    predictor : Predictor
    input_px : (int, int)
        ``(h, w)`` of the network's input, as in the reference.

    Returns
    -------
    (H, W) uint8 ndarray
        Class numbers at the image's own size, from enlarged probabilities.
    """
    size = (image.shape[0], image.shape[1])
    if size != input_px:
        shrinks = input_px[0] <= size[0] and input_px[1] <= size[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, input_px[::-1], interpolation=method), np.uint8)
    return enlarged_labels(predictor(np.ascontiguousarray(image)[None])[0], size)


def choose_class(probs: Float32) -> UInt8:
    """Return the most probable class of each pixel; of equals, the lower number."""
    # argmax over a last axis of two or three takes 20 times as long as these comparisons.
    best = np.asarray(probs[..., 1] > probs[..., 0], np.uint8)
    if probs.shape[-1] > 2:
        highest = np.maximum(probs[..., 0], probs[..., 1])
        for number in range(2, probs.shape[-1]):
            best[probs[..., number] > highest] = number
            np.maximum(highest, probs[..., number], out=highest)
    return best


def as_confidence(probs: Float32) -> UInt8:
    """Return the probability of the most probable class above 0, as 0 to 255."""
    best = probs[..., 1]
    for number in range(2, probs.shape[-1]):
        best = np.maximum(best, probs[..., number])
    return np.asarray(np.rint(best * np.float32(255)), np.uint8)


def enlarged_labels(probs: Float32, size_px: tuple[int, int]) -> UInt8:
    """Return labels at another size than their probabilities, which are interpolated linearly first.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray
    size_px : (int, int)
        ``(H, W)`` of the labels.

    Returns
    -------
    (H, W) uint8 ndarray
    """
    if probs.shape[:2] == size_px:
        return choose_class(probs)
    labels = np.empty(size_px, np.uint8)
    if probs.shape[-1] == 2:
        # Linear interpolation commutes with the difference: half the work.
        lead = probs[..., 1:] - probs[..., :1]
        for top, rows in resized_probs(lead, size_px):
            np.greater(rows[..., 0], 0, out=labels[top : top + rows.shape[0]].view(np.bool_))
        return labels
    for top, rows in resized_probs(probs, size_px):
        labels[top : top + rows.shape[0]] = choose_class(rows)
    return labels


def resized_probs(probs: Float32, size_px: tuple[int, int]) -> Iterator[tuple[int, Float32]]:
    """Yield probabilities at another size, interpolated linearly, in bands from top to bottom.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray
    size_px : (int, int)
        ``(H, W)`` of the result.

    Yields
    ------
    top : int
    rows : (h, W, K) float32 ndarray
        A whole image would take four bytes for each pixel and class.
    """
    (height, width), old = size_px, probs.shape[0]
    at = np.clip((np.arange(height) + 0.5) * (old / height) - 0.5, 0, old - 1)  # rows of pixel centres
    low = np.floor(at).astype(np.intp)
    high, part = np.minimum(low + 1, old - 1), (at - low).astype(np.float32)
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        down = part[band, None, None]
        first = int(low[band][0])
        lines = np.ascontiguousarray(probs[first : int(high[band][-1]) + 1], np.float32)
        # Only columns are interpolated here, so bands leave no trace.
        wide = cv2.resize(lines, (width, len(lines)), interpolation=cv2.INTER_LINEAR)
        wide = wide.reshape(len(lines), width, -1)
        rows = wide[low[band] - first] * (1 - down) + wide[high[band] - first] * down
        yield top, np.asarray(rows, np.float32)
