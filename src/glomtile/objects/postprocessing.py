"""Postprocessing of labels: small objects, holes, splitting and hulls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.labelling import exact_distance, outline
from glomtile.types import Float32

_NECK_PX = 96
"""Longest side at which necks are searched: how deep one is does not depend on scale."""

_ROUGHNESS = 0.06
"""Standard deviation of the blur that takes the outline's noise out of the distances, in largest radii."""

_LOWEST = 1e-3
"""Height outside the object, where the logarithm has no value, in largest heights."""


@dataclass(frozen=True)
class ShapingRules:
    """Rules by which raw regions become objects.

    Attributes
    ----------
    fill_holes_um2 : float or None
        Holes up to this area are filled; ``None`` fills all, 0 none. Background that reaches the edge of
        the region's box is no hole.
    min_area_um2 : float
        Smaller objects are left out.
    split : bool
        Whether touching objects are split.
    split_depth : float
        Least depth of the neck between two parts, between 0 and 1: they are split where the neck's
        half-width is below ``1 - split_depth`` times the radius of the smaller part.
    smooth_um : float
        Standard deviation of the Gaussian that smooths outlines.
    min_mean_probability : float
        Objects of a lower mean probability are left out; 0 to 1.
    convex : bool
        Whether an object is its convex hull, less the pixels of other objects.

    Raises
    ------
    InputError
        When a number is out of its range.
    """

    fill_holes_um2: float | None = None
    min_area_um2: float = 1000.0
    split: bool = True
    split_depth: float = 0.3
    smooth_um: float = 2.0
    min_mean_probability: float = 0.0
    convex: bool = False

    def __post_init__(self) -> None:
        for name in ("fill_holes_um2", "min_area_um2", "smooth_um"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(name, f"expected a number of at least 0, got {value}")
        if not 0 < self.split_depth < 1:
            raise InputError("split_depth", f"expected a number between 0 and 1, got {self.split_depth}")
        if not 0 <= self.min_mean_probability <= 1:
            raise InputError(
                "min_mean_probability", f"expected a number from 0 to 1, got {self.min_mean_probability}"
            )


def shape_region(mask: NDArray[np.bool_], mpp: float, rules: ShapingRules) -> tuple[NDArray[np.int32], int]:
    """Make objects of one raw region: fill its holes, split it, drop what is too small.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        The region's pixels in its box, 8-connected.
    mpp : float
        Micrometres per pixel.
    rules : ShapingRules

    Returns
    -------
    ids : (h, w) int32 ndarray
        0 outside, 1 to `count` in the objects, each 8-connected, in the order of their first pixels.
    count : int
        0 when nothing is large enough.
    """
    smallest_px = rules.min_area_um2 / mpp**2
    filled = fill_holes(mask, None if rules.fill_holes_um2 is None else rules.fill_holes_um2 / mpp**2)
    area = int(np.count_nonzero(filled))
    if area == 0 or area < smallest_px:
        return np.zeros(mask.shape, np.int32), 0
    if not rules.split or area < 2 * smallest_px:
        return filled.astype(np.int32), 1
    return split_touching(filled, rules.split_depth, max(1, math.ceil(smallest_px)))


def fill_holes(mask: NDArray[np.bool_], up_to_px: float | None = None) -> NDArray[np.bool_]:
    """Fill the holes of an 8-connected region.

    Parameters
    ----------
    mask : (h, w) bool ndarray
    up_to_px : float, optional
        Larger holes stay; all are filled by default.

    Returns
    -------
    (h, w) bool ndarray
        A hole is a 4-connected piece of background that does not reach the mask's rim.
    """
    from scipy.ndimage import binary_fill_holes, label

    filled: NDArray[np.bool_] = binary_fill_holes(mask)
    if up_to_px is None:
        return filled
    holes, _ = label(filled & ~mask)
    is_small = np.bincount(holes.ravel()) <= up_to_px
    is_small[0] = False
    return np.asarray(mask | is_small[holes], dtype=np.bool_)


def convex_hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the bays of an object.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        At least one pixel.

    Returns
    -------
    (h, w) bool ndarray
        The pixels whose centres are in the convex hull of the mask's pixels' centres, its rim included.
    """
    hull = shapely.convex_hull(shapely.multipoints(np.argwhere(outline(mask))))
    shapely.prepare(hull)
    filled = mask.copy()
    filled[~mask] = shapely.intersects_xy(hull, *np.nonzero(~mask))
    return filled


def split_touching(mask: NDArray[np.bool_], depth: float, smallest_px: int) -> tuple[NDArray[np.int32], int]:
    """Split a region at its deep necks.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        8-connected.
    depth : float
        As `ShapingRules.split_depth`.
    smallest_px : int
        No part is cut off that has fewer pixels.

    Returns
    -------
    ids : (h, w) int32 ndarray
        0 outside the mask, 1 to `count` in its parts, each 8-connected, in the order of their first pixels.
    count : int

    Notes
    -----
    Peaks of the distance to the outline are parts when the way from one to a higher one leads through a
    saddle of less than ``1 - depth`` times its height: the h-maxima (Soille 2004, section 6.3.5,
    doi 10.1007/978-3-662-05088-0) of the distance's logarithm. The parts are the watershed of the distance
    from these peaks (Beucher and Meyer 1993). Of equal distances the first in reading order is the higher,
    so that there is one answer.
    """
    from skimage.segmentation import watershed

    distance = exact_distance(np.pad(mask, 1))[1:-1, 1:-1]
    peaks = _peaks(distance, depth)
    while len(peaks) > 1:
        order = np.empty(mask.size, np.int32)
        order[np.argsort(-distance, axis=None, kind="stable")] = np.arange(mask.size)
        markers = np.zeros(mask.shape, np.int32)
        for number, peak in enumerate(peaks, start=1):
            markers[peak] = number
            order[peak[0] * mask.shape[1] + peak[1]] = number - 1 - len(peaks)
        ids = watershed(order.reshape(mask.shape), markers, connectivity=2, mask=mask)
        areas = np.bincount(ids.ravel(), minlength=len(peaks) + 1)[1:]
        too_small = np.flatnonzero(areas < smallest_px)
        if not len(too_small):
            return _in_reading_order(ids, len(peaks)), len(peaks)
        smaller_half = too_small[np.argsort(areas[too_small], kind="stable")][: (len(too_small) + 1) // 2]
        peaks = [peak for i, peak in enumerate(peaks) if i not in smaller_half]
    return mask.astype(np.int32), 1


def _peaks(distance: Float32, depth: float) -> list[tuple[int, int]]:
    """Return one pixel, row and column, of each part behind a deep neck, the highest first."""
    from skimage.measure import label
    from skimage.morphology import local_maxima, reconstruction

    factor = max(1, -(-max(distance.shape) // _NECK_PX))
    small = _block_mean(distance, factor)
    sigma = max(0.5, _ROUGHNESS * float(small.max()) / factor)
    smooth: Float32 = np.asarray(cv2.GaussianBlur(small, (0, 0), sigma), dtype=np.float32)
    height = np.log(np.maximum(smooth, _LOWEST * float(smooth.max())))
    domes = label(local_maxima(reconstruction(height + math.log(1 - depth), height)))
    places = [_highest(smooth, domes == number) for number in range(1, int(domes.max()) + 1)]
    places.sort(key=lambda place: (-float(smooth[place]), place))
    return [_highest_in_cell(distance, place, factor) for place in places]


def _block_mean(plane: Float32, factor: int) -> Float32:
    """Shrink a plane to the means of its cells; what is beyond the plane counts as 0."""
    height, width = (-(-side // factor) for side in plane.shape)
    margin = [(0, height * factor - plane.shape[0]), (0, width * factor - plane.shape[1])]
    small = cv2.resize(np.pad(plane, margin), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def _highest(height: Float32, where: NDArray[np.bool_]) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(np.where(where, height, -np.inf))), height.shape)
    return int(row), int(column)


def _highest_in_cell(distance: Float32, place: tuple[int, int], factor: int) -> tuple[int, int]:
    top, left = place[0] * factor, place[1] * factor
    cell = distance[top : top + factor, left : left + factor]
    row, column = np.unravel_index(int(np.argmax(cell)), cell.shape)
    return top + int(row), left + int(column)


def _in_reading_order(ids: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Renumber parts in the order of their first pixels."""
    present, firsts = np.unique(ids, return_index=True)
    firsts = firsts[present > 0]
    numbers = np.zeros(count + 1, np.int32)
    numbers[1 + np.argsort(firsts)] = np.arange(1, count + 1)
    return np.asarray(numbers[ids], dtype=np.int32)
