"""Slides read region by region at any resolution, with exact resampling."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError, UsageError
from glomtile.io.images import IMAGE_SUFFIXES, PLAUSIBLE_MPP, list_images, mirrored_indices, size_at_mpp
from glomtile.slides.backends import ImagePixels, Level, OpenSlidePixels, Pixels, TiffPixels, largest_series
from glomtile.tiling.grid import Span
from glomtile.types import SILENT, Box, Float32, Progress, UInt8
from glomtile.validation import number_argument, path_argument

SLIDE_SUFFIXES = (
    *IMAGE_SUFFIXES, ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi",
    ".btf", ".tf8",
)  # fmt: skip
"""Suffixes of the slides and images in an input folder."""

SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".dcm")
"""Suffixes of slides whose pixels are in files beside the one that is named."""

PLAIN_PX = 4096
"""A TIFF of at most this side, without a pyramid and no OME-TIFF, is a plain image."""

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
_TIFFS = (".tif", ".tiff", ".btf", ".tf8")
_READ_PX = 16 * 2**20
"""Source pixels read at once for a thumbnail."""

_BAND_PX = 2 * 2**20
"""Most source pixels held as floats at once."""

_CACHED = 2**16
"""Values summed at once, so that they stay in the processor's cache."""

_SAME = 1e-6
_GENERIC = "generic-tiff"
"""OpenSlide's name for a tiled TIFF of no scanner."""


class Slide:
    """A slide or image: read it at a scale with `at`, close it when done.

    Parameters
    ----------
    path : Path
    pixels : Pixels
    mpp : float or None
        Micrometres per full-resolution pixel, in place of the file's own.

    Attributes
    ----------
    path : Path
    kind : str
        ``OpenSlide aperio``, ``OME-TIFF``, ``TIFF``, ``PNG``, …
    plain : bool
        Whether it is a plain image, held in memory whole.
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    mpp : float or None
        Micrometres per full-resolution pixel.
    mpp_source : str or None
        Origin of `mpp`.
    levels : tuple of Level
        From fine to coarse.
    """

    def __init__(self, path: Path, pixels: Pixels, mpp: float | None = None) -> None:
        self.path = path
        self._pixels = pixels
        self.kind, self.plain, self.levels = pixels.kind, pixels.plain, pixels.levels
        self.size_px = pixels.levels[0].size_px
        self.mpp = pixels.mpp if mpp is None else mpp
        self.mpp_source: str | None = "given"
        if mpp is None:
            self.mpp_source = None if self.mpp is None else pixels.mpp_source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._pixels.close()

    def read_level(self, level: int, box: Box) -> UInt8:
        """Read a box inside a level as ``(h, w, 3) uint8``.

        Raises
        ------
        UsageError
            There is no such level, or the box is empty or leaves it.
        InputError
            The file is damaged there.
        """
        if not 0 <= level < len(self.levels):
            raise UsageError(self.path, f"expected a level from 0 to {len(self.levels) - 1}, got {level}")
        height, width = self.levels[level].size_px
        if not (0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width):
            raise UsageError(self.path, f"expected a box inside {height} x {width} px, got {tuple(box)}")
        return self._pixels.read(level, box)

    def at(self, mpp: float | None) -> SlideReader:
        """Return a reader of the slide at another scale.

        Parameters
        ----------
        mpp : float or None
            Micrometres per pixel wanted; ``None`` for full resolution.

        Raises
        ------
        InputError
            A scale is wanted and the slide has none.
        """
        if mpp is None:
            return SlideReader(self, 1.0, self.size_px, self.mpp)
        if self.mpp is None:
            raise InputError(
                self.path,
                "expected micrometres per pixel in the file, got none",
                "state them: usually 20x is 0.5 and 40x is 0.25",
            )
        return SlideReader(self, mpp / self.mpp, size_at_mpp(self.size_px, self.mpp, mpp), mpp)

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        """Shrink the whole slide, in bounded memory.

        Parameters
        ----------
        max_px : int
            Most pixels of its longer side; a smaller slide is not enlarged.

        Returns
        -------
        (h, w, 3) uint8 ndarray
        float
            Full-resolution pixels per pixel of it.
        """
        zoom = max(1.0, max(self.size_px) / max_px)
        size = (
            max(1, math.floor(self.size_px[0] / zoom + _SAME)),
            max(1, math.floor(self.size_px[1] / zoom + _SAME)),
        )
        reader = SlideReader(self, zoom, size, None)
        result = np.empty((*size, 3), np.uint8)
        across = size[1]
        if not self._pixels.in_strips:
            across = max(1, min(across, int(math.sqrt(_READ_PX) / reader.level_zoom)))
        down = max(1, int(_READ_PX / (across * reader.level_zoom**2)))
        for top in range(0, size[0], down):
            for left in range(0, size[1], across):
                box = Box(top, left, min(top + down, size[0]), min(left + across, size[1]))
                result[box.slices()] = reader.read(box)
        return result, zoom


