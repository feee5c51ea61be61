"""Out-of-distribution features and reference distributions."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.types import Float32, UInt8

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64]

FEATURE_VERSION = 1
"""Number of this definition of the features; distances to a model of another edition mean nothing."""

ASPECTS = ("stain", "brightness", "sharpness", "scale")
"""What is told apart, in order."""

_GLASS = 245.0
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / np.float32(_GLASS + 1))
"""Optical density of every 8-bit value below ordinary glass."""

_STAINED = 0.15
"""Paler pixels have no hue that could be told from the camera's noise (Macenko et al. 2009)."""

_TISSUE, _TISSUE_SIGMA_PX = 0.08, 4.0
_HUE_SIGMA_PX = 1.0
_LEAST_PX = 2000
_HUE_SHARES = (0.05, 0.5, 0.95)
_DENSITY_SHARES = (0.5, 0.9)
_SIGMAS_PX = (0.0, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
_FAINTEST_BAND = 1e-8

_STAIN, _BRIGHTNESS, _DETAIL = slice(0, 6), slice(6, 8), slice(8, 16)
_OCTAVES = slice(0, None, 2)
_RIDGE = 1.0

_LEAST_VARIANCE = 1e-4
_LIMIT_SHARE, _LEAST_LIMIT, _LEAST_OCTAVES = 0.95, 1.0, 0.25
_LEAST_SPREAD = 1e-3
_ERRORS, _MAD = 2.0, 1.4826
"""Errors to either side that are familiar, and a normal error in medians of its absolute value."""

_LEAST_OWNERS = 4
_LEAST_CONFIDENCE = 26


def appearance(pictures: Iterable[UInt8]) -> Float64 | None:
    """Stain, brightness and detail of the tissue in one or more pictures taken together.

    Parameters
    ----------
    pictures : iterable of (h, w, 3) uint8 ndarray
        RGB, all at the working scale; several windows of a slide count as one picture.

    Returns
    -------
    (16,) float64 ndarray or None
        Six of stain: 5 %, 50 % and 95 % of the two coordinates of hue in optical density, over stained
        pixels.
        Two of brightness: logarithms of 50 % and 90 % of the density. Eight of detail: logarithms of the
        energies in bands of half an octave up to 8 px. ``None`` where fewer than 2,000 pixels are stained.

    Raises
    ------
    InputError
        A picture is not ``(h, w, 3) uint8``.

    Notes
    -----
    The hue of a density does not depend on how thick the section is (van der Laak et al. 2000,
    doi 10.1002/(SICI)1097-0320(20000401)39:4<275::AID-CYTO5>3.0.CO;2-8); its ends are the two dyes, as with
    Macenko et al. 2009 (doi 10.1109/ISBI.2009.5193250), without an axis that could flip. Mirroring and
    quarter turns change nothing.
    """
    hues: list[Float32] = []
    densities: list[Float32] = []
    detail, tissue_px = np.zeros(len(_SIGMAS_PX) - 1), 0
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise InputError("doubt", f"expected (h, w, 3) uint8, got {picture.shape} {picture.dtype}")
        if not picture.size:
            continue
        density = np.asarray(cv2.LUT(np.ascontiguousarray(picture), _DENSITY), np.float32)
        hue, strength = _hues(density)
        hues.append(hue)
        densities.append(strength)
        bands, pixels = _detail(density.mean(axis=2))
        detail += bands
        tissue_px += pixels
    if not tissue_px or sum(map(len, densities)) < _LEAST_PX:
        return None
    hue_ends = np.quantile(np.concatenate(hues), _HUE_SHARES, axis=0)
    strengths = np.log(np.quantile(np.concatenate(densities), _DENSITY_SHARES))
    energies = np.log(detail / tissue_px + _FAINTEST_BAND)
    return np.concatenate([hue_ends.T.ravel(), strengths, energies]).astype(np.float64)


@dataclass(frozen=True)
class ReferenceDistribution:
    """One aspect of all that a model has seen.

    Attributes
    ----------
    centre : tuple of float
        Mean of each feature.
    precision : tuple of tuple of float
        Inverse of their covariance.
    limit : float
        Distance that 95 % of what was seen stays within, told by models of the others; at least 1.
    """

    centre: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def distance(self, features: Float64) -> float:
        """How far features are from the centre: above 1 they are farther than nearly all that was seen."""
        return _mahalanobis(features, np.array(self.centre), np.array(self.precision)) / self.limit


@dataclass(frozen=True)
class ScaleEstimator:
    """Tells from its detail how large tissue is drawn, beside that of the training images.

    Attributes
    ----------
    centre, spread, weights : tuple of float
        Mean and standard deviation of each feature, and what a standard deviation adds to the answer.
    offset : float
        The answer at the centre.
    low, high : float
        Answers between these are familiar.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    offset: float
    low: float
    high: float

    def octaves(self, features: Float64) -> float:
        """Base-2 logarithm of the estimated enlargement: 1 where all is twice as large."""
        away = (features - np.array(self.centre)) / np.array(self.spread)
        return float(away @ np.array(self.weights)) + self.offset

    def distance(self, octaves: float) -> float:
        """1 at the limits, 0 half-way between them."""
        return abs(octaves - (self.low + self.high) / 2) / ((self.high - self.low) / 2)


def fit_reference(
    appearances: Sequence[Float64], owners: Sequence[Hashable]
) -> dict[str, ReferenceDistribution] | None:
    """What is familiar, by aspect, after seeing some pictures.

    Parameters
    ----------
    appearances : sequence of (16,) float64 ndarray
        As of `appearance`: training images, and changes of them that the network was trained on too.
    owners : sequence
        The image each comes from; limits are set by images on which the rest was not modelled.

    Returns
    -------
    dict of str to Familiar, or None
        For ``stain``, ``brightness`` and ``sharpness``; ``None`` with fewer than 4 images, too few to say
        what is usual.

    Raises
    ------
    InputError
        The two differ in length.

    Notes
    -----
    Mahalanobis distances by aspect: with some dozen images a covariance of all features would be noise.
    Covariances are shrunk towards their diagonal by ``features / (features + images)``. The features of
    sharpness are ratios of detail from octave to octave, which cancel contrast.
    """
    images, own = _numbered(appearances, owners)
    if images < _LEAST_OWNERS:
        return None
    found = {}
    for name, features in _aspects(np.stack(appearances)).items():
        left_out = np.empty(len(features))
        for image in range(images):
            centre, precision = _model(features[own != image], images - 1)
            for row in np.flatnonzero(own == image):
                left_out[row] = _mahalanobis(features[row], centre, precision)
        centre, precision = _model(features, images)
        found[name] = ReferenceDistribution(
            tuple(centre.tolist()),
            tuple(tuple(row) for row in precision.tolist()),
            max(float(np.quantile(left_out, _LIMIT_SHARE)), _LEAST_LIMIT),
        )
    return found


def fit_scale_estimator(
    appearances: Sequence[Float64],
    owners: Sequence[Hashable],
    octaves: Sequence[float],
    taught: tuple[float, float],
) -> ScaleEstimator | None:
    """Learn to tell the scale of tissue from images that were rescaled.

    Parameters
    ----------
    appearances : sequence of (16,) float64 ndarray
        Of training images at several scales, some of them blurred, so that blur is not taken for scale.
    owners : sequence
        The image each comes from.
    octaves : sequence of float
        Base-2 logarithm of how much each was enlarged.
    taught : (float, float)
        Lowest and highest enlargement, as such logarithms, that the network was trained on.

    Returns
    -------
    Ruler or None
        ``None`` with fewer than 4 images. What was taught is familiar, and so is all within twice the error
        that rulers made of the other images make at the images' own scale. The error is told by its median,
        so that an image of another kind (a negative, a phantom) does not widen it.

    Raises
    ------
    InputError
        The lengths differ.

    Notes
    -----
    A ridge regression on ratios of neighbouring energies and on contrast. On 16 kidney biopsies left out in
    turn it errs by a quarter of an octave: enough to notice most scans at 40x that are taken for 20x.
    """
    images, own = _numbered(appearances, owners)
    if len(octaves) != len(owners):
        raise InputError("doubt", f"expected a scale each, got {len(octaves)} for {len(owners)}")
    if images < _LEAST_OWNERS:
        return None
    features, wanted = _scale_features(np.stack(appearances)), np.array(octaves, np.float64)
    answers = np.empty(len(wanted))
    for image in range(images):
        ruler = _regression(features[own != image], wanted[own != image])
        for row in np.flatnonzero(own == image):
            answers[row] = ruler.octaves(features[row])
    own_scale = np.abs(answers[wanted == 0])
    error = _ERRORS * _MAD * float(np.median(own_scale)) if len(own_scale) else 0.0
    low, high = (pick(*taught, end) for pick, end in ((min, -error), (max, error)))
    low, high = min(low, -_LEAST_OCTAVES), max(high, _LEAST_OCTAVES)
    return replace(_regression(features, wanted), low=low, high=high)


def distances(familiar: Mapping[str, ReferenceDistribution], features: Float64) -> dict[str, float]:
    """By aspect, how far an appearance is from what is familiar: 1 is the limit.

    Parameters
    ----------
    familiar : mapping of str to Familiar
    features : (16,) float64 ndarray
        As of `appearance`.
    """
    known = _aspects(features[None])
    return {name: one.distance(known[name][0]) for name, one in familiar.items()}


def scale_offset(ruler: ScaleEstimator, features: Float64) -> float:
    """By how many doublings an appearance's tissue seems enlarged beside that of training."""
    return ruler.octaves(_scale_features(features[None])[0])


def expected_dice(called: Counts, uncalled: Counts, least_px: float) -> float:
    """The Dice that a network's own probabilities promise, were they true.

    Parameters
    ----------
    called, uncalled : (256,) int64 ndarray
        How many pixels of the answer, and of the rest, have each confidence of 0 to 255 for 0 to 1 that they
        belong to a class above 0.
    least_px : float
        Area of the smallest object; where the answer and what was nearly one are smaller, there is nothing
        to judge.

    Returns
    -------
    float
        0 to 1, or NaN: twice the expected overlap over the sum of the expected truth and the answer.
        Confidences below 0.1 count as 0, so that much sure background does not add up to a truth.

    Notes
    -----
    Li et al. 2022 (doi 10.1007/978-3-031-16449-1_66) predict Dice under changed stains and scanners from
    confidences by class. Under such changes networks are too sure, so this is rather a bound that a good
    result does not fall below than a prediction.
    """
    levels = np.arange(256) / 255
    overlap, answer = float(called @ levels), float(called.sum())
    nearly = float(uncalled[_LEAST_CONFIDENCE:] @ levels[_LEAST_CONFIDENCE:])
    if answer + nearly < max(1.0, least_px):
        return float("nan")
    return 2 * overlap / (overlap + nearly + answer)


def _numbered(appearances: Sequence[Float64], owners: Sequence[Hashable]) -> tuple[int, NDArray[np.intp]]:
    """How many images there are, and the number of each appearance's."""
    if len(appearances) != len(owners):
        raise InputError("doubt", f"expected an owner each, got {len(appearances)} and {len(owners)}")
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return len(numbers), np.array([numbers[owner] for owner in owners], np.intp)


def _aspects(features: Float64) -> dict[str, Float64]:
    """Features ``(n, p)`` of each aspect from whole appearances ``(n, 16)``."""
    octaves = np.diff(features[:, _DETAIL][:, _OCTAVES], axis=1)
    return {"stain": features[:, _STAIN], "brightness": features[:, _BRIGHTNESS], "sharpness": octaves}


def _scale_features(features: Float64) -> Float64:
    """Ratios of neighbouring energies, and contrast: none of them changes with the strength of a stain."""
    contrast = np.diff(features[:, _BRIGHTNESS], axis=1)
    return np.concatenate([np.diff(features[:, _DETAIL], axis=1), contrast], axis=1)


def _regression(features: Float64, wanted: Float64) -> ScaleEstimator:
    """Ridge regression on standardised features; its limits are still open."""
    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)
    away = (features - centre) / spread
    weights = np.linalg.solve(
        away.T @ away + _RIDGE * np.eye(away.shape[1]), away.T @ (wanted - wanted.mean())
    )
    return ScaleEstimator(
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(weights.tolist()),
        offset=float(wanted.mean()),
        low=0.0,
        high=0.0,
    )


