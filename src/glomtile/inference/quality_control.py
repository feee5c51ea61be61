"""Quality flags of results: distance from the training images, and confidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.config.model_card import ModelCard, ReferenceDistribution, ScaleEstimator
from glomtile.errors import InputError
from glomtile.objects.extraction import LARGEST_PX
from glomtile.slides.tissue import SlideLike, TissueMap
from glomtile.types import Box, Float32, UInt8, crop

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


_WINDOW_PX, _MAX_WINDOWS = 256, 16
"""Side and number of the windows that are measured of a large image; smaller images are measured whole."""

_CONFIDENCE_PX, _MAX_CONFIDENCE_WINDOWS = 512, 64
MAX_DISTANCE = 1.25
"""Results farther from the training images are flagged."""


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
        smooth = np.asarray(cv2.GaussianBlur(density, (0, 0), _HUE_SIGMA_PX), np.float32)
        grey = smooth.mean(axis=2)
        stained = grey > _STAINED
        colour, strength = smooth[stained], grey[stained]
        across = colour[:, 0] / strength - 1
        along = (colour[:, 1] - colour[:, 2]) / (np.float32(3**0.5) * strength)
        hues.append(np.stack([across, along], axis=1))
        densities.append(strength)
        grey = density.mean(axis=2)
        tissue = cv2.GaussianBlur(grey, (0, 0), _TISSUE_SIGMA_PX) > _TISSUE
        soft = [grey if sigma == 0 else cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in _SIGMAS_PX]
        bands = [np.square(fine - rough)[tissue] for fine, rough in itertools.pairwise(soft)]
        energy += [band.sum(dtype=np.float64) for band in bands]
        tissue_px += int(np.count_nonzero(tissue))
    if not tissue_px or sum(map(len, densities)) < _MIN_PX:
        return None
    hue_ends = np.quantile(np.concatenate(hues), _HUE_QUANTILES, axis=0)
    strengths = np.log(np.quantile(np.concatenate(densities), _DENSITY_QUANTILES))
    energies = np.log(energy / tissue_px + _MIN_ENERGY)
    return np.concatenate([hue_ends.T.ravel(), strengths, energies]).astype(np.float64)


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


@dataclass(frozen=True)
class QualityFlags:
    """Distance of an image from the training images, and confidence of the network.

    Attributes
    ----------
    distances : dict of str to float
        By aspect (``stain``, ``brightness``, ``sharpness``, ``scale``); 1 is the limit. Empty without
        reference statistics, and for images with fewer than 2,000 stained pixels. Pixels outside the tissue
        mask count too, so that a dark image of another kind is far away.
    enlargement : float
        Size of the tissue relative to training; NaN where `distances` is empty.
    expected_dice : float
        Dice estimated from the probabilities; NaN where nothing was found, and nearly nothing either.
    warnings : tuple of str
        Reasons to check the result, each with its figure.
    """

    distances: Mapping[str, float] = field(default_factory=dict)
    enlargement: float = math.nan
    expected_dice: float = math.nan
    warnings: tuple[str, ...] = ()

    def figures(self) -> dict[str, float | str]:
        """Return the columns of ``summary.csv``; unknown values are empty."""
        row: dict[str, float | str] = {f"{name}_distance": "" for name in ASPECTS}
        row |= {f"{name}_distance": float(f"{value:.3g}") for name, value in self.distances.items()}
        known = math.isfinite(self.expected_dice)
        return row | {
            "expected_dice": float(f"{self.expected_dice:.3g}") if known else "",
            "quality_flags": "; ".join(self.warnings),
        }


def assess_quality(
    card: ModelCard,
    slide: SlideLike,
    tissue: TissueMap,
    zoom: float,
    labels: Any,
    confidence: Any,
    *,
    masked: bool = False,
    too_large: int = 0,
) -> QualityFlags:
    """Compare a segmented image with the training images of its model.

    Parameters
    ----------
    card : ModelCard
        Without reference statistics only missing tissue is flagged.
    slide : SlideLike
        Of known scale.
    tissue : TissueMap
        In pixels of the planes.
    zoom : float
        Full-resolution pixels per pixel of the planes.
    labels, confidence : (H, W) uint8 planes
        Class numbers, and confidence 0 to 255 of being foreground.
    masked : bool
        Only tissue was predicted.
    too_large : int
        Regions too large for an object.

    Returns
    -------
    QualityFlags
        Depends on slide, model and planes only: a continued run gives the same.
    """
    warnings = []
    if not tissue.tissue.any():
        hint = ", so nothing was predicted; --no-tissue-mask predicts everywhere" if masked else ""
        warnings.append(f"tissue: none found{hint}")
    if too_large:
        regions = f"{too_large} region{'s' if too_large > 1 else ''} of more than {LARGEST_PX / 1e6:.0f}"
        warnings.append(f"size: {regions} million pixels, in the mask without outline and measurements")
    statistics = card.reference_statistics
    if statistics is None or statistics.feature_version != FEATURE_VERSION or slide.mpp is None:
        return QualityFlags(warnings=tuple(warnings))
    reader = slide.at(card.mpp)
    boxes = sampled_boxes(reader.size_px, replace(tissue, zoom=tissue.zoom * zoom / reader.zoom))
    features = appearance_features(reader.read(box) for box in boxes)
    away: dict[str, float] = {}
    enlargement = math.nan
    if features is not None:
        octaves = scale_offset(statistics.scale, features)
        reference = {name: getattr(statistics, name) for name in ASPECTS if name != "scale"}
        away = distances(reference, features) | {"scale": scale_distance(statistics.scale, octaves)}
        enlargement = float(2**octaves)
    for name, distance in away.items():
        if distance > MAX_DISTANCE and name == "scale":
            warnings.append(f"scale: tissue appears {enlargement:.2g}x its size in training, check the mpp")
        elif distance > MAX_DISTANCE:
            warnings.append(f"{name}: outside the training range ({distance:.1f}x)")
    foreground, background = (np.zeros(256, np.int64) for _ in range(2))
    size = (int(labels.shape[0]), int(labels.shape[1]))
    for box in sampled_boxes(size, tissue, _CONFIDENCE_PX, _MAX_CONFIDENCE_WINDOWS):
        within, values = crop(labels, box) > 0, crop(confidence, box)
        foreground += np.bincount(values[within], minlength=256)
        background += np.bincount(values[~within], minlength=256)
    dice = expected_dice(foreground, background, card.objects.min_area_um2 / (slide.mpp * zoom) ** 2)
    if dice < card.min_expected_dice:
        warnings.append(f"low confidence (estimated Dice {dice:.2f})")
    return QualityFlags(away, enlargement, dice, tuple(warnings))


def sampled_boxes(
    size_px: tuple[int, int], tissue: TissueMap, side_px: int = _WINDOW_PX, count: int = _MAX_WINDOWS
) -> list[Box]:
    """Return the whole of a small plane; of a large one, windows evenly spread over its tissue.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of the plane.
    tissue : TissueMap
        In pixels of the plane.
    side_px, count : int
        Side and greatest number of windows; planes of no more pixels are taken whole.

    Returns
    -------
    list of Box
        Inside the plane, in reading order; none in a large plane without tissue.
    """
    height, width = size_px
    if height * width <= count * side_px**2:
        return [Box(0, 0, height, width)]
    rows, columns = (  # of the tissue map, at the middles of the windows
        np.minimum((np.arange(max(1, length // side_px)) + 0.5) * side_px / tissue.zoom, n - 1).astype(
            np.intp
        )
        for length, n in zip(size_px, tissue.tissue.shape, strict=True)
    )
    cells = np.argwhere(tissue.tissue[rows[:, None], columns])
    if not len(cells):
        places = (np.argwhere(tissue.tissue) + 0.5) * tissue.zoom // side_px
        cells = np.unique(places.astype(np.intp), axis=0)
        cells = cells[(cells < (len(rows), len(columns))).all(axis=1)]
    taken = min(count, len(cells))
    chosen = cells[((np.arange(taken) + 0.5) * len(cells) / max(1, taken)).astype(np.intp)]
    return [
        Box(top, left, min(top + side_px, height), min(left + side_px, width))
        for top, left in (chosen * side_px).tolist()
    ]
