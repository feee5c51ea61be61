"""Connected components of label images, in memory and read in bands."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import Box, UInt8

Bands = Callable[[], Iterable[UInt8]]
"""A function that returns the same ``(h, w) uint8`` bands of labels, top to bottom, at each call."""

_BAND_PX = 4 * 2**20
"""Most pixels labelled at once: component numbers take four bytes each."""


@dataclass(frozen=True)
class Objects:
    """The 8-connected regions of one class in one image.

    Attributes
    ----------
    ids : (H, W) int32 ndarray
        0 outside, ``1..count`` inside the objects, in any order.
    areas_px : (count,) int64 ndarray
        Pixels of object ``i + 1``.
    boxes : tuple of Box
        Bounding box of object ``i + 1``.
    """

    ids: NDArray[np.int32]
    areas_px: NDArray[np.int64]
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        return len(self.boxes)


def find_objects(mask: NDArray[np.bool_]) -> Objects:
    """Split a mask into its 8-connected objects.

    Parameters
    ----------
    mask : (H, W) bool ndarray
        True inside the class; an empty mask has no objects.

    Returns
    -------
    Objects
    """
    if mask.size == 0:
        return Objects(np.zeros(mask.shape, np.int32), np.zeros(0, np.int64), ())
    ids, stats = _components(mask)
    inside = stats[1:]
    left, top = inside[:, cv2.CC_STAT_LEFT], inside[:, cv2.CC_STAT_TOP]
    right, bottom = left + inside[:, cv2.CC_STAT_WIDTH], top + inside[:, cv2.CC_STAT_HEIGHT]
    boxes = tuple(Box(*map(int, edges)) for edges in zip(top, left, bottom, right, strict=True))
    return Objects(ids, inside[:, cv2.CC_STAT_AREA].astype(np.int64), boxes)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have one of their four neighbours outside it.

    The outside of the image counts as outside, so a cut object is closed along the cut.

    Parameters
    ----------
    mask : (H, W) bool ndarray

    Returns
    -------
    (H, W) bool ndarray
    """
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def exact_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measure the distance of every pixel's centre to the nearest one outside the mask, exactly.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        The outside of the array does not count as outside.

    Returns
    -------
    (h, w) float32 ndarray
        In pixels, 0 outside; the nearest float to the true one up to 1,000 px. Undefined and large without a
        pixel outside.

    Notes
    -----
    OpenCV's square roots differ in the last bit with the place of a row in memory, which is enough to turn
    ties; their squares are whole numbers.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(distance, dtype=np.float64))), dtype=np.float32)


@dataclass(frozen=True)
class Region:
    """One 8-connected region of one class.

    Attributes
    ----------
    class_number : int
        At least 1; background makes no region.
    box : Box
        The smallest box around it, in pixels of the label image.
    seed : (int, int)
        Row and column of its first pixel in reading order; no two regions share one.
    """

    class_number: int
    box: Box
    seed: tuple[int, int]


