"""Connected components of label images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import Box

MATCH_IOU = 0.5
"""Two objects match above this IoU; above one half, a match is unique on both sides."""


@dataclass(frozen=True)
class Objects:
    """The 8-connected regions of one class in one image.

    Attributes
    ----------
    ids : (H, W) int32 ndarray
        0 outside, ``1..count`` inside the objects, numbered in reading order of no promise.
    areas_px : (count,) int64 ndarray
        Pixels of object ``i + 1``.
    boxes : tuple of Box
        Bounding box of object ``i + 1``.
    """

    ids: NDArray[np.int32]
    areas_px: NDArray[np.int64]
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Matching:
    """Which predicted object is which true one.

    Attributes
    ----------
    pairs : (M, 2) int64 ndarray
        Object numbers ``(truth, prediction)`` of the matches, in the order of the true objects.
    ious : (M,) float64 ndarray
        IoU of each pair, all above `MATCH_IOU`.
    truth_count, predicted_count : int
        Objects on either side; what is in no pair is missed, or false.
    overlaps : (N, 3) int64 ndarray
        Of all that meet, matched or not: true object, predicted object, pixels they share.
    """

    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]
    truth_count: int
    predicted_count: int
    overlaps: NDArray[np.int64]


def find_objects(mask: NDArray[np.bool_]) -> Objects:
    """Split a mask into its 8-connected objects.

    Parameters
    ----------
    mask : (H, W) bool ndarray
        True inside the class; an empty mask has no objects.

    Returns
    -------
    Objects
    """
    if mask.size == 0:
        return Objects(np.zeros(mask.shape, np.int32), np.zeros(0, np.int64), ())
    _, ids, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    inside = stats[1:]
    left, top = inside[:, cv2.CC_STAT_LEFT], inside[:, cv2.CC_STAT_TOP]
    right, bottom = left + inside[:, cv2.CC_STAT_WIDTH], top + inside[:, cv2.CC_STAT_HEIGHT]
    boxes = tuple(Box(*map(int, edges)) for edges in zip(top, left, bottom, right, strict=True))
    return Objects(ids.astype(np.int32, copy=False), inside[:, cv2.CC_STAT_AREA].astype(np.int64), boxes)


def match_objects(truth: Objects, prediction: Objects) -> Matching:
    """Pair the objects of two masks of one size whose IoU is above one half.

    Parameters
    ----------
    truth, prediction : Objects
        From `find_objects`, of masks of the same shape.

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
    overlaps = np.stack([truth_id, predicted_id, overlap], axis=1)
    return Matching(pairs, ious[kept], truth.count, prediction.count, overlaps)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have one of their four neighbours outside it.

    What lies past the image's edge counts as outside, so a cut object is closed along the cut.

    Parameters
    ----------
    mask : (H, W) bool ndarray

    Returns
    -------
    (H, W) bool ndarray
    """
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def hausdorff_px(a: NDArray[np.bool_], b: NDArray[np.bool_], percentile: float = 95.0) -> float:
    """Distance between the outlines of two objects, in pixels.

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
        NaN when either mask is empty, because there is no outline to measure to.

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
    """HD95 of every matched pair, in pixels.

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
        box, other = truth.boxes[t - 1], prediction.boxes[p - 1]
        window = np.s_[
            min(box.top, other.top) : max(box.bottom, other.bottom),
            min(box.left, other.left) : max(box.right, other.right),
        ]
        distances[i] = hausdorff_px(truth.ids[window] == t, prediction.ids[window] == p)
    return distances


def exact_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every pixel's centre to the nearest one outside the mask, the same bits every time.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        What lies beyond the array counts for nothing.

    Returns
    -------
    (h, w) float32 ndarray
        In pixels, 0 outside; the nearest float to the true one up to 1,000 px. Without a pixel outside there
        is nothing to measure to: then all are one number far above any distance, and none to rely on.

    Notes
    -----
    OpenCV's square roots differ in the last bit with the place of a row in memory, which is enough to turn
    ties; their squares are whole numbers.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(distance, dtype=np.float64))), dtype=np.float32)