class SlideReader:
    """A slide at one working scale; a `glomtile.types.Reader`.

    Pixel ``c`` covers full-resolution positions ``c * zoom`` to ``(c + 1) * zoom`` exactly, without drift,
    averaged over that area from the coarsest level that is no coarser than wanted.

    Attributes
    ----------
    size_px : (int, int)
        ``(H, W)``.
    mpp : float or None
    zoom : float
        Full-resolution pixels per pixel.
    level_zoom : float
        Pixels of the level that is read, per pixel.
    """

    def __init__(self, slide: Slide, zoom: float, size_px: tuple[int, int], mpp: float | None) -> None:
        self._slide = slide
        self.zoom, self.size_px, self.mpp = zoom, size_px, mpp
        fine_enough = [
            n for n, level in enumerate(slide.levels) if max(level.downsample) <= zoom * (1 + _SAME)
        ]
        self._level = max(fine_enough, key=lambda n: slide.levels[n].downsample) if fine_enough else 0
        level = slide.levels[self._level]
        self._zoom = _snapped(zoom / level.downsample[0]), _snapped(zoom / level.downsample[1])
        self.level_zoom = max(self._zoom)

    def read(self, box: Box) -> UInt8:
        """Read ``(h, w, 3) uint8``; outside the slide, tissue is mirrored without repeating the edge pixel.

        Raises
        ------
        InputError
            The file is damaged there.
        """
        height, width = self.size_px
        if 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width:
            return self._inside(box)
        rows = mirrored_indices(box.top, box.bottom, height)
        columns = mirrored_indices(box.left, box.right, width)
        near = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
        return self._inside(near)[rows[:, None] - near.top, columns - near.left]

    def _inside(self, box: Box) -> UInt8:
        level: Level = self._slide.levels[self._level]
        wanted = Span(box.top, box.bottom), Span(box.left, box.right)
        down, across = (source_span(wanted[i], self._zoom[i], level.size_px[i]) for i in (0, 1))
        source = self._slide.read_level(self._level, Box(down.start, across.start, down.stop, across.stop))
        return resample(source, (down, across), wanted, self._zoom)


def open_slide(path: str | Path, *, mpp: float | None = None, progress: Progress = SILENT) -> Slide:
    """Open a slide or image.

    Parameters
    ----------
    path : path
        A format of OpenSlide, an OME-TIFF, another TIFF (tiled or in strips, pyramid or not) of 8-bit RGB,
        grey or palette colours, or a PNG, JPEG or BMP.
    mpp : float, optional
        Micrometres per full-resolution pixel, 0.05 to 20; used instead of the file's own.
    progress : Progress
        Receives a note where `mpp` contradicts the file, and a warning of pixels that are not square.

    Returns
    -------
    Slide
        A context manager.

    Raises
    ------
    InputError
        The file is missing, damaged, or none of these.
    ArgumentError
        `path` is no path, or `mpp` is not plausible.

    Notes
    -----
    An OME-TIFF is read by tifffile, because OpenSlide sees only the first level of one whose others are
    SubIFDs. So is what OpenSlide would read as a generic TIFF: there it narrows 16 bits to 8 silently,
    takes a stack for a pyramid, and cannot place a level exactly. Scanners' own formats go to OpenSlide.
    """
    path = path_argument("path", path)
    if mpp is not None:
        mpp = number_argument("mpp", mpp, *PLAUSIBLE_MPP, "µm per pixel")
    _require_file(path)
    pixels = _pixels(path, progress)
    if mpp is not None and pixels.mpp is not None and abs(mpp / pixels.mpp - 1) > _SAME:
        progress.note(
            f"{path}: taken as {mpp:g} µm per pixel, as given; {pixels.mpp_source} states {pixels.mpp:.4g}"
        )
    return Slide(path, pixels, mpp)


