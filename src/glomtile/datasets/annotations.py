"""GeoJSON annotations of slides, and the regions that are cut from them as images and masks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.datasets.loading import map_files
from glomtile.datasets.pairing import LEFT_OUT, Pair, by_stem, pair, read_groups, require_partners
from glomtile.datasets.splitting import split_groups
from glomtile.errors import InputError, UsageError
from glomtile.io.atomic import sha256
from glomtile.io.geojson import Annotation, read_annotations
from glomtile.io.images import list_images, natural_key, write_png
from glomtile.io.masks import MASK_SUFFIXES, write_mask
from glomtile.palette import Palette
from glomtile.slides.slide import Slide, SlideReader, list_slides, open_slide, slide_name
from glomtile.slides.tissue import make_overview
from glomtile.types import SILENT, Box, Progress, UInt8

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

ANNOTATION_SUFFIX = ".geojson"
_REGIONS = ("roi", "region", "region*")
_IGNORED = "*"
"""Ending of QuPath's names of classes that are not measured."""
_MOST_NAMES = 10

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


@dataclass(frozen=True)
class AnnotatedSlide:
    """A slide or image and its annotations; `stem` is the name they share."""

    stem: str
    image: Path
    annotations: Path


@dataclass(frozen=True, eq=False)
class Outlines:
    """Annotated outlines of one slide, in full-resolution pixels, pixel corners at integers.

    Attributes
    ----------
    polygons : tuple of shapely Polygon or MultiPolygon
        In the order in which they are painted: large before small, of equals the earlier first.
    numbers : tuple of int
        The class of each.
    regions : tuple of shapely Polygon or MultiPolygon
        Regions of interest; only pixels inside them are annotated. Empty: all of the slide is.
    """

    polygons: tuple[Polygon | MultiPolygon, ...]
    numbers: tuple[int, ...]
    regions: tuple[Polygon | MultiPolygon, ...] = ()

    @cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self.polygons)

    def near(self, box: Box, zoom: float) -> list[int]:
        """Return positions of the polygons whose bounds meet a box, in the order of painting."""
        import shapely

        rectangle = shapely.box(box.left * zoom, box.top * zoom, box.right * zoom, box.bottom * zoom)
        return sorted(int(position) for position in self._tree.query(rectangle))

    def labels(self, box: Box, zoom: float) -> UInt8:
        """Rasterise a box to class numbers: a pixel belongs to the polygon that holds its centre.

        Parameters
        ----------
        box : Box
            In working pixels.
        zoom : float
            Full-resolution pixels per working pixel.

        Returns
        -------
        (h, w) uint8 ndarray
            0 outside every polygon. Where polygons overlap the smaller wins, of equals the later.

        Notes
        -----
        A centre on an edge belongs to the polygon on the right of the edge or below it, so that polygons with
        a common edge share the pixels without gap or overlap.
        """
        labels = np.zeros((box.height, box.width), np.uint8)
        for position in self.near(box, zoom):
            _paint(labels, self.polygons[position], self.numbers[position], box, zoom)
        return labels


def holds_annotations(folder: Path) -> bool:
    """Return whether a folder holds GeoJSON files instead of masks.

    Raises
    ------
    InputError
        It holds both, or cannot be read.
    """
    folder = Path(folder)
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(folder, f"expected a readable folder, got: {error.strerror}") from error
    annotated = [name for name in names if name.lower().endswith(ANNOTATION_SUFFIX)]
    masks = [name for name in names if Path(name).suffix.lower() in MASK_SUFFIXES]
    if annotated and masks:
        raise InputError(
            folder,
            f"expected masks or GeoJSON files, got {len(masks)} masks and {len(annotated)} GeoJSON files",
            "keep them in two folders",
        )
    return bool(annotated)


