"""Whether probabilities keep their word: of pixels said to be of a class with 0.8, 0.8 should be of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.types import IGNORE, Float32, UInt8

LEVELS = 256
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Pixels of similar probability.

    Attributes
    ----------
    said : float
        Their mean probability, 0 to 1.
    true : float
        Share of them that is of the class.
    pixels : int
        How many there are, at least 1.
    """

    said: float
    true: float
    pixels: int


def no_levels(num_classes: int) -> NDArray[np.int64]:
    """``(K - 1, 2, 256)`` zeros to add `count_levels` of images to."""
    return np.zeros((num_classes - 1, 2, LEVELS), np.int64)


def count_levels(probabilities: UInt8, truth: UInt8, class_number: int) -> NDArray[np.int64]:
    """How often each probability was said of a class, and how often it was right.

    Parameters
    ----------
    probabilities : (H, W) uint8 ndarray
        Of the class, 0 to 255 for 0 to 1.
    truth : (H, W) uint8 ndarray
        Class numbers; pixels labelled `IGNORE` do not count.
    class_number : int

    Returns
    -------
    (2, 256) int64 ndarray
        All pixels by probability, and those of the class among them.

    Raises
    ------
    InputError
        The two differ in size.
    """
    if probabilities.shape != truth.shape:
        raise InputError(
            "calibration", f"expected planes of one size, got {probabilities.shape} and {truth.shape}"
        )
    said, right = probabilities[truth != IGNORE], probabilities[truth == class_number]
    return np.stack([np.bincount(values, minlength=LEVELS) for values in (said, right)]).astype(np.int64)


def as_levels(probs: Float32) -> UInt8:
    """Probabilities of 0 to 1 as 0 to 255, of any shape."""
    return np.asarray(np.rint(probs * np.float32(LEVELS - 1)), np.uint8)


def reliability(counts: NDArray[np.int64], bins: int = BINS) -> tuple[list[Bin], float]:
    """Sum up what `count_levels` counted.

    Parameters
    ----------
    counts : (2, 256) int64 ndarray
    bins : int
        Of equal width.

    Returns
    -------
    list of Bin
        Those that hold a pixel, by rising probability.
    float
        Expected calibration error: the mean distance of `said` from `true`, weighted by pixels; NaN without
        a pixel.

    Notes
    -----
    Naeini et al. 2015, *Obtaining well calibrated probabilities using Bayesian binning*. In pictures that are
    mostly background the error is small whatever the network says of the rest: look at the bins.
    """
    levels = np.arange(LEVELS) / (LEVELS - 1)
    which = np.minimum((levels * bins).astype(np.intp), bins - 1)
    pixels = np.bincount(which, counts[0], bins)
    said, true = np.bincount(which, counts[0] * levels, bins), np.bincount(which, counts[1], bins)
    held = [number for number in range(bins) if pixels[number] > 0]
    found = [Bin(float(said[i] / pixels[i]), float(true[i] / pixels[i]), int(pixels[i])) for i in held]
    return found, _error(found)


def _error(bins: Sequence[Bin]) -> float:
    total = sum(one.pixels for one in bins)
    return sum(one.pixels * abs(one.said - one.true) for one in bins) / total if total else float("nan")
