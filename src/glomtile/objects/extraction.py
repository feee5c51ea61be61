"""Objects, contours and measurements extracted from label images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.contours import Sides, largest_polygon, outline_polygon
from glomtile.objects.labelling import find_objects
from glomtile.objects.measurements import Measures, measure
from glomtile.objects.postprocessing import ShapingRules, block_mean, convex_hull, numbered_parts
from glomtile.objects.regions import Region, own_pixels
from glomtile.types import Box, UInt8

LARGEST_PX = 16 * 2**20
"""Boxes of more pixels are looked at reduced: an outline takes eight bytes and more for each."""

_BAND_PX = 4 * 2**20

Glass = Callable[[Box], NDArray[np.bool_]]
"""Where there is no tissue: a box inside the picture in, ``(h, w) bool`` out."""


class Plane(Protocol):
    """A picture that is sliced as ``plane[top:bottom, left:right]``: an array in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> Any: ...


@dataclass(frozen=True, eq=False)
class FoundObject:
    """One object, shaped, outlined and measured.

    Attributes
    ----------
    class_number : int
    box : Box
        The smallest box around its pixels, in the label picture.
    mask : (h, w) bool ndarray
        Its pixels in the box, `reduced_by` times smaller where that is above 1.
    polygon : shapely.Polygon
        Its outline in the label picture, ``(x, y)``, pixel corners at integers.
    measures : Measures
    reduced_by : int
        1; a whole factor above 1 where a region was too large to be looked at in full: then mask, outline
        and measures are those of cells of so many pixels a side.
    """

    class_number: int
    box: Box
    mask: NDArray[np.bool_]
    polygon: shapely.Polygon
    measures: Measures
    reduced_by: int = 1


def found_objects(
    labels: Plane,
    confidence: Plane,
    regions: Iterable[Region],
    mpp: float,
    rules: Mapping[int, ShapingRules] | ShapingRules,
    size_px: tuple[int, int],
    glass: Glass | None = None,
    largest_px: int = LARGEST_PX,
    in_order: bool = False,
) -> Iterator[FoundObject]:
    """Make objects of the regions of a label picture.

    Parameters
    ----------
    labels : (H, W) uint8 plane
        Class numbers; only the boxes of regions are read.
    confidence : (H, W) uint8 plane
        Probability of the pixel's class, 0 to 255 for 0 to 1.
    regions : iterable of Region
        As of `glomtile.objects.regions.Regions`, in any order.
    mpp : float
        Micrometres per pixel, above 0.
    rules : ShapingRules or mapping of int to ShapingRules
        For all classes, or by class; a class that the mapping does not name has no objects.
    size_px : (int, int)
        ``(H, W)`` of the picture.
    glass : callable, optional
        Where there is no tissue.
    largest_px : int, optional
        Regions with boxes of more pixels are read in bands and reduced by the whole factor that brings them
        below: a cell is inside where more than half of it is, its confidence is the mean of its pixels, and
        what thereby falls apart is several objects. Planes of floats are never larger than this.
    in_order : bool
        The regions come in the order of their first pixels, as of `regions_in_order`,
        and are taken one by one.

    Yields
    ------
    FoundObject
        In the order of the regions' first pixels, within a region of the parts' first pixels.

    Raises
    ------
    InputError
        When the scale is not above 0, the planes are not of the picture's size, or a region is none of the
        labels'.

    Notes
    -----
    A region that lies in a filled hole of an object of its class is part of that object and none of its
    own; so is one that lies wholly in the convex hull of an object of a class with `ShapingRules.convex`.
    A hull takes no pixel of any other region or object, so objects stay disjoint: what two hulls could have
    is the first's. Regions that are looked at reduced are far larger than one convex thing and keep their
    form.
    """
    if not mpp > 0:
        raise InputError("objects", f"expected micrometres per pixel above 0, got {mpp}")
    if tuple(labels.shape) != tuple(size_px) or tuple(confidence.shape) != tuple(size_px):
        raise InputError(
            "objects", f"expected planes of {tuple(size_px)}, got {labels.shape} and {confidence.shape}"
        )
    swallowed: list[_Part] = []
    earlier: list[_Part] = []
    for region in regions if in_order else sorted(regions, key=lambda region: region.seed):
        own_rules = rules if isinstance(rules, ShapingRules) else rules.get(region.class_number)
        swallowed = [part for part in swallowed if part.box.bottom > region.seed[0]]
        earlier = [part for part in earlier if part.box.bottom > region.seed[0]]
        if own_rules is None or any(part.holds(region) for part in swallowed):
            continue
        if region.box.height * region.box.width * mpp**2 < own_rules.min_area_um2:
            continue
        sight = _look(labels, confidence, region, largest_px)
        for box, ids, number in _shaped(sight, mpp, own_rules):
            mask = ids == number
            if own_rules.convex and sight.factor == 1:
                siblings = (ids > 0) & ~mask
                mask = _hull(mask, siblings, _read(labels, sight.in_picture(box)), sight, box, earlier)
            found = _describe(sight, box, mask, mpp, own_rules, size_px, glass)
            if found is None:
                continue
            other = mask & ~sight.own[_cut(box)]
            if sight.factor > 1:
                # Cells that are mostly its own hold what lies across a gap narrower than they are.
                other |= mask & _all_around(ids > 0)
            if other.any():
                swallowed.append(_Part(region.class_number, found.box, sight.factor, other))
            earlier.append(_Part(region.class_number, found.box, sight.factor, mask))
            yield found


