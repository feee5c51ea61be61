"""Matching of predicted with true objects, distances of their outlines, and kinds of object errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glomtile.objects.labelling import Objects, exact_distance, outline
from glomtile.types import Box

MATCH_IOU = 0.5
"""Two objects match above this IoU; above one half, a match is unique on both sides."""

Side = Literal["truth", "prediction"]

OUTCOMES = ("false_negative", "false_positive", "split", "merged", "poor_overlap", "true_positive")
"""All outcomes of an object, the worst first."""

_WITHIN = 0.5
"""Share of its own area by which an object is inside another."""

_PIECE = 0.1
"""Share of the larger object that an object inside it must cover to count as a piece of it."""

_POOR_IOU = 0.1
"""IoU from which an unmatched object counts as detected with a poor outline."""


@dataclass(frozen=True)
class Matching:
    """Pairs of true and predicted objects.

    Attributes
    ----------
    pairs : (M, 2) int64 ndarray
        Object numbers ``(truth, prediction)`` of the matches, in the order of the true objects.
    ious : (M,) float64 ndarray
        IoU of each pair, all above `MATCH_IOU`.
    overlaps : (N, 3) int64 ndarray
        All that overlap, matched or not: true object, predicted object, shared pixels.
    """

    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]
    overlaps: NDArray[np.int64]


@dataclass(frozen=True)
class ObjectMatch:
    """One object and its counterpart in the other mask.

    Attributes
    ----------
    side : {"truth", "prediction"}
        The mask that holds the object.
    outcome : str
        ``true_positive``: matched, IoU above 0.5, whatever else it is. The others are unmatched: ``split`` is
        a true object that falls into two or more predicted ones, and each of those; ``merged`` a predicted
        one that holds two or more true ones, and each of those, also where the holder matches one of them;
        ``poor_overlap`` overlaps another unmatched one with an IoU of 0.1 to 0.5; else a true one is
        ``false_negative`` and a predicted one ``false_positive``.
    box : Box
        Around it and all that it was split into, merged with or matched to.
    area_px : int
        Of the object alone.
    iou : float
        With the best partner; 0 without one.
    hd95_px : float
        Of a matched object's outline; NaN else.
    """

    side: Side
    outcome: str
    box: Box
    area_px: int
    iou: float
    hd95_px: float


def match_objects(truth: Objects, prediction: Objects) -> Matching:
    """Pair the objects of two masks of one size whose IoU is above one half.

    Parameters
    ----------
    truth, prediction : Objects
        From `glomtile.objects.labelling.find_objects`, of masks of the same shape.

    Returns
    -------
    Matching

    Notes
    -----
    Above IoU 0.5 no object can match two others (Kirillov et al., *Panoptic Segmentation*, CVPR 2019,
    doi 10.1109/CVPR.2019.00963), so no assignment has to be solved.
    """
    both = (truth.ids > 0) & (prediction.ids > 0)
    codes = truth.ids[both].astype(np.int64) * (prediction.count + 1) + prediction.ids[both]
    met, overlap = np.unique(codes, return_counts=True)
    truth_id, predicted_id = np.divmod(met, prediction.count + 1)
    union = truth.areas_px[truth_id - 1] + prediction.areas_px[predicted_id - 1] - overlap
    ious = overlap / union
    kept = ious > MATCH_IOU
    pairs = np.stack([truth_id[kept], predicted_id[kept]], axis=1)
    return Matching(pairs, ious[kept], np.stack([truth_id, predicted_id, overlap], axis=1))


def hausdorff_px(a: NDArray[np.bool_], b: NDArray[np.bool_], percentile: float = 95.0) -> float:
    """Measure the distance between the outlines of two objects, in pixels.

    Parameters
    ----------
    a, b : (H, W) bool ndarray
        Two masks of one size.
    percentile : float
        100 is the Hausdorff distance proper; 95 leaves out the worst twentieth of the outline.

    Returns
    -------
    float
        The larger of the two directed percentiles of distances between outline pixels' centres;
        NaN when either mask is empty.

    Notes
    -----
    Huttenlocher, Klanderman, Rucklidge, *Comparing images using the Hausdorff distance*, 1993,
    doi 10.1109/34.232073; the larger of both directions as in MONAI and Metrics Reloaded.
    """
    if not a.any() or not b.any():
        return float("nan")
    edge_a, edge_b = outline(a), outline(b)
    there = np.percentile(exact_distance(~edge_b)[edge_a], percentile)
    back = np.percentile(exact_distance(~edge_a)[edge_b], percentile)
    return float(max(there, back))


def matched_hausdorff_px(truth: Objects, prediction: Objects, matching: Matching) -> NDArray[np.float64]:
    """Measure the HD95 of every matched pair, in pixels.

    Parameters
    ----------
    truth, prediction : Objects
    matching : Matching
        From `match_objects` of the two.

    Returns
    -------
    (M,) float64 ndarray
        In the order of ``matching.pairs``.
    """
    distances = np.zeros(len(matching.pairs))
    for i, (t, p) in enumerate(matching.pairs):
        box = _around([truth.boxes[t - 1], prediction.boxes[p - 1]])
        window = np.s_[box.top : box.bottom, box.left : box.right]
        distances[i] = hausdorff_px(truth.ids[window] == t, prediction.ids[window] == p)
    return distances


class _Overlap(NamedTuple):
    """Overlap of an object with object number `other` of the other mask."""

    other: int
    pixels: int
    iou: float


def classify_objects(
    truth: Objects, prediction: Objects, matching: Matching, hd95_px: NDArray[np.float64]
) -> tuple[ObjectMatch, ...]:
    """Classify every object of one class in one image as right or as a kind of error.

    Parameters
    ----------
    truth, prediction : Objects
    matching : Matching
        From `match_objects` of the two.
    hd95_px : (M,) float64 ndarray
        From `matched_hausdorff_px` of the three.

    Returns
    -------
    tuple of ObjectMatch
        The true objects by number, then the predicted ones.
    """
    of_truth: dict[int, list[_Overlap]] = defaultdict(list)
    of_prediction: dict[int, list[_Overlap]] = defaultdict(list)
    for t, p, pixels in matching.overlaps.tolist():
        iou = pixels / (int(truth.areas_px[t - 1] + prediction.areas_px[p - 1]) - pixels)
        of_truth[t].append(_Overlap(p, pixels, iou))
        of_prediction[p].append(_Overlap(t, pixels, iou))
    pairs = matching.pairs.tolist()
    hd_of_truth = {t: hd for (t, _), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    hd_of_prediction = {p: hd for (_, p), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    pieces, held = _parts(of_truth, truth, prediction), _parts(of_prediction, prediction, truth)
    # An unmatched object that is both: a true one was split, a predicted one merged others.
    errors_of_truth: dict[int, tuple[str, Box]] = {}
    errors_of_prediction: dict[int, tuple[str, Box]] = {}
    merged = {
        p: _around([prediction.boxes[p - 1], *(truth.boxes[t - 1] for t in parts)])
        for p, parts in held.items()
    }
    for p, box in merged.items():
        errors_of_truth |= dict.fromkeys(held[p], ("merged", box))
    for t, parts in pieces.items():
        if t not in hd_of_truth:
            box = _around([truth.boxes[t - 1], *(prediction.boxes[p - 1] for p in parts)])
            errors_of_truth[t] = ("split", box)
            errors_of_prediction |= dict.fromkeys(parts, ("split", box))
    errors_of_prediction |= {p: ("merged", box) for p, box in merged.items()}

    result: list[ObjectMatch] = []
    sides: tuple[tuple[Side, Any, Any, Any, Any, Any, Any], ...] = (
        ("truth", truth, prediction, of_truth, errors_of_truth, hd_of_truth, hd_of_prediction),
        ("prediction", prediction, truth, of_prediction, errors_of_prediction, hd_of_prediction, hd_of_truth),
    )
    for side, own, others, overlaps, errors, matched, taken in sides:
        for number in range(1, own.count + 1):
            met, box = overlaps[number], own.boxes[number - 1]
            free = [overlap for overlap in met if number in matched or overlap.other not in taken]
            best = max(free, key=lambda overlap: overlap.iou, default=None)
            if number not in matched and number in errors:
                outcome, box = errors[number]
            elif best is None or best.iou < _POOR_IOU:
                outcome = "false_negative" if side == "truth" else "false_positive"
            else:
                outcome = "true_positive" if number in matched else "poor_overlap"
                box = _around([box, others.boxes[best.other - 1]])
            iou = max((overlap.iou for overlap in met), default=0.0)
            area_px = int(own.areas_px[number - 1])
            hd95 = matched.get(number, math.nan)
            result.append(ObjectMatch(side, outcome, box, area_px, iou, hd95))
    return tuple(result)


def _parts(overlaps: Mapping[int, Sequence[_Overlap]], own: Objects, others: Objects) -> dict[int, list[int]]:
    """Find objects that hold several others, each mostly inside and a sizeable part of the object."""
    parts = {
        number: [
            one.other
            for one in met
            if one.pixels >= _WITHIN * others.areas_px[one.other - 1]
            and one.pixels >= _PIECE * own.areas_px[number - 1]
        ]
        for number, met in overlaps.items()
    }
    return {number: found for number, found in parts.items() if len(found) > 1}


def _around(boxes: Iterable[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))
