"""GeoJSON annotations of slides, and their rasterisation to class numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glomtile.datasets.pairing import by_stem, require_partners
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
"""Ending of QuPath's names of classes that are not measured."""
_MOST_NAMES = 10


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
    found += _with_only_class(unnamed, [polygon for polygon, _ in found], path, palette, progress)
    found.sort(key=lambda entry: -entry[0].area)
    return Outlines(tuple(shape for shape, _ in found), tuple(number for _, number in found), tuple(regions))


def _with_only_class(
    unnamed: Sequence[Annotation],
    named: Sequence[Polygon | MultiPolygon],
    path: Path,
    palette: Palette,
    progress: Progress,
) -> list[tuple[Polygon | MultiPolygon, int]]:
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
    progress.warn(f"{path}: {len(unnamed)} outlines without a class count as {palette.names[1]}")
    return [(shape, 1) for shape in shapes]


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
