"""8-bit images: reading, writing, scale in micrometres per pixel, overlays."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from glomtile.errors import InputError, UsageError
from glomtile.io.atomic import write_bytes
from glomtile.palette import RGB
from glomtile.types import SILENT, Box, Progress, UInt8

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_PX = 500_000_000
"""Largest image that is read; larger ones are refused by their header."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_READABLE = "PNG, JPEG, TIFF or BMP"
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")
_BITS_PER_SAMPLE = 258
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error,
           MemoryError, Image.DecompressionBombError)  # fmt: skip
_header_lock = threading.Lock()

PLAUSIBLE_MPP = (0.05, 20.0)
_UM_PER_UNIT = {
    "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0,
    "mm": 1e3, "cm": 1e4, "inch": 25_400.0, "m": 1e6,
}  # fmt: skip
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 270, 282, 283, 296
_WARN_APART, _REFUSE_APART = 0.01, 0.10

_FINER = 4
_SUB_PIXEL_BITS = 4
_HALO_DARKNESS = 0.8
_JPEG_LONGEST = 65_535


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that orders ``tile9`` before ``tile10``."""
    parts = re.findall(r"\d+|\D+", text)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts)


def list_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """List the image files directly in a folder, in natural order, without hidden files.

    Raises
    ------
    InputError
        The folder is missing, cannot be read, is a file, or holds no image.
    """
    folder = Path(folder)
    try:
        files = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in suffixes and not entry.name.startswith(".") and not entry.is_dir()
        ]
    except FileNotFoundError:
        raise InputError(folder, "expected a folder of images, folder not found") from None
    except NotADirectoryError:
        raise InputError(folder, "expected a folder of images, got a file") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(folder, f"expected a folder that can be read, got: {reason}") from error
    if not files:
        raise InputError(folder, f"expected at least one of {', '.join(suffixes)}, got none")
    return sorted(files, key=lambda path: (natural_key(path.stem), path.suffix))


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image and read its header, but no pixel.

    Raises
    ------
    InputError
        The file is missing, cannot be read, or has another format.
    """
    path = Path(path)
    try:
        # Pillow's own limit holds for the whole process and is far below large microscope images: it is
        # lifted only while a header is read, and MAX_PX is checked instead.
        with _header_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(path, formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except FileNotFoundError:
        raise InputError(path, "expected an image, the file does not exist") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        got = "an empty file" if empty else "a damaged file or another format"
        raise InputError(path, f"expected {_READABLE}, got {got}") from None
    except _BROKEN as error:
        raise InputError(path, f"expected {_READABLE}, got: {_reason(error)}") from error
    with image:
        yield image


def image_size(path: Path) -> tuple[int, int]:
    """Read ``(H, W)`` from the header of an image; see `open_image` for errors."""
    with open_image(path) as image:
        return image.height, image.width


def readable_size(path: Path, max_px: int = MAX_PX) -> tuple[int, int]:
    """Read ``(H, W)`` of an image, and raise the errors of `read_image` that its header reveals."""
    with open_image(path) as image:
        require_readable(image, Path(path), max_px)
        return image.height, image.width


def image_mpp(path: Path, progress: Progress = SILENT) -> float | None:
    """Read micrometres per pixel from an image's tags.

    Sources are PNG's pHYs, the resolution of JPEG, BMP and TIFF, and the description of OME, ImageJ and
    Aperio TIFFs.

    Parameters
    ----------
    path : Path
    progress : Progress
        Receives a warning when rows and columns differ by more than 1 %.

    Returns
    -------
    float or None
        Mean of x and y; ``None`` when the file states nothing plausible (0.05 to 20: the 72 to 300 dpi of
        plain images are 85 to 353).

    Raises
    ------
    InputError
        See `open_image`; also when rows and columns differ by more than 10 %.
    """
    with open_image(path) as image:
        if isinstance(image, TiffImageFile):
            tags = image.tag_v2
            text = str(tags.get(_DESCRIPTION, ""))
            text = description_of_page(text, image.tell(), (image.height, image.width))
            dots = tags.get(_X_RESOLUTION), tags.get(_Y_RESOLUTION)
            return square_mpp(tiff_mpp(text, dots, tags.get(_RESOLUTION_UNIT, 2)), Path(path), progress)
        dpi = image.info.get("dpi")
        pair = _per_pixel(25_400.0, *dpi) if isinstance(dpi, tuple) and len(dpi) == 2 else None
        return square_mpp(pair, Path(path), progress)


def read_image(path: Path, max_px: int = MAX_PX) -> UInt8:
    """Read an image as 8-bit RGB.

    Parameters
    ----------
    path : Path
        PNG, JPEG, TIFF (first page) or BMP: RGB, RGBA, grey or palette, 8 bits or fewer a sample.
    max_px : int
        Larger images are refused before they are decoded.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        Grey is repeated; transparency is blended with white. Pixels come as they are stored: an EXIF
        orientation is not applied, so that a mask drawn on the stored pixels fits.

    Raises
    ------
    InputError
        Missing, damaged or cut off; more than `max_px` pixels; more than 8 bits a sample; CMYK or
        another colour space; several pages of the same size.
    """
    path = Path(path)
    with open_image(path) as image:
        require_readable(image, path, max_px)
        try:
            if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
                return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
            return np.array(image.convert("RGB"))
        except _BROKEN as error:
            raise damaged(path, "image", error) from error


def require_readable(image: Image.Image, path: Path, max_px: int = MAX_PX) -> None:
    """Refuse, by the header alone, an image that `read_image` refuses."""
    width, height = image.size
    if width * height > max_px:
        raise InputError(
            path,
            f"expected at most {max_px / 1e6:,.0f} Mpx, got {width:,} x {height:,} px "
            f"({width * height / 1e6:,.0f} Mpx)",
            hint="cut it into pieces, or store it as a pyramidal slide",
        )
    depth = _bits(image, path)
    if depth > 8:
        raise InputError(
            path,
            f"expected 8 bits a sample, got {depth}",
            hint="convert it to 8-bit RGB with the window you want",
        )
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(
            path, f"expected RGB, RGBA, grey or palette, got {image.mode}", hint="convert it to 8-bit RGB"
        )
    if image.format != "TIFF":
        return
    try:
        pages = int(getattr(image, "n_frames", 1))
        if pages < 2:
            return
        image.seek(1)
        second = image.size
        image.seek(0)
    except _BROKEN as error:
        raise damaged(path, "image", error) from error
    if second == (width, height):  # smaller pages are a pyramid or a thumbnail
        raise InputError(
            path, f"expected one image, got a stack of {pages} pages", hint="save the page you want"
        )


def _bits(image: Image.Image, path: Path) -> int:
    """Return the stored bits per sample; Pillow narrows 16-bit RGB silently."""
    if image.format == "PNG":
        with path.open("rb") as stream:
            header = stream.read(25)
        return header[24] if len(header) == 25 else 8
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if image.mode in _DEEP_MODES:
        return 32 if image.mode in ("I", "F") else 16
    return 8


def damaged(path: Path, kind: str, error: BaseException) -> InputError:
    """Return the error for pixels that cannot be read, with the system's reason or else the decoder's."""
    if isinstance(error, OSError) and error.errno:
        return InputError(path, f"expected a whole {kind}, got: {_reason(error)}")
    return InputError(
        path,
        f"expected a whole {kind}, got: data that cannot be read; its decoder reports: {_reason(error)}",
        "the file may be damaged or cut off: copy it again",
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return (error.strerror or text) if isinstance(error, OSError) else text


def encode_png(image: UInt8 | Image.Image, mpp: float | None = None) -> bytes:
    """Encode an RGB or grey array, or a Pillow image, as PNG; `mpp` is stored in its pHYs chunk."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    dots = {"dpi": (25_400 / mpp, 25_400 / mpp)} if mpp else {}
    # zlib's run-length strategy packs tissue as well as the default does, in half the time.
    strategy = {"compress_level": 4} if image.mode == "P" else {"compress_type": 3}
    image.save(buffer, "PNG", **strategy, **dots)
    return buffer.getvalue()


def write_png(path: Path, rgb: UInt8, mpp: float | None = None) -> None:
    """Write an RGB or grey array as PNG, whole or not at all.

    Parameters
    ----------
    path : Path
    rgb : (H, W, 3) or (H, W) uint8 ndarray
    mpp : float, optional
        Micrometres per pixel, stored in the file.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    write_bytes(path, encode_png(rgb, mpp))


def mirrored_indices(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Map ``start … stop − 1`` to an axis of `size` that is mirrored at both ends without end.

    The pixel at the edge is the mirror's axis and is not repeated; on an axis of one pixel every index is 0.
    """
    if size == 1:
        return np.zeros(stop - start, np.intp)
    turn = np.arange(start, stop) % (2 * size - 2)
    return np.minimum(turn, 2 * size - 2 - turn)


class ArrayReader:
    """An image in memory, read box by box; outside it, tissue is mirrored.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        At least one pixel; label arrays ``(H, W)`` are read the same way.
    mpp : float, optional
        Micrometres per pixel.
    """

    def __init__(self, image: UInt8, mpp: float | None = None) -> None:
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise InputError("image", f"expected (H, W, 3) with at least one pixel, got {image.shape}")
        self._image = image
        self._mpp = mpp

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)``."""
        return self._image.shape[0], self._image.shape[1]

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel, ``None`` when unknown."""
        return self._mpp

    def read(self, box: Box) -> UInt8:
        """Return the pixels of `box`: a copy where it extends over the edge, else a view."""
        top, left, bottom, right = box
        height, width = self.size_px
        if top >= 0 and left >= 0 and bottom <= height and right <= width:
            return self._image[top:bottom, left:right]
        rows, columns = mirrored_indices(top, bottom, height), mirrored_indices(left, right, width)
        return self._image[rows[:, None], columns]


def square_mpp(
    pair: tuple[float | None, float | None] | None, path: Path, progress: Progress = SILENT
) -> float | None:
    """Return the mean of the micrometres per pixel along x and y; see `image_mpp`."""
    low, high = PLAUSIBLE_MPP
    plausible = [mpp for mpp in pair or () if mpp is not None and low <= mpp <= high]
    if len(plausible) < 2:
        return None
    x_mpp, y_mpp = plausible
    apart = max(plausible) / min(plausible) - 1
    if apart > _REFUSE_APART:
        raise InputError(path, f"expected square pixels, got {x_mpp:.4g} x {y_mpp:.4g} µm (x, y) per pixel")
    if apart > _WARN_APART:
        progress.warn(f"{path}: pixels are {x_mpp:.4g} x {y_mpp:.4g} µm (x, y); their mean is used")
    return (x_mpp + y_mpp) / 2


def resize_to_mpp(image: UInt8, from_mpp: float, to_mpp: float) -> UInt8:
    """Resize an image to another scale.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
    from_mpp, to_mpp : float
        Micrometres per pixel of `image` and of the result.

    Returns
    -------
    (h, w, 3) uint8 ndarray
        ``h = max(1, round(H * from_mpp / to_mpp))``; averaged over areas when shrinking, linear
        when enlarging.
    """
    height, width = size_at_mpp((image.shape[0], image.shape[1]), from_mpp, to_mpp)
    if (height, width) == image.shape[:2]:
        return image
    shrinking = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation).astype(image.dtype, copy=False)


def size_at_mpp(size_px: tuple[int, int], from_mpp: float, to_mpp: float) -> tuple[int, int]:
    """Return ``(H, W)`` of an image of `size_px` at `from_mpp` when it is resized to `to_mpp`."""
    factor = from_mpp / to_mpp
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))


def description_of_page(description: str, page: int, size_px: tuple[int, int]) -> str:
    """Return the part of a TIFF's description that describes one of its pages.

    Parameters
    ----------
    description : str
        OME-XML describes all images of a file, each with a scale of its own.
    page : int
        Number of the page in the file, from 0.
    size_px : (int, int)
        Its ``(H, W)``.

    Returns
    -------
    str
        Of OME-XML with several images, the part of the image whose data start at this page, else of the only
        one of its size, or nothing. Any other description as it is.
    """
    images = re.split(r"<(?:\w+:)?Pixels(?=\s)", description)[1:]
    if len(images) < 2:
        return description

    def stated(name: str, text: str, default: int) -> int:
        match = re.search(rf'\b{name}="(\d+)"', text)
        return int(match[1]) if match else default

    blocks = [re.findall(r"<(?:\w+:)?TiffData\b([^>]*)>", image) for image in images]
    matching = [
        image
        for image, of_image in zip(images, blocks, strict=True)
        if page in [stated("IFD", block, 0) for block in of_image]
    ]
    if not matching:
        matching = [
            image for image in images if (stated("SizeY", image, 0), stated("SizeX", image, 0)) == size_px
        ]
    return matching[0] if len(matching) == 1 else ""


def tiff_mpp(
    description: str, dots: tuple[object | None, object | None], unit: object
) -> tuple[float, float] | None:
    """Compute micrometres per pixel along x and y from a TIFF's tags.

    Parameters
    ----------
    description : str
        Values of OME, Aperio and ImageJ in it come first.
    dots : (number or None, number or None)
        XResolution and YResolution, pixels per unit.
    unit : object
        ResolutionUnit: 2 inch, 3 centimetre; any other value has no length.
    """
    physical = [_ome_um(description, axis) for axis in "XY"]
    if physical[0] and physical[1]:
        return physical[0], physical[1]
    aperio = re.search(r"\bMPP\s*=\s*([\d.]+)", description)
    if aperio and (mpp := number(aperio[1])):
        return mpp, mpp
    if description.startswith("ImageJ="):
        named = re.search(r"^unit=(\S+)", description, re.MULTILINE)
        unit_um = _UM_PER_UNIT.get(named[1].lower()) if named else None
    else:
        unit_um = {2: 25_400.0, 3: 10_000.0}.get(unit) if isinstance(unit, int) else None
    if unit_um is None or dots[0] is None or dots[1] is None:
        return None
    return _per_pixel(unit_um, *dots)


def _ome_um(description: str, axis: str) -> float | None:
    size = re.search(rf'PhysicalSize{axis}="([\d.eE+-]+)"', description)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
    um = _UM_PER_UNIT.get(unit[1].lower()) if unit else 1.0
    try:
        return float(size[1]) * um if size and um else None
    except ValueError:
        return None


def _per_pixel(unit_um: float, x_count: object, y_count: object) -> tuple[float, float] | None:
    try:
        x, y = float(x_count), float(y_count)  # type: ignore[arg-type]
        return (unit_um / x, unit_um / y) if x > 0 and y > 0 else None
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def number(value: object) -> float | None:
    """Convert a value to a number, or return ``None`` where it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def rational(value: object) -> float | None:
    """Convert a TIFF's rational, which tifffile gives as two numbers."""
    if isinstance(value, tuple) and len(value) == 2:
        return value[0] / value[1] if value[1] else None
    return number(value)


def draw_overlay(
    thumbnail: UInt8,
    zoom: float,
    outlines: Iterable[tuple[Polygon | MultiPolygon, RGB]],
    line_px: float = 2.0,
) -> UInt8:
    """Draw outlines, holes included, onto a copy of a small image.

    Parameters
    ----------
    thumbnail : (h, w, 3) uint8 ndarray
        RGB.
    zoom : float
        Level-0 pixels per pixel of the thumbnail.
    outlines : iterable of (polygon, (r, g, b))
        In level-0 pixels, x and y, pixel corners at integers; later ones are on top.
    line_px : float
        Thickness in pixels of the thumbnail, rounded to quarters.

    Returns
    -------
    (h, w, 3) uint8 ndarray
        A dark halo is under all lines, so that a red line is visible on magenta tissue.

    Raises
    ------
    UsageError
        `zoom` or `line_px` is not above 0.
    """
    if not (zoom > 0 and line_px > 0):
        raise UsageError("overlay", f"expected a zoom and a line above 0, got {zoom} and {line_px}")
    rings = [(ring, rgb) for polygon, rgb in outlines for ring in _rings(polygon, zoom)]
    canvas = _darken(thumbnail, [ring for ring, _ in rings], line_px + 2 * max(1.0, line_px / 2))
    for ring, rgb in rings:
        region, ink = _draw_ring(ring, line_px, (canvas.shape[0], canvas.shape[1]))
        share = ink[..., None] / np.float32(255)
        canvas[region] = np.rint(canvas[region] * (1 - share) + np.array(rgb, np.float32) * share)
    return canvas


def write_jpeg(path: Path, rgb: UInt8, quality: int = 88) -> None:
    """Write an RGB array as JPEG, whole or not at all; the same pixels give the same bytes.

    Parameters
    ----------
    path : Path
    rgb : (H, W, 3) uint8 ndarray
        At most 65,535 px a side.
    quality : int
        1 to 95. Colour keeps full resolution, so that thin coloured lines do not bleed.

    Raises
    ------
    UsageError
        The image has no pixel or is longer than a JPEG can be.
    StorageError
        The file cannot be written.
    """
    height, width = rgb.shape[:2]
    if not (min(height, width) > 0 and max(height, width) <= _JPEG_LONGEST):
        raise UsageError(path, f"expected 1 to {_JPEG_LONGEST:,} px a side, got {width:,} x {height:,} px")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=quality, subsampling=0)
    write_bytes(path, buffer.getvalue())


def _rings(polygon: Polygon | MultiPolygon, zoom: float) -> Iterator[NDArray[np.float64]]:
    """Yield every ring ``(N, 2)`` in pixels of the thumbnail, x and y, corners at integers."""
    import shapely

    for part in shapely.get_parts(polygon):
        for ring in (part.exterior, *part.interiors):
            yield shapely.get_coordinates(ring) / zoom


def _darken(thumbnail: UInt8, rings: list[NDArray[np.float64]], line_px: float) -> UInt8:
    halo: UInt8 = np.zeros(thumbnail.shape[:2], np.uint8)
    for ring in rings:
        region, ink = _draw_ring(ring, line_px, (halo.shape[0], halo.shape[1]))
        np.maximum(halo[region], ink, out=halo[region])
    shaded, dark = thumbnail.copy(), halo > 0
    light = 1 - halo[dark].astype(np.float32) * (_HALO_DARKNESS / 255)
    shaded[dark] = np.rint(thumbnail[dark] * light[:, None])
    return shaded


def _draw_ring(
    ring: NDArray[np.float64], line_px: float, size_px: tuple[int, int]
) -> tuple[tuple[slice, slice], UInt8]:
    """Draw a closed line, and return its region of the image and its coverage of 0 to 255 there.

    The line is drawn at a higher resolution and averaged: OpenCV's smooth lines are up to twice too thick.
    """
    reach = line_px / 2 + 1
    limit = np.array((size_px[1], size_px[0]))
    left, top = np.clip(np.floor(ring.min(axis=0) - reach), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(ring.max(axis=0) + reach), 0, limit).astype(int)
    region = slice(top, bottom), slice(left, right)
    if top >= bottom or left >= right:
        return region, np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8)
    fine = np.zeros(((bottom - top) * _FINER, (right - left) * _FINER), np.uint8)
    centres = (ring - (left, top)) * _FINER - 0.5  # OpenCV's integers are pixel centres
    points = np.rint(centres * (1 << _SUB_PIXEL_BITS)).astype(np.int32)
    thickness = max(1, round(line_px * _FINER))
    cv2.polylines(fine, [points], isClosed=True, color=(255,), thickness=thickness, shift=_SUB_PIXEL_BITS)
    ink = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return region, ink.astype(np.uint8, copy=False)
