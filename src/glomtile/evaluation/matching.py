"""Matching of predicted with true objects, distances of their outlines, and kinds of object errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class _Overlap:
    truth: int
    prediction: int
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
    by_truth: dict[int, list[_Overlap]] = defaultdict(list)
    by_prediction: dict[int, list[_Overlap]] = defaultdict(list)
    for t, p, pixels in matching.overlaps.tolist():
        union = int(truth.areas_px[t - 1] + prediction.areas_px[p - 1]) - pixels
        overlap = _Overlap(t, p, pixels, pixels / union)
        by_truth[t].append(overlap)
        by_prediction[p].append(overlap)
    pairs = matching.pairs.tolist()
    hd_of_truth = {t: hd for (t, _), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    hd_of_prediction = {p: hd for (_, p), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    pieces = {t: _inside(met, truth.areas_px[t - 1], prediction, "prediction") for t, met in by_truth.items()}
    held = {p: _inside(met, prediction.areas_px[p - 1], truth, "truth") for p, met in by_prediction.items()}
    split = {t: parts for t, parts in pieces.items() if len(parts) > 1 and t not in hd_of_truth}
    merged = {p: parts for p, parts in held.items() if len(parts) > 1}
    piece_of = {p: t for t, parts in split.items() for p in parts}
    held_by = {t: p for p, parts in merged.items() for t in parts}

    def split_box(t: int) -> Box:
        return _around([truth.boxes[t - 1], *(prediction.boxes[p - 1] for p in split[t])])

    def merged_box(p: int) -> Box:
        return _around([prediction.boxes[p - 1], *(truth.boxes[t - 1] for t in merged[p])])

    result: list[ObjectMatch] = []
    for t in range(1, truth.count + 1):
        met = by_truth[t]
        outcome, box = _by_best(truth.boxes[t - 1], met, prediction, t in hd_of_truth, hd_of_prediction,
                                "prediction")  # fmt: skip
        if t in split:
            outcome, box = "split", split_box(t)
        elif outcome != "true_positive" and t in held_by:
            outcome, box = "merged", merged_box(held_by[t])
        result.append(_object_match("truth", outcome, box, truth, t, met, hd_of_truth))
    for p in range(1, prediction.count + 1):
        met = by_prediction[p]
        outcome, box = _by_best(prediction.boxes[p - 1], met, truth, p in hd_of_prediction, hd_of_truth,
                                "truth")  # fmt: skip
        if outcome != "true_positive" and p in merged:
            outcome, box = "merged", merged_box(p)
        elif outcome != "true_positive" and p in piece_of:
            outcome, box = "split", split_box(piece_of[p])
        result.append(_object_match("prediction", outcome, box, prediction, p, met, hd_of_prediction))
    return tuple(result)


def _inside(met: Sequence[_Overlap], area_px: float, others: Objects, side: Side) -> list[int]:
    """Return the numbers of the others that are mostly inside an object and a sizeable part of it."""
    return [
        number
        for overlap in met
        if overlap.pixels >= _WITHIN * others.areas_px[(number := getattr(overlap, side)) - 1]
        and overlap.pixels >= _PIECE * area_px
    ]


def _by_best(
    own: Box, met: Sequence[_Overlap], others: Objects, matched: bool, taken: Collection[int], side: Side
) -> tuple[str, Box]:
    """Return outcome and box by the best partner on the other `side` that no other object matches."""
    free = [overlap for overlap in met if matched or getattr(overlap, side) not in taken]
    best = max(free, key=lambda overlap: overlap.iou, default=None)
    if best is None or (not matched and best.iou < _POOR_IOU):
        return "false_negative" if side == "prediction" else "false_positive", own
    box = _around([own, others.boxes[getattr(best, side) - 1]])
    return "true_positive" if matched else "poor_overlap", box


def _around(boxes: Iterable[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


def _object_match(
    side: Side,
    outcome: str,
    box: Box,
    objects: Objects,
    number: int,
    met: Sequence[_Overlap],
    hd95_px: dict[int, float],
) -> ObjectMatch:
    best = max((overlap.iou for overlap in met), default=0.0)
    area_px = int(objects.areas_px[number - 1])
    return ObjectMatch(side, outcome, box, area_px, best, hd95_px.get(number, math.nan))
