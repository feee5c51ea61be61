"""Geometric augmentation: affine, elastic and lens distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import Float32, UInt8

Matrix = NDArray[np.float64]
"""``(2, 2)``, rows before columns: takes an offset from the output's centre to one in the source."""

_BAND_ROWS = 32
"""Rows mapped at once, few enough for the floats of a wide sample to stay in the processor's cache."""

_ALIGNED_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Lens:
    """A round region that is magnified (barrel) or shrunk (pincushion) towards its centre.

    Parameters
    ----------
    centre : tuple of float
        ``(x, y)`` as shares of the output's width and height, as the reference's config writes it.
    radius : float
        Share of the output's shorter side; tissue outside the circle stays where it is.
    amount : float
        Greater than -1 and less than 1: above 0 the centre is enlarged ``1 / (1 - amount)`` times,
        below 0 it is made smaller by the same rule.
    """

    centre: tuple[float, float]
    radius: float
    amount: float


@dataclass(frozen=True)
class Warp:
    """Every geometric change of one sample, not yet applied to anything.

    Parameters
    ----------
    matrix : (2, 2) ndarray of float64
        See `Matrix`.
    lenses : tuple of Lens
        Applied to output positions, first to last.
    displacement : (2, h, w) ndarray of float32, optional
        Added to output positions, in output pixels; rows first.
    """

    matrix: Matrix
    lenses: tuple[Lens, ...] = ()
    displacement: Float32 | None = None

    @property
    def keeps_the_grid(self) -> bool:
        """Return whether only flips and quarter turns remain, so that no pixel values are mixed."""
        whole = np.abs(self.matrix - np.round(self.matrix)).max() < _ALIGNED_TOLERANCE
        turns = np.abs(np.abs(self.matrix).sum(axis=1) - 1).max() < _ALIGNED_TOLERANCE
        return bool(whole and turns) and not self.lenses and self.displacement is None


def affine(
    *,
    hflip: bool = False,
    vflip: bool = False,
    angle_deg: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
) -> Matrix:
    """Compose flips, a turn, a scale and a shear about the centre.

    Parameters
    ----------
    hflip, vflip : bool
        Mirror left to right, top to bottom.
    angle_deg : float
        Counter-clockwise, in degrees.
    scale : float
        Above 1 tissue becomes larger, below 1 smaller.
    shear : float
        Columns a row moves for every row it lies below the centre.

    Returns
    -------
    (2, 2) ndarray of float64
        From output offset to source offset, so every part is its own inverse here.
    """
    angle = math.radians(angle_deg)
    cos, sin = round(math.cos(angle), 12), round(math.sin(angle), 12)
    turn = np.array([[cos, sin], [-sin, cos]])
    lean = np.array([[1.0, 0.0], [-shear, 1.0]])
    flip = np.diag([-1.0 if vflip else 1.0, -1.0 if hflip else 1.0])
    composed: Matrix = (turn @ lean @ flip) / scale
    return composed


