"""Objects, contours and measurements extracted from label images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.objects.contours import Sides, outline_polygon
from glomtile.objects.measurements import Measures, measure
from glomtile.objects.postprocessing import ShapingRules, convex_hull, shape_region
from glomtile.objects.regions import Region, find_regions, own_pixels
from glomtile.types import SILENT, Box, Progress, UInt8

LARGEST_PX = 2**24
"""Most pixels of a region's box that an object is made of: its planes take some 30 bytes a pixel."""

_BAND_PX = 512

Glass = Callable[[Box], NDArray[np.bool_]]
"""Where there is no tissue: a box inside the image in, ``(h, w) bool`` out."""


@dataclass(frozen=True, eq=False)
class FoundObject:
    """One object with its outline and measurements.

    Attributes
    ----------
    class_number : int
    box : Box
        The smallest box around its pixels, in the label image.
    polygon : shapely.Polygon
        Its outline in the label image, ``(x, y)``, pixel corners at integers.
    measures : Measures
    """

    class_number: int
    box: Box
    polygon: shapely.Polygon
    measures: Measures


def paint_objects(
    labels: Any,
    confidence: Any,
    canvas: Any,
    num_classes: int,
    mpp: float,
    rules: ShapingRules,
    glass: Glass | None = None,
    progress: Progress = SILENT,
) -> tuple[tuple[FoundObject, ...], int]:
    """Extract the objects of a label image and paint them on an empty one.

    Parameters
    ----------
    labels, confidence : (H, W) uint8 planes
        Class numbers, and the probability of the pixel's class, 0 to 255 for 0 to 1; in memory or on disk.
    canvas : (H, W) uint8 plane
        Empty; takes the pixels of the objects.
    num_classes : int
        Background included.
    mpp : float
        Micrometres per pixel, above 0.
    rules : ShapingRules
    glass : callable, optional
        Where there is no tissue.
    progress : Progress
        Advances by one for each object.

    Returns
    -------
    objects : tuple of FoundObject
        In reading order.
    too_large : int
        Number of regions whose box has more than 2**24 pixels. They are painted as they are and no objects:
        shaping, outlining and measuring them would not fit the memory.
    """
    height, width = (int(side) for side in labels.shape)
    bands = (
        _read(labels, Box(top, 0, min(top + _BAND_PX, height), width)) for top in range(0, height, _BAND_PX)
    )
    too_large: list[Region] = []

    def fitting() -> Iterator[Region]:
        for region in find_regions(bands, width, num_classes):
            if region.box.height * region.box.width <= LARGEST_PX:
                yield region
            else:
                too_large.append(region)
                _paint_raw(labels, region, canvas)

    objects = []
    for found, mask in extract_objects(labels, confidence, fitting(), mpp, rules, glass):
        _paint(canvas, found.box, mask, found.class_number)
        objects.append(found)
        progress.advance(1)
    return tuple(objects), len(too_large)


def extract_objects(
    labels: Any,
    confidence: Any,
    regions: Iterable[Region],
    mpp: float,
    rules: ShapingRules,
    glass: Glass | None = None,
) -> Iterator[tuple[FoundObject, NDArray[np.bool_]]]:
    """Make objects of the regions of a label image.

    Parameters
    ----------
    labels, confidence, mpp, rules, glass
        As in `paint_objects`; only the boxes of regions are read.
    regions : iterable of Region
        In the order of their first pixels, as of `glomtile.objects.regions.find_regions`.

    Yields
    ------
    found : FoundObject
        In the order of the regions' first pixels, within a region of the parts' first pixels.
    mask : (h, w) bool ndarray
        Its pixels in its box.

    Notes
    -----
    A region in a filled hole of an object of its class is part of that object and none of its own; so is one
    wholly in the convex hull of an object of a class with `ShapingRules.convex`. A hull takes no pixel of any
    other region or object, so objects stay disjoint: what two hulls could have is the first's.
    """
    size_px = int(labels.shape[0]), int(labels.shape[1])
    made: list[_Pixels] = []
    absorbed: list[_Pixels] = []
    for region in regions:
        made, absorbed = ([p for p in parts if p.box.bottom > region.seed[0]] for parts in (made, absorbed))
        whole = region.box
        is_small = whole.height * whole.width * mpp**2 < rules.min_area_um2
        if is_small or any(part.holds(region) for part in absorbed):
            continue
        own, of_class = _own_pixels(labels, region)
        for place, ids, number in _parts(own, mpp, rules):
            box = Box(
                *(whole.top + place[0].start, whole.left + place[1].start),
                *(whole.top + place[0].stop, whole.left + place[1].stop),
            )
            mask = ids == number
            if rules.convex:
                foreign = (ids > 0) & ~mask | (_read(labels, box) > 0) & ~of_class[place]
                other = of_class[place] & ~own[place] & ~mask
                mask = _hull(mask, foreign, other, box, made)
            found = _describe(region, box, mask, of_class[place], confidence, mpp, rules, size_px, glass)
            if found is None:
                continue
            made.append(_Pixels(region.class_number, box, mask))
            if (mask & ~own[place]).any():
                absorbed.append(_Pixels(region.class_number, box, mask & ~own[place]))
            yield found, mask


