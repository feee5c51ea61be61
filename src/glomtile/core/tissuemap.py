"""What a tissue mask says about boxes of a plane finer than itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from glomtile.types import Box


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Tissue found on a thumbnail, asked about in pixels of the plane that is segmented.

    Attributes
    ----------
    tissue : (h, w) bool ndarray
        Where there is tissue.
    near : (h, w) bool ndarray
        Where there is tissue or where it is so near that windows are to be looked at.
    zoom : float
        Pixels of the plane per pixel of the mask.
    mpp : float
        Micrometres per pixel of the mask.
    """

    tissue: NDArray[np.bool_]
    near: NDArray[np.bool_]
    zoom: float
    mpp: float

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        return float(np.count_nonzero(self.tissue)) * self.mpp**2 / 1e6

    def near_tissue(self, box: Box) -> bool:
        """Whether any of a box's pixels, or the mask's cell it lies in, is on or near tissue."""
        height, width = self.near.shape
        top, left = (
            min(max(int(at // self.zoom), 0), n - 1) for at, n in ((box.top, height), (box.left, width))
        )
        bottom, right = (
            min(max(int(-(-at // self.zoom)), low + 1), n)
            for at, low, n in ((box.bottom, top, height), (box.right, left, width))
        )
        table = self._counts
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return bool(inside > 0)

    def glass(self, box: Box) -> NDArray[np.bool_]:
        """Where the pixels of a box are no tissue, ``(h, w) bool``; beyond the mask its edge goes on."""
        rows = self._cells(box.top, box.bottom, self.tissue.shape[0])
        columns = self._cells(box.left, box.right, self.tissue.shape[1])
        return np.asarray(~self.tissue[rows[:, None], columns])

    def _cells(self, start: int, stop: int, count: int) -> NDArray[np.intp]:
        cells = np.floor((np.arange(start, stop) + 0.5) / self.zoom).astype(np.intp)
        return np.asarray(np.clip(cells, 0, count - 1), np.intp)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Summed-area table: how many cells near tissue lie above and left of each corner."""
        table = np.zeros((self.near.shape[0] + 1, self.near.shape[1] + 1), np.int64)
        table[1:, 1:] = self.near.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        return table
