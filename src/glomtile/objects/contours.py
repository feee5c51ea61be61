"""Contours of labelled objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.types import Box, Float32

_SIMPLIFIED_BY_PX = 0.15
_BRIDGE_PX = 0.05
_LEVELS = (0.2, 0.8)
_TRIES = 5
_AREA_OFF = 0.01
"""Relative error of the enclosed area above which another of five level lines is tried."""

_AREA_LOST = 0.02
"""Share of its area that an object may lose before a weaker blur is tried."""

_GENTLER = (1.0, 0.5, 0.25)


class Sides(NamedTuple):
    """Sides of a mask's box that are edges of the image."""

    top: bool = False
    left: bool = False
    bottom: bool = False
    right: bool = False

    @classmethod
    def of(cls, box: Box, size_px: tuple[int, int]) -> Sides:
        """Return the sides on which a box reaches the edge of an image of `size_px` ``(H, W)``."""
        return cls(box.top <= 0, box.left <= 0, box.bottom >= size_px[0], box.right >= size_px[1])


def outline_polygon(
    mask: NDArray[np.bool_],
    origin: tuple[int, int] = (0, 0),
    smooth_px: float = 0.0,
    image_edge: Sides = Sides(),  # noqa: B008  (a tuple, nothing to share)
) -> shapely.Polygon | None:
    """Trace the outline of one object.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        The object's pixels, 8-connected.
    origin : (int, int)
        Row and column of the mask's first pixel in the plane.
    smooth_px : float
        Standard deviation of the Gaussian that rounds the pixel steps, at least 0; a small object is rounded
        by at most a quarter of its radius. 0 follows the pixels' edges.
    image_edge : Sides
        Sides of the mask that are the image's edge: the object continues beyond it, so its straight cut
        is kept.

    Returns
    -------
    shapely.Polygon or None
        Valid, holes included, the exterior counter-clockwise in x right, y up; ``None`` for an empty mask.
        Points are ``(x, y)``; pixel corners are integers, so pixel ``(r, c)`` covers ``left + c`` to
        ``left + c + 1`` and ``top + r`` to ``top + r + 1``.

    Notes
    -----
    The smooth outline is the level line of the blurred mask (marching squares, Lorensen and Cline 1987,
    doi 10.1145/37402.37422) that encloses the mask's area: the level 0.5 of the
    blurred mask would shrink everything round. A mask that falls apart in blurring, so that its largest part
    has less than 98 % of the area, is blurred by a half, then by a quarter; one too thin for that gets
    the exact outline. In the exact outline, pixels that touch at a corner are joined by a bridge of 0.05 px,
    so that the polygon has the holes that the 8-connected mask has.
    """
    if not mask.any():
        return None
    polygon = _rounded(mask, smooth_px, image_edge) if smooth_px > 0 else None
    if polygon is None:
        polygon = _exact(mask)
    top, left = origin
    moved = shapely.transform(polygon, lambda points: points + np.array([left, top]))
    return shapely.orient_polygons(moved)


def _exact(mask: NDArray[np.bool_]) -> shapely.Polygon:
    """Union of the runs of every row."""
    padded = np.pad(mask, 1).astype(np.int8)
    steps = np.diff(padded, axis=1)[1:-1]
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    pieces = [shapely.box(starts, rows, ends, rows + 1)]
    square = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    falling = square[0] & square[3] & ~square[1] & ~square[2]
    rising = square[1] & square[2] & ~square[0] & ~square[3]
    corner_rows, corner_columns = np.nonzero(falling | rising)
    if len(corner_rows):
        corners = shapely.points(corner_columns + 1.0, corner_rows + 1.0)
        pieces.append(shapely.buffer(corners, _BRIDGE_PX, quad_segs=1))
    return largest_polygon(shapely.union_all(np.concatenate(pieces)))


def _rounded(mask: NDArray[np.bool_], smooth_px: float, image_edge: Sides) -> shapely.Polygon | None:
    """Return the smoothest outline that keeps the object's area; ``None`` where blurring divides it."""
    area = int(np.count_nonzero(mask))
    strongest = min(smooth_px, math.sqrt(area / math.pi) / 4)
    for share in _GENTLER:
        polygon = _smooth(mask, area, strongest * share, image_edge)
        if abs(polygon.area - area) <= _AREA_LOST * area:
            return polygon
    return None


