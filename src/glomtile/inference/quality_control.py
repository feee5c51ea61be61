"""Quality flags of segmentation results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glomtile.config.model_card import ModelCard, ReferenceStatistics
from glomtile.inference.ood import (
    ASPECTS,
    FEATURE_VERSION,
    appearance_features,
    distances,
    expected_dice,
    scale_distance,
    scale_offset,
)
from glomtile.objects.extraction import LARGEST_PX
from glomtile.slides.tissue import SlideLike, TissueMap
from glomtile.types import Box, crop

_WINDOW_PX, _MAX_WINDOWS = 256, 16
"""Side and number of the windows that are measured of a large image; smaller images are measured whole."""

_CONFIDENCE_PX, _MAX_CONFIDENCE_WINDOWS = 512, 64
MAX_DISTANCE = 1.25
"""Results farther from the training images are flagged."""


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
    away, enlargement = ({}, math.nan) if features is None else _compared(statistics, features)
    for name, distance in away.items():
        if distance > MAX_DISTANCE and name == "scale":
            warnings.append(f"scale: tissue appears {enlargement:.2g}x its size in training, check the mpp")
        elif distance > MAX_DISTANCE:
            warnings.append(f"{name}: outside the training range ({distance:.1f}x)")
    dice = expected_dice(
        *_confidence_counts(labels, confidence, tissue), card.objects.min_area_um2 / (slide.mpp * zoom) ** 2
    )
    if dice < card.min_expected_dice:
        warnings.append(f"low confidence (estimated Dice {dice:.2f})")
    return QualityFlags(away, enlargement, dice, tuple(warnings))


def _compared(
    statistics: ReferenceStatistics, features: NDArray[np.float64]
) -> tuple[dict[str, float], float]:
    """Return distances by aspect, and the enlargement relative to training."""
    octaves = scale_offset(statistics.scale, features)
    reference = {name: getattr(statistics, name) for name in ASPECTS if name != "scale"}
    away = distances(reference, features) | {"scale": scale_distance(statistics.scale, octaves)}
    return away, float(2**octaves)


def _confidence_counts(
    labels: Any, confidence: Any, tissue: TissueMap
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count pixels of the prediction, and the others, by confidence."""
    foreground, background = (np.zeros(256, np.int64) for _ in range(2))
    size = (int(labels.shape[0]), int(labels.shape[1]))
    for box in sampled_boxes(size, tissue, _CONFIDENCE_PX, _MAX_CONFIDENCE_WINDOWS):
        within = crop(labels, box) > 0
        values = crop(confidence, box)
        foreground += np.bincount(values[within], minlength=256)
        background += np.bincount(values[~within], minlength=256)
    return foreground, background


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
