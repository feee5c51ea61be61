"""Measurements of objects from their outlines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.contours import Sides
from glomtile.types import Box, UInt8


@dataclass(frozen=True)
class Measures:
    """Measurements of one object.

    Attributes
    ----------
    area_um2 : float
        Area of its pixels.
    perimeter_um : float
        Length of its outline, the rims of holes included.
    equivalent_diameter_um : float
        Diameter of the disc of the same area.
    feret_max_um, feret_min_um : float
        Largest and smallest distance of two parallel lines that hold the outline between them.
    circularity : float
        4 pi area / perimeter² of the outline, 1 for a disc, at most 1.
    eccentricity : float
        Of the ellipse with the same second moments, 0 (disc) to 1 (line).
    solidity : float
        Area of the outline over the area of its convex hull, 0 to 1.
    centroid_x_px, centroid_y_px : float
        Mean of its pixels' centres in the plane; the centre of pixel ``(0, 0)`` is ``(0.5, 0.5)``.
    mean_probability, min_probability : float
        0 to 1, over its pixels of that predicted class, without filled holes; NaN without any.
    touches_border : bool
        Whether it reaches the edge of the image, beyond which it may continue.
    touches_tissue_edge : bool
        Whether a pixel of it is on glass or next to it, corners included.
    """

    area_um2: float
    perimeter_um: float
    equivalent_diameter_um: float
    feret_max_um: float
    feret_min_um: float
    circularity: float
    eccentricity: float
    solidity: float
    centroid_x_px: float
    centroid_y_px: float
    mean_probability: float
    min_probability: float
    touches_border: bool
    touches_tissue_edge: bool


def measure(
    mask: NDArray[np.bool_],
    box: Box,
    polygon: shapely.Polygon,
    confidence: UInt8,
    mpp: float,
    image_edge: Sides = Sides(),  # noqa: B008  (a tuple, nothing to share)
    glass: NDArray[np.bool_] | None = None,
    called: NDArray[np.bool_] | None = None,
) -> Measures:
    """Measure one object.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        Its pixels; at least one.
    box : Box
        Place of the mask in the plane.
    polygon : shapely.Polygon
        Its outline in the plane, as of `glomtile.objects.contours.outline_polygon`.
    confidence : (h, w) uint8 ndarray
        Probability of the pixels' class, 0 to 255 for 0 to 1.
    mpp : float
        Micrometres per pixel.
    image_edge : Sides, optional
        Sides of the mask on which it reaches the edge of the image; none by default.
    glass : (h + 2, w + 2) bool ndarray, optional
        Where there is no tissue, in the box grown by one pixel on every side; False beyond the image.
        Without it no object touches the tissue's edge.
    called : (h, w) bool ndarray, optional
        Pixels whose confidence is that of the object's class; all by default.

    Returns
    -------
    Measures

    Raises
    ------
    InputError
        When the mask is empty, or mask, box, confidence and glass do not fit together.
    """
    _check(mask, box, confidence, glass)
    area = int(np.count_nonzero(mask))
    row, column, eccentricity = _moments(mask)
    feret_max, feret_min = _feret_px(polygon)
    hull_area, length = polygon.convex_hull.area, polygon.length
    chances = confidence[mask if called is None else mask & called]
    return Measures(
        area_um2=area * mpp**2,
        perimeter_um=length * mpp,
        equivalent_diameter_um=2 * math.sqrt(area / math.pi) * mpp,
        feret_max_um=feret_max * mpp,
        feret_min_um=feret_min * mpp,
        circularity=min(1.0, 4 * math.pi * polygon.area / length**2),
        eccentricity=eccentricity,
        solidity=min(1.0, polygon.area / hull_area),
        centroid_x_px=box.left + column + 0.5,
        centroid_y_px=box.top + row + 0.5,
        mean_probability=float(chances.mean(dtype=np.float64)) / 255 if chances.size else float("nan"),
        min_probability=float(chances.min()) / 255 if chances.size else float("nan"),
        touches_border=any(image_edge),
        touches_tissue_edge=glass is not None and _is_beside(mask, glass),
    )


def _check(mask: NDArray[np.bool_], box: Box, confidence: UInt8, glass: NDArray[np.bool_] | None) -> None:
    height, width = mask.shape
    if (height, width) != (box.height, box.width) or confidence.shape != mask.shape:
        raise InputError(
            "measure",
            f"expected two planes of {(box.height, box.width)}, got {mask.shape}, {confidence.shape}",
        )
    if glass is not None and glass.shape != (height + 2, width + 2):
        raise InputError("measure", f"expected glass of {(height + 2, width + 2)}, got {glass.shape}")
    if not mask.any():
        raise InputError("measure", "expected a mask with at least one pixel, got an empty one")


def _moments(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return centroid row and column, and eccentricity, of the pixels' centres."""
    rows, columns = mask.sum(axis=1, dtype=np.float64), mask.sum(axis=0, dtype=np.float64)
    area = rows.sum()
    r, c = np.arange(len(rows)), np.arange(len(columns))
    row, column = float(rows @ r / area), float(columns @ c / area)
    rr = float(rows @ (r - row) ** 2 / area)
    cc = float(columns @ (c - column) ** 2 / area)
    rc = float((r - row) @ (mask @ (c - column)) / area)
    spread = math.sqrt(4 * rc**2 + (rr - cc) ** 2)
    major, minor = (rr + cc + spread) / 2, (rr + cc - spread) / 2
    return row, column, math.sqrt(max(0.0, 1 - minor / major)) if major > 0 else 0.0


def _feret_px(polygon: shapely.Polygon) -> tuple[float, float]:
    """Return the largest and smallest width of the convex hull; the smallest is square to an edge."""
    x, y = shapely.get_coordinates(polygon.convex_hull)[:-1].T
    away_x, away_y = x - x[:, None], y - y[:, None]
    dx, dy = (np.roll(along, -1) - along for along in (x, y))
    widths = np.abs(away_y * dx[:, None] - away_x * dy[:, None]).max(axis=1) / np.hypot(dx, dy)
    return float(np.hypot(away_x, away_y).max()), float(widths.min())


def _is_beside(mask: NDArray[np.bool_], glass: NDArray[np.bool_]) -> bool:
    grown = cv2.dilate(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8))
    return bool((grown.astype(bool) & glass).any())
