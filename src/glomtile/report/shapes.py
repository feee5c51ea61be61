"""SVG paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_CHARACTERS = 40_000
"""Of one path; a mask of more detail is drawn more coarsely, and at last without its smallest parts."""

_COARSER = (1.0, 2.0, 4.0, 8.0)
_FEWEST_POINTS = 3


def mask_path(mask: NDArray[np.bool_], tolerance_px: float, most: int = MOST_CHARACTERS) -> str:
    """The outlines of a mask, holes included, to be filled by the even-odd rule.

    Parameters
    ----------
    mask : (H, W) bool ndarray
    tolerance_px : float
        How far a line may be from the pixels' centres.
    most : int
        Characters at most.

    Returns
    -------
    str
        An SVG path in pixels of the mask, their corners at integers; empty for an empty mask. Specks, which
        have no inside, are drawn as the rectangle of their pixels.
    """
    if not mask.any():
        return ""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts: list[str] = []
    for coarser in _COARSER:
        parts = [_part(contour, tolerance_px * coarser) for contour in contours]
        if sum(map(len, parts)) <= most:
            return "".join(parts)
    parts = [part for _, part in sorted(zip(contours, parts, strict=True), key=lambda one: -len(one[0]))]
    ends = np.cumsum([len(part) for part in parts])
    return "".join(parts[: int(np.searchsorted(ends, most, side="right"))])


def ring_path(rings: Sequence[NDArray[np.float64]]) -> str:
    """Closed rings ``(N, 2)``, x and y, as an SVG path, rounded to whole pixels."""
    return "".join(_written(np.rint(ring).astype(np.int64)) for ring in rings)


def _part(contour: Any, tolerance_px: float) -> str:
    points = cv2.approxPolyDP(contour, tolerance_px, closed=True)[:, 0]
    if len(points) < _FEWEST_POINTS:
        x, y, width, height = cv2.boundingRect(contour)
        return f"M{x} {y}h{width}v{height}h-{width}z"
    return _written(points.astype(np.int64))


def _written(points: NDArray[np.int64]) -> str:
    """Relative steps: they are shorter than places."""
    steps = np.diff(points, axis=0)
    body = " ".join(f"{dx} {dy}" for dx, dy in steps.tolist())
    return f"M{points[0][0]} {points[0][1]}l{body}z" if len(steps) else ""
