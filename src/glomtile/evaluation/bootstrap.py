"""Bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError

DRAWS = 2000
SEED = 137
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One number with its 95 % interval.

    Attributes
    ----------
    value : float
        NaN when undefined.
    low, high : float
        Ends of the interval; NaN when there is none.
    images : int
        Images that have a part in it.
    """

    value: float
    low: float
    high: float
    images: int

    def to_dict(self) -> dict[str, float | int | None]:
        return {
            "value": _json(self.value),
            "low": _json(self.low),
            "high": _json(self.high),
            "images": self.images,
        }


def draw_weights(images: int, groups: Sequence[Hashable] | None, draws: int, seed: int) -> Array:
    """Draw how often each image is in each draw.

    Parameters
    ----------
    images : int
        N, at least 1.
    groups : sequence, optional
        Group of each image: whole groups are drawn then.
    draws, seed : int
        Number of draws, seed of the generator.

    Returns
    -------
    (draws, N) float64 ndarray
        Without rows when there are fewer than two things to draw from: that has no interval.

    Raises
    ------
    InputError
        When there is no image, or `groups` has another length.
    """
    if images < 1:
        raise InputError("scores", "expected at least one scored image, got none")
    if groups is not None and len(groups) != images:
        raise InputError("groups", f"expected one group for each of {images} images, got {len(groups)}")
    names = list(dict.fromkeys(groups)) if groups is not None else []
    count = images if groups is None else len(names)
    if count < 2:
        return np.zeros((0, images))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    if groups is not None:
        place = {name: i for i, name in enumerate(names)}
        drawn = drawn[:, [place[group] for group in groups]]
    return drawn


def ratio(term: Array, weights: Array) -> Figure:
    """Estimate the ratio of two sums over images, with its interval.

    Parameters
    ----------
    term : (N, 2) float64 ndarray
        Numerator and denominator of each image.
    weights : (draws, N) float64 ndarray
        From `draw_weights`.

    Returns
    -------
    Figure
        Undefined where the denominator's sum is 0.
    """
    low, high = _ends(_divide(weights @ term))
    return Figure(float(_divide(term.sum(axis=0))), low, high, int(np.count_nonzero(term[:, 1])))


def ratio_difference(before: Array, after: Array, weights: Array) -> Figure:
    """Estimate the difference of two ratios over the same images and draws; parameters as in `ratio`."""
    value = _divide(after.sum(axis=0)) - _divide(before.sum(axis=0))
    low, high = _ends(_divide(weights @ after) - _divide(weights @ before))
    return Figure(float(value), low, high, int(np.count_nonzero((before[:, 1] > 0) & (after[:, 1] > 0))))


def _divide(sums: Array) -> Array:
    numerator, denominator = sums[..., 0], sums[..., 1]
    undefined = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return undefined


def _ends(values: Array) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
