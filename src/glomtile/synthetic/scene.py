"""Scenes: positions and shapes of painted structures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from glomtile.synthetic.noise import Float64, Frame, Noise, draws
from glomtile.types import Float32

LARGEST_GLOMERULUS_UM = 118.0
LARGEST_VESSEL_UM = 52.0
TUBULE_PITCH_UM = 50.0

_CORE_HALF_WIDTH_UM = 430.0
_CORE_PERIOD_UM = 1450.0
_GLOMERULUS_PITCH_UM = 90.0
_GLOMERULUS_DISTANCE_UM = 208.0
_VESSEL_PITCH_UM = 130.0
_VESSEL_DISTANCE_UM = 240.0


@dataclass(frozen=True)
class Place:
    """A round structure: where it is, how large, and the number its details are drawn from."""

    row_um: float
    column_um: float
    radius_um: float
    key: int


def inside_um(seed: int, frame: Frame) -> Float32:
    """Distance of every pixel from the biopsy's edge: ``(h, w) float32`` µm, above 0 in tissue.

    Parameters
    ----------
    seed : int
    frame : Frame

    Notes
    -----
    Needle cores lie side by side on the slide; the origin's neighbourhood is always in one.
    """
    rows, columns = frame.rows_um()[:, None], frame.columns_um()[None, :]
    wobble = _broad_edge(seed).over(frame) * 38 + _fine_edge(seed).over(frame) * 5
    return (_core_depth(seed, rows, columns) + wobble).astype(np.float32)


def glomeruli(seed: int, frame: Frame) -> list[Place]:
    """All glomeruli that reach into `frame`, in an order that does not depend on it."""
    found = []
    for row, column, key, size in _spread(seed, 11, _GLOMERULUS_PITCH_UM, _GLOMERULUS_DISTANCE_UM, frame):
        radius = 66 + 36 * size
        if _edge_distance(seed, row, column) > 0.4 * radius:
            found.append(Place(row, column, radius, key))
    return found


def vessels(seed: int, frame: Frame) -> list[Place]:
    """All arteries and arterioles that reach into `frame` and keep clear of every glomerulus."""
    near = glomeruli(seed, frame.around(2 * LARGEST_VESSEL_UM, 1.0))
    found = []
    for row, column, key, size in _spread(seed, 23, _VESSEL_PITCH_UM, _VESSEL_DISTANCE_UM, frame):
        radius = 16 + 30 * size**2
        clear = all(
            math.hypot(row - g.row_um, column - g.column_um) > 1.12 * g.radius_um + radius for g in near
        )
        if clear and _edge_distance(seed, row, column) > 0.8 * radius:
            found.append(Place(row, column, radius, key))
    return found


@dataclass(frozen=True)
class Tubules:
    """Sites whose nearest-site regions are tubules; neighbours of one `group` are one longer tubule.

    Parameters
    ----------
    rows_um, columns_um : (n,) ndarray of float64
    group : (n,) ndarray of int64
        Index of the site that stands for the whole tubule.
    traits : (n, 4) ndarray of float64
        Draws in 0 … 1, equal within a group.
    """

    rows_um: Float64
    columns_um: Float64
    group: np.ndarray[tuple[int], np.dtype[np.int64]]
    traits: Float64


def tubules(seed: int, frame: Frame) -> Tubules:
    """Every tubule site in `frame`."""
    pitch = TUBULE_PITCH_UM
    rows, columns = _lattice(frame, pitch, 0.0)
    row_grid, column_grid = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    row_um = (row_grid + 0.5 + 0.84 * (draws(seed, 31, row_grid, column_grid) - 0.5)) * pitch
    column_um = (column_grid + 0.5 + 0.84 * (draws(seed, 32, row_grid, column_grid) - 0.5)) * pitch
    joins = draws(seed, 33, row_grid, column_grid)
    # A site of odd address may join the even one left of or above it; even ones join nobody: chains end.
    owner_row, owner_column = row_grid.copy(), column_grid.copy()
    odd = (row_grid + column_grid) % 2 == 1
    owner_column[odd & (joins < 0.28)] -= 1
    owner_row[odd & (joins > 0.68)] -= 1
    traits = np.stack([draws(seed, 34 + i, owner_row, owner_column) for i in range(4)], axis=1)
    group = (owner_row - rows[0] + 1) * (len(columns) + 2) + (owner_column - columns[0] + 1)
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


def _broad_edge(seed: int) -> Noise:
    return Noise(seed, 3, 130.0)


def _fine_edge(seed: int) -> Noise:
    return Noise(seed, 4, 14.0)


def _edge_distance(seed: int, row_um: float, column_um: float) -> float:
    depth = _core_depth(seed, np.array([row_um]), np.array([column_um]))
    return float(depth[0]) + 38 * _broad_edge(seed).at(row_um, column_um)


def _lattice(
    frame: Frame, pitch_um: float, margin_um: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Addresses of the lattice cells that touch `frame` and `margin_um` about it."""
    around = frame.around(margin_um + pitch_um, 1.0)
    return (
        np.arange(
            math.floor(around.top_px / pitch_um),
            math.ceil((around.top_px + around.height_px) / pitch_um) + 1,
        ),
        np.arange(
            math.floor(around.left_px / pitch_um),
            math.ceil((around.left_px + around.width_px) / pitch_um) + 1,
        ),
    )


def _spread(
    seed: int, channel: int, pitch_um: float, distance_um: float, frame: Frame
) -> list[tuple[float, float, int, float]]:
    """Points no nearer than `distance_um` to each other: ``(row, column, key, size)``.

    A candidate stands where no other within the distance has a higher draw, which depends on its
    neighbourhood only, so any frame finds the same points.
    """
    reach = LARGEST_GLOMERULUS_UM
    rows, columns = _lattice(frame, pitch_um, reach + distance_um)
    row_grid, column_grid = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    row_um = (row_grid + draws(seed, channel, row_grid, column_grid)) * pitch_um
    column_um = (column_grid + draws(seed, channel + 1, row_grid, column_grid)) * pitch_um
    rank = draws(seed, channel + 2, row_grid, column_grid)
    size = draws(seed, channel + 3, row_grid, column_grid)
    apart = (row_um[:, None] - row_um) ** 2 + (column_um[:, None] - column_um) ** 2
    beaten = (apart < distance_um**2) & (rank[None, :] > rank[:, None])
    wanted = frame.around(reach, 1.0)
    chosen = ~beaten.any(axis=1)
    chosen &= (row_um > wanted.top_px) & (row_um < wanted.top_px + wanted.height_px)
    chosen &= (column_um > wanted.left_px) & (column_um < wanted.left_px + wanted.width_px)
    return [
        (float(row_um[i]), float(column_um[i]), int(rank[i] * 2**52), float(size[i]))
        for i in np.flatnonzero(chosen)
    ]
