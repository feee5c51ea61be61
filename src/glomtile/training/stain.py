"""Stain augmentation by colour deconvolution."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import UInt8

_HAEMATOXYLIN = (0.657, 0.669, 0.347)
_PERIODIC_ACID_SCHIFF = (0.201, 0.908, 0.366)
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of every 8-bit value; value 0 is given the density of half a step above nothing."""

_BAND_ROWS = 32
"""Rows handled at once, few enough for the floats of a wide sample to stay in the processor's cache."""

_GAIN_SPREAD = (0.45, 0.35, 0.5)
_ANGLE_SPREAD = 0.08
_GLASS_SPREAD = 0.03
_OTHER_DYE = (0.15, 1.0)
"""Least and greatest share of red, green and blue in the absorption of a dye of any colour."""


def stain_vectors() -> NDArray[np.float64]:
    """Return the unit absorptions of haematoxylin, periodic acid-Schiff and the residual.

    Returns
    -------
    (3, 3) ndarray of float64
        A dye per row, red, green and blue per column.

    Notes
    -----
    Means over human PAS needle biopsies (Bueno et al. 2020, doi 10.17632/k7nvtgn2x6.3), each separated as
    Macenko et al. 2009 do (doi 10.1109/ISBI.2009.5193250).
    """
    haematoxylin = np.array(_HAEMATOXYLIN) / np.linalg.norm(_HAEMATOXYLIN)
    magenta = np.array(_PERIODIC_ACID_SCHIFF) / np.linalg.norm(_PERIODIC_ACID_SCHIFF)
    rest = np.cross(haematoxylin, magenta)
    return np.stack([haematoxylin, magenta, rest / np.linalg.norm(rest)])


def vary_stain(image: UInt8, rng: np.random.Generator, strength: float) -> UInt8:
    """Stain the tissue again with stronger or weaker dyes of slightly other hues.

    Parameters
    ----------
    image : (h, w, 3) ndarray of uint8
        RGB.
    rng : numpy.random.Generator
        Where chance comes from.
    strength : float
        0 to 1: 0 changes nothing, 1 is as far as real laboratories lie apart.

    Returns
    -------
    (h, w, 3) ndarray of uint8

    Notes
    -----
    Separating the dyes, changing each and mixing them again is linear in optical density, so it is one
    3x3 matrix and an offset; glass stays near white because its density is near 0.
    """
    vectors = stain_vectors()
    gains = np.exp(strength * np.array(_GAIN_SPREAD) * rng.uniform(-1, 1, 3))
    turned = vectors + strength * _ANGLE_SPREAD * rng.uniform(-1, 1, (3, 3))
    turned = np.maximum(turned, 0.0) * (vectors >= 0) + np.minimum(turned, 0.0) * (vectors < 0)
    return _dyed(image, vectors, gains, turned, strength * _GLASS_SPREAD * rng.uniform(0, 1, 3))


def other_dyes(image: UInt8, rng: np.random.Generator) -> UInt8:
    """Stain the tissue again with dyes of any colour, so that only structure separates tissues.

    Parameters
    ----------
    image : (h, w, 3) ndarray of uint8
        RGB.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    (h, w, 3) ndarray of uint8

    Notes
    -----
    Haematoxylin and periodic acid-Schiff give way to two dyes whose absorption of red, green and blue is
    drawn freely, as methenamine silver, trichrome or eosin absorb others than they do; what neither dye
    explains keeps its direction at half strength. Randomising what must not matter is the domain
    randomisation of Tobin et al. 2017 (doi 10.1109/IROS.2017.8202133), in optical density.
    """
    vectors = stain_vectors()
    turned = vectors.copy()
    turned[:2] = rng.uniform(*_OTHER_DYE, (2, 3))
    gains = np.exp(np.array(_GAIN_SPREAD) * rng.uniform(-1, 1, 3)) * (1.0, 1.0, 0.5)
    return _dyed(image, vectors, gains, turned, _GLASS_SPREAD * rng.uniform(0, 1, 3))


def _dyed(
    image: UInt8,
    vectors: NDArray[np.float64],
    gains: NDArray[np.float64],
    turned: NDArray[np.float64],
    glass: NDArray[np.float64],
) -> UInt8:
    """Part the dyes by `vectors`, change each by its gain, and mix them again along `turned`."""
    directions = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    change = np.linalg.inv(vectors) @ np.diag(gains) @ directions
    mixing = np.column_stack([-change.T, -glass]).astype(np.float32)
    restained = np.empty_like(image)
    for top in range(0, image.shape[0], _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        light = cv2.exp(cv2.transform(cv2.LUT(image[band], _DENSITY), mixing))
        restained[band] = cv2.convertScaleAbs(np.maximum(light, 1 / 256), alpha=256, beta=-1)
    return restained
