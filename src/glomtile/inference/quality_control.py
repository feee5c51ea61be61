"""Quality flags of segmentation results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glomtile.config.model_card import FamiliarTissue, ModelCard
from glomtile.inference.label_store import crop
from glomtile.inference.ood import (
    ASPECTS,
    FEATURE_VERSION,
    ReferenceDistribution,
    ScaleEstimator,
    appearance,
    distances,
    expected_dice,
    scale_offset,
)
from glomtile.slides.tissue import SlideLike, TissueMap
from glomtile.types import Box

_LOOK_PX, _MOST_LOOKS = 256, 16
"""Side and number of the windows that tell how a large picture looks; smaller ones are looked at whole."""

_SURE_PX, _MOST_SURE = 512, 64
FAR = 1.25
"""Distance from which on a result is doubted."""

_BARE = "tissue: none was found"
_UNSEEN = f"{_BARE}, so the network saw nothing; --no-tissue-mask looks everywhere"


@dataclass(frozen=True)
class QualityFlags:
    """How far a picture is from what its model was trained on, and how sure the network is of its answer.

    Attributes
    ----------
    distances : dict of str to float
        By aspect (``stain``, ``brightness``, ``sharpness``, ``scale``); 1 is the limit. Empty where the model
        does not say what it was trained on, or fewer than 2,000 of the pixels looked at are dark enough to
        have a hue. Whether they are tissue is not asked: a dark picture of another kind is to be far away.
    enlargement : float
        How large the tissue seems to be drawn beside that of training; NaN as above.
    expected_dice : float
        What the network's probabilities promise; NaN where it found nothing, and nearly nothing either.
    warnings : tuple of str
        What gives reason to doubt the result, in words and numbers; empty where nothing does.
    """

    distances: Mapping[str, float] = field(default_factory=dict)
    enlargement: float = math.nan
    expected_dice: float = math.nan
    warnings: tuple[str, ...] = ()

    def figures(self) -> dict[str, float | str]:
        """The columns of ``summary.csv``, by name; empty texts where nothing is known."""
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
) -> QualityFlags:
    """What there is to doubt of one segmented slide or picture.

    Parameters
    ----------
    card : ModelCard
        A model that says nothing of its training images doubts nothing but the want of tissue.
    slide : SlideLike
        Of known scale.
    tissue : TissueMap
        Asked in pixels of the planes.
    zoom : float
        Full-resolution pixels per pixel of the planes.
    labels, confidence : (H, W) uint8 planes
        Class numbers, and 0 to 255 for how probable a class above 0 is.
    masked : bool
        Whether the network looked at tissue only.

    Returns
    -------
    Doubts
        A function of slide, model and planes, however the planes came about.
    """
    bare = () if tissue.tissue.any() else (_UNSEEN if masked else _BARE,)
    if card.familiar is None or card.familiar.edition != FEATURE_VERSION or slide.mpp is None:
        return QualityFlags(warnings=bare)
    reader = slide.at(card.mpp)
    at_scale = replace(tissue, zoom=tissue.zoom * zoom / reader.zoom)
    boxes = sampled_boxes(reader.size_px, at_scale)
    seen = appearance(reader.read(box) for box in boxes)
    away, enlargement = ({}, math.nan) if seen is None else _away(card.familiar, seen)
    called, uncalled = _histograms(labels, confidence, tissue)
    least_px = card.objects.min_area_um2 / (slide.mpp * zoom) ** 2
    promised = expected_dice(called, uncalled, least_px)
    return QualityFlags(
        away,
        enlargement,
        promised,
        (*bare, *_warnings(away, enlargement, promised, card.least_expected_dice)),
    )


def sampled_boxes(
    size_px: tuple[int, int], tissue: TissueMap, side_px: int = _LOOK_PX, most: int = _MOST_LOOKS
) -> list[Box]:
    """The whole of a small plane; of a large one, cells evenly spread over its tissue.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of the plane.
    tissue : TissueMap
        Asked in pixels of the plane.
    side_px, most : int
        Side of a cell, and how many there are at most; planes of no more pixels are taken whole.

    Returns
    -------
    list of Box
        Inside the plane, in reading order; none where a large plane has no tissue.
    """
    height, width = size_px
    if height * width <= most * side_px**2:
        return [Box(0, 0, height, width)]
    rows, columns = (
        _middles(length, side_px, tissue.zoom, n)
        for length, n in zip(size_px, tissue.tissue.shape, strict=True)
    )
    cells = np.argwhere(tissue.tissue[rows[:, None], columns])
    if not len(cells):
        places = (np.argwhere(tissue.tissue) + 0.5) * tissue.zoom // side_px
        cells = np.unique(places.astype(np.intp), axis=0)
        cells = cells[(cells < (len(rows), len(columns))).all(axis=1)]
    count = min(most, len(cells))
    chosen = cells[((np.arange(count) + 0.5) * len(cells) / max(1, count)).astype(np.intp)]
    return [
        Box(top, left, min(top + side_px, height), min(left + side_px, width))
        for top, left in (chosen * side_px).tolist()
    ]


def _middles(length_px: int, side_px: int, zoom: float, count: int) -> NDArray[np.intp]:
    """The tissue map's rows, or columns, that the middles of an axis' cells lie in."""
    cells = np.arange(max(1, length_px // side_px))
    return np.asarray(np.minimum((cells + 0.5) * side_px / zoom, count - 1), np.intp)


def _histograms(
    labels: Any, confidence: Any, tissue: TissueMap
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each confidence is met in pixels that have a class above 0, and in the others."""
    called, uncalled = (np.zeros(256, np.int64) for _ in range(2))
    size = (int(labels.shape[0]), int(labels.shape[1]))
    for box in sampled_boxes(size, tissue, _SURE_PX, _MOST_SURE):
        within = crop(labels, box) > 0
        values = crop(confidence, box)
        called += np.bincount(values[within], minlength=256)
        uncalled += np.bincount(values[~within], minlength=256)
    return called, uncalled


def _away(familiar: FamiliarTissue, seen: NDArray[np.float64]) -> tuple[dict[str, float], float]:
    """Distances by aspect, and the enlargement that the last of them is made of."""
    known = {
        name: ReferenceDistribution(**dict(getattr(familiar, name))) for name in ASPECTS if name != "scale"
    }
    ruler = ScaleEstimator(**dict(familiar.scale))
    octaves = scale_offset(ruler, seen)
    return distances(known, seen) | {"scale": ruler.distance(octaves)}, float(2**octaves)


def _warnings(
    away: Mapping[str, float], enlargement: float, promised: float, least_expected_dice: float
) -> Iterator[str]:
    for name, distance in away.items():
        if distance > FAR and name == "scale":
            yield f"scale: tissue seems {enlargement:.2g} times as large as in training, is the mpp right?"
        elif distance > FAR:
            yield f"{name}: {distance:.1f} times as far from the training images as they reach"
    if promised < least_expected_dice:
        yield f"unsure: by its own probabilities the network expects a Dice of {promised:.2f}"
