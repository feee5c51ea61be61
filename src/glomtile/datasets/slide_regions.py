"""Annotated regions of slides, cut to images and masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.datasets.annotations import AnnotatedSlide, Outlines, pair_annotations, read_outlines
from glomtile.datasets.loading import map_files
from glomtile.datasets.pairing import LEFT_OUT, Pair, pair, read_groups
from glomtile.datasets.splitting import split_groups
from glomtile.errors import InputError, UsageError
from glomtile.io.atomic import sha256
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import Palette
from glomtile.slides.slide import Slide, SlideReader, open_slide
from glomtile.slides.tissue import make_overview
from glomtile.types import SILENT, Box, Progress

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

REGIONS = "regions"
"""Folder of a dataset for images and masks cut from slides: ``images/`` and ``masks/``."""

LONGEST_PX = 4096
"""Longest side of an image cut from a slide."""

_FULL = 0.75
"""Share of a region's tiles that must have tissue, else it is cut smaller."""

_INSIDE = 0.5
"""Share of an outline's area on the slide below which it is reported."""

_RECTANGULAR = 0.999
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class RegionPlan:
    """Boxes of a slide, in pixels at the wanted scale, that become images."""

    slide: AnnotatedSlide
    outlines: Outlines
    boxes: tuple[Box, ...]


@dataclass(frozen=True, eq=False)
class SlideRegions:
    """Images and masks cut from a folder of slides.

    Attributes
    ----------
    pairs : list of Pair
    groups : list of str
        The group of each pair: its slide, or the group that the table gives its slide.
    fixed : dict
        Groups whose split the table gives.
    left_out : list of str
        Slides of which nothing was cut.
    records : list of dict
        Entries of ``prepare.json``: the origin of each pair.
    """

    pairs: list[Pair]
    groups: list[str]
    fixed: dict[str, str]
    left_out: list[str]
    records: list[dict[str, Any]]


def cut_slides(
    images: Path,
    annotations: Path,
    dataset: Path,
    palette: Palette,
    mpp: float | None,
    tile_px: int,
    groups: Path | None,
    split: Sequence[float],
    seed: int,
    progress: Progress = SILENT,
) -> SlideRegions:
    """Cut the slides of a folder that GeoJSON files of another annotate.

    Parameters
    ----------
    images, annotations : Path
        See `glomtile.datasets.annotations.pair_annotations`.
    dataset : Path
        Its folder ``regions/`` is created.
    palette, mpp, tile_px, progress
        See `plan_slides`.
    groups : Path, optional
        CSV with the columns ``stem,group[,split]``, a line for every slide; those it leaves ``out`` are not
        opened.
    split, seed
        See `split_groups`: that there are enough groups is checked before the first region is cut.

    Raises
    ------
    UsageError, InputError, StorageError
        See `pair_annotations`, `read_groups`, `split_groups` and `plan_slides`.
    """
    slides = pair_annotations(images, annotations)
    stems = [slide.stem for slide in slides]
    group_of, fixed = ({stem: stem for stem in stems}, {}) if groups is None else read_groups(groups, stems)
    used = [slide for slide in slides if fixed.get(group_of[slide.stem]) != LEFT_OUT]
    if not used:
        raise InputError(groups, "expected slides for the splits, got a table that leaves all of them out")
    split_groups([group_of[slide.stem] for slide in used], split, seed, fixed)
    plans = plan_slides(used, palette, mpp, tile_px, progress)
    split_groups([group_of[plan.slide.stem] for plan in plans for _ in plan.boxes], split, seed, fixed)
    records = cut_regions(plans, dataset / REGIONS, palette, mpp, progress)
    pairs = pair(dataset / REGIONS / "images", dataset / REGIONS / "masks")
    slide_of = {_stem(plan, box): plan.slide.stem for plan in plans for box in plan.boxes}
    taken = set(slide_of.values())
    return SlideRegions(
        pairs=pairs,
        groups=[group_of[slide_of[one.stem]] for one in pairs],
        fixed=fixed,
        left_out=[stem for stem in stems if stem not in taken],
        records=records,
    )


