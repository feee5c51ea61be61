"""Which rectangles of a slide become pictures: regions of interest, or what holds tissue and outlines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glomtile.engine.slidelook import look_at
from glomtile.errors import InputError
from glomtile.files.annotations import Outlines
from glomtile.files.slides import Slide, SlideReader
from glomtile.types import Box

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

LONGEST_PX = 4096
"""Longest side of a picture."""

_FULL = 0.75
"""Share of a picture's tiles that must have tissue, else it is cut smaller."""
_RECTANGULAR = 0.999
_SAME = 1e-6


def region_box(region: Polygon | MultiPolygon, reader: SlideReader, path: Path) -> Box:
    """The pixels wholly inside a rectangle of interest."""
    if region.area < _RECTANGULAR * region.envelope.area:
        raise InputError(
            path,
            "expected rectangles as regions of interest, got another shape: a mask cannot say of its corners "
            "that nobody looked there",
            "draw one or more rectangles inside it",
        )
    x0, y0, x1, y1 = (value / reader.zoom for value in region.bounds)
    height, width = reader.size_px
    box = Box(
        max(0, math.ceil(y0 - _SAME)),
        max(0, math.ceil(x0 - _SAME)),
        min(height, math.floor(y1 + _SAME)),
        min(width, math.floor(x1 + _SAME)),
    )
    if box.height < 1 or box.width < 1:
        raise InputError(
            path,
            f"expected regions of interest on the slide of {width} x {height} px, got one at x {x0:.0f} to "
            f"{x1:.0f}, y {y0:.0f} to {y1:.0f} of these pixels",
        )
    return box


def pieces(box: Box) -> Iterator[Box]:
    """A box cut into equal parts of at most `LONGEST_PX` a side."""
    rows, columns = (
        np.linspace(start, stop, -(-(stop - start) // LONGEST_PX) + 1).round().astype(int).tolist()
        for start, stop in ((box.top, box.bottom), (box.left, box.right))
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Box(top, left, bottom, right)


def tissue_boxes(slide: Slide, reader: SlideReader, outlines: Outlines, tile_px: int) -> Iterator[Box]:
    """Rectangles that hold every tile with tissue or an outline, and few without."""
    height, width = reader.size_px
    if slide.mpp is None:
        raise InputError(slide.path, "expected micrometres per pixel in the file, found none")
    tissue = look_at(slide, slide.mpp, reader.zoom).tissue
    wanted = np.zeros((-(-height // tile_px), -(-width // tile_px)), np.bool_)
    for row, column in np.ndindex(*wanted.shape):
        box = Box(row * tile_px, column * tile_px, (row + 1) * tile_px, (column + 1) * tile_px)
        wanted[row, column] = tissue.near_tissue(box) or bool(outlines.near(box, reader.zoom))
    for block in _blocks(wanted, max(1, LONGEST_PX // tile_px)):
        top, left, bottom, right = (edge * tile_px for edge in block)
        yield Box(top, left, min(bottom, height), min(right, width))


def _blocks(wanted: NDArray[np.bool_], most: int, top: int = 0, left: int = 0) -> Iterator[Box]:
    """Rectangles of at most `most` a side that hold all that is wanted and are mostly full of it."""
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not rows.size:
        return
    kept = wanted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = top + int(rows[0]), left + int(columns[0])
    height, width = kept.shape
    if max(height, width) <= most and kept.mean() >= _FULL:
        yield Box(top, left, top + height, left + width)
    elif height >= width:
        half = _half(height, most)
        yield from _blocks(kept[:half], most, top, left)
        yield from _blocks(kept[half:], most, top + half, left)
    else:
        half = _half(width, most)
        yield from _blocks(kept[:, :half], most, top, left)
        yield from _blocks(kept[:, half:], most, top, left + half)


def _half(count: int, most: int) -> int:
    """Where to cut: at a multiple of `most` while there is more, else in the middle."""
    return max(1, count // 2) if count <= most else most * max(1, round(count / most / 2))
