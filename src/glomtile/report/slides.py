"""Segmented slides in the report: figures, overviews, objects, areas."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile import plotting
from glomtile.errors import GlomtileError, InputError
from glomtile.evaluation.bootstrap import DRAWS, SEED, draw_weights, ratio
from glomtile.inference.records import original_input
from glomtile.io.atomic import read_json
from glomtile.io.images import read_image
from glomtile.report.elements import (
    FLAGS,
    THUMBNAIL_BYTES,
    Chart,
    FormattedFigure,
    Row,
    Thumbnail,
    ThumbnailBudget,
    counted,
    crop_around,
    read_table,
    svg_path,
    thumbnail,
)
from glomtile.slides.slide import Slide, open_slide
from glomtile.types import Box, UInt8

if TYPE_CHECKING:
    from glomtile.report.build import Results

SLIDE_BYTES, CROP_BYTES = 6_000_000, 5_000_000
MOST_SLIDES = SLIDE_BYTES // THUMBNAIL_BYTES
OVERVIEW_PX, CROP_PX = 1600, 200
MAX_ROWS = 2000
_CHEAP_LEVEL_PX = 40_000_000
"""A slide whose coarsest level has more pixels is not read again for its overview."""

_CROP_BYTES_EACH = 12_000


@dataclass(frozen=True)
class SlideObject:
    """One object of a slide: its outline, its line of ``objects/<slide>.csv``, its crop.

    `path` and `box` are in full-resolution pixels.
    """

    key: str
    row: Row
    colour: str = ""
    path: str = ""
    crop: Thumbnail | None = None
    box: Box | None = None


@dataclass(frozen=True)
class SlideView:
    """One slide: its line of ``summary.csv``, and the objects that the page lists.

    The thumbnail has the outlines drawn in unless it is `plain`; `count` includes objects not listed.
    """

    key: str
    name: str
    thumbnail: Thumbnail | None
    size_px: tuple[int, int]
    mpp: float | None
    facts: Row
    count: int
    objects: list[SlideObject]
    plain: bool
    flags: str


def add_slides(folder: Path, rows: list[dict[str, str]], found: Results) -> None:
    """Add the slides of a folder of `segment` by the rows of ``summary.csv``, those with flags first."""
    names = [column.removesuffix("_per_mm2") for column in rows[0] if column.endswith("_per_mm2")]
    counts = {name: np.array([int(float(row.get(f"{name}_count") or 0)) for row in rows]) for name in names}
    found.slide_rows = rows
    _add_views(folder, rows, sum(counts.values(), np.zeros(len(rows), int)), found)
    flagged = [(row["image"], row[FLAGS]) for row in rows if row.get(FLAGS)]
    found.flags += flagged
    found.facts.insert(0, counted(len(rows), "slide"))
    found.headlines = _headlines(rows, counts)
    found.verdict = [shown.sentence for shown in found.headlines[:1]]
    if found.flags:
        need = "needs" if len(found.flags) == 1 else "need"
        found.verdict.append(f"{counted(len(found.flags), 'slide')} of {len(rows)} {need} review.")
    areas: dict[str, list[float]] = {name: [] for name in names}
    for image in (row["image"] for row in rows):
        try:
            objects = read_table(folder / "objects" / f"{image}.csv", ("class", "area_um2"))
        except GlomtileError as error:
            if (note := f"{image}: {error.message}") not in found.notes:
                found.notes.append(note)
            continue
        for one in objects:
            if one["area_um2"]:
                areas.setdefault(one["class"], []).append(float(one["area_um2"]))
    for name in names:
        if areas[name]:
            sentence = f"Median area: {median(areas[name]):,.0f} µm²."
            svg = plotting.area_histogram_svg((), areas[name], "µm²")
            found.distributions.append(Chart(f"Areas: {name}", sentence, svg))


def _headlines(rows: Sequence[Row], counts_of: Mapping[str, Any]) -> list[FormattedFigure]:
    """Compute the headline figures of all classes, with intervals over the slides."""
    weights = draw_weights(len(rows), None, DRAWS, SEED)
    tissue = np.array([float(row["tissue_mm2"] or 0) for row in rows])
    shown = []
    for name, counts in counts_of.items():
        sentence = (
            f"{counted(int(counts.sum()), name)} in {counted(len(rows), 'slide')} with "
            f"{tissue.sum():.3g} mm² of tissue."
        )
        shown.append(FormattedFigure(f"{name}: count", f"{counts.sum():,}", "", sentence))
        areas = np.array([float(row[f"{name}_total_area_mm2"] or 0) for row in rows]) * 1e6
        for title, sentence, above, below, form in (
            ("mean per slide", "Mean over all slides.", counts, np.ones(len(rows)), ".1f"),
            ("per mm² of tissue", "Of the tissue area that was detected.", counts, tissue, ".2f"),
            ("mean area, µm²", "Including objects cut by an edge.", areas, counts, ",.0f"),
        ):
            figure = ratio(np.stack([above, below], 1), weights)
            known = math.isfinite(figure.value)
            ends = ""
            if known and math.isfinite(figure.low):
                ends = f"{figure.low:{form}} to {figure.high:{form}}"
            value = f"{figure.value:{form}}" if known else "–"
            shown.append(FormattedFigure(f"{name}: {title}", value, ends, sentence))
    return shown


def _add_views(folder: Path, rows: Sequence[Row], counts: Any, found: Results) -> None:
    flagged = [number for number, row in enumerate(rows) if row.get(FLAGS)]
    order = [*flagged, *(number for number, row in enumerate(rows) if not row.get(FLAGS))]
    if len(order) > MOST_SLIDES:
        found.notes.append(f"{len(order) - MOST_SLIDES} more slides: only {MOST_SLIDES} are shown")
        order = order[:MOST_SLIDES]
    budget = ThumbnailBudget(SLIDE_BYTES, len(order), 6, OVERVIEW_PX)
    allowance = ObjectAllowance(CROP_BYTES, MAX_ROWS)
    overviews = _overviews(folder, [rows[number] for number in order])
    for place, (number, overview) in enumerate(zip(order, overviews, strict=True)):
        facts, key = rows[number], f"slide-{place}"
        image, plain, objects = overview.image, overview.plain, list[SlideObject]()
        try:
            if overview.problem is not None:
                raise overview.problem
            objects = _objects(folder, facts["image"], key, overview, allowance, found.notes)
        except GlomtileError as error:
            found.notes.append(f"{facts['image']}: {error.message}")
            image, plain = None, False
        finally:
            if overview.slide is not None:
                overview.slide.close()
        small = None if image is None else budget.add(image)
        found.slides.append(
            SlideView(
                key, facts["image"], small, overview.size_px, overview.mpp, facts, int(counts[number]),
                objects, plain, facts.get(FLAGS, ""),
            )
        )  # fmt: skip


@dataclass
class ObjectAllowance:
    """The bytes of crops and the rows of objects that the page may still take."""

    bytes_left: int
    rows_left: int


@dataclass
class Overview:
    """A slide, open where its file is unchanged, and its image, small where that was possible."""

    size_px: tuple[int, int]
    mpp: float | None
    slide: Slide | None = None
    image: UInt8 | None = None
    plain: bool = False
    problem: GlomtileError | None = None


def _overviews(folder: Path, rows: Sequence[Row]) -> Iterator[Overview]:
    """Read a few overviews at a time on threads; they take most of a page's time."""
    threads = max(1, min(len(rows), 8, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="overviews") as pool:
        for first in range(0, len(rows), threads):
            yield from pool.map(partial(_overview, folder), rows[first : first + threads])


def _overview(folder: Path, facts: Row) -> Overview:
    """Open the slide where its record names it and its size is unchanged, and read its overview.

    The slide is shrunk where that is cheap, else the overlay with its outlines drawn in is read.
    """
    mpp = float(facts["mpp"]) if facts.get("mpp") else None
    found = Overview((int(facts["height_px"]), int(facts["width_px"])), mpp)
    try:
        path = original_input(folder, facts["image"])
        with contextlib.suppress(GlomtileError):
            found.slide = open_slide(path, mpp=mpp) if path is not None else None
        if found.slide is not None and found.slide.size_px != found.size_px:
            found.slide.close()
            found.slide = None
        if found.slide is not None and math.prod(found.slide.levels[-1].size_px) <= _CHEAP_LEVEL_PX:
            found.image, found.plain = found.slide.thumbnail(OVERVIEW_PX)[0], True
        elif (overlay := folder / "overlays" / f"{facts['image']}.jpg").is_file():
            found.image = read_image(overlay)
    except GlomtileError as problem:
        found.problem = problem
    return found


def _objects(
    folder: Path, name: str, key: str, overview: Overview, allowance: ObjectAllowance, notes: list[str]
) -> list[SlideObject]:
    """List the objects of a slide, with outlines and crops where there is one outline for each."""
    rows = read_table(folder / "objects" / f"{name}.csv", ("id", "class"))
    outlines = _read_outlines(folder / "geojson" / f"{name}.geojson")
    if len(outlines) != len(rows):
        notes.append(f"{name}: outlines, because {len(outlines)} of {len(rows)} objects have one")
        outlines = []
    if len(rows) > allowance.rows_left:
        more = "more " if allowance.rows_left else ""
        count = counted(len(rows) - allowance.rows_left, more + "object")
        notes.append(f"{name}: {count}, see objects/{name}.csv")
        rows = rows[: allowance.rows_left]
    allowance.rows_left -= len(rows)
    if not outlines:
        return [SlideObject(f"{key}-{row['id']}", row) for row in rows]
    import shapely

    objects = []
    for row, (polygon, colour) in zip(rows, outlines, strict=False):
        left, top, right, bottom = polygon.bounds
        box = crop_around(Box(int(top), int(left), int(bottom) + 1, int(right) + 1), overview.size_px)
        parts = shapely.get_parts(polygon.simplify(max(box.height, box.width) / CROP_PX / 2))
        rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
        path = "".join(svg_path(np.rint(shapely.get_coordinates(ring)).astype(np.int64)) for ring in rings)
        small = None
        if overview.slide is not None and allowance.bytes_left > _CROP_BYTES_EACH:
            small = _slide_crop(overview.slide, box)
            allowance.bytes_left -= len(small.source)
        objects.append(SlideObject(f"{key}-{row['id']}", row, colour, path, small, box))
    return objects


def _read_outlines(path: Path) -> list[tuple[Any, str]]:
    """Read the polygons that `segment` wrote, with their colours; an edited file may have other contents."""
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    outlines = []
    try:
        for feature in read_json(path, "a GeoJSON file")["features"]:
            polygon, rgb = shape(feature["geometry"]), feature["properties"]["classification"]["color"]
            if polygon.geom_type in ("Polygon", "MultiPolygon") and not polygon.is_empty:
                outlines.append((polygon, "#{:02x}{:02x}{:02x}".format(*rgb)))
    except (AttributeError, LookupError, TypeError, ValueError, ShapelyError) as error:
        raise InputError(path, f"expected outlines as glomtile writes them, got: {error!r}") from error
    return outlines


def _slide_crop(slide: Slide, box: Box) -> Thumbnail:
    """Read a square of a slide at about the scale at which it is shown."""
    if slide.plain or slide.mpp is None:
        return thumbnail(slide.read_level(0, box), CROP_PX)
    zoom = max(1.0, max(box.height, box.width) / CROP_PX)
    reader = slide.at(slide.mpp * zoom)
    height, width = reader.size_px
    top, left, bottom, right = (round(edge / reader.zoom) for edge in box)
    inside = Box(top, left, max(top + 1, min(bottom, height)), max(left + 1, min(right, width)))
    return thumbnail(np.ascontiguousarray(reader.read(inside)), CROP_PX)
