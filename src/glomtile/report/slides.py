"""Slides in a report."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glomtile.errors import GlomtileError
from glomtile.io.geojson import read_annotations
from glomtile.io.images import read_image
from glomtile.report import text
from glomtile.report.pictures import (
    Picture,
    ThumbnailBudget,
    as_picture,
    crop_around,
    crop_picture,
    jpeg,
    most_pictures,
    shares_of,
    shrunk,
)
from glomtile.report.shapes import ring_path
from glomtile.report.text import numbered_rows
from glomtile.slides.slide import Slide, open_slide
from glomtile.types import Box, UInt8

if TYPE_CHECKING:
    from glomtile.io.geojson import Annotation

SLIDE_BYTES, CROP_BYTES = 6_000_000, 5_000_000
OVERVIEW_PX, CROP_PX = 1600, 200
MOST_ROWS = 2000
_CHEAP_LEVEL_PX = 40_000_000
"""A slide whose coarsest level has more pixels is not read anew for a small picture of it."""

_CROP_TYPICAL_BYTES = 12_000


@dataclass(frozen=True)
class Found:
    """One object of a slide.

    Attributes
    ----------
    key : str
        Its name inside the page.
    colour, path : str
        Of its outline, in full-resolution pixels.
    row : dict of str to str
        Its line of ``objects/<slide>.csv``.
    crop : Picture or None
    box : Box or None
        Of the crop, in full-resolution pixels.
    """

    key: str
    colour: str
    path: str
    row: Mapping[str, str]
    crop: Picture | None
    box: Box | None


@dataclass(frozen=True)
class ShownSlide:
    """One slide.

    Attributes
    ----------
    key, name : str
    picture : Picture or None
        Without outlines where `bare`, else with them drawn in.
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    mpp : float or None
    facts : dict of str to str
        Its line of ``summary.csv``.
    count : int
        Objects in all, of every class, by `facts`.
    found : tuple of Found
        Those that the page lists.
    bare : bool
    """

    key: str
    name: str
    picture: Picture | None
    size_px: tuple[int, int]
    mpp: float | None
    facts: Mapping[str, str]
    count: int
    found: tuple[Found, ...]
    bare: bool


def classes_of(facts: Mapping[str, str]) -> list[str]:
    """Names of the classes that a line of ``summary.csv`` tells of."""
    return [column.removesuffix("_per_mm2") for column in facts if column.endswith("_per_mm2")]


def count_of(facts: Mapping[str, str], name: str) -> int:
    """How many objects of a class a line of ``summary.csv`` counts."""
    return int(float(facts.get(f"{name}_count") or 0))


def shown_slides(folder: Path, rows: Sequence[Mapping[str, str]], notes: list[str]) -> list[ShownSlide]:
    """Read the slides of a folder that `segment` filled, the flagged ones first.

    Parameters
    ----------
    folder : Path
    rows : sequence of mapping
        ``summary.csv``.
    notes : list of str
        Takes what had to be left out, and why.
    """
    ordered = sorted(rows, key=lambda row: not row.get("quality_flags"))
    most = most_pictures(SLIDE_BYTES)
    if len(ordered) > most:
        notes.append(f"{len(ordered) - most} more slides: only {most} are shown")
        ordered = ordered[:most]
    album = ThumbnailBudget(SLIDE_BYTES, shares_of(len(ordered), first=6), OVERVIEW_PX)
    crops = _CropAllowance(CROP_BYTES, MOST_ROWS)
    return [
        _shown(folder, row, f"slide-{i}", seen, album, crops, notes)
        for i, (row, seen) in enumerate(_seen_ahead(folder, ordered))
    ]


def areas_of_slides(
    folder: Path, rows: Sequence[Mapping[str, str]], notes: list[str]
) -> dict[str, list[float]]:
    """Areas in µm² of all objects of all slides, by class.

    Parameters
    ----------
    folder : Path
    rows : sequence of mapping
        ``summary.csv``.
    notes : list of str
        Takes why those of a slide cannot be read, where it does not say so yet.
    """
    areas: dict[str, list[float]] = {}
    for image in (row["image"] for row in rows):
        try:
            objects = numbered_rows(folder / "objects" / f"{image}.csv", ("class", "area_um2"))
        except GlomtileError as error:
            if (note := f"{image}: {error.message}") not in notes:
                notes.append(note)
            continue
        for one in objects:
            if one["area_um2"]:
                areas.setdefault(one["class"], []).append(float(one["area_um2"]))
    return areas


@dataclass(frozen=True)
class _Seen:
    """A slide that was looked at: open where it still lies there, small where that was possible."""

    slide: Slide | None
    picture: UInt8 | None = None
    bare: bool = False
    problem: GlomtileError | None = None


def _seen_ahead(folder: Path, rows: Sequence[Mapping[str, str]]) -> Iterator[tuple[Mapping[str, str], _Seen]]:
    """Each slide looked at, a few ahead on threads: reading and shrinking take most of a page's time."""
    threads = max(1, min(len(rows), 8, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="overviews") as pool:
        waiting: deque[tuple[Mapping[str, str], Future[_Seen]]] = deque()
        for row in rows:
            waiting.append((row, pool.submit(_look, folder, row)))
            if len(waiting) > threads:
                first, looked = waiting.popleft()
                yield first, looked.result()
        for first, looked in waiting:
            yield first, looked.result()


def _look(folder: Path, facts: Mapping[str, str]) -> _Seen:
    slide = _opened(folder, facts["image"], _mpp(facts), _size_px(facts))
    try:
        return _Seen(slide, *_overview(folder, facts["image"], slide))
    except GlomtileError as problem:
        return _Seen(slide, problem=problem)


def _size_px(facts: Mapping[str, str]) -> tuple[int, int]:
    return int(facts["height_px"]), int(facts["width_px"])


def _mpp(facts: Mapping[str, str]) -> float | None:
    return float(facts["mpp"]) if facts.get("mpp") else None


@dataclass
class _CropAllowance:
    """What crops and rows of objects may still take."""

    bytes_left: int
    rows_left: int

    @property
    def room(self) -> bool:
        return self.bytes_left > _CROP_TYPICAL_BYTES


def _shown(
    folder: Path,
    facts: Mapping[str, str],
    key: str,
    seen: _Seen,
    album: ThumbnailBudget,
    crops: _CropAllowance,
    notes: list[str],
) -> ShownSlide:
    name, size_px = facts["image"], _size_px(facts)
    picture, bare = seen.picture, seen.bare
    try:
        if seen.problem is not None:
            raise seen.problem
        found = _objects(folder, name, key, size_px, seen.slide, crops, notes)
    except GlomtileError as error:
        notes.append(f"{name}: {error.message}")
        picture, bare, found = None, False, ()
    finally:
        if seen.slide is not None:
            seen.slide.close()
    shown = None if picture is None else album.add(picture)
    count = sum(count_of(facts, name) for name in classes_of(facts))
    return ShownSlide(key, name, shown, size_px, _mpp(facts), facts, count, found, bare)


def _opened(folder: Path, name: str, mpp: float | None, size_px: tuple[int, int]) -> Slide | None:
    """The slide itself, where it still lies where it lay, unchanged in size."""
    try:
        told = json.loads((folder / ".glomtile" / f"{name}.json").read_text("utf-8"))
        slide = open_slide(Path(told["input"]), mpp=mpp)
    except (OSError, ValueError, KeyError, TypeError, GlomtileError):
        return None
    if slide.size_px == size_px:
        return slide
    slide.close()
    return None


def _overview(folder: Path, name: str, slide: Slide | None) -> tuple[UInt8 | None, bool]:
    """The slide made small: from itself where that is cheap, else the picture with outlines drawn in."""
    if slide is not None:
        height, width = slide.levels[-1].size_px
        if height * width <= _CHEAP_LEVEL_PX:
            return slide.thumbnail(OVERVIEW_PX)[0], True
    path = folder / "overlays" / f"{name}.jpg"
    return (read_image(path), False) if path.is_file() else (None, False)


def _objects(
    folder: Path,
    name: str,
    key: str,
    size_px: tuple[int, int],
    slide: Slide | None,
    crops: _CropAllowance,
    notes: list[str],
) -> tuple[Found, ...]:
    rows = numbered_rows(folder / "objects" / f"{name}.csv", ("id", "class"))
    outlines = read_annotations(folder / "geojson" / f"{name}.geojson")
    known: Sequence[Annotation | None] = outlines
    if len(outlines) != len(rows):
        notes.append(f"{name}: outlines, as there are {len(outlines)} of {len(rows)} objects")
        known = [None] * len(rows)
    if len(rows) > crops.rows_left:
        left_out = len(rows) - crops.rows_left
        more = "more " if crops.rows_left else ""
        notes.append(f"{name}: {text.counted(left_out, more + 'object')}, to be found in objects/{name}.csv")
    found = []
    for row, outline in zip(rows[: crops.rows_left], known, strict=False):
        found.append(_found(f"{key}-{row['id']}", row, outline, size_px, slide, crops))
    crops.rows_left -= len(found)
    return tuple(found)


def _found(
    key: str,
    row: Mapping[str, str],
    outline: Annotation | None,
    size_px: tuple[int, int],
    slide: Slide | None,
    crops: _CropAllowance,
) -> Found:
    if outline is None:
        return Found(key, "", "", row, None, None)
    import shapely

    left, top, right, bottom = outline.polygon.bounds
    box = crop_around(Box(int(top), int(left), int(bottom) + 1, int(right) + 1), size_px)
    simpler = outline.polygon.simplify(max(box.height, box.width) / CROP_PX / 2)
    parts = shapely.get_parts(simpler)
    rings = [shapely.get_coordinates(ring) for part in parts for ring in (part.exterior, *part.interiors)]
    crop = None
    if slide is not None and crops.room:
        crop = _crop(slide, box)
        crops.bytes_left -= len(crop.source)
    colour = text.colour(outline.rgb or (255, 0, 0))
    return Found(key, colour, ring_path(rings), row, crop, box)


def _crop(slide: Slide, box: Box) -> Picture:
    """A square of a slide, read at about the scale that it is shown at."""
    if slide.plain or slide.mpp is None:
        return crop_picture(slide.read_level(0, box), Box(0, 0, box.height, box.width), CROP_PX)
    zoom = max(1.0, max(box.height, box.width) / CROP_PX)
    reader = slide.at(slide.mpp * zoom)
    height, width = reader.size_px
    top, left = round(box.top / reader.zoom), round(box.left / reader.zoom)
    bottom, right = round(box.bottom / reader.zoom), round(box.right / reader.zoom)
    pixels = np.ascontiguousarray(
        reader.read(Box(top, left, max(top + 1, min(bottom, height)), max(left + 1, min(right, width))))
    )
    small = shrunk(pixels, CROP_PX / max(pixels.shape[:2]))
    return as_picture(jpeg(small), small)
