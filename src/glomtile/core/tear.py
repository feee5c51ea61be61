"""Tissue torn away up to bare glass, at an edge that was not there: what needles and knives leave behind."""

from __future__ import annotations

import math

import cv2
import numpy as np

from glomtile.core.warp import enlarge, smooth_field
from glomtile.types import IGNORE, Float32, UInt8

_LOST = (0.1, 0.5)
"""Least and greatest share of the sample that is torn away."""

_GRAIN_PX = (4.0, 24.0)
"""How fine the edge is frayed: the Gaussian's standard deviation, drawn evenly on a logarithmic scale."""

_FRAY = (0.5, 1.5)
"""How far the edge strays from a straight line, in grains; above 1 it leaves overhangs and crumbs."""

_EDGE_PX = 0.7
"""How soft the edge is, as a Gaussian's standard deviation: light passes half of the pixels on it."""

_BRIGHT = 220
"""Darkest channel from which on a pixel passes for glass: beside the tissue, or in the lumen of a tubule."""

_ENOUGH_BRIGHT = 0.01
"""Share of a sample that must be so bright for its own glass to be known."""

_GLASS = (228.0, 250.0)
_GLASS_TINT = 3.0


def tear(image: UInt8, labels: UInt8, rng: np.random.Generator) -> tuple[UInt8, UInt8]:
    """Tear a tenth to a half of a sample away, up to glass.

    Parameters
    ----------
    image : (h, w, 3) ndarray of uint8
        RGB.
    labels : (h, w) ndarray of uint8
        Class numbers; `IGNORE` where nothing is known.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    image : (h, w, 3) ndarray of uint8
        The same but for glass on one side of a frayed line: of the sample's own colour where it shows any,
        of a drawn one, nearly white, where it does not.
    labels : (h, w) ndarray of uint8
        The same but for class 0, the background, under the glass. What was `IGNORE` remains so.

    Notes
    -----
    Objects at the rim of the tissue are few in a few images and are the ones a network finds by half: it has
    seen them closed in by tissue on all sides. As cutout (DeVries and Taylor 2017, arXiv 1708.04552) with
    two differences: what is cut looks like what is really found there, and its labels go too.
    """
    lost = _lost(labels.shape, rng)
    glass = _glass(image, rng)
    share = cv2.GaussianBlur(lost.astype(np.float32), (0, 0), _EDGE_PX)[..., None]
    torn = image + share * (glass - image)
    return np.rint(torn).astype(np.uint8), np.where(lost & (labels != IGNORE), np.uint8(0), labels)


def _lost(size_px: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Which pixels lie beyond the edge: those highest on a slope that is rough."""
    height, width = size_px
    angle = rng.uniform(0, 2 * math.pi)
    low, high = np.log(_GRAIN_PX)
    grain_px = math.exp(rng.uniform(low, high))
    roughness: Float32 = enlarge(smooth_field(rng, (height, width), grain_px), (height, width))[0]
    slope = math.sin(angle) * np.arange(height)[:, None] + math.cos(angle) * np.arange(width)[None, :]
    rough = slope + rng.uniform(*_FRAY) * grain_px * roughness
    return np.asarray(rough > np.quantile(rough, 1 - rng.uniform(*_LOST)))


def _glass(image: UInt8, rng: np.random.Generator) -> Float32:
    drawn = rng.uniform(*_GLASS) + rng.uniform(-_GLASS_TINT, _GLASS_TINT, 3)
    bright = image.min(axis=2) >= _BRIGHT
    if np.count_nonzero(bright) < _ENOUGH_BRIGHT * bright.size:
        return drawn.astype(np.float32)
    own: Float32 = image[bright].mean(axis=0, dtype=np.float32)
    return own
