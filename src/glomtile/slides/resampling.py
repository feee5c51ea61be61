"""Exact resampling of image windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.tiling.grid import Span
from glomtile.types import Float32, UInt8

_BAND_PX = 2 * 2**20
"""Most source pixels held as floats at once."""

_CACHED = 2**16
"""Values summed at once, so that they stay in the processor's cache."""


def source_span(wanted: Span, zoom: float, length_px: int) -> Span:
    """Return the source pixels needed for the pixels of `wanted`, on an axis of `length_px` source pixels."""
    if zoom >= 1:
        start, stop = math.floor(wanted.start * zoom), math.ceil(wanted.stop * zoom)
    else:
        start, stop = (
            math.floor((wanted.start + 0.5) * zoom - 0.5),
            math.floor((wanted.stop - 0.5) * zoom - 0.5) + 2,
        )
    start = min(max(start, 0), length_px - 1)
    return Span(start, min(max(stop, start + 1), length_px))


def resample(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[float, float]
) -> UInt8:
    """Resample part of an image.

    Parameters
    ----------
    source : (h, w, 3) uint8 ndarray
        The source pixels of `spans`.
    spans, wanted : (Span, Span)
        Rows and columns of `source`, see `source_span`, and of the result.
    zoom : (float, float)
        Source pixels per pixel of the result, down and across. Pixel ``c`` of the result covers source
        positions ``c * zoom`` to ``(c + 1) * zoom``, counted from the image's corner.

    Returns
    -------
    (h', w', 3) uint8 ndarray
        Averaged over that area where zoom is at least 1, else linear between pixels' centres. Pixels outside
        the source have no weight. A pixel's value does not depend on `wanted`.
    """
    size = wanted[0].length, wanted[1].length
    result = np.empty((*size, 3), np.uint8)
    high, wide = _whole_cells(source, spans, wanted, zoom, result)
    rest_down = Span(wanted[0].start + high, wanted[0].stop)
    rest_across = Span(wanted[1].start + wide, wanted[1].stop)
    if rest_down.length:
        result[high:] = _weighted(source, spans, (rest_down, wanted[1]), zoom)
    if rest_across.length and high:
        above = Span(wanted[0].start, rest_down.start)
        result[:high, wide:] = _weighted(source, spans, (above, rest_across), zoom)
    return result


def _whole_cells(
    source: UInt8,
    spans: tuple[Span, Span],
    wanted: tuple[Span, Span],
    zoom: tuple[float, float],
    result: UInt8,
) -> tuple[int, int]:
    """Fill in the cells wholly inside the source where both factors are whole, and return their numbers.

    Cells cut by the edge are left out, so that a cell is always computed in the same way.
    """
    if not all(_is_whole(z) for z in zoom):
        return 0, 0
    if not all(span.start == want.start * z for span, want, z in zip(spans, wanted, zoom, strict=True)):
        return 0, 0
    (down, across), (high, wide) = (round(zoom[0]), round(zoom[1])), result.shape[:2]
    high, wide = min(high, spans[0].length // down), min(wide, spans[1].length // across)
    if not high or not wide:
        return 0, 0
    cells = source[: high * down, : wide * across]
    if (down, across) == (1, 1):
        result[:high, :wide] = cells
    else:
        result[:high, :wide] = cv2.resize(cells, (wide, high), interpolation=cv2.INTER_AREA)
    return high, wide


def _is_whole(zoom: float) -> bool:
    """Return whether OpenCV averages whole cells: it computes ``1 / (1 / zoom)``, which is inexact at 49."""
    return zoom >= 1 and zoom == round(zoom) and 1 / (1 / zoom) == zoom


@dataclass(frozen=True, eq=False)
class _Mixture:
    """Source pixels and their weights for each wanted pixel of an axis.

    Attributes
    ----------
    taps : (wanted, t) int64 ndarray
        Source pixels, counted from the first one of the source, from low to high.
    shares : (wanted, t) float32 ndarray
        Their weights; rows sum to 1. A tap outside the source repeats another with weight 0.
    """

    taps: NDArray[np.int64]
    shares: Float32

    def of(self, lines: Float32, first: int = 0) -> Float32:
        """Mix lines ``(n, m)`` that start at source pixel `first`, always in the order of the taps."""
        mixed = np.empty((len(self.taps), lines.shape[1]), np.float32)
        step = max(1, _CACHED // lines.shape[1])
        for top in range(0, len(mixed), step):
            taps, shares = self.taps[top : top + step] - first, self.shares[top : top + step, :, None]
            part = mixed[top : top + step]
            np.multiply(lines[taps[:, 0]], shares[:, 0], out=part)
            for tap in range(1, taps.shape[1]):
                line = lines[taps[:, tap]]
                line *= shares[:, tap]
                part += line
        return mixed

    def rows(self, start: int, stop: int) -> _Mixture:
        return _Mixture(self.taps[start:stop], self.shares[start:stop])


def _weighted(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[float, float]
) -> UInt8:
    """Resample by any factor, some rows at a time."""
    down, across = (_mixture(spans[i], wanted[i], zoom[i]) for i in (0, 1))
    height, width = wanted[0].length, wanted[1].length
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, int(_BAND_PX / max(source.shape[1] * max(zoom[0], 1.0), 1)))
    for top in range(0, height, step):
        part = down.rows(top, top + step)
        first, last = int(part.taps.min()), int(part.taps.max()) + 1
        lines = source[first:last].reshape(last - first, -1).astype(np.float32)
        tall = part.of(lines, first).reshape(len(part.taps), source.shape[1], 3)
        turned = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(source.shape[1], -1)
        small = across.of(turned).reshape(width, len(part.taps), 3).transpose(1, 0, 2)
        result[top : top + step] = np.rint(small)
    return result


def _mixture(span: Span, wanted: Span, zoom: float) -> _Mixture:
    """Compute the weights of the source pixels of `span` for those of `wanted`."""
    at = np.arange(wanted.start, wanted.stop, dtype=np.float64)
    if zoom >= 1:
        # A level that was rounded down ends before the slide: pixels beyond it repeat its last one.
        low, high = np.minimum(at * zoom, span.stop - 1), (at + 1) * zoom
        first = np.floor(low).astype(np.int64)
        taps = first[:, None] + np.arange(math.ceil(zoom) + 1)
        share = np.minimum(taps + 1, high[:, None]) - np.maximum(taps, low[:, None])
        share = np.where((taps >= span.start) & (taps < span.stop), np.maximum(share, 0.0), 0.0)
    else:
        centre = (at + 0.5) * zoom - 0.5
        first = np.floor(centre).astype(np.int64)
        taps = first[:, None] + np.arange(2)
        share = 1 - np.abs(taps - centre[:, None])
    share /= share.sum(axis=1, keepdims=True)
    return _Mixture(np.clip(taps, span.start, span.stop - 1) - span.start, share.astype(np.float32))