def _smooth(mask: NDArray[np.bool_], area: int, sigma: float, image_edge: Sides) -> shapely.Polygon:
    """Trace the level line of the blurred mask, cut straight at the image's edge; empty without one."""
    field, pad = _blurred(mask, sigma, image_edge)
    height, width = mask.shape
    seen = np.s_[
        pad if image_edge.top else 0 : pad + height if image_edge.bottom else None,
        pad if image_edge.left else 0 : pad + width if image_edge.right else None,
    ]
    image = shapely.box(
        0.0 if image_edge.left else -float(pad),
        0.0 if image_edge.top else -float(pad),
        width if image_edge.right else width + float(pad),
        height if image_edge.bottom else height + float(pad),
    )
    low, high = _LEVELS
    level = _level_enclosing(field[seen], area)
    polygon = shapely.Polygon()
    for _ in range(_TRIES):
        polygon = _level_line(field, level)
        polygon = shapely.transform(polygon, lambda points: points + (0.5 - pad))
        if any(image_edge):
            polygon = largest_polygon(shapely.intersection(polygon, image))
        if abs(polygon.area - area) <= _AREA_OFF * area:
            break
        low, high = (level, high) if polygon.area > area else (low, level)
        level = (low + high) / 2
    if polygon.is_empty:
        return polygon
    tolerance = min(_SIMPLIFIED_BY_PX, polygon.area / polygon.length / 100)
    simpler = shapely.simplify(polygon, tolerance, preserve_topology=True)
    return largest_polygon(simpler if simpler.is_valid else shapely.make_valid(simpler))


def _blurred(mask: NDArray[np.bool_], sigma: float, image_edge: Sides) -> tuple[Float32, int]:
    """Blur the mask on a margin that continues it at the image's edge and is 0 elsewhere; rim 0."""
    reach = max(2, math.ceil(4 * sigma))
    pad = reach + 2
    wide = np.pad(mask, pad).astype(np.float32)
    if image_edge.top:
        wide[:pad] = wide[pad]
    if image_edge.bottom:
        wide[-pad:] = wide[-pad - 1]
    if image_edge.left:
        wide[:, :pad] = wide[:, pad : pad + 1]
    if image_edge.right:
        wide[:, -pad:] = wide[:, -pad - 1 : -pad]
    blurred = cv2.GaussianBlur(wide, (2 * reach + 1, 2 * reach + 1), sigma, borderType=cv2.BORDER_REPLICATE)
    blurred[[0, -1]] = 0
    blurred[:, [0, -1]] = 0
    return np.asarray(blurred, dtype=np.float32), pad


def _level_enclosing(field: Float32, pixels: int) -> float:
    """Return the level above which the field has `pixels` pixels, halfway to the next value."""
    values = field[field > _LEVELS[0] / 2]
    if len(values) <= pixels:
        return _LEVELS[0]
    ordered = np.partition(values, (len(values) - pixels - 1, len(values) - pixels))
    between = (float(ordered[len(values) - pixels - 1]) + float(ordered[len(values) - pixels])) / 2
    return min(max(between, _LEVELS[0]), _LEVELS[1])


def _level_line(field: Float32, level: float) -> shapely.Polygon:
    """Return the largest area above a level, its holes cut out; empty if none. The field's rim is below."""
    from skimage.measure import find_contours

    # In float64, as the level: a float32 plane would round it before it compares.
    rings = [ring[:, ::-1] for ring in find_contours(field.astype(np.float64), level) if len(ring) > 3]
    solids = [shapely.make_valid(shapely.Polygon(ring)) for ring in rings if _encloses_high(ring)]
    holes = [shapely.make_valid(shapely.Polygon(ring)) for ring in rings if not _encloses_high(ring)]
    return largest_polygon(shapely.difference(shapely.union_all(solids), shapely.union_all(holes)))


def _encloses_high(ring: NDArray[np.float64]) -> bool:
    """Distinguish an outer ring from a hole by its direction, the sign of its area."""
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return bool(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0)


def largest_polygon(shape: shapely.Geometry) -> shapely.Polygon:
    """Return the largest polygon of a union or repair; the first of equals."""
    polygons = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    nested = [part for part in shapely.get_parts(shape) if part.geom_type == "MultiPolygon"]
    polygons += [inner for part in nested for inner in part.geoms]
    return max(polygons, key=lambda part: part.area, default=shapely.Polygon())
