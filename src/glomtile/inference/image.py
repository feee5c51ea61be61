"""Segmentation of whole images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.inference.window_size import TilingSettings, tile_plan
from glomtile.io.images import ArrayReader, resize_to_mpp
from glomtile.tiling.grid import Plan
from glomtile.tiling.sliding_window import TiledRun, predict_tiled
from glomtile.types import SILENT, Float32, Predictor, Progress, UInt8

_BAND_ROWS = 256


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
        See `glomtile.inference.window_size.tile_plan`.
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
    height, width = size_px
    low, high, part = _neighbours(height, probs.shape[0])
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


def _neighbours(new: int, old: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Return the old pixels before and behind each new pixel's centre, and its distance from the first."""
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)
