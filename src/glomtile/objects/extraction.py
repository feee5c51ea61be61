"""Objects extracted from label images, with their contours and measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.contours import Sides, outline_polygon
from glomtile.objects.labelling import Region, find_regions, own_pixels
from glomtile.objects.postprocessing import ShapingRules, convex_hull, shape_region
from glomtile.types import SILENT, Box, Progress, UInt8, crop

LARGEST_PX = 2**24
"""Most pixels of a region's box that an object is made of: its planes take some 30 bytes a pixel."""

_BAND_PX = 512

Glass = Callable[[Box], NDArray[np.bool_]]
"""Where there is no tissue: a box inside the image in, ``(h, w) bool`` out."""


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
        crop(labels, Box(top, 0, min(top + _BAND_PX, height), width)) for top in range(0, height, _BAND_PX)
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
        In the order of their first pixels, as of `glomtile.objects.labelling.find_regions`.

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
    from scipy.ndimage import find_objects

    size_px = int(labels.shape[0]), int(labels.shape[1])
    made: list[_Pixels] = []
    absorbed: list[_Pixels] = []
    for region in regions:
        made, absorbed = ([p for p in parts if p.box.bottom > region.seed[0]] for parts in (made, absorbed))
        whole = region.box
        is_small = whole.height * whole.width * mpp**2 < rules.min_area_um2
        if is_small or any(part.holds(region) for part in absorbed):
            continue
        of_class = crop(labels, whole) == region.class_number
        filled = of_class.astype(np.uint8)
        cv2.floodFill(filled, None, (region.seed[1] - whole.left, 0), (2,), flags=8)
        own = filled == 2
        ids, _ = shape_region(own, mpp, rules)
        for number, place in enumerate(find_objects(ids), start=1):
            mask = ids[place] == number
            top, left = whole.top + place[0].start, whole.left + place[1].start
            box = Box(top, left, top + mask.shape[0], left + mask.shape[1])
            if rules.convex:
                foreign = (ids[place] > 0) & ~mask | (crop(labels, box) > 0) & ~of_class[place]
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
        shared = box.intersection(part.box)
        if shared.height > 0 and shared.width > 0:
            foreign[shared.slices(box[:2])] |= part.mask[shared.slices(part.box[:2])]
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
    around = None
    if glass is not None:
        wide = Box(box.top - 1, box.left - 1, box.bottom + 1, box.right + 1)
        inside = wide.intersection(Box(0, 0, *size_px))
        around = np.zeros((wide.height, wide.width), np.bool_)
        around[inside.slices(wide[:2])] = glass(inside)
    measures = measure(mask, box, polygon, crop(confidence, box), mpp, sides, around, of_class)
    if measures.mean_probability < rules.min_mean_probability:
        return None
    return FoundObject(region.class_number, box, polygon, measures)


def _paint_raw(labels: Any, region: Region, canvas: Any) -> None:
    """Paint the pixels of a region as they are, in bands."""
    box = region.box
    tops = range(box.top, box.bottom, _BAND_PX)
    boxes = [Box(top, box.left, min(top + _BAND_PX, box.bottom), box.right) for top in tops]
    for band, own in zip(boxes, own_pixels(lambda: (crop(labels, b) for b in boxes), region), strict=True):
        _paint(canvas, band, own, region.class_number)


def _paint(canvas: Any, box: Box, mask: NDArray[np.bool_], class_number: int) -> None:
    pixels = crop(canvas, box).copy()
    pixels[mask] = class_number
    canvas[box.slices()] = pixels


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
    size_px = box.height, box.width
    if mask.shape != size_px or confidence.shape != size_px:
        raise InputError("measure", f"expected two planes of {size_px}, got {mask.shape}, {confidence.shape}")
    if glass is not None and glass.shape != (box.height + 2, box.width + 2):
        raise InputError("measure", f"expected glass of {(box.height + 2, box.width + 2)}, got {glass.shape}")
    if not mask.any():
        raise InputError("measure", "expected a mask with at least one pixel, got an empty one")
    area = int(np.count_nonzero(mask))
    row, column, eccentricity = _moments(mask)
    feret_max, feret_min = _feret_px(polygon)
    hull_area, length = polygon.convex_hull.area, polygon.length
    chances = confidence[mask if called is None else mask & called]
    is_beside = False
    if glass is not None:
        grown = cv2.dilate(np.pad(mask, 1).view(np.uint8), np.ones((3, 3), np.uint8))
        is_beside = bool((grown.view(np.bool_) & glass).any())
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
        touches_tissue_edge=is_beside,
    )


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
