"""Textures of painted tissue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.synthetic.noise import Dyes, Float64, Frame, Noise, Preset, draws
from glomtile.synthetic.scene import Place, Tubules, glomeruli, inside_um, tubules, vessels
from glomtile.types import Float32, UInt8

STAMP_MPP = 0.5
_LOOP_PITCH_UM = 11.5
_MARGIN_UM = 4.0


@dataclass(frozen=True)
class Stamp:
    """Dye of one structure on its own raster.

    Parameters
    ----------
    frame : Frame
        Where it lies.
    haematoxylin, pas : (h, w) ndarray of float32
        Amounts of dye.
    inside_um : (h, w) ndarray of float32
        Distance from the outline, above 0 inside.
    """

    frame: Frame
    haematoxylin: Float32
    pas: Float32
    inside_um: Float32


@dataclass(frozen=True)
class _Polar:
    frame: Frame
    radius_um: Float32
    angle: Float32


def paint_glomerulus(place: Place, preset: Preset) -> Stamp:
    """Capsule, Bowman's space and lobed tuft with capillary loops and nuclei."""
    rng = np.random.default_rng(place.key)
    polar = _polar(place, 1.14 * place.radius_um)
    inside = _outline(polar, place.radius_um, rng, 0.09) - polar.radius_um
    inside = inside + Noise(place.key, 1, 22.0).over(polar.frame) * np.float32(0.9)
    tuft = inside - _bowman_space(polar, place.radius_um, rng)
    tuft += Noise(place.key, 2, 9.0).over(polar.frame) * np.float32(1.6)
    loop_depth, loop_fill = _capillaries(place.key, polar.frame, rng, preset)

    grain = Noise(place.key, 3, 2.2).over(polar.frame)
    blotch = Noise(place.key, 4, 16.0).over(polar.frame)
    wall_pas = np.float32(rng.uniform(*preset.tuft_pas)) * (0.55 + 0.14 * grain + 0.16 * blotch)
    wall_haematoxylin = np.float32(0.12) + np.float32(0.04) * grain
    lumen = step(loop_depth, 0.7)
    membrane = line(loop_depth + np.float32(0.2), 0.8) + line(tuft - np.float32(0.7), 1.0)
    pas = wall_pas * (1 - lumen) + loop_fill * lumen + np.float32(0.55) * np.clip(membrane, 0, 1)
    haematoxylin = wall_haematoxylin * (1 - lumen) + np.float32(0.02) * lumen

    in_tuft = step(tuft, 0.7)
    capsule_um = rng.uniform(1.2, 2.8)
    capsule = step(inside, 0.5) * (1 - step(inside - np.float32(capsule_um), 0.6))
    pas = pas * in_tuft + np.float32(0.015) * (1 - in_tuft)
    pas = pas * (1 - capsule) + np.float32(rng.uniform(0.7, 1.15)) * capsule
    haematoxylin = haematoxylin * in_tuft + np.float32(0.08) * capsule

    nuclei = np.zeros(polar.frame.size_px, np.uint8)
    _tuft_nuclei(nuclei, tuft, loop_depth, rng)
    _ring_nuclei(nuclei, place, polar, inside, capsule_um + 1.6, rng)
    return _stained(polar.frame, haematoxylin, pas, nuclei, grain, inside)


def paint_vessel(place: Place, preset: Preset) -> Stamp:
    """A wall of wavy muscle with long nuclei about a bare lumen."""
    rng = np.random.default_rng(place.key)
    polar = _polar(place, 1.16 * place.radius_um)
    inside = _outline(polar, place.radius_um, rng, 0.09) - polar.radius_um
    inside = inside + Noise(place.key, 1, 18.0).over(polar.frame) * np.float32(1.2)
    wall_um = np.float32(place.radius_um * rng.uniform(0.38, 0.6))
    ripple = Noise(place.key, 2, 11.0).over(polar.frame)
    grain = Noise(place.key, 3, 2.2).over(polar.frame)
    layers = np.sin(inside * np.float32(2 * math.pi / 4.6) + 2.2 * ripple)
    pas = np.float32(preset.interstitium_pas) * (1.0 + 0.26 * layers + 0.14 * grain)
    haematoxylin = np.float32(0.11) + np.float32(0.03) * layers
    lumen_depth = inside - wall_um + np.float32(1.4) * ripple
    lumen = step(lumen_depth, 0.7)
    pas = pas * (1 - lumen) + np.float32(0.01) * lumen + 0.45 * line(lumen_depth, 0.9)
    haematoxylin = haematoxylin * (1 - lumen)
    nuclei = np.zeros(polar.frame.size_px, np.uint8)
    for depth_um in np.arange(3.0, float(wall_um) + 2.0, 5.5):
        _ring_nuclei(nuclei, place, polar, inside, depth_um + rng.uniform(-1, 1), rng)
    return _stained(polar.frame, haematoxylin, pas, nuclei, grain, inside)


