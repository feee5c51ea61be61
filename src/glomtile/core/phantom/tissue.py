"""How tubules, interstitium, stamps and glass come together to coloured pixels and their truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.core.phantom.cells import (
    Int32,
    depth_in_cells,
    displaced,
    draw_nuclei,
    line,
    nearest_site,
    step,
    wobble,
)
from glomtile.core.phantom.place import Frame, Noise, draws
from glomtile.core.phantom.preset import Dyes, Preset
from glomtile.core.phantom.scene import Place, Tubules, glomeruli, inside_um, tubules, vessels
from glomtile.core.phantom.stamps import Stamp
from glomtile.types import Float32, UInt8

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
