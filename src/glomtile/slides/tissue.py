"""Tissue detection on slide overviews."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.types import Box, Float32, Reader, UInt8

Mask = NDArray[np.bool_]

_BLUR_UM = 12.0
_GLASS = 243.0
_GLASS_DARKEST = 190.0
_GLASS_CAST = 0.05
_BRIGHTEST_SHARE = 0.01

_COLOUR = (0.015, 0.026)
_DENSITY = (0.14, 0.20)
"""Lowest and highest threshold, in optical density: below is noise, above would be pale tissue."""

_DENSE = 0.35
"""Darker than any uneven lamp makes glass."""

_LAMP_UM = 250.0

_DARK = 70
_NEUTRAL = 25
_RIM_UM = 40.0
_HALO_UM = 180.0
_FAINT = 0.06
"""Colour beside ink, in optical density, that compression may have spread from it."""
_STROKE_UM = 40.0
_BLOT_UM2 = 100_000.0
"""Black pieces below it may be pigment or a fold."""

_JOINED_UM = 30.0
_SPECK_UM2 = 5_000.0
_LUMEN_UM2 = 250_000.0


MARGIN_UM = 50.0
"""Margin around the tissue, so that nothing at its edge is lost."""


def find_tissue(thumbnail: UInt8, mpp: float, margin_um: float = MARGIN_UM) -> Mask:
    """Find the tissue of a slide; glass is kept rather than tissue lost.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 ndarray
        RGB, bright field; 8 to 32 µm per pixel suit best.
    mpp : float
        Micrometres per thumbnail pixel, above 0.
    margin_um : float
        Margin of the mask around the tissue; 0 for the tissue itself.

    Returns
    -------
    (h, w) bool ndarray
        True on tissue and within the margin around it. Pieces below 5,000 µm² are left out; holes up to
        0.25 mm² (lumina, fat) that do not reach the image's edge are filled. All False for bare glass, all
        True where tissue fills the image.

    Raises
    ------
    InputError
        The thumbnail is no RGB image, or the scale is not above 0.

    Notes
    -----
    Densities are taken against the glass's own colour. Tissue is what is coloured (densities of red, green
    and blue differ, which no shadow or uneven lamp makes) or dense. The thresholds are those of Otsu 1979
    (doi 10.1109/TSMC.1979.4310076), held between noise and the palest tissue, because his method always
    finds two classes, also where there is only one. Left out are the ink of felt pens (blue beyond any
    haematoxylin, green, or black in a large blot) and what is black and neutral up to the image's edge.
    Red ink cannot be distinguished from eosin and is kept; tissue under ink, and pale tissue within 180 µm of
    it, is lost.
    """
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8:
        raise InputError("tissue", f"expected (h, w, 3) uint8, got {thumbnail.shape} {thumbnail.dtype}")
    if not mpp > 0:
        raise InputError("tissue", f"expected micrometres per pixel above 0, got {mpp}")
    if not thumbnail.size:
        return np.zeros(thumbnail.shape[:2], bool)
    smooth = _blurred(thumbnail.astype(np.float32), _BLUR_UM / mpp)
    density = np.maximum(-np.log(np.maximum(smooth, 1.0) / _glass_colour(smooth)), 0.0).astype(np.float32)
    colour = _spread(density)
    grey = (density[..., 0] + density[..., 1] + density[..., 2]) / np.float32(3)
    # An uneven lamp adds to glass and tissue alike: the density of the palest pixel nearby.
    lamp = _blurred(cv2.erode(grey, _disc(_LAMP_UM / mpp)), _LAMP_UM / mpp / 2)
    local = grey - lamp
    stained = (colour > _threshold(colour, _COLOUR)) | (local > _threshold(local, _DENSITY)) | (grey > _DENSE)
    stained &= ~_black_rim(thumbnail, mpp) & ~_ink(smooth, density, colour < _FAINT, mpp)
    joined = cv2.morphologyEx(_bytes(stained), cv2.MORPH_CLOSE, _disc(_JOINED_UM / mpp))
    pieces = _without_pieces(joined > 0, _SPECK_UM2 / mpp**2)
    # Holes are 4-connected; what is joined to the frame reaches the image's edge.
    _, ids, stats, _ = cv2.connectedComponentsWithStats(_bytes(~np.pad(pieces, 1)), connectivity=4)
    filled = stats[:, cv2.CC_STAT_AREA] <= _LUMEN_UM2 / mpp**2
    filled[0], filled[ids[0, 0]] = True, False
    return with_margin(filled[ids[1:-1, 1:-1]], mpp, margin_um)


def with_margin(tissue: Mask, mpp: float, margin_um: float) -> Mask:
    """Dilate a ``(h, w) bool`` mask by `margin_um`; a margin of 0 or less leaves it as it is."""
    if margin_um <= 0 or not tissue.size:
        return tissue
    return np.asarray(cv2.dilate(_bytes(tissue), _disc(margin_um / mpp)) > 0, dtype=np.bool_)


def _blurred(image: NDArray[Any], sigma: float) -> Float32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.5, sigma)), dtype=np.float32)


def _glass_colour(smooth: Float32) -> Float32:
    """Average the brightest near-neutral pixels; without any, return the colour of ordinary glass."""
    darkest, brightest = _darkest(smooth), _brightest(smooth)
    glassy = (darkest >= _GLASS_DARKEST) & (brightest - darkest <= 2 * _GLASS_CAST * brightest)
    values = darkest[glassy]
    if len(values) < max(4, darkest.size / 2000):
        return np.full(3, _GLASS, np.float32)
    bright = glassy & (darkest >= np.quantile(values, 1 - _BRIGHTEST_SHARE))
    colour = smooth[bright].mean(axis=0)
    return np.asarray(np.maximum(colour, (1 - _GLASS_CAST) * colour.max()), dtype=np.float32)


def _threshold(plane: Float32, held_between: tuple[float, float]) -> float:
    """Compute Otsu's threshold of a plane of densities, within limits."""
    steps = np.clip(plane * 1000, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(steps, 0, 255, cv2.THRESH_OTSU)
    low, high = held_between
    return min(max(float(otsu) / 1000, low), high)


def _black_rim(thumbnail: UInt8, mpp: float) -> Mask:
    """Find dark neutral regions at the image's edge, with their soft rims."""
    dark = _is_black(thumbnail)
    _, ids = cv2.connectedComponents(_bytes(dark), connectivity=8)
    edge = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
    at_edge = np.isin(ids, edge[edge > 0])
    return _with_soft_rim(at_edge, _is_neutral(thumbnail), mpp, _RIM_UM)


def _ink(smooth: Float32, density: Float32, faint: Mask, mpp: float) -> Mask:
    """Find strokes of felt pens, with the paler pixels of the same hue at their sides."""
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    bluish = (red > 0.98 * green) & (green > blue)
    greenish = (green < 0.95 * red) & (green < 0.95 * blue)
    blue_ink = (red > 1.3 * green) & (red > 2.0 * blue) & (red > 0.9)
    blue_ink |= bluish & (red > 1.6 * blue) & (red > 1.5)
    green_ink = (green < 0.75 * red) & (green < 0.85 * blue) & (np.maximum(red, blue) > 0.5)
    black = _without_pieces(_is_black(smooth), _BLOT_UM2 / mpp**2)
    strokes = [(blue_ink, bluish), (green_ink, greenish), (black, _is_neutral(smooth))]
    ink = np.zeros(red.shape, bool)
    for core, same_hue in strokes:
        wide = _without_pieces(core, _STROKE_UM**2 / mpp**2)
        ink |= _with_soft_rim(wide, same_hue | faint, mpp, _HALO_UM)
    return ink


def _is_black(image: UInt8 | Float32) -> Mask:
    return np.asarray((_brightest(image) < _DARK) & _is_neutral(image), dtype=np.bool_)


def _is_neutral(image: UInt8 | Float32) -> Mask:
    return np.asarray(_spread(image) < _NEUTRAL, dtype=np.bool_)


# NumPy's reductions over a last axis of three take ten times as long as two steps from plane to plane.


def _darkest(image: UInt8 | Float32) -> NDArray[Any]:
    return np.asarray(np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2]))