def _polar(place: Place, reach_um: float) -> _Polar:
    half_px = math.ceil((reach_um + _MARGIN_UM) / STAMP_MPP)
    row, column = (round(at / STAMP_MPP) for at in (place.row_um, place.column_um))
    frame = Frame(row - half_px, column - half_px, 2 * half_px, 2 * half_px, STAMP_MPP)
    rows = (frame.rows_um() - row * STAMP_MPP)[:, None].astype(np.float32)
    columns = (frame.columns_um() - column * STAMP_MPP)[None, :].astype(np.float32)
    return _Polar(frame, np.hypot(rows, columns), np.arctan2(rows, columns))


def _outline(polar: _Polar, radius_um: float, rng: np.random.Generator, roundness: float) -> Float32:
    radius = np.ones_like(polar.angle)
    for waves, share in ((2, 1.0), (3, 0.5), (5, 0.25)):
        amount = np.float32(roundness * share * rng.uniform(0.3, 1.0))
        radius += amount * np.cos(waves * polar.angle + np.float32(rng.uniform(0, 2 * math.pi)))
    return radius * np.float32(radius_um)


def _bowman_space(polar: _Polar, radius_um: float, rng: np.random.Generator) -> Float32:
    """How far the tuft stays back from the capsule, clefts between its lobes included."""
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


def _capillaries(key: int, frame: Frame, rng: np.random.Generator, preset: Preset) -> tuple[Float32, Float32]:
    """Depth in the nearest capillary loop in µm, and the PAS of what fills it."""
    cells_a_side = math.ceil(frame.height_px * frame.mpp / _LOOP_PITCH_UM) + 2
    grid = np.arange(-1, cells_a_side - 1)
    rows, columns = (
        (axis.ravel() + 0.5 + rng.uniform(-0.42, 0.42, axis.size)) * _LOOP_PITCH_UM / frame.mpp
        for axis in np.meshgrid(grid, grid, indexing="ij")
    )
    joined = np.arange(rows.size)
    joins = (rng.random(rows.size) < 0.4) & (joined % 2 == 1)
    joined[joins] -= np.where(rng.random(int(joins.sum())) < 0.5, 1, cells_a_side)
    joined = np.maximum(joined, 0)
    sites = nearest_site(rows, columns, frame.size_px)
    drift = [noise.over(frame) * np.float32(3.6) for noise in wobble(key, 5, 6.0)]
    loops = displaced(joined[sites].astype(np.int32), drift[0], drift[1])
    depth = depth_in_cells(loops, gap_px=2.0, corner_px=4.6) * np.float32(frame.mpp)
    depth += Noise(key, 7, 4.0).over(frame) * np.float32(0.5)
    openness = rng.uniform(*preset.open_loops)
    kinds = rng.random(rows.size)
    fill = np.where(kinds < openness, 0.03, rng.uniform(0.25, 0.6, rows.size)).astype(np.float32)
    closed = np.where(kinds > openness + 0.35 * (1 - openness), 6.0, 0.0).astype(np.float32)
    return depth - closed[loops], fill[loops]


def _tuft_nuclei(canvas: UInt8, tuft: Float32, loop_depth: Float32, rng: np.random.Generator) -> None:
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
    draw_nuclei(canvas, centres[wanted], axes, angles, rng.uniform(0.5, 0.95, len(long)))