def slide_name(path: str | Path) -> str:
    """Return the name of a slide's results: its file name without suffix, ``.ome`` before it included."""
    stem = Path(path).stem
    return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem


def list_slides(folder: Path) -> list[Path]:
    """List the slides and images directly in a folder, in natural order; see `list_images`.

    Raises
    ------
    InputError
        The folder is missing, cannot be read, or holds none.
    """
    return list_images(folder, SLIDE_SUFFIXES)


def _require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(path, "expected a slide or image, got a folder")
        if not stat.S_ISREG(mode):
            raise InputError(path, "expected a slide or image, got no file but a pipe or device")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise InputError(path, "expected a slide or image, the file does not exist") from None
    except OSError as problem:
        raise InputError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    if empty:
        raise InputError(path, "expected a slide or image, got an empty file")


def _pixels(path: Path, progress: Progress) -> Pixels:
    suffix = path.suffix.lower()
    if suffix in _IMAGES:
        return ImagePixels(path, progress)
    import openslide

    is_ome, is_plain = _tiff_layout(path) if suffix in _TIFFS else (False, False)
    if is_ome:
        return TiffPixels(path, progress)
    try:
        known = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError as problem:
        raise InputError(path, f"expected a slide that OpenSlide can read, got: {problem}") from problem
    if known and known != _GENERIC:
        return OpenSlidePixels(path, progress)
    if not known and suffix not in _TIFFS:
        raise InputError(
            path,
            "expected a format of OpenSlide, a TIFF, PNG, JPEG or BMP, got a damaged file or another format",
        )
    return (ImagePixels if is_plain else TiffPixels)(path, progress)