def find_regions(bands: Iterable[UInt8], width_px: int, num_classes: int) -> Iterator[Region]:
    """Find the regions of a label image that is read in bands, top to bottom.

    Parameters
    ----------
    bands : iterable of (h, W) uint8 ndarray
        Class numbers; any heights.
    width_px : int
        Width of the image, at least 1.
    num_classes : int
        Number of classes, background included; labels from this number on (as `glomtile.types.IGNORE`)
        make no region.

    Yields
    ------
    Region
        In the order of their first pixels, each once neither it nor any earlier one can grow.

    Notes
    -----
    Every band is labelled on its own (`cv2.connectedComponentsWithStats`), and what touches across the seam
    to the row above it is joined. Memory grows with the band and with the regions that can still grow, never
    with the height.
    """
    growing = _GrowingRegions(width_px, num_classes)
    waiting: list[tuple[tuple[int, int], Region]] = []
    for band in bands:
        rows = max(1, _BAND_PX // width_px)
        for top in range(0, len(band), rows):
            for region in growing.add(band[top : top + rows]):
                heapq.heappush(waiting, (region.seed, region))
        first = min((region.seed for region in growing.regions), default=(growing.next_row, 0))
        while waiting and waiting[0][0] < first:
            yield heapq.heappop(waiting)[1]
    yield from sorted([*growing.regions, *(region for _, region in waiting)], key=lambda one: one.seed)


class _GrowingRegions:
    """Regions that reach the last row read."""

    def __init__(self, width_px: int, num_classes: int) -> None:
        self._num_classes = num_classes
        self.next_row = 0
        self.regions: list[Region] = []
        self._last_row = np.zeros(width_px, np.int64)
        """Per column: 0, or 1 + the position in `regions` of the region that ends the last band there."""

    def add(self, labels: UInt8) -> list[Region]:
        """Take the next band and return the regions that can no longer grow."""
        parts = list(self.regions)
        first_row, last_row = np.zeros_like(self._last_row), np.zeros_like(self._last_row)
        # A column of background separates its sides: what is between two such columns is labelled alone.
        filled = np.bitwise_or.reduce(labels, axis=0) > 0
        steps = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).view(np.int8)))
        for left, right in steps.reshape(-1, 2).tolist():
            for class_number in range(1, self._num_classes):
                mask = labels[:, left:right] == class_number
                if not mask.any():
                    continue
                ids, stats = _components(mask)
                for row, edge in ((first_row[left:right], ids[0]), (last_row[left:right], ids[-1])):
                    row[edge > 0] = edge[edge > 0] + len(parts)
                for number, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
                    row, column = self.next_row + y, left + x
                    seed = row, column + int(np.argmax(ids[y, x : x + width] == number))
                    parts.append(Region(class_number, Box(row, column, row + height, column + width), seed))
        seam = _touching(self._last_row, first_row)
        classes = np.array([0, *(part.class_number for part in parts)])
        roots = _joined(len(parts), seam[classes[seam[:, 0]] == classes[seam[:, 1]]])
        merged: dict[int, Region] = {}
        for root, part in zip(roots.tolist(), parts, strict=True):
            merged[root] = _merge(merged[root], part) if root in merged else part
        self.next_row += len(labels)
        at_edge = last_row > 0
        growing, positions = np.unique(roots[last_row[at_edge] - 1], return_inverse=True)
        self._last_row = np.zeros_like(last_row)
        self._last_row[at_edge] = positions + 1
        self.regions = [merged.pop(root) for root in growing.tolist()]
        return list(merged.values())


def own_pixels(bands: Bands, region: Region) -> Iterator[NDArray[np.bool_]]:
    """Find the pixels of a region in its box, band by band, in bounded memory.

    Parameters
    ----------
    bands : callable
        Returns the labels of the region's box, from its top to its bottom; it is called twice.
    region : Region

    Yields
    ------
    (h, w) bool ndarray
        For each band: True where a pixel is 8-connected to the region's seed.
    """
    offsets, seams = [0], []
    above = np.zeros(region.box.width, np.int64)
    for labels in bands():
        ids, stats = _components(labels == region.class_number)
        first, last = (np.where(edge > 0, edge + offsets[-1], 0) for edge in (ids[0], ids[-1]))
        seams.append(_touching(above, first))
        offsets.append(offsets[-1] + len(stats) - 1)
        above = last
    roots = np.array([-1, *_joined(offsets[-1], np.concatenate(seams))])
    own = -1
    for offset, labels in zip(offsets, bands(), strict=False):
        ids, _ = _components(labels == region.class_number)
        numbers = np.where(ids > 0, ids + offset, 0)
        if own < 0:
            own = int(roots[numbers[0, region.seed[1] - region.box.left]])
        yield roots[numbers] == own


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the numbers of the 8-connected components of a mask, and OpenCV's statistics of each."""
    _, ids, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    return np.asarray(ids, np.int32), np.asarray(stats, np.int32)


def _touching(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs ``(N, 2)`` of numbers above 0 that are 8-neighbours across the seam of two rows."""
    wide = np.pad(above, 1)
    pairs = np.concatenate([np.stack([wide[k : k + len(below)], below], axis=1) for k in range(3)])
    return np.unique(pairs[(pairs > 0).all(axis=1)], axis=0)


def _joined(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the group of each of the members 1 to `count` when the members of each pair are joined."""
    if not len(pairs):
        return np.arange(count, dtype=np.int32)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.bool_), tuple(pairs.T - 1)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int32)


def _merge(a: Region, b: Region) -> Region:
    top, left = min(a.box.top, b.box.top), min(a.box.left, b.box.left)
    bottom, right = max(a.box.bottom, b.box.bottom), max(a.box.right, b.box.right)
    return Region(a.class_number, Box(top, left, bottom, right), min(a.seed, b.seed))
