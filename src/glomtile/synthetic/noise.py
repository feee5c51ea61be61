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
class Frame:
    """A raster of square pixels laid over the tissue.

    Parameters
    ----------
    top_px, left_px : int
        First row and column, counted in pixels of this size from the tissue's origin.
    height_px, width_px : int
    mpp : float
        Micrometres per pixel.
    """

    top_px: int
    left_px: int
    height_px: int
    width_px: int
    mpp: float

    @property
    def size_px(self) -> tuple[int, int]:
        return self.height_px, self.width_px

    def rows_um(self) -> Float64:
        """Positions of the pixels' centres, top to bottom."""
        return np.asarray((self.top_px + 0.5 + np.arange(self.height_px)) * self.mpp, dtype=np.float64)

    def columns_um(self) -> Float64:
        """Positions of the pixels' centres, left to right."""
        return np.asarray((self.left_px + 0.5 + np.arange(self.width_px)) * self.mpp, dtype=np.float64)

    def around(self, margin_um: float, mpp: float) -> Frame:
        """The frame of whole `mpp` pixels that covers this one and `margin_um` about it."""
        top = math.floor((self.top_px * self.mpp - margin_um) / mpp)
        left = math.floor((self.left_px * self.mpp - margin_um) / mpp)
        bottom = math.ceil(((self.top_px + self.height_px) * self.mpp + margin_um) / mpp)
        right = math.ceil(((self.left_px + self.width_px) * self.mpp + margin_um) / mpp)
        return Frame(top, left, bottom - top, right - left, mpp)


def draws(seed: int, channel: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Float64:
    """Uniform numbers in 0 … 1, one for every lattice node, by hashing its address.

    Parameters
    ----------
    seed : int
        The phantom's.
    channel : int
        Which of the many draws of a node.
    rows, columns : ndarray of int64
        Addresses; broadcast against each other; may be negative.

    Returns
    -------
    ndarray of float64

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

    Parameters
    ----------
    seed, channel : int
        See `draws`.
    pitch_um : float
        Distance of the lattice's nodes: the size of the smallest blobs.
    """

    seed: int
    channel: int
    pitch_um: float

    def over(self, frame: Frame) -> Float32:
        """``(h, w) float32``: the field at the centre of every pixel of `frame`."""
        return self._interpolated(frame.rows_um(), frame.columns_um())

    def at(self, row_um: float, column_um: float) -> float:
        """The field at one point; the same number as `over` gives there."""
        return float(self._interpolated(np.array([row_um]), np.array([column_um]))[0, 0])

    def _interpolated(self, rows_um: Float64, columns_um: Float64) -> Float32:
        # Four taps a direction, not a matrix product: BLAS threads of many small products fight for cores.
        row_nodes, row_first, row_taps = _spline(rows_um / self.pitch_um)
        column_nodes, column_first, column_taps = _spline(columns_um / self.pitch_um)
        nodes = self._nodes(row_nodes[:, None], column_nodes[None, :]).astype(np.float32)
        across = np.zeros((len(row_nodes), len(columns_um)), np.float32)
        field = np.zeros((len(rows_um), len(columns_um)), np.float32)
        for tap in range(4):
            across += nodes[:, column_first + tap] * column_taps[tap]
        for tap in range(4):
            field += across[row_first + tap] * row_taps[tap][:, None]
        return field

    def _nodes(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Float64:
        return (draws(self.seed, self.channel, rows, columns) * 2 - 1) * _UNIT_SPREAD


def _spline(positions: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32]:
    """For a line of positions: the nodes it needs, the first of four each takes, their B-spline weights."""
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
    """How much glomeruli differ from what surrounds them; amounts of dye are optical densities.

    Parameters
    ----------
    tuft_pas : tuple of float
        Lowest and highest PAS in a tuft's walls.
    open_loops : tuple of float
        Lowest and highest share of capillary loops that are open and pale.
    tubule_pas : tuple of float
        Lowest and highest PAS in a tubule's cytoplasm.
    tubule_haematoxylin : tuple of float
    interstitium_pas : float
    casts : float
        Share of tubules filled with PAS-positive protein.
    infiltrate : float
        0 to 1: how many inflammatory cells crowd the interstitium.
    unevenness : float
        Standard deviation of the section's thickness.
    dye_spread : float
        How far seeds differ in their dyes, 0 to 1.
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
"""Presets by name: ``plain`` is the middle of the road, in ``hard`` colour alone finds nothing."""


@dataclass(frozen=True)
class Dyes:
    """What a unit of each dye takes away from red, green and blue, and the colour of bare glass.

    Parameters
    ----------
    haematoxylin, pas : tuple of float
        Optical densities in red, green, blue.
    glass : tuple of float
        Red, green, blue, 0 to 255.
    """

    haematoxylin: tuple[float, float, float]
    pas: tuple[float, float, float]
    glass: tuple[float, float, float] = (243.0, 243.0, 243.0)


def draw_dyes(seed: int, spread: float) -> Dyes:
    """The dyes of the laboratory that made phantom `seed`; `spread` 0 gives the average laboratory."""
    rng = np.random.default_rng([seed, 77])
    vectors = stain_vectors()[:2] + spread * rng.uniform(-0.06, 0.06, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gains = np.exp(spread * rng.uniform(-0.3, 0.3, 2)) * (1.3, 1.45)
    glass = 243.0 - spread * rng.uniform(0, 5) - spread * rng.uniform(0, 3, 3)
    (h0, h1, h2), (p0, p1, p2) = (vectors * gains[:, None]).tolist()
    g0, g1, g2 = glass.tolist()
    return Dyes((h0, h1, h2), (p0, p1, p2), (g0, g1, g2))