def pair_annotations(images_dir: Path, annotations_dir: Path) -> list[AnnotatedSlide]:
    """Pair every slide or image of one folder with its ``<stem>.geojson`` of another.

    Returns
    -------
    list of AnnotatedSlide
        In natural order of their stems.

    Raises
    ------
    InputError
        A folder is missing, unreadable or empty; a slide or a GeoJSON file has no partner or two. All errors
        of one kind are named at once.
    """
    images = by_stem(list_slides(images_dir), slide_name)
    annotations = by_stem(list_images(annotations_dir, (ANNOTATION_SUFFIX,)), slide_name)
    hint = "export an empty one for a slide without objects"
    require_partners(images_dir, images, annotations_dir, annotations, ("slide", "GeoJSON file"), hint)
    return [AnnotatedSlide(stem, images[stem], annotations[stem]) for stem in sorted(images, key=natural_key)]


def read_outlines(path: Path, palette: Palette, progress: Progress = SILENT) -> Outlines:
    """Read the outlines of a GeoJSON file, each with the number of its class.

    Parameters
    ----------
    path : Path
        See `glomtile.io.geojson.read_annotations`.
    palette : Palette
        Classifications are its classes' names, in upper or lower case, singular or plural (``Glomeruli``).
        ``Region*``, ``Region`` and ``ROI`` are regions of interest. Other classifications that end with
        ``*``, as QuPath's ``Ignore*``, are ignored: their pixels stay background.
    progress : Progress
        Receives warnings of ignored outlines, and of outlines without a class, which get the only class
        where there is one.

    Returns
    -------
    Outlines
        Empty for a file without features.

    Raises
    ------
    InputError
        The file is no GeoJSON, classifications are unknown (all are named, with counts), or outlines have
        no class while there are several classes or one encloses others.
    """
    table = _names(palette)
    found: list[tuple[Polygon | MultiPolygon, int]] = []
    regions: list[Polygon | MultiPolygon] = []
    unnamed: list[Annotation] = []
    unknown: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for annotation in read_annotations(path, progress):
        name = (annotation.name or "").strip()
        if not name:
            unnamed.append(annotation)
        elif name.lower() in _REGIONS:
            regions.append(annotation.polygon)
        elif name.lower() in table:
            found.append((annotation.polygon, table[name.lower()]))
        else:
            (ignored if name.endswith(_IGNORED) else unknown)[name] += 1
    if unknown:
        raise InputError(
            path,
            f"expected the classes {', '.join(palette.names[1:])}, got {_counted(unknown)}",
            hint="rename them in QuPath; names that end with * are ignored",
        )
    if ignored:
        progress.warn(f"{path}: ignored, and so background: {_counted(ignored)}")
    if unnamed:
        hint = "classify them in QuPath; a region of interest has the class Region*"
        if palette.num_classes != 2:
            raise InputError(path, f"expected a class for every outline, got {len(unnamed)} without", hint)
        found += [(annotation.polygon, 1) for annotation in unnamed]
        shapes = [polygon for polygon, _ in found]
        for shape in shapes[-len(unnamed) :]:
            others = [other for other in shapes if other is not shape]
            if inside := sum(shape.area > other.area and shape.contains(other) for other in others):
                got = f"one without around {inside} others"
                raise InputError(path, f"expected a class for every outline, got {got}", hint)
        progress.warn(f"{path}: {len(unnamed)} outlines without a class count as {palette.names[1]}")
    found.sort(key=lambda entry: -entry[0].area)
    return Outlines(tuple(shape for shape, _ in found), tuple(number for _, number in found), tuple(regions))


def _names(palette: Palette) -> dict[str, int]:
    table: dict[str, int] = {}
    for entry in palette.classes:
        name = entry.name.lower()
        latin = f"{name.removesuffix('us')}i" if name.endswith("us") else name
        for spelt in (f"{name}s", f"{name}es", latin):
            table.setdefault(spelt, entry.number)
    return table | {entry.name.lower(): entry.number for entry in palette.classes}


