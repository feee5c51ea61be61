"""Painted biopsy slides with exact truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.objects.labelling import exact_distance
from glomtile.synthetic.scene import (
    PRESETS,
    Dyes,
    Float64,
    Noise,
    Preset,
    Raster,
    Structure,
    Tubules,
    draw_dyes,
    draws,
    glomeruli,
    inside_um,
    tubules,
    vessels,
)
from glomtile.types import Box, Float32, UInt8

Int32 = NDArray[np.int32]
Random = np.random.Generator
Part = tuple[slice, slice]

STAMP_MPP = 0.5
_LOOP_PITCH_UM = 11.5
_MARGIN_UM = 4.0
_SUBPIXEL_BITS = 4
_LAYOUT_MPP = 1.0
_LAYOUT_MARGIN_UM = 84.0
_NUCLEUS_PITCH_UM = 7.2
_PAD_PX = 4
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

    Attributes
    ----------
    size_px : tuple of int
    mpp : float

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
        self._seed, self.size_px, self.mpp = seed, size_px, mpp
        self._preset = PRESETS[preset]
        self._dyes = stain if stain is not None else draw_dyes(seed, self._preset.dye_spread)
        self._chunk = lru_cache(chunks_kept)(self._paint_chunk)
        self._stamp = lru_cache(_STAMPS_KEPT)(paint_structure)

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
        height, width = self.size_px
        if top >= 0 and left >= 0 and bottom <= height and right <= width:
            return self._assemble(box, plane)
        rows, columns = _mirrored(np.arange(top, bottom), height), _mirrored(np.arange(left, right), width)
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
        finer = 2 ** max(0, math.ceil(math.log2(self.mpp / _COARSEST_MPP)))
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
        raster = Raster(row * _CHUNK_PX, column * _CHUNK_PX, _CHUNK_PX, _CHUNK_PX, self.mpp / finer)
        image, labels = paint_raster(self._seed, raster, self._preset, self._dyes, self._stamp)
        if finer == 1:
            return image, labels
        size = (_CHUNK_PX // finer, _CHUNK_PX // finer)
        share = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, dtype=np.uint8), (share > 0.5).astype(np.uint8)


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Fold any index into ``0 … size-1`` without repeating the edge pixel, as `cv2.BORDER_REFLECT_101`."""
    if size == 1:
        return np.zeros_like(index)
    folded: NDArray[np.int64] = np.abs((index + size - 1) % (2 * size - 2) - (size - 1))
    return folded


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


@dataclass(frozen=True)
class Stamp:
    """Amounts of dye of one structure, and the distance from its outline, above 0 inside."""

    raster: Raster
    haematoxylin: Float32
    pas: Float32
    inside_um: Float32


@dataclass(frozen=True)
class _Polar:
    raster: Raster
    radius_um: Float32
    angle: Float32


def paint_structure(structure: Structure, preset: Preset) -> Stamp:
    """Paint one glomerulus or vessel on its own raster."""
    return (_paint_glomerulus if structure.kind == "glomerulus" else _paint_vessel)(structure, preset)