def _tiff_layout(path: Path) -> tuple[bool, bool]:
    """Return whether a TIFF is OME-TIFF, and whether it is plain; what tifffile cannot read is neither."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = largest_series(file)
            page = series.keyframe
            one_page = page.index == 0 and len(series.levels) == 1
            is_small = max(int(page.imagelength), int(page.imagewidth)) <= PLAIN_PX
            return bool(file.is_ome), one_page and is_small
    except Exception:  # a damaged directory shows in many ways; the reader reports which
        return False, False


def _snapped(zoom: float) -> float:
    """Round a factor that is whole but for the last bits."""
    return float(round(zoom)) if zoom >= 1 and abs(zoom - round(zoom)) < 1e-9 else zoom


def source_span(wanted: Span, zoom: float, length_px: int) -> Span:
    """Return the source pixels needed for the pixels of `wanted`, on an axis of `length_px` source pixels."""
    if zoom >= 1:
        start, stop = math.floor(wanted.start * zoom), math.ceil(wanted.stop * zoom)
    else:
        start, stop = (
            math.floor((wanted.start + 0.5) * zoom - 0.5),
            math.floor((wanted.stop - 0.5) * zoom - 0.5) + 2,
        )
    start = min(max(start, 0), length_px - 1)
    return Span(start, min(max(stop, start + 1), length_px))


def resample(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[float, float]
) -> UInt8:
    """Resample part of an image.

    Parameters
    ----------
    source : (h, w, 3) uint8 ndarray
        The source pixels of `spans`.
    spans, wanted : (Span, Span)
        Rows and columns of `source`, see `source_span`, and of the result.
    zoom : (float, float)
        Source pixels per pixel of the result, down and across. Pixel ``c`` of the result covers source
        positions ``c * zoom`` to ``(c + 1) * zoom``, counted from the image's corner.

    Returns
    -------
    (h', w', 3) uint8 ndarray
        Averaged over that area where zoom is at least 1, else linear between pixels' centres. Pixels outside
        the source have no weight. A pixel's value does not depend on `wanted`.
    """
    size = wanted[0].length, wanted[1].length
    result = np.empty((*size, 3), np.uint8)
    high, wide = _whole_cells(source, spans, wanted, zoom, result)
    rest_down = Span(wanted[0].start + high, wanted[0].stop)
    rest_across = Span(wanted[1].start + wide, wanted[1].stop)
    if rest_down.length:
        result[high:] = _weighted(source, spans, (rest_down, wanted[1]), zoom)
    if rest_across.length and high:
        above = Span(wanted[0].start, rest_down.start)
        result[:high, wide:] = _weighted(source, spans, (above, rest_across), zoom)
    return result


def _whole_cells(
    source: UInt8,
    spans: tuple[Span, Span],
    wanted: tuple[Span, Span],
    zoom: tuple[float, float],
    result: UInt8,
) -> tuple[int, int]:
    """Fill in the cells wholly inside the source where both factors are whole, and return their numbers.

    Cells cut by the edge are left out, so that a cell is always computed in the same way.
    """
    if not all(_is_whole(z) for z in zoom):
        return 0, 0
    if not all(span.start == want.start * z for span, want, z in zip(spans, wanted, zoom, strict=True)):
        return 0, 0
    (down, across), (high, wide) = (round(zoom[0]), round(zoom[1])), result.shape[:2]
    high, wide = min(high, spans[0].length // down), min(wide, spans[1].length // across)
    if not high or not wide:
        return 0, 0
    cells = source[: high * down, : wide * across]
    if (down, across) == (1, 1):
        result[:high, :wide] = cells
    else:
        result[:high, :wide] = cv2.resize(cells, (wide, high), interpolation=cv2.INTER_AREA)
    return high, wide


def _is_whole(zoom: float) -> bool:
    """Return whether OpenCV averages whole cells: it computes ``1 / (1 / zoom)``, which is inexact at 49."""
    return zoom >= 1 and zoom == round(zoom) and 1 / (1 / zoom) == zoom


def _weighted(
    source: UInt8, spans: tuple[Span, Span], wanted: tuple[Span, Span], zoom: tuple[float, float]
) -> UInt8:
    """Resample by any factor, some rows at a time."""
    down, across = (_weights(spans[i], wanted[i], zoom[i]) for i in (0, 1))
    height, width = wanted[0].length, wanted[1].length
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, int(_BAND_PX / max(source.shape[1] * max(zoom[0], 1.0), 1)))
    for top in range(0, height, step):
        taps, shares = down[0][top : top + step], down[1][top : top + step]
        first, last = int(taps.min()), int(taps.max()) + 1
        lines = source[first:last].reshape(last - first, -1).astype(np.float32)
        tall = _mix(lines, taps - first, shares).reshape(len(taps), source.shape[1], 3)
        turned = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(source.shape[1], -1)
        small = _mix(turned, *across).reshape(width, len(taps), 3).transpose(1, 0, 2)
        result[top : top + step] = np.rint(small)
    return result


def _mix(lines: Float32, taps: NDArray[np.int64], shares: Float32) -> Float32:
    """Add up lines ``(n, m)``, always in the order of the taps; see `_weights`."""
    mixed = np.empty((len(taps), lines.shape[1]), np.float32)
    step = max(1, _CACHED // lines.shape[1])
    for top in range(0, len(mixed), step):
        rows = slice(top, top + step)
        part = mixed[rows]
        np.multiply(lines[taps[rows, 0]], shares[rows, 0, None], out=part)
        for tap in range(1, taps.shape[1]):
            line = lines[taps[rows, tap]]
            line *= shares[rows, tap, None]
            part += line
    return mixed


def _weights(span: Span, wanted: Span, zoom: float) -> tuple[NDArray[np.int64], Float32]:
    """Return the source pixels of `span` for each pixel of `wanted`, ``(wanted, t)``, and their weights.

    Pixels are counted from the first one of the span, from low to high. Weights of a row sum to 1; a pixel
    outside the source is replaced by another with weight 0.
    """
    at = np.arange(wanted.start, wanted.stop, dtype=np.float64)
    if zoom >= 1:
        # A level that was rounded down ends before the slide: pixels beyond it repeat its last one.
        low, high = np.minimum(at * zoom, span.stop - 1), (at + 1) * zoom
        first = np.floor(low).astype(np.int64)
        taps = first[:, None] + np.arange(math.ceil(zoom) + 1)
        share = np.minimum(taps + 1, high[:, None]) - np.maximum(taps, low[:, None])
        share = np.where((taps >= span.start) & (taps < span.stop), np.maximum(share, 0.0), 0.0)
    else:
        centre = (at + 0.5) * zoom - 0.5
        first = np.floor(centre).astype(np.int64)
        taps = first[:, None] + np.arange(2)
        share = 1 - np.abs(taps - centre[:, None])
    share /= share.sum(axis=1, keepdims=True)
    return np.clip(taps, span.start, span.stop - 1) - span.start, share.astype(np.float32)
