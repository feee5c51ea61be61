"""Segmentation of whole images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import UsageError
from glomtile.inference.predictor import MeasuredPredictor, largest_window
from glomtile.io.images import ArrayReader
from glomtile.io.resolution import resize_to_mpp
from glomtile.tiling.blending import Blend
from glomtile.tiling.grid import Plan, plan_windows, round_up
from glomtile.tiling.sliding_window import TiledRun, predict_tiled
from glomtile.types import SILENT, Float32, Predictor, Progress, UInt8

_BAND_ROWS = 256


class TiledSettings(Protocol):
    """What tiling asks of a config; the section [tiledinfer] has it."""

    @property
    def split_size(self) -> int: ...

    @property
    def overlapping(self) -> int: ...

    @property
    def window(self) -> int | Literal["auto"] | None: ...

    @property
    def blend(self) -> Blend: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def memory_mb(self) -> int: ...


@dataclass(frozen=True)
class Tiling:
    """`TiledSettings` for who has no config; the names and defaults are the config's."""

    split_size: int = 512
    overlapping: int = 64
    window: int | Literal["auto"] | None = None
    blend: Blend = "hann"
    batch_size: int = 1
    memory_mb: int = 2048


@dataclass(frozen=True)
class Segmented:
    """A segmented picture.

    Attributes
    ----------
    labels : (H, W) uint8 ndarray
        Class numbers, at the picture's own size.
    probs : (h, w, K) float32 ndarray or None
        Probabilities at the network's scale, where they were asked for.
    run : TiledRun
    plan : Plan
        The windows, at the network's scale.
    """

    labels: UInt8
    probs: Float32 | None
    run: TiledRun
    plan: Plan


def tile_plan(
    size_px: tuple[int, int],
    predictor: Predictor,
    settings: TiledSettings,
    offset_px: tuple[int, int] = (0, 0),
) -> Plan:
    """The windows that the settings mean for a picture of some size.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` at the network's scale.
    predictor : Predictor
        Its stride is what windows are aligned to.
    settings : TiledSettings
        ``split_size`` is the side of the part of a window that is its own, ``overlapping`` what it reads
        beyond that on every side: a window reads ``split_size + 2 * overlapping`` pixels. A ``window`` given
        as a number is that sum instead, and what is its own is what the margins leave. All are rounded up to
        multiples of the network's stride. Windows are never larger than the picture and its margins need.
    offset_px : (int, int)
        Moves the grid; rounded down to multiples of the stride.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        When the margins leave nothing of the window, or ``window = "auto"`` cannot be had.

    Notes
    -----
    Reference §6.2: there a tile and its margins are shrunk to the network's input, so the network sees
    another scale than in training. Here both are read at the scale of training, and nothing is resampled.
    """
    stride = predictor.stride_px
    overlap = round_up(settings.overlapping, stride)
    window: int | tuple[int, int]
    if settings.window == "auto":
        if not isinstance(predictor, MeasuredPredictor):
            raise UsageError(
                'window = "auto"',
                f"expected a predictor that knows its memory per pixel, got {type(predictor).__name__}",
                hint="give the window as a number",
            )
        window = largest_window(predictor, settings.memory_mb, size_px, overlap, settings.batch_size)
    else:
        if settings.window is None:
            side = round_up(settings.split_size, stride) + 2 * overlap
        else:
            side = round_up(settings.window, stride)
        window = (_needed(side, size_px[0], overlap, stride), _needed(side, size_px[1], overlap, stride))
    aligned = (offset_px[0] // stride * stride, offset_px[1] // stride * stride)
    return plan_windows(size_px, window, overlap, stride, aligned)


def segment_image(
    image: UInt8,
    predictor: Predictor,
    settings: TiledSettings | None = None,
    image_mpp: float | None = None,
    *,
    offset_px: tuple[int, int] = (0, 0),
    keep_probs: bool = False,
    progress: Progress = SILENT,
) -> Segmented:
    """Segment a picture window by window at the network's own scale.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    predictor : Predictor
    settings : TiledSettings, optional
        See `tile_plan`; the defaults of `Tiling` when left out.
    image_mpp : float, optional
        Scale of the picture. Where it and the predictor's are known and differ, the network sees the picture
        resized to its own, and the probabilities are enlarged back (linear) before the class is chosen.
    offset_px : (int, int)
        Moves the grid of windows, at the network's scale.
    keep_probs : bool
        Return the probabilities too.
    progress : Progress

    Returns
    -------
    Segmented
    """
    size = (image.shape[0], image.shape[1])
    seen = image
    if image_mpp is not None and predictor.mpp is not None:
        seen = resize_to_mpp(image, image_mpp, predictor.mpp)
    reader = ArrayReader(seen, predictor.mpp)
    settings = settings or Tiling()
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
        reader, predictor, plan, take, blend=settings.blend, batch_size=settings.batch_size, progress=progress
    )
    if not same:
        assert probs is not None
        labels = enlarged_labels(probs, size)
    return Segmented(labels, probs if keep_probs else None, run, plan)


