"""Postprocessing of labels: small objects, holes, splitting and smoothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.labelling import exact_distance, find_objects
from glomtile.objects.watershed import watershed
from glomtile.types import Float32

_LOOK_PX = 96
"""Longest side of the picture in which necks are looked for: how deep one is does not depend on scale."""

_ROUGHNESS = 0.06
"""Standard deviation of the blur that takes the outline's noise out of the distances, in largest radii."""

_FLOOR = 1e-3
"""Height outside the object, where the logarithm has no value, in largest heights."""

_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class ShapingRules:
    """How raw regions of a class become objects.

    Attributes
    ----------
    fill_holes_um2 : float or None
        Holes up to this area are filled; ``None`` fills all, 0 none. What is open to the outside of the
        region's box, the picture's edge included, is no hole.
    min_area_um2 : float
        Smaller objects are left out.
    split : bool
        Whether objects that touch are parted.
    split_depth : float
        How deep the neck between two parts must be, between 0 and 1: they are parted where the neck's
        half-width is below ``1 - split_depth`` times the radius of the smaller part.
    smooth_um : float
        Standard deviation of the Gaussian that smooths outlines.
    min_mean_probability : float
        Objects of a lower mean probability are left out; 0 to 1.
    convex : bool
        Whether an object is taken for its convex hull, as far as no other has a claim to it.

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


def shape(mask: NDArray[np.bool_], mpp: float, rules: ShapingRules) -> list[NDArray[np.bool_]]:
    """Make objects of one raw region.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        The region's pixels in its box, 8-connected.
    mpp : float
        Micrometres per pixel.
    rules : ShapingRules

    Returns
    -------
    list of (h, w) bool ndarray
        The objects in the same box: disjoint, each 8-connected, in the order of their first pixels; empty
        when nothing is large enough.
    """
    ids, count = numbered_parts(mask, mpp, rules)
    return [ids == number for number in range(1, count + 1)]


def numbered_parts(mask: NDArray[np.bool_], mpp: float, rules: ShapingRules) -> tuple[NDArray[np.int32], int]:
    """Do what `shape` does, with all objects in one plane.

    Parameters
    ----------
    mask, mpp, rules
        As in `shape`.

    Returns
    -------
    ids : (h, w) int32 ndarray
        0 outside, 1 to `count` in the objects, in the order of their first pixels.
    count : int
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
    if up_to_px is not None and up_to_px < 1:
        return mask.copy()
    outside = (~np.pad(mask, 1)).view(np.uint8)
    _, ids, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=4, ltype=cv2.CV_32S)
    areas = stats[:, cv2.CC_STAT_AREA]
    is_filled = np.ones(len(areas), bool) if up_to_px is None else areas <= up_to_px
    is_filled[0], is_filled[ids[0, 0]] = True, False
    return np.asarray(is_filled[ids[1:-1, 1:-1]], dtype=np.bool_)


