"""Painted biopsy slides with exact truth."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import cv2
import numpy as np

from glomtile.errors import InputError
from glomtile.synthetic.noise import PRESETS, Dyes, Frame, Preset, draw_dyes
from glomtile.synthetic.scene import Place
from glomtile.synthetic.textures import Stamp, Stamper, paint_frame, paint_glomerulus, paint_vessel
from glomtile.training.geometric import mirrored
from glomtile.types import Box, UInt8

Kind = TypeVar("Kind")

_CHUNK_PX = 512
_COARSEST_MPP = 1.0
_STAMPS_KEPT = 24
_PLAUSIBLE_MPP = (0.05, 20.0)


@dataclass(frozen=True)
class Phantom:
    """A painted biopsy and its exact truth.

    Parameters
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


class PhantomSlide:
    """A biopsy of any size that is painted where it is read; a `glomtile.types.Reader`.

    Parameters
    ----------
    seed : int
        What and where; at least 0.
    size_px : tuple of int
        ``(H, W)``.
    mpp : float, optional
        Micrometres per pixel: structures lie at the same micrometres at every scale.
    preset : str, optional
        A name in `PRESETS`.
    stain : Dyes, optional
        The laboratory's dyes; drawn from the seed by default.
    chunks_kept : int, optional
        How many pieces of 512 x 512 pixels, 1 MiB each, stay in memory.

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
        if min(size_px) < 1:
            raise InputError("phantom", f"expected a size of at least 1 x 1, got {size_px[0]} x {size_px[1]}")
        if seed < 0:
            raise InputError("phantom", f"expected a seed of at least 0, got {seed}")
        if not _PLAUSIBLE_MPP[0] <= mpp <= _PLAUSIBLE_MPP[1]:
            raise InputError("phantom", f"expected mpp between 0.05 and 20, got {mpp}")
        if preset not in PRESETS:
            raise InputError("phantom", f"expected a preset of {', '.join(PRESETS)}, got {preset!r}")
        self._seed, self._size_px, self._mpp = seed, size_px, mpp
        self._preset = PRESETS[preset]
        self._dyes = stain if stain is not None else draw_dyes(seed, self._preset.dye_spread)
        self._chunks: _Kept[tuple[UInt8, UInt8]] = _Kept(chunks_kept)
        self._stamps: _Kept[Stamp] = _Kept(_STAMPS_KEPT)

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)``."""
        return self._size_px

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel."""
        return self._mpp

    def read(self, box: Box) -> UInt8:
        """``(h, w, 3) uint8``; where `box` hangs over the edge, tissue is mirrored."""
        return self._read(box, 0)

    def read_labels(self, box: Box) -> UInt8:
        """``(h, w) uint8`` truth of the same pixels."""
        return self._read(box, 1)

    def _read(self, box: Box, plane: int) -> UInt8:
        top, left, bottom, right = box
        if bottom <= top or right <= left:
            raise InputError("phantom", f"expected a box of at least 1 x 1, got {tuple(box)}")
        height, width = self._size_px
        if top >= 0 and left >= 0 and bottom <= height and right <= width:
            return self._assemble(Box(top, left, bottom, right), plane)
        rows, columns = mirrored(np.arange(top, bottom), height), mirrored(np.arange(left, right), width)
        row0, column0 = int(rows.min()), int(columns.min())
        needed = self._assemble(Box(row0, column0, int(rows.max()) + 1, int(columns.max()) + 1), plane)
        return needed[(rows - row0)[:, None], columns - column0]

    def _assemble(self, box: Box, plane: int) -> UInt8:
        shape = (box.height, box.width, 3) if plane == 0 else (box.height, box.width)
        whole = np.empty(shape, np.uint8)
        for row in range(box.top // _CHUNK_PX, (box.bottom - 1) // _CHUNK_PX + 1):
            for column in range(box.left // _CHUNK_PX, (box.right - 1) // _CHUNK_PX + 1):
                chunk = self._chunk(row, column)[plane]
                top, left = row * _CHUNK_PX, column * _CHUNK_PX
                first_row, last_row = max(box.top, top), min(box.bottom, top + _CHUNK_PX)
                first_column, last_column = max(box.left, left), min(box.right, left + _CHUNK_PX)
                whole[
                    first_row - box.top : last_row - box.top, first_column - box.left : last_column - box.left
                ] = chunk[first_row - top : last_row - top, first_column - left : last_column - left]
        return whole

    def _chunk(self, row: int, column: int) -> tuple[UInt8, UInt8]:
        kept = self._chunks.find((row, column))
        if kept is not None:
            return kept
        finer = 2 ** max(0, math.ceil(math.log2(self._mpp / _COARSEST_MPP)))
        side = _CHUNK_PX // finer
        image = np.empty((_CHUNK_PX, _CHUNK_PX, 3), np.uint8)
        labels = np.empty((_CHUNK_PX, _CHUNK_PX), np.uint8)
        for i in range(finer):
            for j in range(finer):
                part = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
                image[part], labels[part] = self._part(row * finer + i, column * finer + j, finer)
        self._chunks.keep((row, column), (image, labels))
        return image, labels

    def _part(self, row: int, column: int, finer: int) -> tuple[UInt8, UInt8]:
        """Paint `finer` times as fine as asked for, where nuclei still have a shape, then shrink."""
        frame = Frame(row * _CHUNK_PX, column * _CHUNK_PX, _CHUNK_PX, _CHUNK_PX, self._mpp / finer)
        image, labels = paint_frame(
            self._seed,
            frame,
            self._preset,
            self._dyes,
            stamp_glomerulus=self._keeping(paint_glomerulus),
            stamp_vessel=self._keeping(paint_vessel),
        )
        if finer == 1:
            return image, labels
        size = (_CHUNK_PX // finer, _CHUNK_PX // finer)
        share = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, dtype=np.uint8), (share > 0.5).astype(np.uint8)

    def _keeping(self, stamper: Stamper) -> Stamper:
        def stamp(place: Place, preset: Preset) -> Stamp:
            key = (round(place.row_um * 16), round(place.column_um * 16))
            kept = self._stamps.find(key)
            if kept is None:
                kept = stamper(place, preset)
                self._stamps.keep(key, kept)
            return kept

        return stamp


def paint(
    seed: int,
    size_px: tuple[int, int] = (1024, 1024),
    mpp: float = 0.5,
    preset: str = "plain",
    stain: Dyes | None = None,
) -> Phantom:
    """Paint a whole phantom biopsy; parameters as for `PhantomSlide`.

    Returns
    -------
    Phantom

    Examples
    --------
    >>> phantom = paint(seed=1, size_px=(64, 96))
    >>> phantom.image.shape, phantom.labels.shape
    ((64, 96, 3), (64, 96))
    """
    slide = PhantomSlide(seed, size_px, mpp, preset, stain, chunks_kept=_chunks_of(size_px))
    everything = Box(0, 0, *size_px)
    return Phantom(slide.read(everything), slide.read_labels(everything), mpp)


def _chunks_of(size_px: tuple[int, int]) -> int:
    return -(-size_px[0] // _CHUNK_PX) * -(-size_px[1] // _CHUNK_PX)


class _Kept(Generic[Kind]):
    """The most recently used of what was painted, safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[tuple[int, int], Kind] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[int, int]) -> Kind | None:
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key]

    def keep(self, key: tuple[int, int], value: Kind) -> None:
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.popitem(last=False)