def plan_slides(
    slides: Sequence[AnnotatedSlide], palette: Palette, mpp: float | None, tile_px: int, progress: Progress
) -> list[RegionPlan]:
    """Read every slide's annotations and choose its regions, before anything is written.

    Parameters
    ----------
    slides : sequence of AnnotatedSlide
    palette : Palette
    mpp : float or None
        Micrometres per pixel wanted; None for each image's own, which is not possible for slides.
    tile_px : int
        Regions of slides are put together of tiles of that side.
    progress : Progress

    Returns
    -------
    list of RegionPlan
        Slides without tissue and outlines are left out, with a warning.

    Raises
    ------
    UsageError
        `mpp` is None, and one is a slide.
    InputError
        A slide or GeoJSON file cannot be used (all are named), a slide has no scale, a region of
        interest is no upright rectangle or is beside the slide, or nothing is left to cut.

    Notes
    -----
    Where there are regions of interest, only these are cut. Else a plain image is cut whole, and of a
    slide the tiles with tissue (`find_tissue`) or outlines, put together to rectangles.
    """
    progress.start("reading the slides", len(slides))
    plans = map_files(
        lambda slide: _plan(slide, palette, mpp, tile_px, progress),
        slides,
        lambda slide: slide.annotations,
        progress,
        threads=1,
    )
    for plan in plans:
        if not plan.boxes:
            progress.warn(f"{plan.slide.image}: no tissue and no outlines; left out")
    plans = [plan for plan in plans if plan.boxes]
    if not plans:
        raise InputError(slides[0].image.parent, "expected slides with tissue, got none")
    return plans


