"""Reading and writing of 8-bit images."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glomtile.errors import InputError
from glomtile.io.atomic import write_bytes
from glomtile.io.resolution import header_mpp, resize_to_mpp, size_at_mpp
from glomtile.types import SILENT, Box, Progress, UInt8

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PX", "ArrayReader", "encode_png", "image_mpp", "image_size", "list_images",
    "mirrored_indices", "natural_key", "open_image", "read_image", "readable_size", "resize_to_mpp",
    "size_at_mpp", "write_png",
]  # fmt: skip

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
        files = [entry for entry in folder.iterdir() if _is_image(entry, suffixes)]
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


def _is_image(entry: Path, suffixes: tuple[str, ...]) -> bool:
    return entry.suffix.lower() in suffixes and not entry.name.startswith(".") and not entry.is_dir()


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
        image = _open_header(path)
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


def _open_header(path: Path) -> Image.Image:
    # Pillow's own limit holds for the whole process and is far below large microscope images: it is lifted
    # only while a header is read, and MAX_PX is checked instead.
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


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
    """Read micrometres per pixel from an image's tags, ``None`` where they state nothing plausible.

    Sources are PNG's pHYs, the resolution of JPEG, BMP and TIFF, and the description of OME, ImageJ and
    Aperio TIFFs. See `glomtile.io.resolution.header_mpp` for the limits.

    Raises
    ------
    InputError
        See `open_image`; also when rows and columns differ by more than 10 %.
    """
    with open_image(path) as image:
        return header_mpp(image, Path(path), progress)


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
            return _to_rgb(image)
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
    _refuse_stack(image, path)


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


def _refuse_stack(image: Image.Image, path: Path) -> None:
    """Refuse pages of the same size; smaller ones are a pyramid or a thumbnail."""
    if image.format != "TIFF":
        return
    first = image.size
    try:
        pages = int(getattr(image, "n_frames", 1))
        if pages < 2:
            return
        image.seek(1)
        second = image.size
        image.seek(0)
    except _BROKEN as error:
        raise damaged(path, "image", error) from error
    if second == first:
        raise InputError(
            path, f"expected one image, got a stack of {pages} pages", hint="save the page you want"
        )


def _to_rgb(image: Image.Image) -> UInt8:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


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