def smooth_field(rng: np.random.Generator, size_px: tuple[int, int], sigma_px: float) -> Float32:
    """Draw a smooth random vector field of root mean square about 1 per component, on a coarse grid.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where chance comes from.
    size_px : tuple of int
        ``(h, w)`` that the field is to cover.
    sigma_px : float
        Standard deviation of the Gaussian that smooths white noise, at least 0.5.

    Returns
    -------
    (2, rows, columns) ndarray of float32
        Rows first; a cell spans about half `sigma_px`, for a field that smooth holds nothing finer.
        See `enlarge`.
    """
    step = max(1, int(sigma_px / 2))
    rows, columns = (max(2, -(-side // step)) for side in size_px)
    reach = math.ceil(3 * sigma_px / step)
    gaussian = np.asarray(cv2.getGaussianKernel(2 * reach + 1, sigma_px / step), dtype=np.float64)
    kernel = (gaussian / np.linalg.norm(gaussian)).astype(np.float32)
    noise = rng.standard_normal((2, rows + 2 * reach, columns + 2 * reach), dtype=np.float32)
    # The margin keeps the rim as lively as the middle: mirrored noise would move it further.
    smooth = [cv2.sepFilter2D(component, cv2.CV_32F, kernel, kernel) for component in noise]
    field = np.stack(smooth)[:, reach : reach + rows, reach : reach + columns]
    return np.ascontiguousarray(field, dtype=np.float32)


def enlarge(field: Float32, size_px: tuple[int, int]) -> Float32:
    """Interpolate a coarse ``(2, rows, columns)`` field to ``(2, h, w)``."""
    height, width = size_px
    full = np.empty((2, height, width), np.float32)
    for component, into in zip(field, full, strict=True):
        cv2.resize(component, (width, height), dst=into, interpolation=cv2.INTER_CUBIC)
    return full


def resample(
    image: UInt8, labels: UInt8, warp: Warp, corner: tuple[int, int], out_px: tuple[int, int]
) -> tuple[UInt8, UInt8]:
    """Read image and labels once, through one map.

    Parameters
    ----------
    image : (H, W, 3) ndarray of uint8
    labels : (H, W) ndarray of uint8
    warp : Warp
        Geometry about the window's centre.
    corner : tuple of int
        ``(top, left)`` of the window in the image; may lie outside.
    out_px : tuple of int
        ``(h, w)`` of the window.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        Linear between pixels; mirrored where the map leaves the image.
    labels : (h, w) ndarray of uint8
        The nearest pixel of the same map: no value that `labels` does not hold.
    """
    if warp.keeps_the_grid:
        rows_cols = _grid_indices(warp, corner, out_px)
        if rows_cols is not None:
            return _pick(image, labels, warp, *rows_cols)
    pixels = np.empty((*out_px, 3), np.uint8)
    truth = np.empty(out_px, np.uint8)
    for top in range(0, out_px[0], _BAND_ROWS):
        band = slice(top, min(out_px[0], top + _BAND_ROWS))
        map_rows, map_columns = _maps(warp, corner, out_px, band)
        rows, columns = _span(map_rows, image.shape[0]), _span(map_columns, image.shape[1])
        map_rows -= rows.start
        map_columns -= columns.start
        for plane, into, how in ((image, pixels, cv2.INTER_LINEAR), (labels, truth, cv2.INTER_NEAREST)):
            cv2.remap(
                plane[rows, columns],
                map_columns,
                map_rows,
                how,
                dst=into[band],
                borderMode=cv2.BORDER_REFLECT_101,
            )
    return pixels, truth


def _grid_indices(
    warp: Warp, corner: tuple[int, int], out_px: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Source rows and columns read by a warp that keeps the grid, ``None`` if they fall between pixels."""
    height, width = out_px
    matrix = np.round(warp.matrix)
    extent = np.abs(matrix) @ np.array([height, width], dtype=np.float64)
    signs = matrix.sum(axis=1)
    lines = []
    for axis in (0, 1):
        centre = corner[axis] + out_px[axis] / 2 - 0.5
        offsets = np.arange(int(extent[axis])) - (extent[axis] - 1) / 2
        lines.append(centre + np.sort(signs[axis] * offsets))
    if any(line[0] != math.floor(line[0]) for line in lines):
        return None
    return lines[0], lines[1]


def _pick(
    image: UInt8, labels: UInt8, warp: Warp, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> tuple[UInt8, UInt8]:
    top, left, bottom, right = (int(i) for i in (rows[0], columns[0], rows[-1], columns[-1]))
    planes = (image, labels)
    if top >= 0 and left >= 0 and bottom < image.shape[0] and right < image.shape[1]:
        cut = [plane[top : bottom + 1, left : right + 1] for plane in planes]
    else:
        row_index = mirrored(np.arange(top, bottom + 1), image.shape[0])
        column_index = mirrored(np.arange(left, right + 1), image.shape[1])
        cut = [plane[row_index[:, None], column_index] for plane in planes]
    matrix = np.round(warp.matrix)
    if matrix[0, 0] == 0:
        cut = [plane.swapaxes(0, 1) for plane in cut]
        row_sign, column_sign = matrix[1, 0], matrix[0, 1]
    else:
        row_sign, column_sign = matrix[0, 0], matrix[1, 1]
    picked = [
        np.ascontiguousarray(plane[:: int(row_sign), :: int(column_sign)], dtype=np.uint8) for plane in cut
    ]
    return picked[0], picked[1]


def mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Fold any index into ``0 … size-1`` without repeating the edge pixel, as `cv2.BORDER_REFLECT_101`."""
    if size == 1:
        return np.zeros_like(index)
    folded: NDArray[np.int64] = np.abs((index + size - 1) % (2 * size - 2) - (size - 1))
    return folded


def _maps(
    warp: Warp, corner: tuple[int, int], out_px: tuple[int, int], band: slice
) -> tuple[Float32, Float32]:
    """Source row and column, in indices of the image, of the output pixels in a band of rows."""
    height, width = out_px
    rows = (np.arange(band.start, band.stop, dtype=np.float32) - np.float32((height - 1) / 2))[:, None]
    columns = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2))[None, :]
    for lens in warp.lenses:
        rows, columns = _through(lens, rows, columns, out_px)
    if warp.displacement is not None:
        rows = rows + warp.displacement[0, band]
        columns = columns + warp.displacement[1, band]
    matrix = warp.matrix.astype(np.float32)
    map_rows: Float32 = matrix[0, 0] * rows + matrix[0, 1] * columns
    map_rows += np.float32(corner[0] + (height - 1) / 2)
    map_columns: Float32 = matrix[1, 0] * rows + matrix[1, 1] * columns
    map_columns += np.float32(corner[1] + (width - 1) / 2)
    return map_rows, map_columns


def _through(lens: Lens, rows: Float32, columns: Float32, out_px: tuple[int, int]) -> tuple[Float32, Float32]:
    height, width = out_px
    centre_row = np.float32((lens.centre[1] - 0.5) * height)
    centre_column = np.float32((lens.centre[0] - 0.5) * width)
    radius_px = max(lens.radius * min(height, width), 1e-6)
    from_row, from_column = rows - centre_row, columns - centre_column
    nearness = 1 - (from_row * from_row + from_column * from_column) / np.float32(radius_px**2)
    np.maximum(nearness, 0, out=nearness)
    nearness *= nearness
    nearness *= np.float32(-lens.amount)
    moved_rows = np.add(rows, from_row * nearness, dtype=np.float32)
    return moved_rows, np.add(columns, from_column * nearness, dtype=np.float32)


def _span(coordinates: Float32, size: int) -> slice:
    """Return the interval of one axis that a map reads, mirrored; OpenCV maps at most 32,767 px."""
    low, high = math.floor(float(coordinates.min())) - 1, math.ceil(float(coordinates.max())) + 2
    if low < 0:
        high = max(high, 2 - low)
    if high > size:
        low = min(low, 2 * size - high - 2)
    return slice(max(0, low), min(size, high))