def cut_regions(
    plans: Sequence[RegionPlan],
    folder: Path,
    palette: Palette,
    mpp: float | None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Write the planned regions as images and masks, one at a time in memory.

    Parameters
    ----------
    plans : sequence of RegionPlan
    folder : Path
        ``images/`` and ``masks/`` are created in it.
    palette : Palette
    mpp : float or None
        As for `plan_slides`.
    progress : Progress

    Returns
    -------
    list of dict
        Entries of ``prepare.json``.

    Raises
    ------
    InputError
        A slide is damaged there.
    StorageError
        They cannot be written.
    """
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    progress.start("cutting regions of the slides", sum(len(plan.boxes) for plan in plans))
    records: list[dict[str, Any]] = []
    for plan in plans:
        digest = sha256(plan.slide.annotations)
        with open_slide(plan.slide.image) as slide:
            reader = slide.at(mpp)
            for box in plan.boxes:
                stem = _stem(plan, box)
                write_png(folder / "images" / f"{stem}.png", reader.read(box), reader.mpp)
                labels = plan.outlines.labels(box, reader.zoom)
                write_mask(folder / "masks" / f"{stem}.png", labels, palette, reader.mpp)
                records.append(
                    {
                        "stem": stem,
                        "slide": plan.slide.image.name,
                        "annotations": plan.slide.annotations.name,
                        "annotations_sha256": digest,
                        "box": list(box),
                        "l0_px_per_px": reader.zoom,
                        "mpp": reader.mpp,
                    }
                )
                progress.advance()
    return records


def region_box(region: Polygon | MultiPolygon, reader: SlideReader, path: Path) -> Box:
    """Return the pixels wholly inside a rectangle of interest.

    Raises
    ------
    InputError
        It is no upright rectangle, or is beside the slide.
    """
    if region.area < _RECTANGULAR * region.envelope.area:
        raise InputError(
            path,
            "expected rectangles as regions of interest, got another shape: a mask cannot mark its corners "
            "as not annotated",
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
    """Cut a box into equal parts of at most `LONGEST_PX` a side."""
    rows, columns = (
        np.linspace(start, stop, -(-(stop - start) // LONGEST_PX) + 1).round().astype(int).tolist()
        for start, stop in ((box.top, box.bottom), (box.left, box.right))
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Box(top, left, bottom, right)


def tissue_boxes(slide: Slide, reader: SlideReader, outlines: Outlines, tile_px: int) -> Iterator[Box]:
    """Find rectangles that hold every tile with tissue or an outline, and few without.

    Raises
    ------
    InputError
        The slide has no scale.
    """
    height, width = reader.size_px
    if slide.mpp is None:
        raise InputError(slide.path, "expected micrometres per pixel in the file, got none")
    tissue = make_overview(slide, slide.mpp, reader.zoom).tissue
    wanted = np.zeros((-(-height // tile_px), -(-width // tile_px)), np.bool_)
    for row, column in np.ndindex(*wanted.shape):
        box = Box(row * tile_px, column * tile_px, (row + 1) * tile_px, (column + 1) * tile_px)
        wanted[row, column] = tissue.near_tissue(box) or bool(outlines.near(box, reader.zoom))
    for block in _blocks(wanted, max(1, LONGEST_PX // tile_px)):
        top, left, bottom, right = (edge * tile_px for edge in block)
        yield Box(top, left, min(bottom, height), min(right, width))


def _blocks(wanted: NDArray[np.bool_], most: int, top: int = 0, left: int = 0) -> Iterator[Box]:
    """Find rectangles of at most `most` a side that hold all True cells and are mostly full of them."""
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not rows.size:
        return
    kept = wanted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = top + int(rows[0]), left + int(columns[0])
    height, width = kept.shape
    if max(height, width) <= most and kept.mean() >= _FULL:
        yield Box(top, left, top + height, left + width)
        return
    # Cut the longer side: at a multiple of `most` while there is more, else in the middle.
    length = max(height, width)
    half = max(1, length // 2) if length <= most else most * max(1, round(length / most / 2))
    if height >= width:
        yield from _blocks(kept[:half], most, top, left)
        yield from _blocks(kept[half:], most, top + half, left)
    else:
        yield from _blocks(kept[:, :half], most, top, left)
        yield from _blocks(kept[:, half:], most, top, left + half)


def _plan(
    pair: AnnotatedSlide, palette: Palette, mpp: float | None, tile_px: int, progress: Progress
) -> RegionPlan:
    outlines = read_outlines(pair.annotations, palette, progress)
    with open_slide(pair.image, progress=progress) as slide:
        if mpp is None and not slide.plain:
            raise UsageError(
                "--mpp", f"expected micrometres per pixel, as {pair.image.name} is a slide, got none"
            )
        reader = slide.at(mpp)
        if mpp is not None and reader.zoom < 1 - _SAME:
            progress.warn(
                f"{pair.image}: --mpp {mpp:g} is finer than its own {slide.mpp:.4g}: pixels are enlarged, "
                "which adds no detail"
            )
        _warn_outside(outlines, slide, pair.annotations, progress)
        if outlines.regions:
            regions = [region_box(region, reader, pair.annotations) for region in outlines.regions]
            boxes = [piece for region in regions for piece in pieces(region)]
        elif slide.plain:
            boxes = list(pieces(Box(0, 0, *reader.size_px)))
        else:
            boxes = list(tissue_boxes(slide, reader, outlines, tile_px))
    return RegionPlan(pair, outlines, tuple(dict.fromkeys(boxes)))


def _warn_outside(outlines: Outlines, slide: Slide, path: Path, progress: Progress) -> None:
    import shapely

    height, width = slide.size_px
    shapes = np.array([*outlines.polygons, *outlines.regions], object)
    if not shapes.size:
        return
    inside = shapely.area(shapely.intersection(shapes, shapely.box(0, 0, width, height)))
    outside = int(np.count_nonzero(inside < _INSIDE * shapely.area(shapes)))
    if outside:
        progress.warn(
            f"{path}: {outside} of {len(shapes)} outlines are mostly or wholly beside {slide.path.name} of "
            f"{width} x {height} px; is it the right slide, and are they in its full-resolution pixels?"
        )


def _stem(plan: RegionPlan, box: Box) -> str:
    return f"{plan.slide.stem}_y{box.top}_x{box.left}"
