"""Connected components of label images read in bands."""

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
    Every band is labelled on its own (`cv2.connectedComponentsWithStats`) and joined to the row above it by
    union-find. Memory grows with the band and with the regions that can still grow, never with the height.
    """
    open_regions = _OpenRegions(width_px, num_classes)
    waiting: list[tuple[tuple[int, int], Region]] = []
    for band in bands:
        rows = max(1, _BAND_PX // width_px)
        for top in range(0, len(band), rows):
            for region in open_regions.add(band[top : top + rows]):
                heapq.heappush(waiting, (region.seed, region))
        while waiting and waiting[0][0] < open_regions.first_seed:
            yield heapq.heappop(waiting)[1]
    yield from sorted([*open_regions.regions, *(region for _, region in waiting)], key=lambda one: one.seed)


class _OpenRegions:
    """Regions that reach the last row read, and may grow."""

    def __init__(self, width_px: int, num_classes: int) -> None:
        self._num_classes = num_classes
        self._next_row = 0
        self.regions: list[Region] = []
        self._last_row = np.zeros(width_px, np.int64)
        """Per column: 0, or 1 + the position in `regions` of the region that ends the last band there."""

    @property
    def first_seed(self) -> tuple[int, int]:
        """Row and column before which every region's first pixel is in a closed region."""
        return min((region.seed for region in self.regions), default=(self._next_row, 0))

    def add(self, labels: UInt8) -> list[Region]:
        """Take the next band and return the regions that can no longer grow."""
        parts = list(self.regions)
        first_row, last_row = np.zeros_like(self._last_row), np.zeros_like(self._last_row)
        # A column of background separates its sides: what is between two such columns is labelled alone.
        for left, right in _runs(np.bitwise_or.reduce(labels, axis=0) > 0):
            for class_number in range(1, self._num_classes):
                mask = labels[:, left:right] == class_number
                if not mask.any():
                    continue
                ids, found = _label_band(mask, class_number, self._next_row, left)
                for row, edge in ((first_row[left:right], ids[0]), (last_row[left:right], ids[-1])):
                    row[edge > 0] = edge[edge > 0] + len(parts)
                parts.extend(found)
        joined = _Union(len(parts))
        classes = np.array([0, *(part.class_number for part in parts)])
        for above, below in _touching(self._last_row, first_row):
            if classes[above] == classes[below]:
                joined.join(above - 1, below - 1)
        self._next_row += len(labels)
        return self._settle(parts, joined, last_row)

    def _settle(self, parts: list[Region], joined: _Union, last_row: NDArray[np.int64]) -> list[Region]:
        """Merge what touches, keep what reaches the last row, return the rest."""
        roots = np.array([joined.root(i) for i in range(len(parts))], np.int64)
        merged: dict[int, Region] = {}
        for root, part in zip(roots.tolist(), parts, strict=True):
            merged[root] = _merge(merged[root], part) if root in merged else part
        at_edge = last_row > 0
        alive = np.unique(roots[last_row[at_edge] - 1])
        self._last_row = np.zeros_like(last_row)
        self._last_row[at_edge] = np.searchsorted(alive, roots[last_row[at_edge] - 1]) + 1
        self.regions = [merged.pop(int(root)) for root in alive]
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
    joined = _Union(0)
    offsets: list[int] = []
    above = np.zeros(region.box.width, np.int64)
    for labels in bands():
        count, ids = cv2.connectedComponents(_as_bytes(labels == region.class_number), connectivity=8)
        offsets.append(len(joined))
        joined.grow(count - 1)
        first, last = (np.where(edge > 0, edge + offsets[-1], 0) for edge in (ids[0], ids[-1]))
        for upper, lower in _touching(above, first):
            joined.join(upper - 1, lower - 1)
        above = last
    own_root = -1
    for offset, labels in zip(offsets, bands(), strict=True):
        count, ids = cv2.connectedComponents(_as_bytes(labels == region.class_number), connectivity=8)
        if own_root < 0:
            own_root = joined.root(offset + int(ids[0, region.seed[1] - region.box.left]) - 1)
        is_own = np.array([False, *(joined.root(offset + i) == own_root for i in range(count - 1))])
        yield is_own[ids]


def _touching(above: NDArray[np.int64], below: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of numbers above 0 that are 8-neighbours across the seam of two rows, each pair once."""
    width = len(above)
    met = []
    for shift in (-1, 0, 1):
        upper, lower = (
            above[max(0, -shift) : width - max(0, shift)],
            below[max(0, shift) :][: width - abs(shift)],
        )
        both = (upper > 0) & (lower > 0)
        met.append(np.stack([upper[both], lower[both]], axis=1))
    yield from np.unique(np.concatenate(met), axis=0).tolist()


def _runs(filled: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open stretches of a line that are True."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).view(np.int8)))
    return [(int(start), int(stop)) for start, stop in steps.reshape(-1, 2)]


def _label_band(
    mask: NDArray[np.bool_], class_number: int, top: int, first_column: int
) -> tuple[NDArray[np.int32], list[Region]]:
    """Label one class in part of a band, from 1; regions are in coordinates of the whole image."""
    _, ids, stats, _ = cv2.connectedComponentsWithStats(_as_bytes(mask), connectivity=8, ltype=cv2.CV_32S)
    found = []
    for number, (left, row, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        column = first_column + left + int(np.argmax(ids[row, left : left + width] == number))
        box = Box(top + row, first_column + left, top + row + height, first_column + left + width)
        found.append(Region(class_number, box, (top + row, column)))
    return np.asarray(ids, dtype=np.int32), found


def _merge(a: Region, b: Region) -> Region:
    box = Box(
        min(a.box.top, b.box.top),
        min(a.box.left, b.box.left),
        max(a.box.bottom, b.box.bottom),
        max(a.box.right, b.box.right),
    )
    return Region(a.class_number, box, min(a.seed, b.seed))


def _as_bytes(mask: NDArray[np.bool_]) -> UInt8:
    return np.ascontiguousarray(mask).view(np.uint8)


class _Union:
    """Disjoint sets; the smallest member represents its set, so the result depends on no order."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def __len__(self) -> int:
        return len(self._parent)

    def grow(self, count: int) -> None:
        self._parent.extend(range(len(self), len(self) + count))

    def root(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low
