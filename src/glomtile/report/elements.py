"""Building blocks of the report page: thumbnails within a byte budget, outlines, counts, tables."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import GlomtileError, InputError
from glomtile.io.tables import read_csv, require_numbers
from glomtile.types import Box, UInt8

Row = Mapping[str, str]
"""A line of a table, by column."""

FLAGS = "quality_flags"
"""Column of quality flags in ``summary.csv`` and ``quality.csv``."""

THUMBNAIL_BYTES = 16_000
"""The least that a useful thumbnail takes in a page; it limits the number of images."""

_QUALITY = 80
_LARGEST_PX, _SMALLEST_PX = 1280, 160
_BYTES_PER_PX = 0.24
_MARGIN, _TRIES = 1.1, 4
_INTEGERS = (
    *("truth_objects", "predicted_objects", "true_positive", "false_positive", "false_negative"),
    *("area_px", "top", "left", "bottom", "right", "width_px", "height_px", "pixels", "true_pixels"),
)
_NUMBERS = ("dice", "precision", "recall", "area_um2", "iou", "hd95_px", "mpp", "tissue_mm2")
_CLASS_SUFFIXES = ("_count", "_mean_area_um2", "_total_area_mm2", "_per_mm2")
"""Ends of those columns of ``summary.csv`` that are numbers of a class."""


@dataclass(frozen=True)
class FormattedFigure:
    """A figure as the page prints it.

    Attributes
    ----------
    title, value, interval, sentence : str
        `interval` is empty when there is none.
    span : (float, float, float) or None
        Value, low and high in percent of the scale from 0 to 1; None for figures on another scale.
    """

    title: str
    value: str
    interval: str
    sentence: str
    span: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """A plot with its title and a sentence about it; `svg` is an ``<svg>`` element."""

    title: str
    sentence: str
    svg: str
    square: bool = False


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not 1."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-2]}i" if noun.endswith("glomerulus") else f"{count:,} {noun}s"


# --- tables -------------------------------------------------------------------------------------------------


def read_table(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table that a user may have edited.

    Raises
    ------
    InputError
        It cannot be read, lacks a required column, or a cell of a column of numbers is not a number.
    """
    rows = read_csv(path, required)
    columns = list(rows[0]) if rows else []
    require_numbers(path, rows, [name for name in columns if name in _INTEGERS], whole=True)
    numbers = [name for name in columns if name in _NUMBERS or name.endswith(_CLASS_SUFFIXES)]
    require_numbers(path, rows, numbers)
    return rows


def read_optional_table(path: Path, required: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    """Read a table that may be missing; where it cannot be used, `notes` receives the reason."""
    if not path.exists():
        return []
    try:
        return read_table(path, required)
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return []


# --- thumbnails ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thumbnail:
    """An image inside the page: a data URI and its size in pixels."""

    source: str
    width: int
    height: int


class ThumbnailBudget:
    """A byte budget that is shared among thumbnails of falling importance.

    Parameters
    ----------
    max_bytes : int
        Of all data URIs together.
    count : int
        Number of thumbnails.
    large : int
        The first of them, which may take three times as much as the others.
    largest_px : int
        Longest side of any thumbnail.

    Notes
    -----
    The bytes per pixel are estimated from the thumbnails so far, so that nearly every one is encoded once.
    What one leaves goes to those after it.
    """

    def __init__(self, max_bytes: int, count: int, large: int = 0, largest_px: int = _LARGEST_PX) -> None:
        self._left, self._largest = max_bytes, largest_px
        self._shares = [3.0 if number < large else 1.0 for number in range(count)]
        self._bytes_per_px = _BYTES_PER_PX

    def add(self, rgb: UInt8) -> Thumbnail:
        """Encode the next image, ``(h, w, 3) uint8``."""
        share = self._left * self._shares[0] / sum(self._shares)
        most = max(THUMBNAIL_BYTES * 3 / 4, share) * 3 / 4
        del self._shares[0]
        side = math.sqrt(rgb.shape[0] * rgb.shape[1])
        factor = min(1.0, self._largest / max(rgb.shape[:2]), math.sqrt(most / self._bytes_per_px) / side)
        for _ in range(_TRIES):
            rgb, jpeg_bytes, made = _shrunk(rgb, factor)
            if jpeg_bytes <= most * _MARGIN or max(rgb.shape[:2]) <= _SMALLEST_PX:
                break
            factor = 0.95 * math.sqrt(most / jpeg_bytes)
        self._bytes_per_px = 0.7 * self._bytes_per_px + 0.3 * jpeg_bytes / (rgb.shape[0] * rgb.shape[1])
        self._left -= len(made.source)
        return made


def thumbnail(rgb: UInt8, side_px: int) -> Thumbnail:
    """Encode an image at most `side_px` a side."""
    return _shrunk(rgb, side_px / max(rgb.shape[:2]))[2]


def crop_around(box: Box, size_px: tuple[int, int], min_px: float = 64.0, margin: float = 0.35) -> Box:
    """Return a square around a box, moved into the image, with a `margin` relative to the box's side."""
    side = max(min_px, (1 + 2 * margin) * max(box.height, box.width))
    edges = []
    for low, high, length in ((box.top, box.bottom, size_px[0]), (box.left, box.right, size_px[1])):
        span = min(round(side), length)
        start = min(max(0, round((low + high - span) / 2)), length - span)
        edges.append((start, start + span))
    return Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])


def _shrunk(rgb: UInt8, factor: float) -> tuple[UInt8, int, Thumbnail]:
    """Resize an image where the factor is below 1; return it, the bytes of its JPEG, and a thumbnail."""
    height, width = rgb.shape[:2]
    if factor < 1:
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise InputError("report", f"expected an image that JPEG can store, got {rgb.shape}")
    source = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
    return rgb, len(data), Thumbnail(source, width, height)


# --- outlines -----------------------------------------------------------------------------------------------


def svg_path(points: NDArray[np.int64]) -> str:
    """Write a closed ring ``(N, 2)`` of x and y as an SVG path."""
    # Relative steps are shorter than positions.
    body = " ".join(f"{dx} {dy}" for dx, dy in np.diff(points, axis=0).tolist())
    return f"M{points[0][0]} {points[0][1]}l{body}z" if len(points) > 1 else ""
