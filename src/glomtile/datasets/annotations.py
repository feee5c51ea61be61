"""Annotations drawn as label masks."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.io.geojson import Annotation, read_annotations
from glomtile.io.images import list_images, natural_key
from glomtile.io.masks import MASK_SUFFIXES
from glomtile.palette import Palette
from glomtile.slides.slide import list_slides, slide_name
from glomtile.types import SILENT, Box, Progress, UInt8

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

ANNOTATION_SUFFIX = ".geojson"
_REGIONS = ("roi", "region", "region*")
_IGNORED = "*"
"""QuPath ends the names of classes that are not to be measured with it."""
_LISTED = 10


@dataclass(frozen=True)
class AnnotatedSlide:
    """A slide or picture and its annotations; `stem` is the name they share."""

    stem: str
    image: Path
    annotations: Path


@dataclass(frozen=True, eq=False)
class Outlines:
    """What is outlined on one slide, in full-resolution pixels, pixel corners at integers.

    Attributes
    ----------
    polygons : tuple of shapely Polygon or MultiPolygon
        In the order in which they are painted: large before small, of equals the earlier first.
    numbers : tuple of int
        The class of each.
    regions : tuple of shapely Polygon or MultiPolygon
        Regions of interest; only what lies inside was looked at. None: all of the slide was.
    """

    polygons: tuple[Polygon | MultiPolygon, ...]
    numbers: tuple[int, ...]
    regions: tuple[Polygon | MultiPolygon, ...] = ()

    @cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self.polygons)

    def near(self, box: Box, zoom: float) -> list[int]:
        """Positions of the polygons whose bounds meet a box, in the order in which they are painted."""
        import shapely

        rectangle = shapely.box(box.left * zoom, box.top * zoom, box.right * zoom, box.bottom * zoom)
        return sorted(int(position) for position in self._tree.query(rectangle))

    def labels(self, box: Box, zoom: float) -> UInt8:
        """Class numbers of a box: a pixel belongs to the polygon its centre lies in.

        Parameters
        ----------
        box : Box
            Pixels of the working plane.
        zoom : float
            Full-resolution pixels per pixel of that plane.

        Returns
        -------
        (h, w) uint8 ndarray
            0 outside every polygon. Where polygons overlap the smaller wins, of equals the later.

        Notes
        -----
        A centre on an edge belongs to the side to the right of it or below it, so that polygons with a common
        edge share the pixels without gap or overlap.
        """
        labels = np.zeros((box.height, box.width), np.uint8)
        for position in self.near(box, zoom):
            _paint(labels, self.polygons[position], self.numbers[position], box, zoom)
        return labels


def holds_annotations(folder: Path) -> bool:
    """Whether a folder holds GeoJSON files, and so is one of annotations and not of masks.

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
        raise InputError(folder, f"expected a folder that can be read, got: {error.strerror}") from error
    outlined = [name for name in names if name.lower().endswith(ANNOTATION_SUFFIX)]
    masks = [name for name in names if Path(name).suffix.lower() in MASK_SUFFIXES]
    if outlined and masks:
        raise InputError(
            folder,
            f"expected masks or GeoJSON files, got {len(masks)} masks and {len(outlined)} GeoJSON files",
            "keep them in two folders",
        )
    return bool(outlined)


def pair_annotations(images_dir: Path, annotations_dir: Path) -> list[AnnotatedSlide]:
    """Every slide or picture of one folder with its ``<stem>.geojson`` of another.

    Returns
    -------
    list of AnnotatedSlide
        In natural order of their stems.

    Raises
    ------
    InputError
        A folder is missing, unreadable or empty; a slide or a GeoJSON file has no partner or two. All that
        is wrong of one kind is named at once.
    """
    images_dir, annotations_dir = Path(images_dir), Path(annotations_dir)
    images = _by_stem(list_slides(images_dir))
    outlined = _by_stem(list_images(annotations_dir, (ANNOTATION_SUFFIX,)))
    alone = [path for stem, path in images.items() if stem not in outlined]
    spare = [path for stem, path in outlined.items() if stem not in images]
    if alone:
        near = difflib.get_close_matches(
            slide_name(alone[0]), [slide_name(path) for path in spare], n=1, cutoff=0.4
        )
        raise InputError(
            annotations_dir,
            f"expected a GeoJSON file for every slide of {images_dir}, got none for {_listed(alone)}",
            hint=f"the nearest unused is {outlined[near[0]].name}: names must be the same"
            if near
            else "export an empty one for a slide without objects",
        )
    if spare:
        raise InputError(
            images_dir,
            f"expected a slide for every GeoJSON file of {annotations_dir}, got none for {_listed(spare)}",
        )
    return [AnnotatedSlide(stem, images[stem], outlined[stem]) for stem in sorted(images, key=natural_key)]