def _brightest(image: UInt8 | Float32) -> NDArray[Any]:
    return np.asarray(np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]))


def _spread(image: UInt8 | Float32) -> NDArray[Any]:
    """Subtract the darkest channel from the brightest."""
    return np.asarray(_brightest(image) - _darkest(image))


def _with_soft_rim(core: Mask, same: Mask, mpp: float, reach_um: float) -> Mask:
    near = cv2.dilate(_bytes(core), _disc(reach_um / mpp)) > 0
    return np.asarray(core | (near & same), dtype=np.bool_)


def _without_pieces(mask: Mask, below_px: float) -> Mask:
    _, ids, stats, _ = cv2.connectedComponentsWithStats(_bytes(mask), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= below_px
    kept[0] = False
    return np.asarray(kept[ids], dtype=np.bool_)


def _disc(radius_px: float) -> UInt8:
    reach = max(1, math.ceil(radius_px))
    size = 2 * reach + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)


def _bytes(mask: Mask) -> UInt8:
    return np.ascontiguousarray(mask).view(np.uint8)


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Tissue of a thumbnail, queried in pixels of the plane that is segmented.

    Attributes
    ----------
    tissue : (h, w) bool ndarray
    near : (h, w) bool ndarray
        The tissue with its margin; windows outside it are skipped.
    zoom : float
        Pixels of the plane per pixel of the mask.
    mpp : float
        Micrometres per pixel of the mask.
    """

    tissue: NDArray[np.bool_]
    near: NDArray[np.bool_]
    zoom: float
    mpp: float

    @property
    def area_mm2(self) -> float:
        """Area of the tissue in mm²."""
        return float(np.count_nonzero(self.tissue)) * self.mpp**2 / 1e6

    def near_tissue(self, box: Box) -> bool:
        """Return whether a box, enlarged to whole cells of the mask, touches tissue or its margin."""
        height, width = self.near.shape
        top, left = (
            min(max(int(at // self.zoom), 0), n - 1) for at, n in ((box.top, height), (box.left, width))
        )
        bottom, right = (
            min(max(int(-(-at // self.zoom)), low + 1), n)
            for at, low, n in ((box.bottom, top, height), (box.right, left, width))
        )
        return bool(self.near[top:bottom, left:right].any())

    def glass(self, box: Box) -> NDArray[np.bool_]:
        """Return where a box is no tissue, ``(h, w) bool``; the mask's edge is repeated outside it."""
        rows = self._cells(box.top, box.bottom, self.tissue.shape[0])
        columns = self._cells(box.left, box.right, self.tissue.shape[1])
        return np.asarray(~self.tissue[rows[:, None], columns])

    def _cells(self, start: int, stop: int, count: int) -> NDArray[np.intp]:
        cells = np.floor((np.arange(start, stop) + 0.5) / self.zoom).astype(np.intp)
        return np.asarray(np.clip(cells, 0, count - 1), np.intp)


