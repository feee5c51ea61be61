"""How part of a picture comes to another scale: exact averages over areas, the same however it is cut up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from glomtile.core.grid import Span
from glomtile.types import UInt8

if TYPE_CHECKING:
    from scipy import sparse

_BAND_PX = 2 * 2**20
"""Most source pixels that are held as floats at once."""


def source_span(wanted: Span, zoom: float, length_px: int) -> Span:
    """The source pixels that the pixels of `wanted` are made of, on an axis of `length_px` source pixels."""
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
    """Bring part of a picture to another scale.

    Parameters
    ----------
    source : (h, w, 3) uint8 ndarray
        The source pixels of `spans`.
    spans, wanted : (Span, Span)
        Rows and columns of the source that are given, see `source_span`, and of the result that are wanted.
    zoom : (float, float)
        Source pixels per pixel of the result, down and across. Pixel ``c`` of the result covers source
        positions ``c * zoom`` to ``(c + 1) * zoom``, counted from the picture's corner.

    Returns
    -------
    (h', w', 3) uint8 ndarray
        Averaged over that area where zoom is at least 1, else linear between pixels' centres. What lies
        beyond the source counts for nothing. A pixel's value does not depend on which others are wanted.
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
    """Fill in the cells wholly inside the source where both factors are whole; how many down and across.

    Notes
    -----
    Cells cut by the edge are left out, so that a cell is always made the same way, whatever is beside it.
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
    """Whether OpenCV adds up whole cells: it finds the factor as ``1 / (1 / zoom)``, which misses at 49."""
    return zoom >= 1 and zoom == round(zoom) and 1 / (1 / zoom) == zoom


def _weighted(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[float, float]
) -> UInt8:
    """The same for any factor, by two products with weights, some rows at a time."""
    down, across = (_weights(spans[i], wanted[i], zoom[i]) for i in (0, 1))
    height, width = wanted[0].length, wanted[1].length
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, int(_BAND_PX / max(source.shape[1] * max(zoom[0], 1.0), 1)))
    for top in range(0, height, step):
        part = down[top : top + step]
        used = np.flatnonzero(np.diff(part.tocsc().indptr))
        first, last = int(used[0]), int(used[-1]) + 1
        lines = source[first:last].reshape(last - first, -1).astype(np.float32)
        tall = (part[:, first:last] @ lines).reshape(part.shape[0], source.shape[1], 3)
        turned = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(source.shape[1], -1)
        small = (across @ turned).reshape(width, part.shape[0], 3).transpose(1, 0, 2)
        result[top : top + step] = np.rint(small)
    return result


def _weights(span: Span, wanted: Span, zoom: float) -> sparse.csr_matrix[Any]:
    """``(wanted, source)``: what each source pixel gives to each wanted one; rows sum to 1."""
    from scipy import sparse

    at = np.arange(wanted.start, wanted.stop, dtype=np.float64)
    if zoom >= 1:
        # A level that was rounded down ends before the slide: what begins behind it repeats its last pixel.
        low, high = np.minimum(at * zoom, span.stop - 1), (at + 1) * zoom
        first = np.floor(low).astype(np.int64)
        taps = first[:, None] + np.arange(math.ceil(zoom) + 1)
        share = np.minimum(taps + 1, high[:, None]) - np.maximum(taps, low[:, None])
    else:
        centre = (at + 0.5) * zoom - 0.5
        first = np.floor(centre).astype(np.int64)
        taps = first[:, None] + np.arange(2)
        share = 1 - np.abs(taps - centre[:, None])
        taps = np.clip(taps, span.start, span.stop - 1)
    share = np.where((taps >= span.start) & (taps < span.stop), np.maximum(share, 0.0), 0.0)
    share /= share.sum(axis=1, keepdims=True)
    kept = share > 0
    rows = np.broadcast_to(np.arange(len(at))[:, None], taps.shape)
    values = share[kept].astype(np.float32), (rows[kept], taps[kept] - span.start)
    matrix = sparse.coo_matrix(values, shape=(len(at), span.length)).tocsr()
    matrix.sort_indices()
    return matrix