def _ring_nuclei(
    canvas: UInt8, place: Place, polar: _Polar, inside: Float32, depth_um: float, rng: np.random.Generator
) -> None:
    """Flat nuclei along the line `depth_um` below the outline."""
    count = max(3, int((place.radius_um - depth_um) * 2 * math.pi / 19))
    turns = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * math.pi / count
    centres = []
    half = polar.frame.height_px / 2
    steps = np.arange(0, half - 1)
    for turn in turns:
        rows, columns = half + steps * math.sin(turn), half + steps * math.cos(turn)
        profile = inside[rows.astype(int), columns.astype(int)]
        reach = float(steps[int(np.argmin(np.abs(profile - depth_um)))])
        centres.append((half + reach * math.sin(turn), half + reach * math.cos(turn)))
    axes = np.stack([rng.uniform(3.0, 5.2, count), rng.uniform(1.1, 1.8, count)], axis=1) / STAMP_MPP
    at: Float64 = np.array(centres)
    draw_nuclei(canvas, at, axes, math.pi - turns, rng.uniform(0.7, 1.0, count))


def _stained(
    frame: Frame, haematoxylin: Float32, pas: Float32, nuclei: UInt8, grain: Float32, inside: Float32
) -> Stamp:
    cover = nuclei.astype(np.float32) * np.float32(1 / 255)
    haematoxylin = haematoxylin * (1 - cover) + cover * (np.float32(1.0) + np.float32(0.16) * grain)
    pas = pas * (1 - np.float32(0.7) * cover)
    return Stamp(
        frame,
        np.maximum(haematoxylin, 0).astype(np.float32),
        np.maximum(pas, 0).astype(np.float32),
        np.asarray(inside, dtype=np.float32),
    )


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


Stamper = Callable[[Place, Preset], Stamp]
Part = tuple[slice, slice]

_LAYOUT_MPP = 1.0
_LAYOUT_MARGIN_UM = 84.0
_NUCLEUS_PITCH_UM = 7.2
_PAD_PX = 4


@dataclass(frozen=True)
class _Layout:
    """Which tubule every micrometre belongs to, and how deep it lies in it."""

    frame: Frame
    site: Int32
    depth_um: Float32
    tubules: Tubules


def paint_frame(
    seed: int,
    frame: Frame,
    preset: Preset,
    dyes: Dyes,
    *,
    stamp_glomerulus: Stamper,
    stamp_vessel: Stamper,
) -> tuple[UInt8, UInt8]:
    """Paint the pixels of `frame`.

    Parameters
    ----------
    seed : int
    frame : Frame
    preset : Preset
    dyes : Dyes
    stamp_glomerulus, stamp_vessel : callable
        Paint one structure; handed in so that the caller can keep what several frames share.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        RGB.
    labels : (h, w) ndarray of uint8
        1 in glomeruli, capsule included, 0 elsewhere.
    """
    pad = _PAD_PX
    wide = Frame(
        frame.top_px - pad,
        frame.left_px - pad,
        frame.height_px + 2 * pad,
        frame.width_px + 2 * pad,
        frame.mpp,
    )
    inside = inside_um(seed, wide)
    labels = np.zeros(wide.size_px, np.uint8)
    if float(inside.max()) < -4:
        haematoxylin, pas = np.zeros(wide.size_px, np.float32), np.zeros(wide.size_px, np.float32)
    else:
        stamps = [(stamp_glomerulus(place, preset), True) for place in glomeruli(seed, wide)]
        stamps += [(stamp_vessel(place, preset), False) for place in vessels(seed, wide)]
        haematoxylin, pas = _parenchyma(seed, wide, preset, [place for place, _ in stamps])
        for stamp, is_glomerulus in stamps:
            depth, part = _lay(stamp, wide, haematoxylin, pas)
            if is_glomerulus:
                labels[part][depth > 0] = 1
        section = (1 + np.float32(preset.unevenness) * Noise(seed, 5, 160.0).over(wide)) * step(inside, 1.6)
        section *= 1 + np.float32(0.13) * Noise(seed, 6, 1.1).over(wide)
        haematoxylin *= section
        pas *= section
        labels[inside <= 0] = 0
    image = _colour(seed, wide, haematoxylin, pas, dyes)
    cut = (slice(pad, -pad), slice(pad, -pad))
    return np.ascontiguousarray(image[cut]), np.ascontiguousarray(labels[cut])


