"""How a plane is packed with rounded cells, and how nuclei are drawn into it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.core.phantom.place import Float64, Noise
from glomtile.types import Float32, UInt8

Int32 = NDArray[np.int32]

_SUBPIXEL_BITS = 4


def nearest_site(rows: Float64, columns: Float64, size_px: tuple[int, int]) -> Int32:
    """Index of the nearest site for every pixel.

    Parameters
    ----------
    rows, columns : (n,) ndarray of float64
        Sites in pixels; those outside are left out, of several in one pixel the last counts.
    size_px : tuple of int

    Returns
    -------
    (h, w) ndarray of int32
        All 0 where no site lies inside.
    """
    row, column = np.floor(rows).astype(int), np.floor(columns).astype(int)
    inside = (row >= 0) & (row < size_px[0]) & (column >= 0) & (column < size_px[1])
    index = np.flatnonzero(inside)
    if index.size == 0:
        return np.zeros(size_px, np.int32)
    away = np.ones(size_px, np.uint8)
    away[row[index], column[index]] = 0
    _, regions = cv2.distanceTransformWithLabels(
        away, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    site_of_region = np.zeros(int(regions.max()) + 1, np.int32)
    site_of_region[regions[row[index], column[index]]] = index
    nearest: Int32 = site_of_region[regions]
    return nearest


def depth_in_cells(cells: Int32, gap_px: float, corner_px: float) -> Float32:
    """How deep every pixel lies in its cell once cells are drawn apart and their corners rounded.

    Parameters
    ----------
    cells : (h, w) ndarray of int32
        Cell numbers.
    gap_px : float
        What each cell gives up along its border.
    corner_px : float
        Radius a circle must have to fit where the cell shall remain.

    Returns
    -------
    (h, w) ndarray of float32
        Pixels; below 0 between the cells.
    """
    plane = cells.astype(np.float32)
    same = (cv2.dilate(plane, np.ones((3, 3))) == cv2.erode(plane, np.ones((3, 3)))).astype(np.uint8)
    border = cv2.distanceTransform(same, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    heart = border > corner_px
    outside_heart = cv2.distanceTransform((~heart).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = np.where(heart, border - gap_px, corner_px - gap_px - outside_heart)
    return np.asarray(depth, dtype=np.float32)


def displaced(cells: Int32, rows_px: Float32, columns_px: Float32) -> Int32:
    """Cells with borders moved by a field given in pixels."""
    height, width = cells.shape
    map_rows = rows_px + np.arange(height, dtype=np.float32)[:, None]
    map_columns = columns_px + np.arange(width, dtype=np.float32)[None, :]
    moved = cv2.remap(
        cells.astype(np.float32), map_columns, map_rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved).astype(np.int32)


def step(value: Float32, softness: float) -> Float32:
    """0 below, 1 above zero, with a ramp `softness` wide to either side."""
    ramp = np.clip(value * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return np.asarray(ramp, dtype=np.float32)


def line(value: Float32, width: float) -> Float32:
    """1 where `value` is 0, falling off over `width`."""
    scaled = value * np.float32(1 / width)
    return np.asarray(cv2.exp(-scaled * scaled), dtype=np.float32)


def draw_nuclei(
    canvas: UInt8,
    centres_px: Float64,
    axes_px: Float64,
    angles: Float64,
    darkness: Float64,
) -> None:
    """Fill smooth-edged ellipses into `canvas`.

    Parameters
    ----------
    canvas : (h, w) ndarray of uint8
        Drawn on.
    centres_px : (n, 2) ndarray of float64
        Rows, columns; pixel centres are at .5.
    axes_px : (n, 2) ndarray of float64
        Half axes.
    angles : (n,) ndarray of float64
        Direction of the first axis, from the rows' direction, in radians.
    darkness : (n,) ndarray of float64
        0 to 1, becomes 0 to 255.
    """
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    along = axes_px[:, :1] * np.cos(turn)
    across = axes_px[:, 1:] * np.sin(turn)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    rows = centres_px[:, :1] + along * cos - across * sin - 0.5
    columns = centres_px[:, 1:] + along * sin + across * cos - 0.5
    points = np.rint(np.stack([columns, rows], axis=2) * 2**_SUBPIXEL_BITS).astype(np.int32)
    for outline, shade in zip(points, (darkness * 255).tolist(), strict=True):
        cv2.fillConvexPoly(canvas, outline, shade, cv2.LINE_AA, _SUBPIXEL_BITS)


def wobble(seed: int, channel: int, pitch_um: float) -> tuple[Noise, Noise]:
    """Two independent fields, for rows and columns."""
    return Noise(seed, channel, pitch_um), Noise(seed, channel + 1, pitch_um)