def _paint(labels: UInt8, polygon: Polygon | MultiPolygon, number: int, box: Box, zoom: float) -> None:
    """Fill by the even-odd rule: along a row, every crossed edge changes inside to outside and back."""
    x0, y0, x1, y1 = (_edges(polygon) / zoom - np.tile([box.left + 0.5, box.top + 0.5], 2)).T
    rising = y0 > y1
    x0, x1 = np.where(rising, (x1, x0), (x0, x1))
    y0, y1 = np.where(rising, (y1, y0), (y0, y1))
    height, width = labels.shape
    first = np.clip(np.ceil(y0), 0, height).astype(np.intp)
    count = np.clip(np.ceil(y1), 0, height).astype(np.intp) - first
    edge = np.repeat(np.arange(len(count)), count)
    if not edge.size:
        return
    rows = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    columns = np.clip(np.ceil(x0[edge] + (rows - y0[edge]) * slope), 0, width).astype(np.intp)
    top, left = int(rows.min()), int(columns.min())
    bottom, right = int(rows.max()) + 1, int(columns.max()) + 1
    crossed = np.zeros((bottom - top, right - left), np.uint8)
    np.bitwise_xor.at(crossed, (rows - top, columns - left), 1)
    inside = np.bitwise_xor.accumulate(crossed, axis=1).astype(np.bool_)[:, : width - left]
    labels[top:bottom, left : min(right, width)][inside] = number


def _edges(polygon: Polygon | MultiPolygon) -> NDArray[np.float64]:
    """Return x and y of both ends of every side of every ring, ``(N, 4)``."""
    import shapely

    parts = shapely.get_parts(polygon)
    rings = [shapely.get_coordinates(ring) for part in parts for ring in (part.exterior, *part.interiors)]
    return np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])