def _paint_glomerulus(structure: Structure, preset: Preset) -> Stamp:
    """Paint capsule, Bowman's space and a lobed tuft with capillary loops and nuclei."""
    rng = np.random.default_rng(structure.key)
    polar = _polar(structure, 1.14 * structure.radius_um)
    inside = _outline(polar, structure.radius_um, rng, 0.09) - polar.radius_um
    inside = inside + Noise(structure.key, 1, 22.0).over(polar.raster) * np.float32(0.9)
    tuft = inside - _bowman_space(polar, structure.radius_um, rng)
    tuft += Noise(structure.key, 2, 9.0).over(polar.raster) * np.float32(1.6)
    loop_depth, loop_fill = _capillaries(structure.key, polar.raster, rng, preset)

    grain = Noise(structure.key, 3, 2.2).over(polar.raster)
    blotch = Noise(structure.key, 4, 16.0).over(polar.raster)
    wall_pas = np.float32(rng.uniform(*preset.tuft_pas)) * (0.55 + 0.14 * grain + 0.16 * blotch)
    wall_haematoxylin = np.float32(0.12) + np.float32(0.04) * grain
    lumen = _step(loop_depth, 0.7)
    membrane = _line(loop_depth + np.float32(0.2), 0.8) + _line(tuft - np.float32(0.7), 1.0)
    pas = wall_pas * (1 - lumen) + loop_fill * lumen + np.float32(0.55) * np.clip(membrane, 0, 1)
    haematoxylin = wall_haematoxylin * (1 - lumen) + np.float32(0.02) * lumen

    in_tuft = _step(tuft, 0.7)
    capsule_um = rng.uniform(1.2, 2.8)
    capsule = _step(inside, 0.5) * (1 - _step(inside - np.float32(capsule_um), 0.6))
    pas = pas * in_tuft + np.float32(0.015) * (1 - in_tuft)
    pas = pas * (1 - capsule) + np.float32(rng.uniform(0.7, 1.15)) * capsule
    haematoxylin = haematoxylin * in_tuft + np.float32(0.08) * capsule

    nuclei = np.zeros(polar.raster.size_px, np.uint8)
    _tuft_nuclei(nuclei, tuft, loop_depth, rng)
    _ring_nuclei(nuclei, structure, polar, inside, capsule_um + 1.6, rng)
    dyes = _add_nuclei(haematoxylin, pas, nuclei, grain)
    return Stamp(polar.raster, *dyes, np.asarray(inside, dtype=np.float32))


def _paint_vessel(structure: Structure, preset: Preset) -> Stamp:
    """Paint a wall of wavy muscle with long nuclei around an empty lumen."""
    rng = np.random.default_rng(structure.key)
    polar = _polar(structure, 1.16 * structure.radius_um)
    inside = _outline(polar, structure.radius_um, rng, 0.09) - polar.radius_um
    inside = inside + Noise(structure.key, 1, 18.0).over(polar.raster) * np.float32(1.2)
    wall_um = np.float32(structure.radius_um * rng.uniform(0.38, 0.6))
    ripple = Noise(structure.key, 2, 11.0).over(polar.raster)
    grain = Noise(structure.key, 3, 2.2).over(polar.raster)
    layers = np.sin(inside * np.float32(2 * math.pi / 4.6) + 2.2 * ripple)
    pas = np.float32(preset.interstitium_pas) * (1.0 + 0.26 * layers + 0.14 * grain)
    haematoxylin = np.float32(0.11) + np.float32(0.03) * layers
    lumen_depth = inside - wall_um + np.float32(1.4) * ripple
    lumen = _step(lumen_depth, 0.7)
    pas = pas * (1 - lumen) + np.float32(0.01) * lumen + 0.45 * _line(lumen_depth, 0.9)
    haematoxylin = haematoxylin * (1 - lumen)
    nuclei = np.zeros(polar.raster.size_px, np.uint8)
    for depth_um in np.arange(3.0, float(wall_um) + 2.0, 5.5):
        _ring_nuclei(nuclei, structure, polar, inside, depth_um + rng.uniform(-1, 1), rng)
    dyes = _add_nuclei(haematoxylin, pas, nuclei, grain)
    return Stamp(polar.raster, *dyes, np.asarray(inside, dtype=np.float32))


def _polar(structure: Structure, reach_um: float) -> _Polar:
    half_px = math.ceil((reach_um + _MARGIN_UM) / STAMP_MPP)
    row, column = (round(at / STAMP_MPP) for at in (structure.row_um, structure.column_um))
    raster = Raster(row - half_px, column - half_px, 2 * half_px, 2 * half_px, STAMP_MPP)
    rows = (raster.rows_um() - row * STAMP_MPP)[:, None].astype(np.float32)
    columns = (raster.columns_um() - column * STAMP_MPP)[None, :].astype(np.float32)
    return _Polar(raster, np.hypot(rows, columns), np.arctan2(rows, columns))


