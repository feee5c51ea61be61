"""How difficult a phantom is, and how one laboratory's dyes look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glomtile.core.stain import stain_vectors


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