def _hues(density: Float32) -> tuple[Float32, Float32]:
    """Hue ``(n, 2)`` and density ``(n,)`` of the stained pixels."""
    smooth = np.asarray(cv2.GaussianBlur(density, (0, 0), _HUE_SIGMA_PX), np.float32)
    grey = smooth.mean(axis=2)
    stained = grey > _STAINED
    colour, strength = smooth[stained], grey[stained]
    across = colour[:, 0] / strength - 1
    along = (colour[:, 1] - colour[:, 2]) / (np.float32(3**0.5) * strength)
    return np.stack([across, along], axis=1), strength


def _detail(grey: Float32) -> tuple[Float64, int]:
    """Sum of squares over the tissue of what lies between neighbouring softnesses, and pixels of tissue."""
    tissue = cv2.GaussianBlur(grey, (0, 0), _TISSUE_SIGMA_PX) > _TISSUE
    soft = [grey if sigma == 0 else cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in _SIGMAS_PX]
    bands = [
        np.square(fine - rough)[tissue].sum(dtype=np.float64) for fine, rough in itertools.pairwise(soft)
    ]
    return np.array(bands), int(np.count_nonzero(tissue))


def _model(features: Float64, images: int) -> tuple[Float64, Float64]:
    """Mean, and inverse of the shrunk covariance."""
    covariance = np.atleast_2d(np.cov(features.T))
    diagonal = np.diag(np.diag(covariance))
    to_diagonal = len(covariance) / (len(covariance) + images)
    shrunk = (1 - to_diagonal) * covariance + to_diagonal * diagonal
    precision = np.linalg.inv(shrunk + _LEAST_VARIANCE * np.eye(len(shrunk)))
    return features.mean(axis=0), np.asarray(precision, np.float64)


def _mahalanobis(features: Float64, centre: Float64, precision: Float64) -> float:
    away = features - centre
    return float(np.sqrt(away @ precision @ away / len(away)))
