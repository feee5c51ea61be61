"""Slides read region by region at any resolution."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from glomtile.errors import InputError, UsageError
from glomtile.io.images import IMAGE_SUFFIXES, list_images, mirrored_indices
from glomtile.io.resolution import PLAUSIBLE_MPP, size_at_mpp
from glomtile.slides.backends import ImagePixels, Level, OpenSlidePixels, Pixels, TiffPixels, largest_series
from glomtile.slides.resampling import resample, source_span
from glomtile.tiling.grid import Span
from glomtile.types import SILENT, Box, Progress, UInt8
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
        self.mpp_source = pixels.mpp_source if mpp is None else "given"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        for box in _boxes(size, self._piece(reader.level_zoom, size[1])):
            result[box.top : box.bottom, box.left : box.right] = reader.read(box)
        return result, zoom

    def _piece(self, zoom: float, width: int) -> tuple[int, int]:
        """Return the size of a piece to read: as wide as the slide where it is stored in strips."""
        across = width if self._pixels.in_strips else min(width, int(math.sqrt(_READ_PX) / zoom))
        across = max(1, across)
        return max(1, int(_READ_PX / (across * zoom * zoom))), across


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

    layout = _layout(path) if suffix in _TIFFS else None
    if layout is not None and layout.is_ome:
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
    if layout is not None and layout.one_page and layout.longest_px <= PLAIN_PX:
        return ImagePixels(path, progress)
    return TiffPixels(path, progress)


class _Layout(NamedTuple):
    is_ome: bool
    one_page: bool
    longest_px: int


def _layout(path: Path) -> _Layout | None:
    """Return the layout of a TIFF, or ``None`` where tifffile cannot read it; its reader reports why."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = largest_series(file)
            page = series.keyframe
            one_page = page.index == 0 and len(series.levels) == 1
            longest = max(int(page.imagelength), int(page.imagewidth))
            return _Layout(bool(file.is_ome), one_page, longest)
    except Exception:  # a damaged directory shows in many ways
        return None


def _boxes(size_px: tuple[int, int], piece_px: tuple[int, int]) -> Iterator[Box]:
    (height, width), (down, across) = size_px, piece_px
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield Box(top, left, min(top + down, height), min(left + across, width))


def _snapped(zoom: float) -> float:
    """Round a factor that is whole but for the last bits."""
    return float(round(zoom)) if zoom >= 1 and abs(zoom - round(zoom)) < 1e-9 else zoom
