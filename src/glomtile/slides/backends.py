"""Slide file backends: pyramid levels read with OpenSlide, tifffile or as plain arrays."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from glomtile.errors import InputError
from glomtile.io.images import (
    damaged,
    description_of_page,
    image_mpp,
    number,
    rational,
    read_image,
    readable_size,
    square_mpp,
    tiff_mpp,
)
from glomtile.types import SILENT, Box, Progress, UInt8

if TYPE_CHECKING:
    import tifffile

_CACHE_BYTES = 64 * 2**20
_SEGMENT_PX = 256 * 2**20
"""Largest tile or strip: all of it is decoded for any pixel of it."""

_BLOCK_PX = 1024
_RGB_FROM_YCBCR = ("JPEG", "JPEG_LOSSY", "ALT_JPEG", "WEBP")
"""Compressions whose decoder turns YCbCr into RGB."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes
    ----------
    size_px : (int, int)
        ``(H, W)``.
    downsample : (float, float)
        Full-resolution pixels per pixel, down and across.
    """

    size_px: tuple[int, int]
    downsample: tuple[float, float]


class Pixels(Protocol):
    """Levels of a file and their pixels; reading is safe from several threads."""

    kind: str
    plain: bool
    in_strips: bool
    levels: tuple[Level, ...]
    mpp: float | None
    mpp_source: str
    """Where `mpp` is from, or would be."""

    def read(self, level: int, box: Box) -> UInt8:
        """Read the RGB pixels of a box inside a level."""
        ...

    def close(self) -> None: ...


class OpenSlidePixels:
    """A slide read by OpenSlide; where the file holds no pixels, it is white glass."""

    plain = in_strips = False

    def __init__(self, path: Path, progress: Progress = SILENT) -> None:
        import openslide

        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
            self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        except openslide.OpenSlideError as problem:
            raise InputError(path, f"expected a slide that OpenSlide can read, got: {problem}") from problem
        self._error = openslide.OpenSlideError
        properties = self._slide.properties
        self.kind = f"OpenSlide {properties.get(openslide.PROPERTY_NAME_VENDOR, 'slide')}"
        sizes = [(height, width) for width, height in self._slide.level_dimensions]
        self.levels = levels_of(sizes)
        x, y = (number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        self.mpp, self.mpp_source = square_mpp((x, y), path, progress), "openslide.mpp-x"
        if self.mpp is None:
            x, y = (number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
            unit = {"inch": 2, "centimeter": 3}.get(str(properties.get("tiff.ResolutionUnit")), 0)
            pair = tiff_mpp(str(properties.get("tiff.ImageDescription", "")), (x, y), unit)
            self.mpp, self.mpp_source = square_mpp(pair, path, progress), "the TIFF's resolution"
        self._block = lru_cache(_CACHE_BYTES // (3 * _BLOCK_PX**2))(self._read_block)

    def read(self, level: int, box: Box) -> UInt8:
        downsample = self._slide.level_downsamples[level]
        if abs(downsample - round(downsample)) < 1e-9:
            return self._region(level, box)
        # OpenSlide takes positions of full resolution only. Levels whose factor is not whole are read in
        # fixed blocks, so that a pixel does not depend on the box that it is read in.
        result = np.empty((box.height, box.width, 3), np.uint8)
        for top in range(box.top // _BLOCK_PX * _BLOCK_PX, box.bottom, _BLOCK_PX):
            for left in range(box.left // _BLOCK_PX * _BLOCK_PX, box.right, _BLOCK_PX):
                _paste(result, box, self._block(level, top, left), top, left)
        return result

    def _read_block(self, level: int, top: int, left: int) -> UInt8:
        height, width = self.levels[level].size_px
        return self._region(level, Box(top, left, min(top + _BLOCK_PX, height), min(left + _BLOCK_PX, width)))

    def _region(self, level: int, box: Box) -> UInt8:
        downsample = self._slide.level_downsamples[level]
        origin = round(box.left * downsample), round(box.top * downsample)
        try:
            region = self._slide.read_region(origin, level, (box.width, box.height))
        except (self._error, OSError, ValueError) as problem:
            raise damaged(self._path, "slide", problem) from problem
        return on_glass(np.asarray(region))

    def close(self) -> None:
        self._slide.close()


class TiffPixels:
    """A TIFF read by tifffile, tile by tile or strip by strip."""

    plain = False

    def __init__(self, path: Path, progress: Progress = SILENT) -> None:
        import tifffile

        self._path = path
        try:
            self._file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, TypeError) as problem:
            raise InputError(path, f"expected a TIFF file, got: {problem}") from problem
        # Tags are read on first access, possibly while a thread reads a tile.
        self._file.filehandle.set_lock(True)
        self._lock = self._file.filehandle.lock
        try:
            self._open(progress)
        except BaseException:
            self._file.close()
            raise

    def _open(self, progress: Progress) -> None:
        path = self._path
        try:
            series = largest_series(self._file)
            is_ome = bool(self._file.is_ome)
            page = series.keyframe
            size_px = int(page.imagelength), int(page.imagewidth)
            description = (self._file.ome_metadata if is_ome else page.description) or ""
            description = description_of_page(description, page.index, size_px)
            self._require_one_image(series)
            self._pages = [_Page(level.keyframe, path) for level in series.levels]
            x, y = (rational(page.tags.valueof(f"{axis}Resolution")) for axis in "XY")
            unit = page.tags.valueof("ResolutionUnit", 2)
        except InputError:
            raise
        except Exception as problem:
            # tifffile raises many kinds of errors on a cut-off directory.
            raise damaged(path, "TIFF file", problem) from problem
        segment_bytes = max(3 * page.segment_px[0] * page.segment_px[1] for page in self._pages)
        self._segment = lru_cache(max(1, _CACHE_BYTES // segment_bytes))(self._decode)
        self.kind = "OME-TIFF" if is_ome else "TIFF"
        self.levels = levels_of([page.size_px for page in self._pages])
        self.in_strips = self._pages[0].segment_px[1] >= self.levels[0].size_px[1]
        self.mpp = square_mpp(tiff_mpp(description, (x, y), unit), path, progress)
        self.mpp_source = "OME-XML" if "PhysicalSizeX" in description else "the TIFF's tags"

    def _require_one_image(self, series: Any) -> None:
        axes, dtype = series.axes, series.dtype
        if dtype != np.uint8 or axes not in ("YXS", "YX", "SYX"):
            raise InputError(
                self._path,
                f"expected an RGB or grey image of 8 bits, got axes {axes} of {dtype}",
                "export one plane as 8-bit RGB",
            )
        if any(level.keyframe.parent is not self._file for level in series.levels):
            raise InputError(self._path, "expected all pixels in one file, got a set of files")

    def read(self, level: int, box: Box) -> UInt8:
        page = self._pages[level]
        result = np.empty((box.height, box.width, 3), np.uint8)
        high, wide = page.segment_px
        for row in range(box.top // high, -(-box.bottom // high)):
            for column in range(box.left // wide, -(-box.right // wide)):
                _paste(result, box, self._segment(level, row, column), row * high, column * wide)
        return result

    def _decode(self, level: int, row: int, column: int) -> UInt8:
        """Decode one tile or strip as RGB, cut to the image."""
        page, parts = self._pages[level], []
        for index in page.indices(row, column):
            offset, count = page.position(index)
            data: bytes | None = None
            if count:
                try:
                    with self._lock:
                        handle = self._file.filehandle
                        handle.seek(offset)
                        data = handle.read(count)
                except OSError as problem:
                    reason = problem.strerror or problem
                    raise InputError(self._path, f"expected a slide that stays, got: {reason}") from problem
                if len(data) < count:
                    raise InputError(
                        self._path, f"expected {count} bytes of a tile, got {len(data)}: it is cut off"
                    )
            parts.append(page.decode(data, index))
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        height = min(page.segment_px[0], page.size_px[0] - row * page.segment_px[0])
        width = min(page.segment_px[1], page.size_px[1] - column * page.segment_px[1])
        return page.as_rgb(pixels[:height, :width])

    def close(self) -> None:
        self._file.close()


def largest_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the largest image of a file: a label or an overview may be stored before the slide."""
    return max(file.series, key=lambda series: int(series.size))