def _parenchyma(seed: int, frame: Frame, preset: Preset, stamps: list[Stamp]) -> tuple[Float32, Float32]:
    """Dyes of tubules and interstitium, nuclei included."""
    layout = _lay_out(seed, frame, stamps)
    grain = Noise(seed, 41, 2.2).over(frame)
    blotch = Noise(seed, 42, 6.5).over(frame)
    depth = _enlarged(layout.depth_um, layout.frame, frame, cv2.INTER_LINEAR)
    depth = depth + blotch * np.float32(0.7) + grain * np.float32(0.25)
    site = _enlarged(layout.site.astype(np.float32), layout.frame, frame, cv2.INTER_NEAREST).astype(np.int32)
    haematoxylin, pas = _tubule_dyes(layout.tubules.traits, site, depth, grain, blotch, preset)

    fibre = line(Noise(seed, 43, 7.0).over(frame), 0.35) + line(Noise(seed, 45, 4.0).over(frame), 0.3)
    in_tubule = step(depth, 0.5)
    collagen = np.float32(preset.interstitium_pas) * (0.62 + 0.55 * fibre + 0.16 * grain)
    pas = pas * in_tubule + (1 - in_tubule) * collagen
    haematoxylin = haematoxylin * in_tubule + (1 - in_tubule) * (0.08 + 0.04 * fibre)
    membrane = line(depth - np.float32(0.5), 1.0)
    pas += membrane * np.float32(0.7)

    nuclei = np.zeros(frame.size_px, np.uint8)
    _draw_nuclei(seed, frame, layout, preset, nuclei)
    cover = nuclei.astype(np.float32) * np.float32(1 / 255)
    haematoxylin = haematoxylin * (1 - cover) + cover * (1 + 0.16 * grain)
    pas = pas * (1 - np.float32(0.7) * cover)
    return np.maximum(haematoxylin, 0).astype(np.float32), np.maximum(pas, 0).astype(np.float32)


def _lay_out(seed: int, frame: Frame, stamps: list[Stamp]) -> _Layout:
    layout = frame.around(_LAYOUT_MARGIN_UM, _LAYOUT_MPP)
    found = tubules(seed, layout)
    rows = found.rows_um / _LAYOUT_MPP - layout.top_px
    columns = found.columns_um / _LAYOUT_MPP - layout.left_px
    site = nearest_site(rows, columns, layout.size_px)
    drift = [noise.over(layout) * np.float32(3.0) for noise in wobble(seed, 44, 19.0)]
    site = displaced(site, drift[0], drift[1])
    owners = found.group[site].astype(np.int32)
    for number, stamp in enumerate(stamps):
        part, shared = _shared(stamp.frame, layout)
        owners[part][_transferred(stamp.inside_um, stamp.frame, shared, -1.0) > 0] = -1 - number
    depth_um = depth_in_cells(owners, gap_px=1.6, corner_px=11.0) * np.float32(_LAYOUT_MPP)
    depth_um[owners < 0] = -3.0
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
    lumen = step(to_lumen, 1.8)
    vacuoles = np.clip(grain + 0.4 * blotch - 0.7, 0, 1)
    apical = np.clip(1.12 - 0.03 * depth, 0.6, 1.2)
    pas = cytoplasm_pas.astype(np.float32)[site] * (1 + 0.26 * grain) * apical * (1 - 0.75 * vacuoles)
    pas += 0.10 * line(to_lumen, 2.0)
    pas = pas * (1 - lumen) + lumen_pas[site] * (1 + 0.5 * np.clip(blotch + grain, -1, 3)) * lumen
    haematoxylin = cytoplasm_haematoxylin[site] * (1 + 0.28 * grain) * apical * (1 - 0.75 * vacuoles)
    return haematoxylin * (1 - lumen), pas