def _counted(names: Counter[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more names" if len(names) > _MOST_NAMES else ""
    return ", ".join(f"{count} {name!r}" for name, count in names.most_common(_MOST_NAMES)) + more


_Plan = tuple[AnnotatedSlide, Outlines, list[Box]]


@dataclass(frozen=True, eq=False)
class SlideRegions:
    """Images and masks cut from a folder of slides.

    Attributes
    ----------
    pairs : list of Pair
    groups : list of str
        The group of each pair: its slide, or the group that the table gives its slide.
    splits : list of str
        The split of each pair.
    left_out : list of str
        Slides of which nothing was cut.
    records : list of dict
        Entries of ``prepare.json``: the origin of each pair.
    """

    pairs: list[Pair]
    groups: list[str]
    splits: list[str]
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
    palette : Palette
    mpp : float or None
        Micrometres per pixel wanted; None for each image's own, which is not possible for slides.
    tile_px : int
        Regions of slides are put together of tiles of that side.
    groups : Path, optional
        CSV with the columns ``stem,group[,split]``, a line for every slide; those it leaves ``out`` are not
        opened.
    split, seed
        See `split_groups`: that there are enough groups is checked before the first region is cut.

    Returns
    -------
    SlideRegions
        Slides without tissue and outlines are left out, with a warning.

    Raises
    ------
    UsageError
        See `read_groups` and `split_groups`, or `mpp` is None and one is a slide.
    InputError
        See `pair_annotations`; a slide or GeoJSON file cannot be used (all are named), a slide has no scale,
        a region of interest is no upright rectangle or is beside the slide, or nothing is left to cut.
    StorageError
        The regions cannot be written.

    Notes
    -----
    All annotations are read and all regions chosen before anything is written; regions are in memory one at a
    time. Where there are regions of interest, only these are cut. Else a plain image is cut whole, and of a
    slide the tiles with tissue (`find_tissue`) or outlines, put together to rectangles.
    """
    slides = pair_annotations(images, annotations)
    stems = [slide.stem for slide in slides]
    group_of, fixed = ({stem: stem for stem in stems}, {}) if groups is None else read_groups(groups, stems)
    used = [slide for slide in slides if fixed.get(group_of[slide.stem]) != LEFT_OUT]
    if not used:
        raise InputError(groups, "expected slides for the splits, got a table that leaves all of them out")
    split_groups([group_of[slide.stem] for slide in used], split, seed, fixed)
    progress.start("reading the slides", len(used))
    planned = map_files(
        lambda slide: _plan(slide, palette, mpp, tile_px, progress),
        used,
        lambda slide: slide.annotations,
        progress,
        threads=1,
    )
    plans = []
    for slide, outlines, boxes in planned:
        if boxes:
            plans.append((slide, outlines, boxes))
        else:
            progress.warn(f"{slide.image}: no tissue and no outlines; left out")
    if not plans:
        raise InputError(used[0].image.parent, "expected slides with tissue, got none")
    cut_from = {
        f"{slide.stem}_y{box.top}_x{box.left}": slide.stem for slide, _, boxes in plans for box in boxes
    }
    split_groups([group_of[stem] for stem in cut_from.values()], split, seed, fixed)
    records = _cut_regions(plans, dataset / REGIONS, palette, mpp, progress)
    pairs = pair(dataset / REGIONS / "images", dataset / REGIONS / "masks")
    names = [group_of[cut_from[one.stem]] for one in pairs]
    return SlideRegions(
        pairs=pairs,
        groups=names,
        splits=split_groups(names, split, seed, fixed),
        left_out=[stem for stem in stems if stem not in cut_from.values()],
        records=records,
    )


def _cut_regions(
    plans: Sequence[_Plan], folder: Path, palette: Palette, mpp: float | None, progress: Progress
) -> list[dict[str, Any]]:
    """Write the planned regions as images and masks; return their entries of ``prepare.json``."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    progress.start("cutting regions of the slides", sum(len(boxes) for _, _, boxes in plans))
    records: list[dict[str, Any]] = []
    for annotated, outlines, boxes in plans:
        digest = sha256(annotated.annotations)
        with open_slide(annotated.image) as slide:
            reader = slide.at(mpp)
            for box in boxes:
                stem = f"{annotated.stem}_y{box.top}_x{box.left}"
                write_png(folder / "images" / f"{stem}.png", reader.read(box), reader.mpp)
                labels = outlines.labels(box, reader.zoom)
                write_mask(folder / "masks" / f"{stem}.png", labels, palette, reader.mpp)
                records.append(
                    {
                        "stem": stem,
                        "slide": annotated.image.name,
                        "annotations": annotated.annotations.name,
                        "annotations_sha256": digest,
                        "box": list(box),
                        "l0_px_per_px": reader.zoom,
                        "mpp": reader.mpp,
                    }
                )
                progress.advance()
    return records


def _region_box(region: Polygon | MultiPolygon, reader: SlideReader, path: Path) -> Box:
    """Return the pixels wholly inside a rectangle of interest."""
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


def _pieces(box: Box) -> Iterator[Box]:
    """Cut a box into equal parts of at most `LONGEST_PX` a side."""
    rows, columns = (
        np.linspace(start, stop, -(-(stop - start) // LONGEST_PX) + 1).round().astype(int).tolist()
        for start, stop in ((box.top, box.bottom), (box.left, box.right))
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Box(top, left, bottom, right)


def _tissue_boxes(slide: Slide, reader: SlideReader, outlines: Outlines, tile_px: int) -> Iterator[Box]:
    """Find rectangles that hold every tile with tissue or an outline, and few without."""
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
) -> _Plan:
    """Read the outlines of a slide and choose its regions, in pixels at the wanted scale."""
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
            regions = [_region_box(region, reader, pair.annotations) for region in outlines.regions]
            boxes = [piece for region in regions for piece in _pieces(region)]
        elif slide.plain:
            boxes = list(_pieces(Box(0, 0, *reader.size_px)))
        else:
            boxes = list(_tissue_boxes(slide, reader, outlines, tile_px))
    return pair, outlines, list(dict.fromkeys(boxes))


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
