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

_WHOLE = 1e-9
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
    if all(abs(z - round(z)) < _WHOLE and z >= 1 for z in zoom):
        whole = _whole_cells(source, spans, wanted, (round(zoom[0]), round(zoom[1])))
        if whole is not None:
            return whole
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


def _whole_cells(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[int, int]
) -> UInt8 | None:
    """The same for whole factors and cells wholly inside the source; ``None`` where these are not given."""
    exact = all(
        span.start == want.start * z and span.stop == want.stop * z
        for span, want, z in zip(spans, wanted, zoom, strict=True)
    )
    if not exact:
        return None
    if zoom == (1, 1):
        return source
    size = wanted[1].length, wanted[0].length
    return np.asarray(cv2.resize(source, size, interpolation=cv2.INTER_AREA), np.uint8)


def _weights(span: Span, wanted: Span, zoom: float) -> sparse.csr_matrix[Any]:
    """``(wanted, source)``: what each source pixel gives to each wanted one; rows sum to 1."""
    from scipy import sparse

    at = np.arange(wanted.start, wanted.stop, dtype=np.float64)
    if zoom >= 1:
        low, high = at * zoom, (at + 1) * zoom
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
