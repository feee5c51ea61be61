"""How annotated slides become pictures and masks of a size that training reads whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile.core.palette import Palette
from glomtile.core.split import split_groups
from glomtile.errors import InputError, UsageError
from glomtile.files.annotations import AnnotatedSlide, Outlines, pair_annotations, read_outlines
from glomtile.files.groups import LEFT_OUT, read_groups
from glomtile.files.images import write_png
from glomtile.files.masks import write_mask
from glomtile.files.pairs import Pair, pair
from glomtile.files.room import require_space
from glomtile.files.slides import Slide, open_slide
from glomtile.files.workspace import sha256
from glomtile.types import SILENT, Box, Progress
from glomtile.verbs.slideboxes import pieces, region_box, tissue_boxes

if TYPE_CHECKING:
    pass

PICTURES = "pictures"
"""Folder of a dataset for what was cut from slides: ``images/`` and ``masks/``."""

_SAME = 1e-6
_INSIDE = 0.5
"""Share of an outline's area that must lie on the slide, else it is told of."""

_PACKED = 0.25
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
        See `glomtile.files.annotations.pair_annotations`.
    dataset : Path
        Its folder ``pictures/`` is made.
    palette, mpp, tile_px, progress
        See `plan_slides`.
    groups : Path, optional
        CSV with the columns ``stem,group[,split]``, a line for every slide; those it leaves ``out`` are not
        opened.
    split, seed
        How the pictures will be dealt, see `glomtile.core.split.split_groups`: that there are groups enough
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
    slide the tiles with tissue (`glomtile.core.tissue.find_tissue`) or outlines, put together to rectangles.
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
    pixels = sum(box.height * box.width for plan in plans for box in plan.boxes)
    require_space(folder, round(_PACKED * 3 * pixels))
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
        if mpp is not None and reader.zoom < 1 - _SAME:
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