def _outline(polar: _Polar, radius_um: float, rng: Random, roundness: float) -> Float32:
    radius = np.ones_like(polar.angle)
    for waves, share in ((2, 1.0), (3, 0.5), (5, 0.25)):
        amount = np.float32(roundness * share * rng.uniform(0.3, 1.0))
        radius += amount * np.cos(waves * polar.angle + np.float32(rng.uniform(0, 2 * math.pi)))
    return radius * np.float32(radius_um)


def _bowman_space(polar: _Polar, radius_um: float, rng: Random) -> Float32:
    """Return the distance between tuft and capsule, clefts between lobes included."""
    pole = np.float32(rng.uniform(0, 2 * math.pi))
    width = np.float32(rng.uniform(2.5, 5.5)) + np.float32(rng.uniform(1, 10)) * (
        0.5 + 0.5 * np.cos(polar.angle - pole)
    )
    lobes = int(rng.integers(5, 9))
    phase = np.float32(rng.uniform(0, 2 * math.pi)) + np.float32(0.5) * np.sin(2 * polar.angle + pole)
    ridge = 1 - np.abs(np.sin(np.float32(lobes / 2) * polar.angle + phase))
    shallow = np.float32(radius_um * rng.uniform(0.05, 0.12)) * ridge**3
    deep = np.float32(radius_um * rng.uniform(0.15, 0.5)) * ridge**14
    return np.asarray(width + shallow + deep, dtype=np.float32)


def _capillaries(key: int, raster: Raster, rng: Random, preset: Preset) -> tuple[Float32, Float32]:
    """Return the depth in the nearest capillary loop in µm, and the PAS of its content."""
    cells_a_side = math.ceil(raster.height_px * raster.mpp / _LOOP_PITCH_UM) + 2
    grid = np.arange(-1, cells_a_side - 1)
    rows, columns = (
        (axis.ravel() + 0.5 + rng.uniform(-0.42, 0.42, axis.size)) * _LOOP_PITCH_UM / raster.mpp
        for axis in np.meshgrid(grid, grid, indexing="ij")
    )
    joined = np.arange(rows.size)
    joins = (rng.random(rows.size) < 0.4) & (joined % 2 == 1)
    joined[joins] -= np.where(rng.random(int(joins.sum())) < 0.5, 1, cells_a_side)
    joined = np.maximum(joined, 0)
    sites = _nearest_site(rows, columns, raster.size_px)
    loops = _displace(joined[sites].astype(np.int32), raster, key, 5, 6.0, 3.6)
    depth = _depth_in_cells(loops, gap_px=2.0, corner_px=4.6) * np.float32(raster.mpp)
    depth += Noise(key, 7, 4.0).over(raster) * np.float32(0.5)
    openness = rng.uniform(*preset.open_loops)
    kinds = rng.random(rows.size)
    fill = np.where(kinds < openness, 0.03, rng.uniform(0.25, 0.6, rows.size)).astype(np.float32)
    closed = np.where(kinds > openness + 0.35 * (1 - openness), 6.0, 0.0).astype(np.float32)
    return depth - closed[loops], fill[loops]


def _tuft_nuclei(canvas: UInt8, tuft: Float32, loop_depth: Float32, rng: Random) -> None:
    pitch_px = 7.6 / STAMP_MPP
    count = int(tuft.shape[0] / pitch_px)
    grid = (
        np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2) + 0.5
    ) * pitch_px
    centres = grid + rng.uniform(-0.45, 0.45, grid.shape) * pitch_px
    at = np.clip(centres.astype(int), 0, tuft.shape[0] - 1)
    chance = np.where(loop_depth[at[:, 0], at[:, 1]] < 0.8, 0.5, 0.06)
    wanted = (tuft[at[:, 0], at[:, 1]] > 1.5) & (rng.random(len(grid)) < chance)
    long = rng.uniform(2.3, 3.7, int(wanted.sum()))
    axes = np.stack([long, long * rng.uniform(0.62, 0.95, len(long))], axis=1) / STAMP_MPP
    angles = rng.uniform(0, math.pi, len(long))
    _draw_ellipses(canvas, centres[wanted], axes, angles, rng.uniform(0.5, 0.95, len(long)))