def _draw_nuclei(seed: int, frame: Frame, layout: _Layout, preset: Preset, canvas: UInt8) -> None:
    """Round nuclei along the tubules' walls, dark small and long ones between them."""
    pitch = _NUCLEUS_PITCH_UM
    around = frame.around(6.0, 1.0)
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
    at_row = np.floor(row_um / _LAYOUT_MPP).astype(int) - layout.frame.top_px
    at_column = np.floor(column_um / _LAYOUT_MPP).astype(int) - layout.frame.left_px
    depth = layout.depth_um[at_row, at_column]
    kind = layout.tubules.traits[layout.site[at_row, at_column], 0]
    crowd = Noise(seed, 57, 45.0).over(layout.frame)[at_row, at_column]

    in_wall = (depth > 3.2) & (depth < np.where(kind < 0.6, 8.5, 6.5))
    between = depth < -0.2
    crowded = np.clip(0.35 + preset.infiltrate * (0.5 + 0.6 * crowd), 0.1, 0.95)
    wanted = np.where(in_wall, chance < 0.62, between & (chance < crowded))
    long_um = np.where(in_wall, 2.4 + 0.9 * first, 1.7 + 3.2 * first**2)
    short_um = np.where(in_wall, long_um * (0.75 + 0.25 * second), 1.0 + 0.8 * second)
    darkness = np.where(in_wall, 0.5 + 0.4 * first * second, 0.8 + 0.2 * second)
    centres = np.stack([row_um / frame.mpp - frame.top_px, column_um / frame.mpp - frame.left_px], axis=1)
    axes = np.stack([long_um, short_um], axis=1) / frame.mpp
    draw_nuclei(canvas, centres[wanted], axes[wanted], turn[wanted] * math.pi, darkness[wanted])


def _lay(stamp: Stamp, frame: Frame, haematoxylin: Float32, pas: Float32) -> tuple[Float32, Part]:
    """Put a stamp over the dyes; returns its distance from the outline, and over which part of the frame."""
    part, shared = _shared(stamp.frame, frame)
    depth = _transferred(stamp.inside_um, stamp.frame, shared, -1.0)
    cover = step(depth, 0.5)
    for dye, plane in ((stamp.haematoxylin, haematoxylin), (stamp.pas, pas)):
        plane[part] = plane[part] * (1 - cover) + _transferred(dye, stamp.frame, shared, 0.0) * cover
    return depth, part


def _shared(source: Frame, target: Frame) -> tuple[Part, Frame]:
    """The part of `target` that `source` covers, as slices and as a frame; one pixel where there is none."""
    over = source.around(2 * target.mpp, target.mpp)
    first_row, first_column = (
        min(max(0, at), size - 1)
        for at, size in zip(
            (over.top_px - target.top_px, over.left_px - target.left_px), target.size_px, strict=True
        )
    )
    last_row = min(max(first_row + 1, over.top_px + over.height_px - target.top_px), target.height_px)
    last_column = min(max(first_column + 1, over.left_px + over.width_px - target.left_px), target.width_px)
    part = (slice(first_row, last_row), slice(first_column, last_column))
    return part, Frame(
        target.top_px + first_row,
        target.left_px + first_column,
        last_row - first_row,
        last_column - first_column,
        target.mpp,
    )


def _transferred(plane: Float32, source: Frame, target: Frame, outside: float) -> Float32:
    moved = cv2.warpAffine(
        plane,
        _between(source, target),
        (target.width_px, target.height_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )
    return np.asarray(moved, dtype=np.float32)


def _enlarged(plane: Float32, source: Frame, target: Frame, how: int) -> Float32:
    moved = cv2.warpAffine(
        plane, _between(source, target), (target.width_px, target.height_px), flags=how | cv2.WARP_INVERSE_MAP
    )
    return np.asarray(moved, dtype=np.float32)


def _between(source: Frame, target: Frame) -> NDArray[np.float64]:
    """From the target's pixel indices to the source's."""
    scale = target.mpp / source.mpp
    return np.array(
        [
            [scale, 0, (target.left_px + 0.5) * scale - source.left_px - 0.5],
            [0, scale, (target.top_px + 0.5) * scale - source.top_px - 0.5],
        ]
    )


def _colour(seed: int, frame: Frame, haematoxylin: Float32, pas: Float32, dyes: Dyes) -> UInt8:
    """Light through the dyes, the lens's softness, the camera's grain."""
    amounts = cv2.merge([haematoxylin, pas])
    light = cv2.exp(cv2.transform(amounts, -np.stack([dyes.haematoxylin, dyes.pas], axis=1)))
    light = np.asarray(light, dtype=np.float32) * np.array(dyes.glass, np.float32)
    light = cv2.GaussianBlur(light, (0, 0), max(0.3, 0.26 / frame.mpp))
    rows = np.arange(frame.top_px, frame.top_px + frame.height_px)[:, None]
    columns = np.arange(frame.left_px, frame.left_px + frame.width_px)[None, :]
    grain = (draws(seed, 61, rows, columns).astype(np.float32) - np.float32(0.5)) * 5
    return np.asarray(cv2.convertScaleAbs(light + grain[:, :, None]), dtype=np.uint8)
