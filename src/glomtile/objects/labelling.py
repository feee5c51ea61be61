"""Connected components of label images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import Box


@dataclass(frozen=True)
class Objects:
    """The 8-connected regions of one class in one image.

    Attributes
    ----------
    ids : (H, W) int32 ndarray
        0 outside, ``1..count`` inside the objects, in any order.
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


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have one of their four neighbours outside it.

    The outside of the image counts as outside, so a cut object is closed along the cut.

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


def exact_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measure the distance of every pixel's centre to the nearest one outside the mask, exactly.

    Parameters
    ----------
    mask : (h, w) bool ndarray
        The outside of the array does not count as outside.

    Returns
    -------
    (h, w) float32 ndarray
        In pixels, 0 outside; the nearest float to the true one up to 1,000 px. Undefined and large without a
        pixel outside.

    Notes
    -----
    OpenCV's square roots differ in the last bit with the place of a row in memory, which is enough to turn
    ties; their squares are whole numbers.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(distance, dtype=np.float64))), dtype=np.float32)
