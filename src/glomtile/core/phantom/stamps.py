"""What a glomerulus and a vessel look like, each drawn once and laid where the scene wants it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from glomtile.core.phantom.cells import (
    depth_in_cells,
    displaced,
    draw_nuclei,
    line,
    nearest_site,
    step,
    wobble,
)
from glomtile.core.phantom.place import Float64, Frame, Noise
from glomtile.core.phantom.preset import Preset
from glomtile.core.phantom.scene import Place
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
