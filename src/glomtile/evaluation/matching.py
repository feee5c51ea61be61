"""Matching of predicted with true objects and kinds of object errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glomtile.objects.labelling import Matching, Objects
from glomtile.types import Box

Side = Literal["truth", "prediction"]

KINDS = ("missed", "invented", "split", "merged", "loose", "found")
"""All outcomes there are, the worst first."""

_WITHIN = 0.5
"""Share of its own area by which an object lies inside another."""

_PIECE = 0.1
"""Share of the larger one that an object inside it must cover to count as a piece of it."""

_LOOSE_IOU = 0.1
"""From this IoU on, an unmatched object was seen and its outline is too far off."""


@dataclass(frozen=True)
class Outcome:
    """What became of one object.

    Attributes
    ----------
    side : {"truth", "prediction"}
        Whose object it is.
    kind : str
        ``found``: matched, IoU above 0.5, whatever else it is. The others are unmatched: ``split`` is a true
        object that falls into two or more predicted ones, and each of those; ``merged`` a predicted one that
        holds two or more true ones, and each of those, also where the holder is ``found`` by one of them;
        ``loose`` overlaps another unmatched one with an IoU of 0.1 to 0.5; else a true one is ``missed`` and
        a predicted one ``invented``.
    box : Box
        Around it and all that it was split into, merged with or matched to.
    area_px : int
        Of the object alone.
    iou : float
        With the best partner; 0 without one.
    hd95_px : float
        Of a found one's outline; NaN else.
    """

    side: Side
    kind: str
    box: Box
    area_px: int
    iou: float
    hd95_px: float


@dataclass(frozen=True)
class _Meeting:
    truth: int
    prediction: int
    pixels: int
    iou: float


def outcomes(
    truth: Objects, prediction: Objects, matching: Matching, hd95_px: NDArray[np.float64]
) -> tuple[Outcome, ...]:
    """Tell what became of every object of one class in one image.

    Parameters
    ----------
    truth, prediction : Objects
    matching : Matching
        From `match_objects` of the two.
    hd95_px : (M,) float64 ndarray
        From `matched_hausdorff_px` of the three.

    Returns
    -------
    tuple of Outcome
        The true objects by number, then the predicted ones.
    """
    by_truth: dict[int, list[_Meeting]] = defaultdict(list)
    by_prediction: dict[int, list[_Meeting]] = defaultdict(list)
    for t, p, pixels in matching.overlaps.tolist():
        union = int(truth.areas_px[t - 1] + prediction.areas_px[p - 1]) - pixels
        meeting = _Meeting(t, p, pixels, pixels / union)
        by_truth[t].append(meeting)
        by_prediction[p].append(meeting)
    pairs = matching.pairs.tolist()
    hd_of_truth = {t: hd for (t, _), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    hd_of_prediction = {p: hd for (_, p), hd in zip(pairs, hd95_px.tolist(), strict=True)}
    pieces = {t: _inside(met, truth.areas_px[t - 1], prediction, "prediction") for t, met in by_truth.items()}
    held = {p: _inside(met, prediction.areas_px[p - 1], truth, "truth") for p, met in by_prediction.items()}
    split = {t: parts for t, parts in pieces.items() if len(parts) > 1 and t not in hd_of_truth}
    merged = {p: parts for p, parts in held.items() if len(parts) > 1}
    piece_of = {p: t for t, parts in split.items() for p in parts}
    held_by = {t: p for p, parts in merged.items() for t in parts}
    found: list[Outcome] = []
    for t in range(1, truth.count + 1):
        own, met = truth.boxes[t - 1], by_truth[t]
        kind, box = _judged(own, met, prediction, t in hd_of_truth, hd_of_prediction, "prediction")
        if t in split:
            kind, box = "split", _around([own, *(prediction.boxes[p - 1] for p in split[t])])
        elif kind != "found" and t in held_by:
            kind, box = "merged", _merged_box(held_by[t], merged, truth, prediction)
        found.append(_outcome("truth", kind, box, truth, t, met, hd_of_truth))
    for p in range(1, prediction.count + 1):
        own, met = prediction.boxes[p - 1], by_prediction[p]
        kind, box = _judged(own, met, truth, p in hd_of_prediction, hd_of_truth, "truth")
        if kind != "found" and p in merged:
            kind, box = "merged", _merged_box(p, merged, truth, prediction)
        elif kind != "found" and p in piece_of:
            t = piece_of[p]
            kind = "split"
            box = _around([truth.boxes[t - 1], *(prediction.boxes[q - 1] for q in split[t])])
        found.append(_outcome("prediction", kind, box, prediction, p, met, hd_of_prediction))
    return tuple(found)


def _inside(met: Sequence[_Meeting], area_px: float, others: Objects, side: Side) -> list[int]:
    """Numbers of the others that lie mostly in an object and are a part of it worth the name."""
    return [
        number
        for meeting in met
        if meeting.pixels >= _WITHIN * others.areas_px[(number := getattr(meeting, side)) - 1]
        and meeting.pixels >= _PIECE * area_px
    ]


def _judged(
    own: Box, met: Sequence[_Meeting], others: Objects, matched: bool, taken: Collection[int], side: Side
) -> tuple[str, Box]:
    """Kind and box by the best partner on the other `side`; one that is `taken` by its match is none."""
    free = [meeting for meeting in met if matched or getattr(meeting, side) not in taken]
    best = max(free, key=lambda meeting: meeting.iou, default=None)
    if best is None or (not matched and best.iou < _LOOSE_IOU):
        return "missed" if side == "prediction" else "invented", own
    return "found" if matched else "loose", _around([own, others.boxes[getattr(best, side) - 1]])


def _merged_box(p: int, merged: dict[int, list[int]], truth: Objects, prediction: Objects) -> Box:
    return _around([prediction.boxes[p - 1], *(truth.boxes[t - 1] for t in merged[p])])


def _around(boxes: Iterable[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


def _outcome(
    side: Side,
    kind: str,
    box: Box,
    objects: Objects,
    number: int,
    met: Sequence[_Meeting],
    hd95_px: dict[int, float],
) -> Outcome:
    best = max((meeting.iou for meeting in met), default=0.0)
    return Outcome(side, kind, box, int(objects.areas_px[number - 1]), best, hd95_px.get(number, math.nan))