def _ring_nuclei(
    canvas: UInt8,
    structure: Structure,
    polar: _Polar,
    inside: Float32,
    depth_um: float,
    rng: Random,
) -> None:
    """Draw flat nuclei along the line `depth_um` below the outline."""
    count = max(3, int((structure.radius_um - depth_um) * 2 * math.pi / 19))
    turns = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * math.pi / count
    centres = []
    half = polar.raster.height_px / 2
    steps = np.arange(0, half - 1)
    for turn in turns:
        rows, columns = half + steps * math.sin(turn), half + steps * math.cos(turn)
        profile = inside[rows.astype(int), columns.astype(int)]
        reach = float(steps[int(np.argmin(np.abs(profile - depth_um)))])
        centres.append((half + reach * math.sin(turn), half + reach * math.cos(turn)))
    axes = np.stack([rng.uniform(3.0, 5.2, count), rng.uniform(1.1, 1.8, count)], axis=1) / STAMP_MPP
    at: Float64 = np.array(centres)
    _draw_ellipses(canvas, at, axes, math.pi - turns, rng.uniform(0.7, 1.0, count))


def _add_nuclei(
    haematoxylin: Float32, pas: Float32, nuclei: UInt8, grain: Float32
) -> tuple[Float32, Float32]:
    cover = nuclei.astype(np.float32) * np.float32(1 / 255)
    haematoxylin = haematoxylin * (1 - cover) + cover * (np.float32(1.0) + np.float32(0.16) * grain)
    pas = pas * (1 - np.float32(0.7) * cover)
    return np.maximum(haematoxylin, 0).astype(np.float32), np.maximum(pas, 0).astype(np.float32)


def _nearest_site(rows: Float64, columns: Float64, size_px: tuple[int, int]) -> Int32:
    """Return the index of the nearest site for every pixel; sites outside are left out."""
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


def _depth_in_cells(cells: Int32, gap_px: float, corner_px: float) -> Float32:
    """Return the depth of every pixel in its cell, below 0 between cells drawn `gap_px` apart.

    `corner_px` is the radius of the circle that must fit where the cell remains.
    """
    plane = cells.astype(np.float32)
    same = cv2.dilate(plane, np.ones((3, 3))) == cv2.erode(plane, np.ones((3, 3)))
    border = exact_distance(same)
    heart = border > corner_px
    outside_heart = exact_distance(~heart)
    depth = np.where(heart, border - gap_px, corner_px - gap_px - outside_heart)
    return np.asarray(depth, dtype=np.float32)


def _displace(
    cells: Int32, raster: Raster, seed: int, channel: int, pitch_um: float, strength_px: float
) -> Int32:
    """Move the borders of cells by two independent fields, for rows and columns."""
    rows_px, columns_px = (
        Noise(seed, number, pitch_um).over(raster) * np.float32(strength_px)
        for number in (channel, channel + 1)
    )
    rows_px += np.arange(cells.shape[0], dtype=np.float32)[:, None]
    columns_px += np.arange(cells.shape[1], dtype=np.float32)[None, :]
    plane = cells.astype(np.float32)
    moved = cv2.remap(plane, columns_px, rows_px, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved).astype(np.int32)