@dataclass(frozen=True, eq=False)
class _Sight:
    """A region's box, in cells of `factor` x `factor` pixels."""

    region: Region
    factor: int
    own: NDArray[np.bool_]
    of_class: NDArray[np.bool_]
    confidence: UInt8

    def in_picture(self, box: Box) -> Box:
        """From cells of this sight to pixels of the picture."""
        whole = self.region.box
        return Box(
            whole.top + box.top * self.factor,
            whole.left + box.left * self.factor,
            min(whole.bottom, whole.top + box.bottom * self.factor),
            min(whole.right, whole.left + box.right * self.factor),
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Cells of an object: all, or those where other regions of the class are that it took in."""

    class_number: int
    box: Box
    factor: int
    mask: NDArray[np.bool_]

    def holds(self, region: Region) -> bool:
        row, column = region.seed[0] - self.box.top, region.seed[1] - self.box.left
        return (
            region.class_number == self.class_number
            and 0 <= row < self.box.height
            and 0 <= column < self.box.width
            and bool(self.mask[row // self.factor, column // self.factor])
        )

    def within(self, box: Box) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
        """Where in a box of the picture it lies, and its pixels there; None where the boxes do not meet."""
        top, left = max(box.top, self.box.top), max(box.left, self.box.left)
        bottom, right = min(box.bottom, self.box.bottom), min(box.right, self.box.right)
        if bottom <= top or right <= left:
            return None
        rows, columns = np.arange(top, bottom) - self.box.top, np.arange(left, right) - self.box.left
        mask = self.mask[np.ix_(rows // self.factor, columns // self.factor)]
        return _cut(Box(top, left, bottom, right), box), mask


def _look(labels: Plane, confidence: Plane, region: Region, largest_px: int) -> _Sight:
    """Read a region's box, reduced where it is too large, and tell its own pixels from its class's."""
    box = region.box
    rows, columns = _cut(box)
    factor = max(1, math.ceil(math.sqrt(box.height * box.width / largest_px)))
    seed = region.seed[0], region.seed[1]
    at_seed = _read(labels, Box(*seed, seed[0] + 1, seed[1] + 1))
    if int(at_seed[0, 0]) != region.class_number or seed[0] != box.top:
        raise InputError(
            "objects", f"expected class {region.class_number} at {seed}, got {int(at_seed[0, 0])}"
        )
    if factor > 1:
        return _look_reduced(labels, confidence, region, factor)
    of_class = np.asarray(labels[rows, columns]) == region.class_number
    filled = of_class.astype(np.uint8)
    cv2.floodFill(filled, None, (seed[1] - box.left, 0), (2,), flags=8)
    return _Sight(region, 1, filled == 2, of_class, _read(confidence, box))


def _look_reduced(labels: Plane, confidence: Plane, region: Region, factor: int) -> _Sight:
    boxes = list(_bands(region.box, factor))
    own = [
        block_mean(own, factor) > 0.5
        for _, own in own_pixels(lambda: (_read(labels, box) for box in boxes), region)
    ]
    of_class = [block_mean(_read(labels, box) == region.class_number, factor) > 0.5 for box in boxes]
    means = [_mean_confidence(_read(confidence, box), factor) for box in boxes]
    return _Sight(region, factor, np.concatenate(own), np.concatenate(of_class), np.concatenate(means))


def _mean_confidence(confidence: UInt8, factor: int) -> UInt8:
    """Means of the cells, of the last ones over the pixels that they hold."""
    held = block_mean(np.ones(confidence.shape, np.bool_), factor)
    return np.asarray(np.rint(block_mean(confidence, factor) / held), dtype=np.uint8)


def _shaped(sight: _Sight, mpp: float, rules: ShapingRules) -> Iterator[tuple[Box, NDArray[np.int32], int]]:
    """The objects of a region: each one's box of cells, what is numbered there, and its own number."""
    for outer, piece in _pieces(sight, mpp, rules):
        ids, count = numbered_parts(piece, mpp * sight.factor, rules)
        for number, own in enumerate(_boxes_of(ids, count), start=1):
            box = Box(
                outer.top + own.top, outer.left + own.left, outer.top + own.bottom, outer.left + own.right
            )
            yield box, ids[_cut(own)], number


def _hull(
    mask: NDArray[np.bool_],
    siblings: NDArray[np.bool_],
    labels: UInt8,
    sight: _Sight,
    box: Box,
    earlier: Sequence[_Part],
) -> NDArray[np.bool_]:
    """The convex hull of an object in full resolution, less what other regions and objects have of it."""
    hull = convex_hull(mask)
    of_class, own = sight.of_class[_cut(box)], sight.own[_cut(box)]
    foreign = siblings | (labels > 0) & ~of_class
    other = of_class & ~own & ~mask
    if (other & hull).any():
        # What goes on outside the hull, or reaches the box's rim, is another object and no crumb of this one.
        wide = np.pad(other, 1, constant_values=True)
        goes_on = _joined_to(wide, np.pad(other & ~hull, 1, constant_values=True), connectivity=8)
        foreign |= goes_on[1:-1, 1:-1]
    in_picture = sight.in_picture(box)
    for part in earlier:
        if (met := part.within(in_picture)) is not None:
            foreign[met[0]] |= met[1]
    # By whole sides only: through the corners of a ring of another object one would come into its holes.
    return _joined_to(mask | hull & ~foreign, mask, connectivity=4)


def _joined_to(mask: NDArray[np.bool_], seeds: NDArray[np.bool_], connectivity: int) -> NDArray[np.bool_]:
    """The pieces of a mask that hold a seed; seeds lie within the mask."""
    _, ids = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S)
    wanted = np.zeros(int(ids.max()) + 1, np.bool_)
    wanted[ids[seeds]] = True
    return np.asarray(wanted[ids], dtype=np.bool_)


