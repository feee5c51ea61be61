"""Scenes of painted tissue: noise fields, presets, and positions and sizes of structures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glomtile.training.stain import stain_vectors
from glomtile.types import Float32

Float64 = NDArray[np.float64]

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
_UNIT_SPREAD = 3.62
"""What uniform draws in -1 … 1 lose in spread when a cubic B-spline smooths them in two directions."""


@dataclass(frozen=True)
class Raster:
    """A raster of square pixels over the tissue; rows and columns count from the tissue's origin."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int
    mpp: float

    @property
    def size_px(self) -> tuple[int, int]:
        return self.height_px, self.width_px

    def rows_um(self) -> Float64:
        """Return the positions of the pixels' centres, top to bottom."""
        return np.asarray((self.top_px + 0.5 + np.arange(self.height_px)) * self.mpp, dtype=np.float64)

    def columns_um(self) -> Float64:
        """Return the positions of the pixels' centres, left to right."""
        return np.asarray((self.left_px + 0.5 + np.arange(self.width_px)) * self.mpp, dtype=np.float64)

    def around(self, margin_um: float, mpp: float) -> Raster:
        """Return the raster of whole `mpp` pixels that covers this one and `margin_um` about it."""
        top = math.floor((self.top_px * self.mpp - margin_um) / mpp)
        left = math.floor((self.left_px * self.mpp - margin_um) / mpp)
        bottom = math.ceil(((self.top_px + self.height_px) * self.mpp + margin_um) / mpp)
        right = math.ceil(((self.left_px + self.width_px) * self.mpp + margin_um) / mpp)
        return Raster(top, left, bottom - top, right - left, mpp)


def draws(seed: int, channel: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Float64:
    """Draw a uniform number in 0 … 1 for every lattice node by hashing its address.

    Parameters
    ----------
    seed, channel : int
        Of the slide, and of one of the many draws of a node.
    rows, columns : ndarray of int64
        Addresses; broadcast against each other; may be negative.

    Notes
    -----
    The mixing steps are those of SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195).
    """
    start = (seed * 0x9E3779B97F4A7C15 + channel * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    mixed = _mix(np.asarray(rows, dtype=np.int64).view(np.uint64) ^ np.uint64(start))
    mixed = _mix(mixed + np.asarray(columns, dtype=np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    uniform: Float64 = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Noise:
    """A smooth random field over the plane, of mean 0 and standard deviation about 1.

    `pitch_um` is the distance of the lattice's nodes: the size of the smallest blobs.
    """

    seed: int
    channel: int
    pitch_um: float

    def over(self, raster: Raster) -> Float32:
        """Return the field at the centre of every pixel, ``(h, w) float32``."""
        return self._interpolated(raster.rows_um(), raster.columns_um())

    def at(self, row_um: float, column_um: float) -> float:
        """Return the field at one point."""
        return float(self._interpolated(np.array([row_um]), np.array([column_um]))[0, 0])

    def _interpolated(self, rows_um: Float64, columns_um: Float64) -> Float32:
        # Four taps a direction, not a matrix product: BLAS threads of many small products fight for cores.
        row_nodes, row_first, row_taps = _spline(rows_um / self.pitch_um)
        column_nodes, column_first, column_taps = _spline(columns_um / self.pitch_um)
        uniform = draws(self.seed, self.channel, row_nodes[:, None], column_nodes[None, :])
        nodes = ((uniform * 2 - 1) * _UNIT_SPREAD).astype(np.float32)
        across = np.zeros((len(row_nodes), len(columns_um)), np.float32)
        field = np.zeros((len(rows_um), len(columns_um)), np.float32)
        for tap in range(4):
            across += nodes[:, column_first + tap] * column_taps[tap]
        for tap in range(4):
            field += across[row_first + tap] * row_taps[tap][:, None]
        return field


def _spline(positions: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32]:
    """Return the nodes that positions need, the first of four of each, and their B-spline weights."""
    below = np.floor(positions).astype(np.int64)
    part = positions - below
    first = int(below.min()) - 1
    nodes = np.arange(first, int(below.max()) + 3)
    taps = np.stack(
        [
            (1 - part) ** 3 / 6,
            (3 * part**3 - 6 * part**2 + 4) / 6,
            (-3 * part**3 + 3 * part**2 + 3 * part + 1) / 6,
            part**3 / 6,
        ]
    )
    return nodes, below - first - 1, taps.astype(np.float32)


@dataclass(frozen=True)
class Preset:
    """Contrast of glomeruli to what surrounds them; amounts of dye are optical densities.

    Attributes
    ----------
    tuft_pas, tubule_pas, tubule_haematoxylin : tuple of float
        Lowest and highest dye in a tuft's walls and in a tubule's cytoplasm.
    open_loops : tuple of float
        Lowest and highest share of capillary loops that are open and pale.
    interstitium_pas : float
    casts : float
        Share of tubules filled with PAS-positive protein.
    infiltrate : float
        0 to 1: density of inflammatory cells in the interstitium.
    unevenness : float
        Standard deviation of the section's thickness.
    dye_spread : float
        Difference of the dyes between seeds, 0 to 1.
    """

    tuft_pas: tuple[float, float]
    open_loops: tuple[float, float]
    tubule_pas: tuple[float, float]
    tubule_haematoxylin: tuple[float, float]
    interstitium_pas: float
    casts: float
    infiltrate: float
    unevenness: float
    dye_spread: float


PRESETS = {
    "plain": Preset(
        tuft_pas=(0.85, 1.05),
        open_loops=(0.35, 0.55),
        tubule_pas=(0.14, 0.24),
        tubule_haematoxylin=(0.08, 0.14),
        interstitium_pas=0.36,
        casts=0.02,
        infiltrate=0.15,
        unevenness=0.04,
        dye_spread=0.3,
    ),
    "hard": Preset(
        tuft_pas=(0.45, 0.95),
        open_loops=(0.4, 0.75),
        tubule_pas=(0.12, 0.55),
        tubule_haematoxylin=(0.08, 0.24),
        interstitium_pas=0.5,
        casts=0.10,
        infiltrate=0.6,
        unevenness=0.14,
        dye_spread=1.0,
    ),
}
"""Presets by name: ``plain`` is ordinary tissue; in ``hard`` colour alone does not find glomeruli."""


@dataclass(frozen=True)
class Dyes:
    """Optical densities of a unit of each dye in red, green and blue, and the colour of bare glass."""

    haematoxylin: tuple[float, float, float]
    pas: tuple[float, float, float]
    glass: tuple[float, float, float] = (243.0, 243.0, 243.0)


def draw_dyes(seed: int, spread: float) -> Dyes:
    """Draw the dyes of a laboratory; `spread` 0 gives the average one."""
    rng = np.random.default_rng([seed, 77])
    vectors = stain_vectors()[:2] + spread * rng.uniform(-0.06, 0.06, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gains = np.exp(spread * rng.uniform(-0.3, 0.3, 2)) * (1.3, 1.45)
    glass = 243.0 - spread * rng.uniform(0, 5) - spread * rng.uniform(0, 3, 3)
    (h0, h1, h2), (p0, p1, p2) = (vectors * gains[:, None]).tolist()
    g0, g1, g2 = glass.tolist()
    return Dyes((h0, h1, h2), (p0, p1, p2), (g0, g1, g2))


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
