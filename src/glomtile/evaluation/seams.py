"""Seam ratio and grid sensitivity of tiled predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from glomtile.errors import InputError
from glomtile.types import UInt8


@dataclass(frozen=True)
class SeamCount:
    """Label flips of one or more images, at tile borders and at all other lines.

    A line is the step between two neighbouring pixel rows or columns; a flip is a pixel on it whose
    two sides have different labels.
    """

    border_flips: int
    border_lines: int
    other_flips: int
    other_lines: int

    @property
    def ratio(self) -> float:
        """Flips per border line over flips per other line.

        NaN when there is no line of one of the two kinds or no flip at all; infinite when every flip is
        on a border. 1 is no seam.
        """
        if not self.border_lines or not self.other_lines or not (self.border_flips or self.other_flips):
            return float("nan")
        if not self.other_flips:
            return float("inf")
        return (self.border_flips / self.border_lines) / (self.other_flips / self.other_lines)

    def __add__(self, other: SeamCount) -> SeamCount:
        return SeamCount(
            self.border_flips + other.border_flips,
            self.border_lines + other.border_lines,
            self.other_flips + other.other_flips,
            self.other_lines + other.other_lines,
        )


def count_seams(labels: UInt8, tile_px: int, offset_px: tuple[int, int] = (0, 0)) -> SeamCount:
    """Count the label flips of one image at tile borders and elsewhere, rows and columns pooled.

    Parameters
    ----------
    labels : (H, W) uint8 ndarray
        Class numbers.
    tile_px : int
        Distance of the borders: the stride of the tiles, not their size with overlap.
    offset_px : (int, int)
        Row and column of one border.

    Returns
    -------
    SeamCount

    Raises
    ------
    InputError
        When `tile_px` is below 1, or `labels` is no plane.
    """
    if tile_px < 1 or labels.ndim != 2:
        raise InputError(
            "seams", f"expected a plane of labels and a tile of at least 1 px, got {labels.shape}, {tile_px}"
        )
    total = SeamCount(0, 0, 0, 0)
    for plane, offset in ((labels, offset_px[0]), (labels.T, offset_px[1])):
        flips = np.count_nonzero(plane[1:] != plane[:-1], axis=1)
        border = (np.arange(1, plane.shape[0]) - offset) % tile_px == 0 if len(flips) else np.zeros(0, bool)
        total += SeamCount(
            int(flips[border].sum()), int(border.sum()), int(flips[~border].sum()), int((~border).sum())
        )
    return total


def seam_ratio(labels: UInt8 | Iterable[UInt8], tile_px: int, offset_px: tuple[int, int] = (0, 0)) -> float:
    """Measure label flips per line at tile borders over those at all other lines, images pooled.

    Parameters
    ----------
    labels : (H, W) uint8 ndarray or iterable of them
        One image, or a set that is counted as one.
    tile_px, offset_px
        As in `count_seams`.

    Returns
    -------
    float
        About 1 without seams; see `SeamCount.ratio` for empty cases.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.zeros((8, 8), np.uint8)
    >>> labels[1:4, 2] = 1
    >>> round(seam_ratio(labels, 4), 2)
    0.75
    """
    planes = [labels] if isinstance(labels, np.ndarray) else labels
    return sum((count_seams(plane, tile_px, offset_px) for plane in planes), SeamCount(0, 0, 0, 0)).ratio


def grid_sensitivity(a: UInt8 | Sequence[UInt8], b: UInt8 | Sequence[UInt8]) -> float:
    """Measure the share of pixels whose label differs between two window grids.

    Parameters
    ----------
    a, b : (H, W) uint8 ndarray or sequences of them
        Labels of the same image or images, in the same order.

    Returns
    -------
    float
        0 to 1; NaN when there is no pixel.

    Raises
    ------
    InputError
        When the two differ in number or size.
    """
    first = [a] if isinstance(a, np.ndarray) else a
    second = [b] if isinstance(b, np.ndarray) else b
    sizes = [x.shape for x in first], [y.shape for y in second]
    if sizes[0] != sizes[1]:
        raise InputError(
            "grid sensitivity", f"expected the same images twice, got sizes {sizes[0]} and {sizes[1]}"
        )
    pixels = sum(x.size for x in first)
    changed = sum(int(np.count_nonzero(x != y)) for x, y in zip(first, second, strict=True))
    return changed / pixels if pixels else float("nan")
