"""Positions and sizes of painted structures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glomtile.synthetic.noise import Float64, Noise, Raster, draws
from glomtile.types import Float32

LARGEST_GLOMERULUS_UM = 118.0
LARGEST_VESSEL_UM = 52.0
TUBULE_PITCH_UM = 50.0

_CORE_HALF_WIDTH_UM = 430.0
_CORE_PERIOD_UM = 1450.0
_EDGE_UM = 130.0
_GLOMERULUS_PITCH_UM = 90.0
_GLOMERULUS_DISTANCE_UM = 208.0
_VESSEL_PITCH_UM = 130.0
_VESSEL_DISTANCE_UM = 240.0


@dataclass(frozen=True)
class Structure:
    """A glomerulus or vessel; its details are drawn from `key`."""

    kind: Literal["glomerulus", "vessel"]
    row_um: float
    column_um: float
    radius_um: float
    key: int


def inside_um(seed: int, raster: Raster) -> Float32:
    """Return the distance of every pixel from the biopsy's edge: ``(h, w) float32`` µm, above 0 in tissue.

    Needle cores are side by side on the slide; the origin's neighbourhood is always in one.
    """
    rows, columns = raster.rows_um()[:, None], raster.columns_um()[None, :]
    wobble = Noise(seed, 3, _EDGE_UM).over(raster) * 38 + Noise(seed, 4, 14.0).over(raster) * 5
    return (_core_depth(seed, rows, columns) + wobble).astype(np.float32)


def glomeruli(seed: int, raster: Raster) -> list[Structure]:
    """Return the glomeruli that reach into a raster, in an order that does not depend on it."""
    found = []
    for row, column, key, size in _spread(seed, 11, _GLOMERULUS_PITCH_UM, _GLOMERULUS_DISTANCE_UM, raster):
        radius = 66 + 36 * size
        if _edge_distance(seed, row, column) > 0.4 * radius:
            found.append(Structure("glomerulus", row, column, radius, key))
    return found


def vessels(seed: int, raster: Raster) -> list[Structure]:
    """Return the arteries and arterioles that reach into a raster and touch no glomerulus."""
    near = glomeruli(seed, raster.around(2 * LARGEST_VESSEL_UM, 1.0))
    found = []
    for row, column, key, size in _spread(seed, 23, _VESSEL_PITCH_UM, _VESSEL_DISTANCE_UM, raster):
        radius = 16 + 30 * size**2
        clear = all(
            math.hypot(row - g.row_um, column - g.column_um) > 1.12 * g.radius_um + radius for g in near
        )
        if clear and _edge_distance(seed, row, column) > 0.8 * radius:
            found.append(Structure("vessel", row, column, radius, key))
    return found


@dataclass(frozen=True)
class Tubules:
    """Sites whose nearest-site regions are tubules.

    Attributes
    ----------
    rows_um, columns_um : (n,) ndarray of float64
    group : (n,) ndarray of int64
        Site that represents the whole tubule: neighbours of one group are one longer tubule.
    traits : (n, 4) ndarray of float64
        Draws in 0 … 1, equal within a group.
    """

    rows_um: Float64
    columns_um: Float64
    group: NDArray[np.int64]
    traits: Float64


def tubules(seed: int, raster: Raster) -> Tubules:
    """Return every tubule site in a raster."""
    pitch = TUBULE_PITCH_UM
    rows, columns = _lattice(raster, pitch, 0.0)
    row_grid, column_grid = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    row_um = (row_grid + 0.5 + 0.84 * (draws(seed, 31, row_grid, column_grid) - 0.5)) * pitch
    column_um = (column_grid + 0.5 + 0.84 * (draws(seed, 32, row_grid, column_grid) - 0.5)) * pitch
    joins = draws(seed, 33, row_grid, column_grid)
    # A site of odd address may join the even one left of or above it; even ones join none: chains end.
    group_row, group_column = row_grid.copy(), column_grid.copy()
    odd = (row_grid + column_grid) % 2 == 1
    group_column[odd & (joins < 0.28)] -= 1
    group_row[odd & (joins > 0.68)] -= 1
    traits = np.stack([draws(seed, 34 + i, group_row, group_column) for i in range(4)], axis=1)
    group = (group_row - rows[0] + 1) * (len(columns) + 2) + (group_column - columns[0] + 1)
    return Tubules(row_um, column_um, group, traits)


def _core_depth(seed: int, row_um: Float64, column_um: Float64) -> Float64:
    nothing = np.zeros(1, np.int64)
    turn, shift = (float(draws(seed, channel, nothing, nothing)[0]) for channel in (1, 2))
    angle = math.pi * turn
    across = row_um * math.sin(angle) + column_um * math.cos(angle) + (shift - 0.5) * 700
    across = across - 256 * (math.sin(angle) + math.cos(angle))
    half = _CORE_PERIOD_UM / 2
    depth: Float64 = _CORE_HALF_WIDTH_UM - np.abs((across + half) % _CORE_PERIOD_UM - half)
    return depth


def _edge_distance(seed: int, row_um: float, column_um: float) -> float:
    depth = _core_depth(seed, np.array([row_um]), np.array([column_um]))
    return float(depth[0]) + 38 * Noise(seed, 3, _EDGE_UM).at(row_um, column_um)


def _lattice(
    raster: Raster, pitch_um: float, margin_um: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the addresses of the lattice cells that touch a raster and `margin_um` about it."""
    around = raster.around(margin_um + pitch_um, 1.0)
    rows, columns = (
        np.arange(math.floor(start / pitch_um), math.ceil((start + length) / pitch_um) + 1)
        for start, length in ((around.top_px, around.height_px), (around.left_px, around.width_px))
    )
    return rows, columns


def _spread(
    seed: int, channel: int, pitch_um: float, distance_um: float, raster: Raster
) -> list[tuple[float, float, int, float]]:
    """Return points no nearer than `distance_um` to each other: ``(row, column, key, size)``.

    A candidate stays where no other within the distance has a higher draw. This depends on its neighbourhood
    only, so any raster finds the same points.
    """
    reach = LARGEST_GLOMERULUS_UM
    rows, columns = _lattice(raster, pitch_um, reach + distance_um)
    row_grid, column_grid = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    row_um = (row_grid + draws(seed, channel, row_grid, column_grid)) * pitch_um
    column_um = (column_grid + draws(seed, channel + 1, row_grid, column_grid)) * pitch_um
    rank = draws(seed, channel + 2, row_grid, column_grid)
    size = draws(seed, channel + 3, row_grid, column_grid)
    apart = (row_um[:, None] - row_um) ** 2 + (column_um[:, None] - column_um) ** 2
    beaten = (apart < distance_um**2) & (rank[None, :] > rank[:, None])
    wanted = raster.around(reach, 1.0)
    chosen = ~beaten.any(axis=1)
    chosen &= (row_um > wanted.top_px) & (row_um < wanted.top_px + wanted.height_px)
    chosen &= (column_um > wanted.left_px) & (column_um < wanted.left_px + wanted.width_px)
    return [
        (float(row_um[i]), float(column_um[i]), int(rank[i] * 2**52), float(size[i]))
        for i in np.flatnonzero(chosen)
    ]