TISSUE_MPP = 16.0
"""Scale of tissue detection; coarser where the image would have more than `TISSUE_MAX_PX`.

A glass slide of 75 x 25 mm has 7.3 million pixels at this scale.
"""

TISSUE_MAX_PX = 8 * 10**6
OVERVIEW_PX = 2048
"""Longest side of the image that outlines are drawn on."""


class SlideLike(Protocol):
    """Interface of a slide for the segmenter; see `glomtile.slides.slide.Slide`."""

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
    """A reader with its number of full-resolution pixels per pixel."""

    @property
    def zoom(self) -> float: ...


@dataclass(frozen=True, eq=False)
class SlideOverview:
    """Tissue and a small image of a slide.

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


def make_overview(slide: SlideLike, mpp: float, zoom: float) -> SlideOverview:
    """Read a slide at low resolution and find its tissue.

    Parameters
    ----------
    slide : SlideLike
    mpp : float
        Micrometres per pixel at full resolution.
    zoom : float
        Full-resolution pixels per pixel of the plane that is segmented.
    """
    height, width = slide.size_px
    shrunk = max(1.0, TISSUE_MPP / mpp, math.sqrt(height * width / TISSUE_MAX_PX))
    wanted = math.ceil(max(height, width) / shrunk)
    overview, overview_zoom = slide.thumbnail(max(OVERVIEW_PX, wanted))
    small = _shrink(overview, wanted)
    small_zoom = overview_zoom * overview.shape[1] / small.shape[1]
    small_mpp = small_zoom * mpp
    tissue = find_tissue(small, small_mpp, margin_um=0.0)
    near = with_margin(tissue, small_mpp, MARGIN_UM)
    shown = _shrink(overview, OVERVIEW_PX)
    return SlideOverview(
        TissueMap(tissue, near, small_zoom / zoom, small_mpp),
        shown,
        overview_zoom * overview.shape[1] / shown.shape[1],
    )


def _shrink(image: UInt8, longest_px: int) -> UInt8:
    height, width = image.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