@dataclass(frozen=True, eq=False)
class _Pixels:
    """All pixels of an object, or those of other regions that it took in."""

    class_number: int
    box: Box
    mask: NDArray[np.bool_]

    def holds(self, region: Region) -> bool:
        row, column = region.seed[0] - self.box.top, region.seed[1] - self.box.left
        return (
            region.class_number == self.class_number
            and 0 <= row < self.box.height
            and 0 <= column < self.box.width
            and bool(self.mask[row, column])
        )


def _own_pixels(labels: Any, region: Region) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of the region, and all of its class, in its box."""
    of_class = _read(labels, region.box) == region.class_number
    filled = of_class.astype(np.uint8)
    cv2.floodFill(filled, None, (region.seed[1] - region.box.left, 0), (2,), flags=8)
    return filled == 2, of_class


def _parts(
    own: NDArray[np.bool_], mpp: float, rules: ShapingRules
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.int32], int]]:
    """Yield the objects of a region: place in its box, numbers of all objects there, and its own number."""
    from scipy.ndimage import find_objects

    ids, _ = shape_region(own, mpp, rules)
    for number, place in enumerate(find_objects(ids), start=1):
        yield place, ids[place], number


def _hull(
    mask: NDArray[np.bool_],
    foreign: NDArray[np.bool_],
    other: NDArray[np.bool_],
    box: Box,
    made: Sequence[_Pixels],
) -> NDArray[np.bool_]:
    """Return the convex hull of an object, less the pixels of other regions and objects."""
    hull = convex_hull(mask)
    if (other & hull).any():
        # What reaches out of the hull or to the rim of the box is another object, no crumb of this one.
        wide = np.pad(other, 1, constant_values=True)
        reaches_out = _joined_to(wide, np.pad(other & ~hull, 1, constant_values=True), connectivity=8)
        foreign = foreign | reaches_out[1:-1, 1:-1]
    for part in made:
        top, left = max(box.top, part.box.top), max(box.left, part.box.left)
        bottom, right = min(box.bottom, part.box.bottom), min(box.right, part.box.right)
        if top < bottom and left < right:
            shared = Box(top, left, bottom, right)
            foreign[_cut(shared, box)] |= part.mask[_cut(shared, part.box)]
    # By whole sides only: through the corners of a ring of another object one would come into its holes.
    joined = _joined_to(mask | hull & ~foreign, mask, connectivity=4)
    # A crumb comes with all of its pixels, which may touch at corners only.
    return joined | _joined_to(other & ~foreign, other & joined, connectivity=8)


def _joined_to(mask: NDArray[np.bool_], seeds: NDArray[np.bool_], connectivity: int) -> NDArray[np.bool_]:
    """Return the pieces of a mask that hold a seed; seeds are within the mask."""
    _, ids = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S)
    wanted = np.zeros(int(ids.max()) + 1, np.bool_)
    wanted[ids[seeds]] = True
    return np.asarray(wanted[ids], dtype=np.bool_)


def _describe(
    region: Region,
    box: Box,
    mask: NDArray[np.bool_],
    of_class: NDArray[np.bool_],
    confidence: Any,
    mpp: float,
    rules: ShapingRules,
    size_px: tuple[int, int],
    glass: Glass | None,
) -> FoundObject | None:
    """Outline and measure one object; None where its probability is too low."""
    sides = Sides.of(box, size_px)
    polygon = outline_polygon(mask, box[:2], rules.smooth_um / mpp, sides)
    assert polygon is not None
    around = None if glass is None else _glass_around(glass, box, size_px)
    measures = measure(mask, box, polygon, _read(confidence, box), mpp, sides, around, of_class)
    if measures.mean_probability < rules.min_mean_probability:
        return None
    return FoundObject(region.class_number, box, polygon, measures)


def _glass_around(glass: Glass, box: Box, size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the glass in a box grown by one pixel; False beyond the image."""
    wide = Box(box.top - 1, box.left - 1, box.bottom + 1, box.right + 1)
    inside = Box(
        max(0, wide.top), max(0, wide.left), min(size_px[0], wide.bottom), min(size_px[1], wide.right)
    )
    around = np.zeros((wide.height, wide.width), np.bool_)
    around[_cut(inside, wide)] = glass(inside)
    return around


def _paint_raw(labels: Any, region: Region, canvas: Any) -> None:
    """Paint the pixels of a region as they are, in bands."""
    box = region.box
    tops = range(box.top, box.bottom, _BAND_PX)
    boxes = [Box(top, box.left, min(top + _BAND_PX, box.bottom), box.right) for top in tops]
    for band, own in zip(boxes, own_pixels(lambda: (_read(labels, b) for b in boxes), region), strict=True):
        _paint(canvas, band, own, region.class_number)


def _paint(canvas: Any, box: Box, mask: NDArray[np.bool_], class_number: int) -> None:
    pixels = _read(canvas, box).copy()
    pixels[mask] = class_number
    canvas[_cut(box)] = pixels


def _read(plane: Any, box: Box) -> UInt8:
    return np.asarray(plane[_cut(box)], dtype=np.uint8)


def _cut(box: Box, within: Box = Box(0, 0, 0, 0)) -> tuple[slice, slice]:  # noqa: B008  (a tuple)
    return (
        slice(box.top - within.top, box.bottom - within.top),
        slice(box.left - within.left, box.right - within.left),
    )
