"""Pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from glomtile.errors import InputError
from glomtile.types import Box, UInt8

LEAST_BYTES = 12_000
"""A picture of fewer bytes would show nothing: the page holds only so many that each may have this."""

QUALITY = 80
_LARGEST_PX, _SMALLEST_PX = 1280, 160
_BYTES_PER_PX = 0.24
_MARGIN, _TRIES = 1.1, 3


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes
    ----------
    source : str
        A data URI.
    width, height : int
        In pixels.
    """

    source: str
    width: int
    height: int


class ThumbnailBudget:
    """Makes pictures of falling importance small, so that together they keep below a size.

    Parameters
    ----------
    most_bytes : int
        Of all data URIs together.
    shares : sequence of float
        How much of it each picture may have beside the others, in the order in which they will come.
    largest_px : int
        Longest side of any picture.

    Notes
    -----
    How many bytes a pixel takes is learnt from the pictures so far, so that nearly every one is encoded once.
    What a picture leaves goes to those behind it.
    """

    def __init__(self, most_bytes: int, shares: Sequence[float], largest_px: int = _LARGEST_PX) -> None:
        self._left, self._shares, self._largest = most_bytes, list(shares), largest_px
        self._bytes_per_px = _BYTES_PER_PX

    def add(self, rgb: UInt8) -> Picture:
        """Encode the next picture, ``(h, w, 3) uint8``.

        Raises
        ------
        InputError
            More pictures come than were announced.
        """
        if not self._shares:
            raise InputError("report", "expected no more pictures than announced, got another")
        most = max(LEAST_BYTES, self._left * self._shares[0] / sum(self._shares)) * 3 / 4
        del self._shares[0]
        side = math.sqrt(rgb.shape[0] * rgb.shape[1])
        factor = min(1.0, self._largest / max(rgb.shape[:2]), math.sqrt(most / self._bytes_per_px) / side)
        small = shrunk(rgb, factor)
        data = jpeg(small)
        for _ in range(_TRIES):
            if len(data) <= most * _MARGIN or max(small.shape[:2]) <= _SMALLEST_PX:
                break
            small = shrunk(small, 0.95 * math.sqrt(most / len(data)))
            data = jpeg(small)
        self._bytes_per_px = 0.7 * self._bytes_per_px + 0.3 * len(data) / (small.shape[0] * small.shape[1])
        picture = as_picture(data, small)
        self._left -= len(picture.source)
        return picture


def shares_of(count: int, first: int = 12, times: float = 3.0) -> list[float]:
    """The first pictures, which are looked at most, may have a few times what the others have."""
    return [times if number < first else 1.0 for number in range(count)]


def most_pictures(most_bytes: int) -> int:
    """How many pictures a page may hold."""
    return max(1, most_bytes // (LEAST_BYTES * 4 // 3))


def shrunk(rgb: UInt8, factor: float) -> UInt8:
    """A picture made smaller by averaging over areas; from a factor of 1 on, itself."""
    if factor >= 1:
        return rgb
    height, width = rgb.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(rgb: UInt8, quality: int = QUALITY) -> bytes:
    """A JPEG's bytes."""
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError("report", f"expected a picture that can be stored, got {rgb.shape}")
    return data.tobytes()


def as_picture(data: bytes, rgb: UInt8) -> Picture:
    """JPEG bytes as they stand in the page."""
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return Picture(source, rgb.shape[1], rgb.shape[0])


def crop_around(box: Box, size_px: tuple[int, int], least_px: float = 64.0, margin: float = 0.35) -> Box:
    """A square around a box with some tissue beside it, moved inside the picture where it can be.

    Parameters
    ----------
    box : Box
    size_px : (int, int)
        ``(H, W)`` of the picture.
    least_px : float
        Side of the square at least.
    margin : float
        Share of the box's longer side that is shown beyond each of its edges.
    """
    side = max(least_px, (1 + 2 * margin) * max(box.height, box.width))
    edges = []
    for low, high, length in ((box.top, box.bottom, size_px[0]), (box.left, box.right, size_px[1])):
        span = min(round(side), length)
        start = min(max(0, round((low + high - span) / 2)), length - span)
        edges.append((start, start + span))
    return Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])


def crop_picture(rgb: UInt8, box: Box, side_px: int) -> Picture:
    """A part of a picture, at most `side_px` a side."""
    part = rgb[box.top : box.bottom, box.left : box.right]
    small = shrunk(part, side_px / max(part.shape[:2]))
    return as_picture(jpeg(small), small)