def segment_whole(image: UInt8, predictor: Predictor, input_px: tuple[int, int]) -> UInt8:
    """Segment a picture in one look, shrunk to the network's input.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    predictor : Predictor
    input_px : (int, int)
        ``(h, w)`` of the network's input; the picture is stretched to it, as the reference does.

    Returns
    -------
    (H, W) uint8 ndarray
        Class numbers at the picture's own size, from enlarged probabilities.
    """
    size = (image.shape[0], image.shape[1])
    shrinking = input_px[0] <= size[0] and input_px[1] <= size[1]
    way = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    seen = image if size == input_px else cv2.resize(image, input_px[::-1], interpolation=way)
    return enlarged_labels(predictor(np.ascontiguousarray(seen, np.uint8)[None])[0], size)


def choose_class(probs: Float32) -> UInt8:
    """The most probable class of each pixel, of equals the lower number."""
    # argmax over a last axis of two or three takes 20 times as long as these comparisons.
    best = np.asarray(probs[..., 1] > probs[..., 0], np.uint8)
    if probs.shape[-1] > 2:
        highest = np.maximum(probs[..., 0], probs[..., 1])
        for number in range(2, probs.shape[-1]):
            best[probs[..., number] > highest] = number
            np.maximum(highest, probs[..., number], out=highest)
    return best


def enlarged_labels(probs: Float32, size_px: tuple[int, int]) -> UInt8:
    """Labels at another size than their probabilities, which are interpolated linearly first.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray
    size_px : (int, int)
        ``(H, W)`` wanted.

    Returns
    -------
    (H, W) uint8 ndarray
    """
    if probs.shape[:2] == size_px:
        return choose_class(probs)
    labels = np.empty(size_px, np.uint8)
    if probs.shape[-1] == 2:
        # What is interpolated linearly may be subtracted first: half the work.
        ahead = probs[..., 1:] - probs[..., :1]
        for top, rows in resized_probs(ahead, size_px):
            np.greater(rows[..., 0], 0, out=labels[top : top + rows.shape[0]].view(np.bool_))
        return labels
    for top, rows in resized_probs(probs, size_px):
        labels[top : top + rows.shape[0]] = choose_class(rows)
    return labels


def resized_probs(probs: Float32, size_px: tuple[int, int]) -> Iterator[tuple[int, Float32]]:
    """Probabilities at another size, interpolated linearly, in bands from top to bottom.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray
    size_px : (int, int)
        ``(H, W)`` wanted.

    Yields
    ------
    top : int
    rows : (h, W, K) float32 ndarray
        Whole, they would take four bytes for each pixel and class.
    """
    height, width = size_px
    low, high, part = _neighbours(height, probs.shape[0])
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        down = part[band, None, None]
        first = int(low[band][0])
        lines = np.ascontiguousarray(probs[first : int(high[band][-1]) + 1], np.float32)
        # As many rows as before: only columns are interpolated, so bands do not show.
        wide = cv2.resize(lines, (width, len(lines)), interpolation=cv2.INTER_LINEAR)
        wide = wide.reshape(len(lines), width, -1)
        rows = wide[low[band] - first] * (1 - down) + wide[high[band] - first] * down
        yield top, np.asarray(rows, np.float32)


def _neighbours(new: int, old: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """For each new pixel's centre the old pixels before and behind it, and how far it is to the second."""
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)


def _needed(window_px: int, length_px: int, overlap_px: int, stride_px: int) -> int:
    return min(window_px, round_up(length_px + 2 * overlap_px, stride_px))
