"""A first look at a slide: where its tissue is, and the small picture that outlines are drawn on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from glomtile.core.tissue import MARGIN_UM, find_tissue, with_margin
from glomtile.core.tissuemap import TissueMap
from glomtile.types import Reader, UInt8

TISSUE_MPP = 16.0
"""Scale at which tissue is looked for; coarser where that would make a picture of more than `LOOK_PX`.

A glass slide of 75 x 25 mm has 7.3 million pixels at this scale.
"""

LOOK_PX = 8 * 10**6
OVERVIEW_PX = 2048
"""Longest side of the picture that outlines are drawn on."""


class SlideLike(Protocol):
    """What the segmenter asks of a slide; `glomtile.files.slides.Slide` is one."""

    @property
    def kind(self) -> str: ...

    @property
    def plain(self) -> bool: ...

    @property
    def size_px(self) -> tuple[int, int]: ...

    @property
    def mpp(self) -> float | None: ...

    @property
    def mpp_source(self) -> str | None: ...

    def at(self, mpp: float | None) -> ZoomedReader: ...

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]: ...


class ZoomedReader(Reader, Protocol):
    """A reader that knows how many level-0 pixels one of its own is."""

    @property
    def zoom(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Look:
    """What a first look shows.

    Attributes
    ----------
    tissue : TissueMap
    overview : (h, w, 3) uint8 ndarray
    overview_zoom : float
        Full-resolution pixels per pixel of the overview.
    """

    tissue: TissueMap
    overview: UInt8
    overview_zoom: float


def look_at(slide: SlideLike, mpp: float, zoom: float) -> Look:
    """Find a slide's tissue.

    Parameters
    ----------
    slide : SlideLike
    mpp : float
        Micrometres per pixel at full resolution.
    zoom : float
        Full-resolution pixels per pixel of the plane that the tissue map is to be asked in.
    """
    height, width = slide.size_px
    shrunk = max(1.0, TISSUE_MPP / mpp, math.sqrt(height * width / LOOK_PX))
    wanted = math.ceil(max(height, width) / shrunk)
    overview, overview_zoom = slide.thumbnail(max(OVERVIEW_PX, wanted))
    small = _shrunk(overview, wanted)
    small_zoom = overview_zoom * overview.shape[1] / small.shape[1]
    small_mpp = small_zoom * mpp
    tissue = find_tissue(small, small_mpp, margin_um=0.0)
    near = with_margin(tissue, small_mpp, MARGIN_UM)
    shown = _shrunk(overview, OVERVIEW_PX)
    return Look(
        TissueMap(tissue, near, small_zoom / zoom, small_mpp),
        shown,
        overview_zoom * overview.shape[1] / shown.shape[1],
    )


def _shrunk(picture: UInt8, longest_px: int) -> UInt8:
    height, width = picture.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
