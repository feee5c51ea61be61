"""Noise fields and painter presets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glomtile.training.stain import stain_vectors
from glomtile.types import Float32

Float64 = NDArray[np.float64]

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


def wobble(seed: int, channel: int, pitch_um: float) -> tuple[Noise, Noise]:
    """Return two independent fields, for rows and columns."""
    return Noise(seed, channel, pitch_um), Noise(seed, channel + 1, pitch_um)


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
