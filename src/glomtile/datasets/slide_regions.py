"""Annotated regions of slides read as images and masks."""

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
from glomtile.datasets.pairing import LEFT_OUT, Pair, pair, read_groups
from glomtile.datasets.splitting import split_groups
from glomtile.errors import InputError, UsageError
from glomtile.io.atomic import sha256
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import Palette
from glomtile.slides.slide import Slide, SlideReader, open_slide
from glomtile.slides.tissue import look_at
from glomtile.types import SILENT, Box, Progress

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    pass

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


PICTURES = "pictures"
"""Folder of a dataset for what was cut from slides: ``images/`` and ``masks/``."""

_SAME_fromslides = 1e-6
_INSIDE = 0.5
"""Share of an outline's area that must lie on the slide, else it is told of."""

_WARNED_OF = 3
_LISTED = 10


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """Which boxes of a slide, in pixels at the wanted scale, become pictures."""

    slide: AnnotatedSlide
    outlines: Outlines
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class CutPicture:
    """A picture cut from a slide.

    Attributes
    ----------
    stem : str
        Of the picture and its mask: the slide's and the place of its first pixel, ``<stem>_y0_x2048``.
    slide : AnnotatedSlide
    box : Box
        In pixels at `mpp`.
    zoom : float
        Full-resolution pixels of the slide per pixel.
    mpp : float or None
    """

    stem: str
    slide: AnnotatedSlide
    box: Box
    zoom: float
    mpp: float | None


@dataclass(frozen=True, eq=False)
class SlidePictures:
    """All pictures cut from a folder of slides.

    Attributes
    ----------
    pairs : list of Pair
        Pictures and masks.
    groups : list of str
        The group of each: its slide, or what the table says of its slide.
    fixed : dict
        Groups whose split the table gives.
    left_out : list of str
        Slides of which nothing was taken.
    records : list of dict
        What ``prepare.json`` says of where each picture comes from.
    """

    pairs: list[Pair]
    groups: list[str]
    fixed: dict[str, str]
    left_out: list[str]
    records: list[dict[str, Any]]


def pictures_of_slides(
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
) -> SlidePictures:
    """Cut the slides of a folder that GeoJSON files of another annotate.

    Parameters
    ----------
    images, annotations : Path
        See `glomtile.datasets.annotations.pair_annotations`.
    dataset : Path
        Its folder ``pictures/`` is made.
    palette, mpp, tile_px, progress
        See `plan_slides`.
    groups : Path, optional
        CSV with the columns ``stem,group[,split]``, a line for every slide; those it leaves ``out`` are not
        opened.
    split, seed
        How the pictures will be dealt, see `split_groups`: that there are groups enough
        is known before the first is cut.

    Raises
    ------
    UsageError, InputError, StorageError
        See `pair_annotations`, `read_groups`, `split_groups`, `plan_slides` and `cut_pictures`.
    """
    slides = pair_annotations(images, annotations)
    stems = [slide.stem for slide in slides]
    named, fixed = ({stem: stem for stem in stems}, {}) if groups is None else read_groups(groups, stems)
    used = [slide for slide in slides if fixed.get(named[slide.stem]) != LEFT_OUT]
    if not used:
        raise InputError(groups, "expected slides for the splits, got a table that leaves all of them out")
    split_groups([named[slide.stem] for slide in used], split, seed, fixed)
    plans = plan_slides(used, palette, mpp, tile_px, progress)
    # Slides without tissue are left out now.
    split_groups([named[plan.slide.stem] for plan in plans for _ in plan.boxes], split, seed, fixed)
    cut = cut_pictures(plans, dataset / PICTURES, palette, mpp, progress)
    home = {picture.stem: named[picture.slide.stem] for picture in cut}
    pairs = pair(dataset / PICTURES / "images", dataset / PICTURES / "masks")
    taken = {plan.slide.stem for plan in plans}
    return SlidePictures(
        pairs=pairs,
        groups=[home[found.stem] for found in pairs],
        fixed=fixed,
        left_out=[stem for stem in stems if stem not in taken],
        records=picture_records(cut),
    )


def plan_slides(
    slides: Sequence[AnnotatedSlide], palette: Palette, mpp: float | None, tile_px: int, progress: Progress
) -> list[SlidePlan]:
    """Look at every slide and its annotations and decide what is cut, before anything is written.

    Parameters
    ----------
    slides : sequence of AnnotatedSlide
    palette : Palette
    mpp : float or None
        Micrometres per pixel wanted; ``None`` for each picture's own, which slides refuse.
    tile_px : int
        Boxes on slides are put together of tiles of that side.
    progress : Progress

    Returns
    -------
    list of SlidePlan
        Slides without tissue and outlines are left out, with a warning.

    Raises
    ------
    UsageError
        No `mpp`, and one is a slide.
    InputError
        A slide or GeoJSON file cannot be used (all are named), a slide does not say its scale, a region of
        interest is no upright rectangle or lies beside the slide, or nothing is left to cut.

    Notes
    -----
    With regions of interest, these are cut and nothing else. Without, a plain picture is cut whole, and of a
    slide the tiles with tissue (`find_tissue`) or outlines, put together to rectangles.
    """
    progress.start("looking at the slides", len(slides))
    plans: list[SlidePlan] = []
    wrong: list[InputError] = []
    for slide in slides:
        try:
            plans.append(_plan(slide, palette, mpp, tile_px, progress))
        except InputError as error:
            wrong.append(error)
        progress.advance()
    refuse_unusable(wrong, slides[0].annotations.parent, progress)
    for plan in plans:
        if not plan.boxes:
            progress.warn(f"{plan.slide.image}: no tissue and no outlines; left out")
    plans = [plan for plan in plans if plan.boxes]
    if not plans:
        raise InputError(slides[0].image.parent, "expected slides with tissue, got none")
    return plans