def _step(value: Float32, softness: float) -> Float32:
    """Return 0 below and 1 above zero, with a ramp `softness` wide to either side."""
    ramp = np.clip(value * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return np.asarray(ramp, dtype=np.float32)


def _line(value: Float32, width: float) -> Float32:
    """Return 1 where `value` is 0, falling off over `width`."""
    scaled = value * np.float32(1 / width)
    return np.asarray(cv2.exp(-scaled * scaled), dtype=np.float32)


def _draw_ellipses(
    canvas: UInt8, centres_px: Float64, axes_px: Float64, angles: Float64, darkness: Float64
) -> None:
    """Fill smooth-edged ellipses: centres and half axes in rows and columns, angles in radians."""
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    along = axes_px[:, :1] * np.cos(turn)
    across = axes_px[:, 1:] * np.sin(turn)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    rows = centres_px[:, :1] + along * cos - across * sin - 0.5
    columns = centres_px[:, 1:] + along * sin + across * cos - 0.5
    points = np.rint(np.stack([columns, rows], axis=2) * 2**_SUBPIXEL_BITS).astype(np.int32)
    for outline, shade in zip(points, (darkness * 255).tolist(), strict=True):
        cv2.fillConvexPoly(canvas, outline, shade, cv2.LINE_AA, _SUBPIXEL_BITS)


@dataclass(frozen=True)
class _Layout:
    """The tubule of every micrometre, and the depth in it."""

    raster: Raster
    site: Int32
    depth_um: Float32
    tubules: Tubules


def paint_raster(
    seed: int, raster: Raster, preset: Preset, dyes: Dyes, stamp: Callable[[Structure, Preset], Stamp]
) -> tuple[UInt8, UInt8]:
    """Paint the pixels of a raster.

    Parameters
    ----------
    seed, raster, preset, dyes
    stamp : callable
        `paint_structure`, or one that keeps what several rasters share.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        RGB.
    labels : (h, w) ndarray of uint8
        1 in glomeruli, capsule included, 0 elsewhere.
    """
    pad = _PAD_PX
    height, width = raster.size_px
    wide = Raster(raster.top_px - pad, raster.left_px - pad, height + 2 * pad, width + 2 * pad, raster.mpp)
    inside = inside_um(seed, wide)
    labels = np.zeros(wide.size_px, np.uint8)
    if float(inside.max()) < -4:
        haematoxylin, pas = np.zeros(wide.size_px, np.float32), np.zeros(wide.size_px, np.float32)
    else:
        structures = [*glomeruli(seed, wide), *vessels(seed, wide)]
        stamps = [stamp(structure, preset) for structure in structures]
        haematoxylin, pas = _parenchyma(seed, wide, preset, stamps)
        for structure, one in zip(structures, stamps, strict=True):
            depth, part = _put(one, wide, haematoxylin, pas)
            if structure.kind == "glomerulus":
                labels[part][depth > 0] = 1
        section = (1 + np.float32(preset.unevenness) * Noise(seed, 5, 160.0).over(wide)) * _step(inside, 1.6)
        section *= 1 + np.float32(0.13) * Noise(seed, 6, 1.1).over(wide)
        haematoxylin *= section
        pas *= section
        labels[inside <= 0] = 0
    image = _colour(seed, wide, haematoxylin, pas, dyes)
    cut = (slice(pad, -pad), slice(pad, -pad))
    return np.ascontiguousarray(image[cut]), np.ascontiguousarray(labels[cut])


def _parenchyma(seed: int, raster: Raster, preset: Preset, stamps: list[Stamp]) -> tuple[Float32, Float32]:
    """Return the dyes of tubules and interstitium, nuclei included."""
    layout = _lay_out(seed, raster, stamps)
    grain = Noise(seed, 41, 2.2).over(raster)
    blotch = Noise(seed, 42, 6.5).over(raster)
    depth = _warp(layout.depth_um, layout.raster, raster, cv2.INTER_LINEAR)
    depth = depth + blotch * np.float32(0.7) + grain * np.float32(0.25)
    site = _warp(layout.site.astype(np.float32), layout.raster, raster, cv2.INTER_NEAREST).astype(np.int32)
    haematoxylin, pas = _tubule_dyes(layout.tubules.traits, site, depth, grain, blotch, preset)

    fibre = _line(Noise(seed, 43, 7.0).over(raster), 0.35) + _line(Noise(seed, 45, 4.0).over(raster), 0.3)
    in_tubule = _step(depth, 0.5)
    collagen = np.float32(preset.interstitium_pas) * (0.62 + 0.55 * fibre + 0.16 * grain)
    pas = pas * in_tubule + (1 - in_tubule) * collagen
    haematoxylin = haematoxylin * in_tubule + (1 - in_tubule) * (0.08 + 0.04 * fibre)
    membrane = _line(depth - np.float32(0.5), 1.0)
    pas += membrane * np.float32(0.7)

    nuclei = np.zeros(raster.size_px, np.uint8)
    _tissue_nuclei(seed, raster, layout, preset, nuclei)
    return _add_nuclei(haematoxylin, pas, nuclei, grain)


def _lay_out(seed: int, raster: Raster, stamps: list[Stamp]) -> _Layout:
    layout = raster.around(_LAYOUT_MARGIN_UM, _LAYOUT_MPP)
    found = tubules(seed, layout)
    rows = found.rows_um / _LAYOUT_MPP - layout.top_px
    columns = found.columns_um / _LAYOUT_MPP - layout.left_px
    site = _nearest_site(rows, columns, layout.size_px)
    site = _displace(site, layout, seed, 44, 19.0, 3.0)
    cells = found.group[site].astype(np.int32)
    for number, stamp in enumerate(stamps):
        part, shared = _shared(stamp.raster, layout)
        cells[part][_warp(stamp.inside_um, stamp.raster, shared, outside=-1.0) > 0] = -1 - number
    depth_um = _depth_in_cells(cells, gap_px=1.6, corner_px=11.0) * np.float32(_LAYOUT_MPP)
    depth_um[cells < 0] = -3.0
    return _Layout(layout, site, depth_um, found)


def _tubule_dyes(
    traits: NDArray[np.float64], site: Int32, depth: Float32, grain: Float32, blotch: Float32, preset: Preset
) -> tuple[Float32, Float32]:
    kind, tone, tint, filling = (column.astype(np.float32) for column in traits.T)
    proximal = kind < 0.6
    tall_um = np.where(proximal, 12 + 8 * tone, 7 + 3 * tone).astype(np.float32)
    low, high = preset.tubule_pas
    cytoplasm_pas = np.where(proximal, low + (high - low) * tint, low + 0.5 * (high - low) * tint)
    low, high = preset.tubule_haematoxylin
    cytoplasm_haematoxylin = (low + (high - low) * tone).astype(np.float32)
    lumen_pas = np.where(filling < preset.casts, 0.75, 0.02).astype(np.float32)
    rough_um = np.where(proximal, 2.6, 0.9).astype(np.float32)

    to_lumen = depth - tall_um[site] + rough_um[site] * (0.8 * grain + 0.8 * blotch)
    lumen = _step(to_lumen, 1.8)
    vacuoles = np.clip(grain + 0.4 * blotch - 0.7, 0, 1)
    apical = np.clip(1.12 - 0.03 * depth, 0.6, 1.2)
    pas = cytoplasm_pas.astype(np.float32)[site] * (1 + 0.26 * grain) * apical * (1 - 0.75 * vacuoles)
    pas += 0.10 * _line(to_lumen, 2.0)
    pas = pas * (1 - lumen) + lumen_pas[site] * (1 + 0.5 * np.clip(blotch + grain, -1, 3)) * lumen
    haematoxylin = cytoplasm_haematoxylin[site] * (1 + 0.28 * grain) * apical * (1 - 0.75 * vacuoles)
    return haematoxylin * (1 - lumen), pas


def _tissue_nuclei(seed: int, raster: Raster, layout: _Layout, preset: Preset, canvas: UInt8) -> None:
    """Draw round nuclei along the tubules' walls, dark small and long ones between them."""
    pitch = _NUCLEUS_PITCH_UM
    around = raster.around(6.0, 1.0)
    rows = np.arange(math.floor(around.top_px / pitch), math.ceil((around.top_px + around.height_px) / pitch))
    columns = np.arange(
        math.floor(around.left_px / pitch), math.ceil((around.left_px + around.width_px) / pitch)
    )
    row, column = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    chance, first, second, turn, shift_row, shift_column = (
        draws(seed, 51 + i, row, column) for i in range(6)
    )
    row_um = (row + 0.5 + 0.8 * (shift_row - 0.5)) * pitch
    column_um = (column + 0.5 + 0.8 * (shift_column - 0.5)) * pitch
    at_row = np.floor(row_um / _LAYOUT_MPP).astype(int) - layout.raster.top_px
    at_column = np.floor(column_um / _LAYOUT_MPP).astype(int) - layout.raster.left_px
    depth = layout.depth_um[at_row, at_column]
    kind = layout.tubules.traits[layout.site[at_row, at_column], 0]
    crowd = Noise(seed, 57, 45.0).over(layout.raster)[at_row, at_column]

    in_wall = (depth > 3.2) & (depth < np.where(kind < 0.6, 8.5, 6.5))
    between = depth < -0.2
    crowded = np.clip(0.35 + preset.infiltrate * (0.5 + 0.6 * crowd), 0.1, 0.95)
    wanted = np.where(in_wall, chance < 0.62, between & (chance < crowded))
    long_um = np.where(in_wall, 2.4 + 0.9 * first, 1.7 + 3.2 * first**2)
    short_um = np.where(in_wall, long_um * (0.75 + 0.25 * second), 1.0 + 0.8 * second)
    darkness = np.where(in_wall, 0.5 + 0.4 * first * second, 0.8 + 0.2 * second)
    centres = np.stack([row_um / raster.mpp - raster.top_px, column_um / raster.mpp - raster.left_px], axis=1)
    axes = np.stack([long_um, short_um], axis=1) / raster.mpp
    _draw_ellipses(canvas, centres[wanted], axes[wanted], turn[wanted] * math.pi, darkness[wanted])


def _put(stamp: Stamp, raster: Raster, haematoxylin: Float32, pas: Float32) -> tuple[Float32, Part]:
    """Put a stamp over the dyes; return its distance from the outline, and the part of the raster."""
    part, shared = _shared(stamp.raster, raster)
    depth = _warp(stamp.inside_um, stamp.raster, shared, outside=-1.0)
    cover = _step(depth, 0.5)
    for dye, plane in ((stamp.haematoxylin, haematoxylin), (stamp.pas, pas)):
        plane[part] = plane[part] * (1 - cover) + _warp(dye, stamp.raster, shared) * cover
    return depth, part


def _shared(source: Raster, target: Raster) -> tuple[Part, Raster]:
    """Return the part of `target` that `source` covers, as slices and as a raster; at least one pixel."""
    over = source.around(2 * target.mpp, target.mpp)
    top, bottom = _span(over.top_px - target.top_px, over.height_px, target.height_px)
    left, right = _span(over.left_px - target.left_px, over.width_px, target.width_px)
    shared = Raster(target.top_px + top, target.left_px + left, bottom - top, right - left, target.mpp)
    return (slice(top, bottom), slice(left, right)), shared


def _span(start: int, length: int, size: int) -> tuple[int, int]:
    first = min(max(0, start), size - 1)
    return first, min(max(first + 1, start + length), size)


def _warp(
    plane: Float32, source: Raster, target: Raster, how: int = cv2.INTER_LINEAR, outside: float = 0.0
) -> Float32:
    """Resample a plane from one raster to another."""
    scale = target.mpp / source.mpp
    to_source = np.array(
        [
            [scale, 0, (target.left_px + 0.5) * scale - source.left_px - 0.5],
            [0, scale, (target.top_px + 0.5) * scale - source.top_px - 0.5],
        ]
    )
    moved = cv2.warpAffine(
        plane,
        to_source,
        (target.width_px, target.height_px),
        flags=how | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )
    return np.asarray(moved, dtype=np.float32)


def _colour(seed: int, raster: Raster, haematoxylin: Float32, pas: Float32, dyes: Dyes) -> UInt8:
    """Return the image: light through the dyes, the lens's blur, the camera's grain."""
    amounts = cv2.merge([haematoxylin, pas])
    light = cv2.exp(cv2.transform(amounts, -np.stack([dyes.haematoxylin, dyes.pas], axis=1)))
    light = np.asarray(light, dtype=np.float32) * np.array(dyes.glass, np.float32)
    light = cv2.GaussianBlur(light, (0, 0), max(0.3, 0.26 / raster.mpp))
    rows = np.arange(raster.top_px, raster.top_px + raster.height_px)[:, None]
    columns = np.arange(raster.left_px, raster.left_px + raster.width_px)[None, :]
    grain = (draws(seed, 61, rows, columns).astype(np.float32) - np.float32(0.5)) * 5
    return np.asarray(cv2.convertScaleAbs(light + grain[:, :, None]), dtype=np.uint8)
