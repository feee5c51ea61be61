"""Painted biopsy slides with exact truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from glomtile.errors import InputError
from glomtile.synthetic.noise import PRESETS, Dyes, Raster, draw_dyes
from glomtile.synthetic.textures import paint_raster, paint_structure
from glomtile.training.geometric import mirrored
from glomtile.types import Box, UInt8

_CHUNK_PX = 512
_COARSEST_MPP = 1.0
_STAMPS_KEPT = 24
_PLAUSIBLE_MPP = (0.05, 20.0)


@dataclass(frozen=True)
class SyntheticBiopsy:
    """A painted biopsy and its exact truth.

    Attributes
    ----------
    image : (H, W, 3) ndarray of uint8
        RGB.
    labels : (H, W) ndarray of uint8
        1 in glomeruli, capsule included; 0 elsewhere.
    mpp : float
        Micrometres per pixel.
    """

    image: UInt8
    labels: UInt8
    mpp: float


class SyntheticSlide:
    """A biopsy of any size that is painted as it is read; a `glomtile.types.Reader`.

    Parameters
    ----------
    seed : int
        At least 0; decides all structures and their places.
    size_px : tuple of int
        ``(H, W)``.
    mpp : float, optional
        Micrometres per pixel: structures are at the same micrometres at every scale.
    preset : str, optional
        A name in `PRESETS`.
    stain : Dyes, optional
        The laboratory's dyes; drawn from the seed by default.
    chunks_kept : int, optional
        Number of pieces of 512 x 512 pixels, 1 MiB each, that stay in memory.

    Raises
    ------
    InputError
        If the size is below 1 x 1, the seed below 0, the scale not between 0.05 and 20 or the preset unknown.

    Notes
    -----
    Pixels are a function of seed, scale, preset, dyes and place, not of the size, of the box read or of
    the order of reading. Reading is safe from several threads.
    """

    def __init__(
        self,
        seed: int,
        size_px: tuple[int, int],
        mpp: float = 0.5,
        preset: str = "plain",
        stain: Dyes | None = None,
        chunks_kept: int = 48,
    ) -> None:
        where = "synthetic slide"
        if min(size_px) < 1:
            raise InputError(where, f"expected a size of at least 1 x 1, got {size_px[0]} x {size_px[1]}")
        if seed < 0:
            raise InputError(where, f"expected a seed of at least 0, got {seed}")
        if not _PLAUSIBLE_MPP[0] <= mpp <= _PLAUSIBLE_MPP[1]:
            raise InputError(where, f"expected mpp between 0.05 and 20, got {mpp}")
        if preset not in PRESETS:
            raise InputError(where, f"expected a preset of {', '.join(PRESETS)}, got {preset!r}")
        self._seed, self._size_px, self._mpp = seed, size_px, mpp
        self._preset = PRESETS[preset]
        self._dyes = stain if stain is not None else draw_dyes(seed, self._preset.dye_spread)
        self._chunk = lru_cache(chunks_kept)(self._paint_chunk)
        self._stamp = lru_cache(_STAMPS_KEPT)(paint_structure)

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)``."""
        return self._size_px

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel."""
        return self._mpp

    def read(self, box: Box) -> UInt8:
        """Read ``(h, w, 3) uint8``; where `box` is beyond the edge, tissue is mirrored."""
        return self._read(box, 0)

    def read_labels(self, box: Box) -> UInt8:
        """Read the ``(h, w) uint8`` truth of the same pixels."""
        return self._read(box, 1)

    def _read(self, box: Box, plane: int) -> UInt8:
        top, left, bottom, right = box
        if bottom <= top or right <= left:
            raise InputError("synthetic slide", f"expected a box of at least 1 x 1, got {tuple(box)}")
        height, width = self._size_px
        if top >= 0 and left >= 0 and bottom <= height and right <= width:
            return self._assemble(box, plane)
        rows, columns = mirrored(np.arange(top, bottom), height), mirrored(np.arange(left, right), width)
        row0, column0 = int(rows.min()), int(columns.min())
        needed = self._assemble(Box(row0, column0, int(rows.max()) + 1, int(columns.max()) + 1), plane)
        return needed[(rows - row0)[:, None], columns - column0]

    def _assemble(self, box: Box, plane: int) -> UInt8:
        whole = np.empty((box.height, box.width, 3) if plane == 0 else (box.height, box.width), np.uint8)
        for row in range(box.top // _CHUNK_PX, (box.bottom - 1) // _CHUNK_PX + 1):
            for column in range(box.left // _CHUNK_PX, (box.right - 1) // _CHUNK_PX + 1):
                top, left = row * _CHUNK_PX, column * _CHUNK_PX
                rows = max(box.top, top), min(box.bottom, top + _CHUNK_PX)
                columns = max(box.left, left), min(box.right, left + _CHUNK_PX)
                there = np.s_[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
                here = np.s_[
                    rows[0] - box.top : rows[1] - box.top, columns[0] - box.left : columns[1] - box.left
                ]
                whole[here] = self._chunk(row, column)[plane][there]
        return whole

    def _paint_chunk(self, row: int, column: int) -> tuple[UInt8, UInt8]:
        finer = 2 ** max(0, math.ceil(math.log2(self._mpp / _COARSEST_MPP)))
        side = _CHUNK_PX // finer
        image = np.empty((_CHUNK_PX, _CHUNK_PX, 3), np.uint8)
        labels = np.empty((_CHUNK_PX, _CHUNK_PX), np.uint8)
        for i in range(finer):
            for j in range(finer):
                part = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
                image[part], labels[part] = self._paint_part(row * finer + i, column * finer + j, finer)
        return image, labels

    def _paint_part(self, row: int, column: int, finer: int) -> tuple[UInt8, UInt8]:
        """Paint `finer` times as fine as requested, where nuclei still have a shape, then shrink."""
        raster = Raster(row * _CHUNK_PX, column * _CHUNK_PX, _CHUNK_PX, _CHUNK_PX, self._mpp / finer)
        image, labels = paint_raster(self._seed, raster, self._preset, self._dyes, self._stamp)
        if finer == 1:
            return image, labels
        size = (_CHUNK_PX // finer, _CHUNK_PX // finer)
        share = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, dtype=np.uint8), (share > 0.5).astype(np.uint8)


def paint(
    seed: int,
    size_px: tuple[int, int] = (1024, 1024),
    mpp: float = 0.5,
    preset: str = "plain",
    stain: Dyes | None = None,
) -> SyntheticBiopsy:
    """Paint a whole biopsy; parameters as for `SyntheticSlide`.

    Examples
    --------
    >>> biopsy = paint(seed=1, size_px=(64, 96))
    >>> biopsy.image.shape, biopsy.labels.shape
    ((64, 96, 3), (64, 96))
    """
    chunks = -(-size_px[0] // _CHUNK_PX) * -(-size_px[1] // _CHUNK_PX)
    slide = SyntheticSlide(seed, size_px, mpp, preset, stain, chunks_kept=chunks)
    everything = Box(0, 0, *size_px)
    return SyntheticBiopsy(slide.read(everything), slide.read_labels(everything), mpp)