def refuse_unusable(wrong: Sequence[InputError], folder: Path, progress: Progress) -> None:
    """Raise what is wrong with files of a folder, all at once; nothing where nothing is.

    Raises
    ------
    InputError
        The only one of `wrong`, or one that names them all.
    """
    if not wrong:
        return
    if len(wrong) == 1:
        raise wrong[0]
    for trouble in wrong[:_WARNED_OF]:
        progress.warn(str(trouble))
    if len(wrong) > _WARNED_OF:
        progress.warn(f"and {len(wrong) - _WARNED_OF} more files that cannot be used")
    names = ", ".join(Path(trouble.where).name for trouble in wrong[:_LISTED])
    more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
    raise InputError(
        folder,
        f"expected files that can be used, got {len(wrong)} that cannot: {names}{more}",
        hint=f"the first: {wrong[0].message}" + (f"; {wrong[0].hint}" if wrong[0].hint else ""),
    )


def cut_pictures(
    plans: Sequence[SlidePlan], folder: Path, palette: Palette, mpp: float | None, progress: Progress = SILENT
) -> list[CutPicture]:
    """Write the planned pictures and their masks, one at a time in memory.

    Parameters
    ----------
    plans : sequence of SlidePlan
    folder : Path
        ``images/`` and ``masks/`` are made in it.
    palette : Palette
    mpp : float or None
        As for `plan_slides`.
    progress : Progress

    Raises
    ------
    InputError
        A slide is damaged there.
    StorageError
        They cannot be written.
    """
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    progress.start("cutting pictures from the slides", sum(len(plan.boxes) for plan in plans))
    written = []
    for plan in plans:
        with open_slide(plan.slide.image) as slide:
            reader = slide.at(mpp)
            for box in plan.boxes:
                cut = CutPicture(_stem(plan, box), plan.slide, box, reader.zoom, reader.mpp)
                write_png(folder / "images" / f"{cut.stem}.png", reader.read(box), reader.mpp)
                labels = plan.outlines.labels(box, reader.zoom)
                write_mask(folder / "masks" / f"{cut.stem}.png", labels, palette, reader.mpp)
                written.append(cut)
                progress.advance()
    return written


def picture_records(pictures: Sequence[CutPicture]) -> list[dict[str, Any]]:
    """What ``prepare.json`` says of where each picture comes from."""
    digests = {picture.slide.stem: sha256(picture.slide.annotations) for picture in pictures}
    return [
        {
            "stem": picture.stem,
            "slide": picture.slide.image.name,
            "annotations": picture.slide.annotations.name,
            "annotations_sha256": digests[picture.slide.stem],
            "box": list(picture.box),
            "l0_px_per_px": picture.zoom,
            "mpp": picture.mpp,
        }
        for picture in pictures
    ]


def _plan(
    pair: AnnotatedSlide, palette: Palette, mpp: float | None, tile_px: int, progress: Progress
) -> SlidePlan:
    outlines = read_outlines(pair.annotations, palette, progress)
    with open_slide(pair.image, progress=progress) as slide:
        if mpp is None and not slide.plain:
            raise UsageError(
                "--mpp", f"expected micrometres per pixel, as {pair.image.name} is a slide, got none"
            )
        reader = slide.at(mpp)
        if mpp is not None and reader.zoom < 1 - _SAME_fromslides:
            progress.warn(
                f"{pair.image}: --mpp {mpp:g} is finer than its own {slide.mpp:.4g}: pixels are enlarged, "
                "which adds no detail"
            )
        _warn_outside(outlines, slide, pair.annotations, progress)
        if outlines.regions:
            boxes = [
                piece
                for region in outlines.regions
                for piece in pieces(region_box(region, reader, pair.annotations))
            ]
        elif slide.plain:
            boxes = list(pieces(Box(0, 0, *reader.size_px)))
        else:
            boxes = list(tissue_boxes(slide, reader, outlines, tile_px))
    return SlidePlan(pair, outlines, tuple(dict.fromkeys(boxes)))


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
            f"{path}: {outside} of {len(shapes)} outlines lie mostly or wholly beside {slide.path.name} of "
            f"{width} x {height} px; is it the right slide, and are they in its full-resolution pixels?"
        )


def _stem(plan: SlidePlan, box: Box) -> str:
    return f"{plan.slide.stem}_y{box.top}_x{box.left}"