class _Page:
    """One level of a TIFF: its tiles or strips and the meaning of their samples."""

    def __init__(self, page: Any, path: Path) -> None:
        self._page, self._path = page, path
        self.size_px = int(page.imagelength), int(page.imagewidth)
        self._planes = int(page.samplesperpixel) if int(page.planarconfig) == 2 else 1
        tiled = bool(page.is_tiled)
        self.segment_px = (
            (int(page.tilelength), int(page.tilewidth))
            if tiled
            else (min(int(page.rowsperstrip), self.size_px[0]), self.size_px[1])
        )
        self._across = -(-self.size_px[1] // self.segment_px[1])
        self._down = -(-self.size_px[0] // self.segment_px[0])
        self._photometric = page.photometric.name
        self._samples = int(page.samplesperpixel)
        self._extra = page.extrasamples[0].name if page.extrasamples else ""
        self._colours = page.colormap
        self._decode = page.decode  # tifffile creates it on first use, which may be in several threads
        if self.segment_px[0] * self.segment_px[1] > _SEGMENT_PX:
            raise InputError(
                path,
                f"expected tiles or strips of at most {_SEGMENT_PX // 2**20} Mpx, "
                f"got {self.segment_px[0]:,} x {self.segment_px[1]:,} px in one piece",
                "save it as a tiled TIFF",
            )
        self._require_colours(page.compression.name)

    def _require_colours(self, compression: str) -> None:
        hint = "convert it to 8-bit RGB"
        wanted = {"RGB": 3, "YCBCR": 3, "MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1}.get(self._photometric)
        if wanted is None or (self._photometric == "YCBCR" and compression not in _RGB_FROM_YCBCR):
            raise InputError(
                self._path,
                f"expected RGB, grey or palette colours, got {self._photometric} in {compression}",
                hint,
            )
        spare = wanted == 3 or "ALPHA" in self._extra
        if self._samples != wanted and not (self._samples == wanted + 1 and spare):
            raise InputError(
                self._path,
                f"expected {wanted} samples a pixel of {self._photometric}, got {self._samples}",
                hint,
            )

    def indices(self, row: int, column: int) -> list[int]:
        """Return the numbers of the segments at a grid position, one for each plane of samples."""
        return [(plane * self._down + row) * self._across + column for plane in range(self._planes)]

    def position(self, index: int) -> tuple[int, int]:
        """Return a segment's offset and length in the file."""
        try:
            return int(self._page.dataoffsets[index]), int(self._page.databytecounts[index])
        except IndexError:
            raise InputError(self._path, f"expected tile {index} to be listed, it is missing") from None

    def decode(self, data: bytes | None, index: int) -> UInt8:
        """Decode one segment to samples ``(h, w, S)``; a missing one is white glass."""
        if data is None:
            blank = 0 if self._photometric == "MINISWHITE" else 255
            samples = 1 if self._planes > 1 else int(self._page.samplesperpixel)
            return np.full((*self.segment_px, samples), blank, np.uint8)
        try:
            pixels, _, shape = self._decode(data, index, jpegtables=self._page.jpegtables)
        except Exception as problem:
            # Every codec has errors of its own.
            raise damaged(self._path, "tile", problem) from problem
        if pixels is None:
            raise InputError(self._path, "expected a whole tile, got nothing")
        return np.asarray(pixels, np.uint8).reshape(shape[-3], shape[-2], -1)

    def as_rgb(self, pixels: UInt8) -> UInt8:
        """Convert samples ``(h, w, S)`` to RGB; an extra sample that is not declared as alpha is dropped."""
        colours = 3 if self._samples > 2 else 1
        alpha = pixels[..., colours:] if "ALPHA" in self._extra else pixels[..., :0]
        pixels = pixels[..., :colours]
        if self._photometric == "PALETTE":
            table = (np.asarray(self._colours).T >> 8).astype(np.uint8)
            pixels = table[pixels[..., 0]]
        elif self._photometric == "MINISWHITE":
            pixels = np.asarray(255 - pixels, np.uint8)
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        if alpha.shape[-1] and self._extra == "ASSOCALPHA":
            return np.asarray(np.minimum(pixels + (255 - alpha.astype(np.uint16)), 255), np.uint8)
        return on_glass(np.concatenate([pixels, alpha], axis=-1))


class ImagePixels:
    """A plain image, decoded at the first read and kept."""

    plain, in_strips = True, False

    def __init__(self, path: Path, progress: Progress = SILENT) -> None:
        self._path = path
        try:
            size_px = readable_size(path)
        except InputError:
            raise
        except Exception as problem:
            # Pillow raises many kinds of errors on a cut-off page.
            raise damaged(path, "image", problem) from problem
        self.levels = levels_of([size_px])
        suffix = path.suffix[1:].upper()
        self.kind = {"JPG": "JPEG", "TIF": "TIFF"}.get(suffix, suffix)
        self.mpp = image_mpp(path, progress)
        self.mpp_source = "the image's resolution"
        self._image: UInt8 | None = None
        self._lock = threading.Lock()

    def read(self, level: int, box: Box) -> UInt8:
        del level
        with self._lock:
            if self._image is None:
                self._image = read_image(self._path)
        return self._image[box.slices()]

    def close(self) -> None:
        self._image = None


def levels_of(sizes_px: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Return the levels of a pyramid from its sizes, the largest first.

    Notes
    -----
    A level of 12,500 px below one of 50,001 px was made by a factor of 4: where the sizes fit a whole factor
    but for rounding, that is the factor. Their quotient would be off by a pixel at the far end.
    """
    return tuple(Level(size, _factors(sizes_px[0], size)) for size in sizes_px)


def on_glass(pixels: UInt8) -> UInt8:
    """Blend RGBA, not premultiplied, onto white; RGB is returned as it is."""
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    share = alpha.astype(np.float32) / 255
    return np.asarray(np.rint(pixels[..., :3] * share + 255 * (1 - share)), np.uint8)


def _paste(target: UInt8, box: Box, pixels: UInt8, at_top: int, at_left: int) -> None:
    """Copy the overlap of `pixels`, at row `at_top` and column `at_left`, into the array of `box`."""
    own = Box(at_top, at_left, at_top + pixels.shape[0], at_left + pixels.shape[1])
    shared = box.intersection(own)
    if shared.height > 0 and shared.width > 0:
        target[shared.slices(box[:2])] = pixels[shared.slices(own[:2])]


def _factors(full_px: tuple[int, int], level_px: tuple[int, int]) -> tuple[float, float]:
    """Return the factors down and across; the longer side decides for the other where both agree."""
    down, across = (_factor(full, level) for full, level in zip(full_px, level_px, strict=True))
    if full_px[0] >= full_px[1]:
        return down, down if _fits(full_px[1], level_px[1], down) else across
    return (across if _fits(full_px[0], level_px[0], across) else down), across


def _factor(full_px: int, level_px: int) -> float:
    ratio = full_px / level_px
    # A small level fits several whole factors, and pyramids are made by halving.
    for whole in (2.0 ** round(math.log2(ratio)), float(round(ratio))):
        if _fits(full_px, level_px, whole):
            return whole
    return ratio


def _fits(full_px: int, level_px: int, factor: float) -> bool:
    return factor >= 1 and factor.is_integer() and level_px in (full_px // factor, -(-full_px // factor))
