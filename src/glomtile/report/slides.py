"""Segmented slides in the report: overviews, objects, areas."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glomtile.errors import GlomtileError
from glomtile.inference.records import original_input
from glomtile.io.geojson import Annotation, read_annotations
from glomtile.io.images import read_image
from glomtile.report import text
from glomtile.report.images import (
    Thumbnail,
    ThumbnailBudget,
    budget_shares,
    crop,
    crop_around,
    max_thumbnails,
    ring_path,
    thumbnail,
)
from glomtile.report.text import read_table
from glomtile.slides.slide import Slide, open_slide
from glomtile.types import Box, UInt8

SLIDE_BYTES, CROP_BYTES = 6_000_000, 5_000_000
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
    colour: str
    path: str
    row: Mapping[str, str]
    crop: Thumbnail | None
    box: Box | None


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
    facts: Mapping[str, str]
    count: int
    objects: tuple[SlideObject, ...]
    plain: bool
    flags: str


def classes_of(facts: Mapping[str, str]) -> list[str]:
    """Return the names of the classes in a line of ``summary.csv``."""
    return [column.removesuffix("_per_mm2") for column in facts if column.endswith("_per_mm2")]


def count_of(facts: Mapping[str, str], name: str) -> int:
    """Return the number of objects of a class in a line of ``summary.csv``."""
    return int(float(facts.get(f"{name}_count") or 0))


def slide_views(folder: Path, rows: Sequence[Mapping[str, str]], notes: list[str]) -> list[SlideView]:
    """Read the slides of a folder of `segment` by ``summary.csv``, those with quality flags first."""
    ordered = sorted(rows, key=lambda row: not row.get(text.FLAGS))
    most = max_thumbnails(SLIDE_BYTES)
    if len(ordered) > most:
        notes.append(f"{len(ordered) - most} more slides: only {most} are shown")
        ordered = ordered[:most]
    budget = ThumbnailBudget(SLIDE_BYTES, budget_shares(len(ordered), first=6), OVERVIEW_PX)
    allowance = _ObjectAllowance(CROP_BYTES, MAX_ROWS)
    return [
        _view(folder, row, f"slide-{number}", overview, budget, allowance, notes)
        for number, (row, overview) in enumerate(_overviews(folder, ordered))
    ]


def areas_of_slides(
    folder: Path, rows: Sequence[Mapping[str, str]], notes: list[str]
) -> dict[str, list[float]]:
    """Collect the areas in µm² of all objects of all slides, by class."""
    areas: dict[str, list[float]] = {}
    for image in (row["image"] for row in rows):
        try:
            objects = read_table(folder / "objects" / f"{image}.csv", ("class", "area_um2"))
        except GlomtileError as error:
            if (note := f"{image}: {error.message}") not in notes:
                notes.append(note)
            continue
        for one in objects:
            if one["area_um2"]:
                areas.setdefault(one["class"], []).append(float(one["area_um2"]))
    return areas


@dataclass
class _ObjectAllowance:
    """The bytes of crops and the rows of objects that the page may still take."""

    bytes_left: int
    rows_left: int


@dataclass(frozen=True)
class _Overview:
    """A slide, open where its file is unchanged, and its image, small where that was possible."""

    slide: Slide | None
    image: UInt8 | None = None
    plain: bool = False
    problem: GlomtileError | None = None


def _overviews(
    folder: Path, rows: Sequence[Mapping[str, str]]
) -> Iterator[tuple[Mapping[str, str], _Overview]]:
    """Read overviews a few ahead on threads; they take most of a page's time."""
    threads = max(1, min(len(rows), 8, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="overviews") as pool:
        waiting: deque[tuple[Mapping[str, str], Future[_Overview]]] = deque()
        for row in rows:
            waiting.append((row, pool.submit(_overview, folder, row)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _overview(folder: Path, facts: Mapping[str, str]) -> _Overview:
    """Shrink the slide where that is cheap, else read the overlay with its outlines drawn in."""
    slide = _open_original(folder, facts["image"], _mpp(facts), _size_px(facts))
    try:
        if slide is not None and math.prod(slide.levels[-1].size_px) <= _CHEAP_LEVEL_PX:
            return _Overview(slide, slide.thumbnail(OVERVIEW_PX)[0], plain=True)
        path = folder / "overlays" / f"{facts['image']}.jpg"
        return _Overview(slide, read_image(path) if path.is_file() else None)
    except GlomtileError as problem:
        return _Overview(slide, problem=problem)


def _open_original(folder: Path, name: str, mpp: float | None, size_px: tuple[int, int]) -> Slide | None:
    """Open the slide itself where its record names it and its size is unchanged."""
    path = original_input(folder, name)
    if path is None:
        return None
    try:
        slide = open_slide(path, mpp=mpp)
    except GlomtileError:
        return None
    if slide.size_px == size_px:
        return slide
    slide.close()
    return None


def _size_px(facts: Mapping[str, str]) -> tuple[int, int]:
    return int(facts["height_px"]), int(facts["width_px"])


def _mpp(facts: Mapping[str, str]) -> float | None:
    return float(facts["mpp"]) if facts.get("mpp") else None


def _view(
    folder: Path,
    facts: Mapping[str, str],
    key: str,
    overview: _Overview,
    budget: ThumbnailBudget,
    allowance: _ObjectAllowance,
    notes: list[str],
) -> SlideView:
    name, size_px = facts["image"], _size_px(facts)
    image, plain = overview.image, overview.plain
    try:
        if overview.problem is not None:
            raise overview.problem
        objects = _objects(folder, name, key, size_px, overview.slide, allowance, notes)
    except GlomtileError as error:
        notes.append(f"{name}: {error.message}")
        image, plain, objects = None, False, ()
    finally:
        if overview.slide is not None:
            overview.slide.close()
    small = None if image is None else budget.add(image)
    count = sum(count_of(facts, class_name) for class_name in classes_of(facts))
    return SlideView(
        key, name, small, size_px, _mpp(facts), facts, count, objects, plain, facts.get(text.FLAGS, "")
    )


def _objects(
    folder: Path,
    name: str,
    key: str,
    size_px: tuple[int, int],
    slide: Slide | None,
    allowance: _ObjectAllowance,
    notes: list[str],
) -> tuple[SlideObject, ...]:
    rows = read_table(folder / "objects" / f"{name}.csv", ("id", "class"))
    outlines: Sequence[Annotation | None] = read_annotations(folder / "geojson" / f"{name}.geojson")
    if len(outlines) != len(rows):
        notes.append(f"{name}: outlines, because {len(outlines)} of {len(rows)} objects have one")
        outlines = [None] * len(rows)
    if len(rows) > allowance.rows_left:
        more = "more " if allowance.rows_left else ""
        count = text.counted(len(rows) - allowance.rows_left, more + "object")
        notes.append(f"{name}: {count}, see objects/{name}.csv")
    objects = tuple(
        _object(f"{key}-{row['id']}", row, outline, size_px, slide, allowance)
        for row, outline in zip(rows[: allowance.rows_left], outlines, strict=False)
    )
    allowance.rows_left -= len(objects)
    return objects


def _object(
    key: str,
    row: Mapping[str, str],
    outline: Annotation | None,
    size_px: tuple[int, int],
    slide: Slide | None,
    allowance: _ObjectAllowance,
) -> SlideObject:
    if outline is None:
        return SlideObject(key, "", "", row, None, None)
    import shapely

    left, top, right, bottom = outline.polygon.bounds
    box = crop_around(Box(int(top), int(left), int(bottom) + 1, int(right) + 1), size_px)
    simpler = outline.polygon.simplify(max(box.height, box.width) / CROP_PX / 2)
    parts = shapely.get_parts(simpler)
    rings = [shapely.get_coordinates(ring) for part in parts for ring in (part.exterior, *part.interiors)]
    small = None
    if slide is not None and allowance.bytes_left > _CROP_BYTES_EACH:
        small = _slide_crop(slide, box)
        allowance.bytes_left -= len(small.source)
    return SlideObject(key, text.css_colour(outline.rgb or (255, 0, 0)), ring_path(rings), row, small, box)


def _slide_crop(slide: Slide, box: Box) -> Thumbnail:
    """Read a square of a slide at about the scale at which it is shown."""
    if slide.plain or slide.mpp is None:
        return crop(slide.read_level(0, box), Box(0, 0, box.height, box.width), CROP_PX)
    zoom = max(1.0, max(box.height, box.width) / CROP_PX)
    reader = slide.at(slide.mpp * zoom)
    height, width = reader.size_px
    top, left, bottom, right = (round(edge / reader.zoom) for edge in box)
    inside = Box(top, left, max(top + 1, min(bottom, height)), max(left + 1, min(right, width)))
    return thumbnail(np.ascontiguousarray(reader.read(inside)), CROP_PX)