def read_outlines(path: Path, palette: Palette, progress: Progress = SILENT) -> Outlines:
    """Outlines of a GeoJSON file, each with the number of its class.

    Parameters
    ----------
    path : Path
        See `glomtile.io.geojson.read_annotations`.
    palette : Palette
        Classifications are its classes' names, in upper or lower case, singular or plural (``Glomeruli``).
        ``Region*``, ``Region`` and ``ROI`` are regions of interest. Other classifications that end with
        ``*``, as QuPath's ``Ignore*``, are passed over: their pixels stay background.
    progress : Progress
        Is warned of what is passed over, and of outlines without a class, which are taken as the one class
        where there is only one.

    Returns
    -------
    Outlines
        Empty for a file without features.

    Raises
    ------
    InputError
        The file is no GeoJSON, classifications are unknown (all are named, with counts), or outlines have
        none while there are several classes or one encloses others.
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
            hint="rename them in QuPath; a name that ends with * is passed over",
        )
    if ignored:
        progress.warn(f"{path}: passed over, and so background: {_counted(ignored)}")
    found += _taken(unnamed, [polygon for polygon, _ in found], path, palette, progress)
    found.sort(key=lambda entry: -entry[0].area)
    return Outlines(tuple(shape for shape, _ in found), tuple(number for _, number in found), tuple(regions))


def _taken(
    unnamed: Sequence[Annotation],
    named: Sequence[Polygon | MultiPolygon],
    path: Path,
    palette: Palette,
    progress: Progress,
) -> list[tuple[Polygon | MultiPolygon, int]]:
    """Outlines without a class as the only class there is."""
    if not unnamed:
        return []
    hint = "classify them in QuPath; a region of interest has the class Region*"
    if palette.num_classes != 2:
        raise InputError(path, f"expected a class for every outline, got {len(unnamed)} without", hint)
    shapes = [annotation.polygon for annotation in unnamed]
    for position, shape in enumerate(shapes):
        others = [*named, *shapes[:position], *shapes[position + 1 :]]
        if inside := sum(shape.area > other.area and shape.contains(other) for other in others):
            raise InputError(
                path, f"expected a class for every outline, got one without around {inside} others", hint
            )
    progress.warn(f"{path}: {len(unnamed)} outlines without a class are taken as {palette.names[1]}")
    return [(shape, 1) for shape in shapes]


def _names(palette: Palette) -> dict[str, int]:
    """Class numbers by their names in lower case, singular and plural."""
    table: dict[str, int] = {}
    for entry in palette.classes:
        name = entry.name.lower()
        latin = f"{name.removesuffix('us')}i" if name.endswith("us") else name
        for spelt in (f"{name}s", f"{name}es", latin):
            table.setdefault(spelt, entry.number)
    return table | {entry.name.lower(): entry.number for entry in palette.classes}


def _paint(labels: UInt8, polygon: Polygon | MultiPolygon, number: int, box: Box, zoom: float) -> None:
    """Even-odd filling: along a row, every edge that is crossed changes inside to outside and back."""
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
    """``(N, 4)``: x and y of both ends of every side of every ring."""
    import shapely

    parts = shapely.get_parts(polygon)
    rings = [shapely.get_coordinates(ring) for part in parts for ring in (part.exterior, *part.interiors)]
    return np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    twice: list[str] = []
    for path in paths:
        stem = slide_name(path)
        if stem in found:
            twice.append(f"{found[stem].name} and {path.name}")
        found[stem] = path
    if twice:
        raise InputError(paths[0].parent, f"expected every name once, got {', '.join(twice[:_LISTED])}")
    return found


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(path.name for path in paths[:_LISTED]) + more


def _counted(names: Counter[str]) -> str:
    more = f" and {len(names) - _LISTED} more names" if len(names) > _LISTED else ""
    return ", ".join(f"{count} {name!r}" for name, count in names.most_common(_LISTED)) + more