def convex_hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the bays of an object.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        8-connected, with a pixel in its first and in its last row.

    Returns
    -------
    (h, w) bool ndarray
        The pixels whose centres lie in the convex hull of the mask's pixels' centres, its rim included.
    """
    width = mask.shape[1]
    first = np.argmax(mask, axis=1)
    beyond = np.argmax(mask[:, ::-1], axis=1)
    low, high = _envelope(first), width - 1 - _envelope(beyond)
    # A rim that runs through a pixel's centre must not miss it by the last bit.
    columns = np.arange(width)
    return np.asarray((columns >= low[:, None] - 1e-6) & (columns <= high[:, None] + 1e-6), dtype=np.bool_)


def _envelope(values: NDArray[np.integer]) -> NDArray[np.float64]:
    """The largest convex function below values at 0, 1, 2, … (the lower half of Andrew's monotone chain)."""
    chain: list[tuple[int, int]] = []
    for x, y in enumerate(values.tolist()):
        while len(chain) > 1 and _not_below(chain[-2], chain[-1], (x, y)):
            chain.pop()
        chain.append((x, y))
    places, heights = np.array(chain, np.float64).T
    return np.asarray(np.interp(np.arange(len(values)), places, heights), dtype=np.float64)


def _not_below(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether `b` lies on or above the line from `a` to `c`."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def split_touching(mask: NDArray[np.bool_], depth: float, smallest_px: int) -> tuple[NDArray[np.int32], int]:
    """Part what touches where there is a deep neck.

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
    Summits of the distance to the outline are parts when the way from one to a higher one leads through a
    saddle of less than ``1 - depth`` times its height: the h-maxima (Soille 2004, section 6.3.5,
    doi 10.1007/978-3-662-05088-0) of the distance's logarithm. The parts are the watershed of the distance
    from these summits (Beucher and Meyer 1993).
    """
    distance = exact_distance(np.pad(mask, 1))[1:-1, 1:-1]
    summits = _summits(distance, depth)
    while len(summits) > 1:
        ids = watershed(distance, mask, summits)
        areas = np.bincount(ids.ravel(), minlength=len(summits) + 1)[1:]
        too_small = np.flatnonzero(areas < smallest_px)
        if not len(too_small):
            return _in_reading_order(ids, len(summits)), len(summits)
        smaller_half = too_small[np.argsort(areas[too_small], kind="stable")][: (len(too_small) + 1) // 2]
        summits = [summit for i, summit in enumerate(summits) if i not in smaller_half]
    return mask.astype(np.int32), 1


def _summits(distance: Float32, depth: float) -> list[tuple[int, int]]:
    """One pixel, row and column, for each part that a deep neck sets apart, the highest first."""
    factor = max(1, -(-max(distance.shape) // _LOOK_PX))
    seen = block_mean(distance, factor)
    sigma = max(0.5, _ROUGHNESS * float(seen.max()) / factor)
    smooth: Float32 = np.asarray(cv2.GaussianBlur(seen, (0, 0), sigma), dtype=np.float32)
    height = np.log(np.maximum(smooth, _FLOOR * float(smooth.max())))
    # One peak stays one, however deep the necks must be; most objects have no second.
    if find_objects(plateaus(height)).count == 1:
        return [_highest_in_cell(distance, _highest(smooth, np.ones(smooth.shape, np.bool_)), factor)]
    peaks = find_objects(plateaus(flooded(height + math.log(1 - depth), height)))
    places = [_highest(smooth, peaks.ids == number) for number in range(1, peaks.count + 1)]
    places.sort(key=lambda place: (-float(smooth[place]), place))
    return [_highest_in_cell(distance, place, factor) for place in places]


def flooded(seed: NDArray[np.floating], ceiling: NDArray[np.floating]) -> NDArray[np.floating]:
    """Let a seed rise into its neighbourhood as far as a ceiling allows: reconstruction by dilation.

    Parameters
    ----------
    seed, ceiling : (h, w) ndarray of float32 or float64
        ``seed <= ceiling`` everywhere.

    Returns
    -------
    (h, w) ndarray
        The highest value by which each pixel is 8-connected to a seed below the ceiling.

    Notes
    -----
    Vincent 1993, doi 10.1109/83.217222. The same to the last bit as scikit-image's ``reconstruction``, whose
    import brings half of SciPy and costs more than a small picture's whole segmentation.
    """
    while True:
        risen = np.minimum(cv2.dilate(seed, _AROUND, borderType=cv2.BORDER_REPLICATE), ceiling)
        if np.array_equal(risen, seed):
            return np.asarray(risen)
        seed = risen


def plateaus(plane: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Pixels of 8-connected areas of one value that no higher pixel touches; none where all is one value."""
    around = cv2.dilate(plane, _AROUND, borderType=cv2.BORDER_REPLICATE)
    slope = plane < around
    if not slope.any():
        return slope
    while True:
        # A pixel beside one of its own value that something higher touches is no summit either.
        foot = cv2.dilate(np.where(slope, plane, -np.inf), _AROUND, borderType=cv2.BORDER_REPLICATE)
        wider = slope | (foot == plane)
        if np.array_equal(wider, slope):
            return np.asarray(~slope, dtype=np.bool_)
        slope = wider


def block_mean(plane: NDArray[np.generic], factor: int) -> Float32:
    """Shrink a plane to the means of its cells.

    Parameters
    ----------
    plane : (h, w) ndarray of bool, uint8 or float32
    factor : int
        Side of a cell, at least 1.

    Returns
    -------
    (ceil(h / factor), ceil(w / factor)) float32 ndarray
        The last cells count as 0 what lies beyond the plane.
    """
    height, width = (-(-side // factor) for side in plane.shape)
    margin = [(0, height * factor - plane.shape[0]), (0, width * factor - plane.shape[1])]
    wide = np.pad(plane, margin).astype(np.float32)
    return np.asarray(cv2.resize(wide, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _highest(height: Float32, where: NDArray[np.bool_]) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(np.where(where, height, -np.inf))), height.shape)
    return int(row), int(column)


def _highest_in_cell(distance: Float32, place: tuple[int, int], factor: int) -> tuple[int, int]:
    top, left = place[0] * factor, place[1] * factor
    cell = distance[top : top + factor, left : left + factor]
    row, column = np.unravel_index(int(np.argmax(cell)), cell.shape)
    return top + int(row), left + int(column)


def _in_reading_order(ids: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Number parts by their first pixels."""
    present, firsts = np.unique(ids, return_index=True)
    firsts = firsts[present > 0]
    numbers = np.zeros(count + 1, np.int32)
    numbers[1 + np.argsort(firsts)] = np.arange(1, count + 1)
    return np.asarray(numbers[ids], dtype=np.int32)