def _all_around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a mask goes on to all eight sides; nowhere at the array's rim."""
    inside = cv2.erode(
        mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(inside, dtype=np.bool_)


def _boxes_of(ids: NDArray[np.int32], count: int) -> list[Box]:
    """The least box around each number from 1 to `count`, all of which are there."""
    rows, columns = np.nonzero(ids)
    numbers = ids[rows, columns] - 1
    low, high = np.full((2, count), max(ids.shape)), np.zeros((2, count), np.intp)
    for axis, places in enumerate((rows, columns)):
        np.minimum.at(low[axis], numbers, places)
        np.maximum.at(high[axis], numbers, places + 1)
    return [Box(*map(int, sides)) for sides in zip(*low, *high, strict=True)]


def _pieces(sight: _Sight, mpp: float, rules: ShapingRules) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """A region, or what it falls into when reduced."""
    if sight.factor == 1:
        yield Box(0, 0, *sight.own.shape), sight.own
        return
    pieces = find_objects(sight.own)
    firsts = [(box.top, int(np.argmax(pieces.ids[box.top] == i))) for i, box in enumerate(pieces.boxes, 1)]
    for _, i in sorted((first, i) for i, first in enumerate(firsts)):
        box = pieces.boxes[i]
        if box.height * box.width * (mpp * sight.factor) ** 2 >= rules.min_area_um2:
            yield box, pieces.ids[_cut(box)] == i + 1


def _describe(
    sight: _Sight,
    box: Box,
    mask: NDArray[np.bool_],
    mpp: float,
    rules: ShapingRules,
    size_px: tuple[int, int],
    glass: Glass | None,
) -> FoundObject | None:
    """Outline and measure one object in cells, then tell it in pixels; None where it is too improbable."""
    factor, in_picture = sight.factor, sight.in_picture(box)
    sides = Sides.of(in_picture, size_px)
    polygon = outline_polygon(mask, box[:2], rules.smooth_um / (mpp * factor), sides)
    assert polygon is not None
    measures = measure(
        mask,
        box,
        polygon,
        sight.confidence[_cut(box)],
        mpp * factor,
        sides,
        None if glass is None else _glass_around(glass, in_picture, factor, mask.shape, size_px),
        sight.of_class[_cut(box)],
    )
    if measures.mean_probability < rules.min_mean_probability:
        return None
    whole = sight.region.box
    measures = replace(
        measures,
        centroid_x_px=whole.left + factor * measures.centroid_x_px,
        centroid_y_px=whole.top + factor * measures.centroid_y_px,
    )
    moved = shapely.transform(polygon, lambda points: points * factor + np.array([whole.left, whole.top]))
    if factor > 1:
        moved = largest_polygon(shapely.intersection(moved, shapely.box(0, 0, size_px[1], size_px[0])))
    return FoundObject(sight.region.class_number, in_picture, mask, moved, measures, factor)


def _glass_around(
    glass: Glass, box: Box, factor: int, cells: tuple[int, ...], size_px: tuple[int, int]
) -> NDArray[np.bool_]:
    """Cells that hold glass in a box grown by one cell; False beyond the picture."""
    height, width = cells[0] + 2, cells[1] + 2
    around = np.zeros((height, width), bool)
    rows = max(1, _BAND_PX // (width * factor**2))
    for row in range(0, height, rows):
        top, left = box.top + (row - 1) * factor, box.left - factor
        wanted = Box(top, left, top + min(rows, height - row) * factor, left + width * factor)
        seen = Box(
            max(0, wanted.top),
            max(0, wanted.left),
            min(size_px[0], wanted.bottom),
            min(size_px[1], wanted.right),
        )
        if seen.height <= 0:
            continue
        plane = np.zeros((wanted.height, wanted.width), bool)
        plane[_cut(seen, wanted)] = glass(seen)
        around[row : row + rows] = plane.reshape(-1, factor, width, factor).any(axis=(1, 3))
    return around


def _bands(box: Box, factor: int) -> Iterator[Box]:
    rows = factor * max(1, _BAND_PX // (box.width * factor))
    for top in range(box.top, box.bottom, rows):
        yield Box(top, box.left, min(box.bottom, top + rows), box.right)


def _read(plane: Plane, box: Box) -> UInt8:
    return np.asarray(plane[_cut(box)], dtype=np.uint8)


def _cut(box: Box, within: Box = Box(0, 0, 0, 0)) -> tuple[slice, slice]:  # noqa: B008  (a tuple)
    return (
        slice(box.top - within.top, box.bottom - within.top),
        slice(box.left - within.left, box.right - within.left),
    )
