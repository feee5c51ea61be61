"""Overlays of labels on images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glomtile.errors import UsageError
from glomtile.io.atomic import write_bytes
from glomtile.palette import RGB
from glomtile.types import UInt8

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

_FINER = 4
_SUB_PIXEL_BITS = 4
_HALO_DARKNESS = 0.8
_JPEG_LONGEST = 65_535


def draw_overlay(
    thumbnail: UInt8,
    zoom: float,
    outlines: Iterable[tuple[Polygon | MultiPolygon, RGB]],
    line_px: float = 2.0,
) -> UInt8:
    """Draw outlines, holes included, onto a copy of a small image.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 ndarray
        RGB.
    zoom : float
        Level-0 pixels per pixel of the thumbnail.
    outlines : iterable of (polygon, (r, g, b))
        In level-0 pixels, x and y, pixel corners at integers; later ones are on top.
    line_px : float
        Thickness in pixels of the thumbnail, rounded to quarters.

    Returns
    -------
    (h, w, 3) uint8 ndarray
        A dark halo is under all lines, so that a red line is visible on magenta tissue.

    Raises
    ------
    UsageError
        `zoom` or `line_px` is not above 0.
    """
    if not (zoom > 0 and line_px > 0):
        raise UsageError("overlay", f"expected a zoom and a line above 0, got {zoom} and {line_px}")
    rings = [(ring, rgb) for polygon, rgb in outlines for ring in _rings(polygon, zoom)]
    canvas = _darken(thumbnail, [ring for ring, _ in rings], line_px + 2 * max(1.0, line_px / 2))
    for ring, rgb in rings:
        region, ink = _draw_ring(ring, line_px, (canvas.shape[0], canvas.shape[1]))
        share = ink[..., None] / np.float32(255)
        canvas[region] = np.rint(canvas[region] * (1 - share) + np.array(rgb, np.float32) * share)
    return canvas


def write_jpeg(path: Path, rgb: UInt8, quality: int = 88) -> None:
    """Write an RGB array as JPEG, whole or not at all; the same pixels give the same bytes.

    Parameters
    ----------
    path : Path
    rgb : (H, W, 3) uint8 ndarray
        At most 65,535 px a side.
    quality : int
        1 to 95. Colour keeps full resolution, so that thin coloured lines do not bleed.

    Raises
    ------
    UsageError
        The image has no pixel or is longer than a JPEG can be.
    StorageError
        The file cannot be written.
    """
    height, width = rgb.shape[:2]
    if not (min(height, width) > 0 and max(height, width) <= _JPEG_LONGEST):
        raise UsageError(path, f"expected 1 to {_JPEG_LONGEST:,} px a side, got {width:,} x {height:,} px")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=quality, subsampling=0)
    write_bytes(path, buffer.getvalue())


def _rings(polygon: Polygon | MultiPolygon, zoom: float) -> Iterator[NDArray[np.float64]]:
    """Yield every ring ``(N, 2)`` in pixels of the thumbnail, x and y, corners at integers."""
    import shapely

    for part in shapely.get_parts(polygon):
        for ring in (part.exterior, *part.interiors):
            yield shapely.get_coordinates(ring) / zoom


def _darken(thumbnail: UInt8, rings: list[NDArray[np.float64]], line_px: float) -> UInt8:
    halo: UInt8 = np.zeros(thumbnail.shape[:2], np.uint8)
    for ring in rings:
        region, ink = _draw_ring(ring, line_px, (halo.shape[0], halo.shape[1]))
        np.maximum(halo[region], ink, out=halo[region])
    shaded, dark = thumbnail.copy(), halo > 0
    light = 1 - halo[dark].astype(np.float32) * (_HALO_DARKNESS / 255)
    shaded[dark] = np.rint(thumbnail[dark] * light[:, None])
    return shaded


def _draw_ring(
    ring: NDArray[np.float64], line_px: float, size_px: tuple[int, int]
) -> tuple[tuple[slice, slice], UInt8]:
    """Draw a closed line, and return its region of the image and its coverage of 0 to 255 there.

    The line is drawn at a higher resolution and averaged: OpenCV's smooth lines are up to twice too thick.
    """
    reach = line_px / 2 + 1
    limit = np.array((size_px[1], size_px[0]))
    left, top = np.clip(np.floor(ring.min(axis=0) - reach), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(ring.max(axis=0) + reach), 0, limit).astype(int)
    region = slice(top, bottom), slice(left, right)
    if top >= bottom or left >= right:
        return region, np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8)
    fine = np.zeros(((bottom - top) * _FINER, (right - left) * _FINER), np.uint8)
    centres = (ring - (left, top)) * _FINER - 0.5  # OpenCV's integers are pixel centres
    points = np.rint(centres * (1 << _SUB_PIXEL_BITS)).astype(np.int32)
    thickness = max(1, round(line_px * _FINER))
    cv2.polylines(fine, [points], isClosed=True, color=(255,), thickness=thickness, shift=_SUB_PIXEL_BITS)
    ink = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return region, ink.astype(np.uint8, copy=False)
