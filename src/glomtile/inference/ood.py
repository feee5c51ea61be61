"""Out-of-distribution features and reference statistics of images."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.config.model_card import ReferenceDistribution, ScaleEstimator
from glomtile.errors import InputError
from glomtile.types import Float32, UInt8

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64]

FEATURE_VERSION = 1
"""Version of the features' definition; statistics of another version cannot be compared."""

ASPECTS = ("stain", "brightness", "sharpness", "scale")

_GLASS = 245.0
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / np.float32(_GLASS + 1))
"""Optical density of every 8-bit value below ordinary glass."""

_STAINED = 0.15
"""Paler pixels have no hue above the camera's noise (Macenko et al. 2009)."""

_TISSUE, _TISSUE_SIGMA_PX = 0.08, 4.0
_HUE_SIGMA_PX = 1.0
_MIN_PX = 2000
_HUE_QUANTILES = (0.05, 0.5, 0.95)
_DENSITY_QUANTILES = (0.5, 0.9)
_SIGMAS_PX = (0.0, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
_MIN_ENERGY = 1e-8

_STAIN, _BRIGHTNESS, _DETAIL = slice(0, 6), slice(6, 8), slice(8, 16)
_OCTAVES = slice(0, None, 2)
_RIDGE = 1.0

_MIN_VARIANCE, _MIN_SPREAD = 1e-4, 1e-3
_LIMIT_QUANTILE, _MIN_LIMIT, _MIN_OCTAVES = 0.95, 1.0, 0.25
_ERRORS, _MAD = 2.0, 1.4826
"""Accepted errors to either side, and a normal standard deviation in medians of the absolute error."""

_MIN_IMAGES = 4
_MIN_CONFIDENCE = 26


def appearance_features(windows: Iterable[UInt8]) -> Float64 | None:
    """Compute stain, brightness and detail of the tissue in an image.

    Parameters
    ----------
    windows : iterable of (h, w, 3) uint8 ndarray
        RGB at the working scale; all windows together count as one image.

    Returns
    -------
    (16,) float64 ndarray or None
        Six of stain: 5 %, 50 % and 95 % of both coordinates of hue in optical density, over stained pixels.
        Two of brightness: logarithms of 50 % and 90 % of the density. Eight of detail: logarithms of the
        energies in bands of half an octave up to 8 px. ``None`` with fewer than 2,000 stained pixels.

    Raises
    ------
    InputError
        A window is not ``(h, w, 3) uint8``.

    Notes
    -----
    The hue of a density does not depend on the thickness of the section (van der Laak et al. 2000,
    doi 10.1002/(SICI)1097-0320(20000401)39:4<275::AID-CYTO5>3.0.CO;2-8); its ends are the two dyes, as in
    Macenko et al. 2009 (doi 10.1109/ISBI.2009.5193250), without an axis that could flip. Mirroring and
    quarter turns change nothing.
    """
    hues: list[Float32] = []
    densities: list[Float32] = []
    energy, tissue_px = np.zeros(len(_SIGMAS_PX) - 1), 0
    for window in windows:
        if window.ndim != 3 or window.shape[2] != 3 or window.dtype != np.uint8:
            raise InputError("image", f"expected (h, w, 3) uint8, got {window.shape} {window.dtype}")
        if not window.size:
            continue
        density = np.asarray(cv2.LUT(np.ascontiguousarray(window), _DENSITY), np.float32)
        hue, strength = _hues(density)
        hues.append(hue)
        densities.append(strength)
        bands, pixels = _band_energies(density.mean(axis=2))
        energy += bands
        tissue_px += pixels
    if not tissue_px or sum(map(len, densities)) < _MIN_PX:
        return None
    hue_ends = np.quantile(np.concatenate(hues), _HUE_QUANTILES, axis=0)
    strengths = np.log(np.quantile(np.concatenate(densities), _DENSITY_QUANTILES))
    energies = np.log(energy / tissue_px + _MIN_ENERGY)
    return np.concatenate([hue_ends.T.ravel(), strengths, energies]).astype(np.float64)


def _hues(density: Float32) -> tuple[Float32, Float32]:
    """Return hue ``(n, 2)`` and density ``(n,)`` of the stained pixels."""
    smooth = np.asarray(cv2.GaussianBlur(density, (0, 0), _HUE_SIGMA_PX), np.float32)
    grey = smooth.mean(axis=2)
    stained = grey > _STAINED
    colour, strength = smooth[stained], grey[stained]
    across = colour[:, 0] / strength - 1
    along = (colour[:, 1] - colour[:, 2]) / (np.float32(3**0.5) * strength)
    return np.stack([across, along], axis=1), strength


def _band_energies(grey: Float32) -> tuple[Float64, int]:
    """Return the sum of squares of each band over the tissue, and the pixels of tissue."""
    tissue = cv2.GaussianBlur(grey, (0, 0), _TISSUE_SIGMA_PX) > _TISSUE
    soft = [grey if sigma == 0 else cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in _SIGMAS_PX]
    bands = [
        np.square(fine - rough)[tissue].sum(dtype=np.float64) for fine, rough in itertools.pairwise(soft)
    ]
    return np.array(bands), int(np.count_nonzero(tissue))


def fit_reference(
    features: Sequence[Float64], image_ids: Sequence[Hashable]
) -> dict[str, ReferenceDistribution] | None:
    """Fit the distribution of each aspect over the training images.

    Parameters
    ----------
    features : sequence of (16,) float64 ndarray
        See `appearance_features`: of training images and of their augmented copies.
    image_ids : sequence
        Source image of each; limits come from images left out of the fit.

    Returns
    -------
    dict of str to ReferenceDistribution, or None
        For ``stain``, ``brightness`` and ``sharpness``; ``None`` with fewer than 4 images.

    Raises
    ------
    InputError
        The lengths differ.

    Notes
    -----
    Mahalanobis distances by aspect: with some dozen images a covariance of all features would be noise.
    Covariances are shrunk towards their diagonal by ``features / (features + images)``. The features of
    sharpness are ratios of detail from octave to octave, which cancel contrast.
    """
    count, numbers = _numbered(features, image_ids)
    if count < _MIN_IMAGES:
        return None
    fitted = {}
    for name, values in _aspects(np.stack(features)).items():
        left_out = np.empty(len(values))
        for image in range(count):
            centre, precision = _gaussian(values[numbers != image], count - 1)
            for row in np.flatnonzero(numbers == image):
                left_out[row] = _mahalanobis(values[row], centre, precision)
        centre, precision = _gaussian(values, count)
        fitted[name] = ReferenceDistribution(
            centre=tuple(centre.tolist()),
            precision=tuple(tuple(row) for row in precision.tolist()),
            limit=max(float(np.quantile(left_out, _LIMIT_QUANTILE)), _MIN_LIMIT),
        )
    return fitted


def fit_scale_estimator(
    features: Sequence[Float64],
    image_ids: Sequence[Hashable],
    octaves: Sequence[float],
    trained_octaves: tuple[float, float],
) -> ScaleEstimator | None:
    """Fit a regression of tissue scale on rescaled training images.

    Parameters
    ----------
    features : sequence of (16,) float64 ndarray
        Of training images at several scales, some of them blurred, so that blur is not taken for scale.
    image_ids : sequence
        Source image of each.
    octaves : sequence of float
        Base-2 logarithm of each enlargement.
    trained_octaves : (float, float)
        Lowest and highest enlargement that the network was trained on.

    Returns
    -------
    ScaleEstimator or None
        ``None`` with fewer than 4 images. Its limits hold what the network was trained on, and twice the
        error of estimators that leave out one image, at the images' own scale. The error is a median, so
        that one image of another kind does not widen the limits.

    Raises
    ------
    InputError
        The lengths differ.

    Notes
    -----
    A ridge regression on ratios of neighbouring energies and on contrast. On 16 kidney biopsies left out in
    turn it errs by a quarter of an octave: enough to notice most scans at 40x that are taken for 20x.
    """
    count, numbers = _numbered(features, image_ids)
    if len(octaves) != len(image_ids):
        raise InputError("features", f"expected {len(image_ids)} scales, got {len(octaves)}")
    if count < _MIN_IMAGES:
        return None
    values, wanted = _scale_features(np.stack(features)), np.array(octaves, np.float64)
    estimates = np.empty(len(wanted))
    for image in range(count):
        estimator = _ridge(values[numbers != image], wanted[numbers != image])
        for row in np.flatnonzero(numbers == image):
            estimates[row] = _octaves(estimator, values[row])
    own_scale = np.abs(estimates[wanted == 0])
    error = _ERRORS * _MAD * float(np.median(own_scale)) if len(own_scale) else 0.0
    low = min(*trained_octaves, -error, -_MIN_OCTAVES)
    high = max(*trained_octaves, error, _MIN_OCTAVES)
    return _ridge(values, wanted, low, high)


def distances(reference: Mapping[str, ReferenceDistribution], features: Float64) -> dict[str, float]:
    """Return the distance of an image from the reference by aspect; 1 is the limit."""
    values = _aspects(features[None])
    return {
        name: _mahalanobis(values[name][0], np.array(one.centre), np.array(one.precision)) / one.limit
        for name, one in reference.items()
    }


def scale_offset(estimator: ScaleEstimator, features: Float64) -> float:
    """Estimate the enlargement of an image's tissue relative to training, as a base-2 logarithm."""
    return _octaves(estimator, _scale_features(features[None])[0])


def scale_distance(estimator: ScaleEstimator, octaves: float) -> float:
    """Return the distance of an enlargement from the middle of the limits; 1 is at the limits."""
    return abs(octaves - (estimator.low + estimator.high) / 2) / ((estimator.high - estimator.low) / 2)


def expected_dice(foreground: Counts, background: Counts, min_px: float) -> float:
    """Estimate Dice from the network's own probabilities, as if they were calibrated.

    Parameters
    ----------
    foreground, background : (256,) int64 ndarray
        Pixels of the prediction, and of the rest, by their confidence 0 to 255 of being foreground.
    min_px : float
        Area of the smallest object; a prediction smaller than it, near misses included, is not judged.

    Returns
    -------
    float
        0 to 1, or NaN: twice the expected overlap over the sum of the expected truth and the prediction.
        Confidences below 0.1 count as 0, so that confident background does not add up to a truth.

    Notes
    -----
    Li et al. 2022 (doi 10.1007/978-3-031-16449-1_66) predict Dice under changed stains and scanners from
    confidences by class. Under such changes networks are overconfident, so this is an upper bound for poor
    results rather than a prediction.
    """
    levels = np.arange(256) / 255
    overlap, predicted = float(foreground @ levels), float(foreground.sum())
    nearly = float(background[_MIN_CONFIDENCE:] @ levels[_MIN_CONFIDENCE:])
    if predicted + nearly < max(1.0, min_px):
        return float("nan")
    return 2 * overlap / (overlap + nearly + predicted)


def _numbered(features: Sequence[Float64], image_ids: Sequence[Hashable]) -> tuple[int, NDArray[np.intp]]:
    """Return the number of images, and the number of each entry's image."""
    if len(features) != len(image_ids):
        raise InputError("features", f"expected an image id each, got {len(image_ids)} for {len(features)}")
    numbers = {image: number for number, image in enumerate(dict.fromkeys(image_ids))}
    return len(numbers), np.array([numbers[image] for image in image_ids], np.intp)


def _aspects(features: Float64) -> dict[str, Float64]:
    octaves = np.diff(features[:, _DETAIL][:, _OCTAVES], axis=1)
    return {"stain": features[:, _STAIN], "brightness": features[:, _BRIGHTNESS], "sharpness": octaves}


def _scale_features(features: Float64) -> Float64:
    """Return ratios of neighbouring energies, and contrast; stain strength changes none of them."""
    contrast = np.diff(features[:, _BRIGHTNESS], axis=1)
    return np.concatenate([np.diff(features[:, _DETAIL], axis=1), contrast], axis=1)


def _ridge(features: Float64, wanted: Float64, low: float = -1.0, high: float = 1.0) -> ScaleEstimator:
    """Fit a ridge regression on standardised features."""
    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _MIN_SPREAD)
    away = (features - centre) / spread
    weights = np.linalg.solve(
        away.T @ away + _RIDGE * np.eye(away.shape[1]), away.T @ (wanted - wanted.mean())
    )
    return ScaleEstimator(
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        weights=tuple(weights.tolist()),
        offset=float(wanted.mean()),
        low=low,
        high=high,
    )


def _octaves(estimator: ScaleEstimator, values: Float64) -> float:
    away = (values - np.array(estimator.centre)) / np.array(estimator.spread)
    return float(away @ np.array(estimator.weights)) + estimator.offset


def _gaussian(features: Float64, images: int) -> tuple[Float64, Float64]:
    """Return the mean, and the inverse of the shrunk covariance."""
    covariance = np.atleast_2d(np.cov(features.T))
    diagonal = np.diag(np.diag(covariance))
    to_diagonal = len(covariance) / (len(covariance) + images)
    shrunk = (1 - to_diagonal) * covariance + to_diagonal * diagonal
    precision = np.linalg.inv(shrunk + _MIN_VARIANCE * np.eye(len(shrunk)))
    return features.mean(axis=0), np.asarray(precision, np.float64)


def _mahalanobis(features: Float64, centre: Float64, precision: Float64) -> float:
    away = features - centre
    return float(np.sqrt(away @ precision @ away / len(away)))
