"""Reading and writing of label masks."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

from glomtile.errors import InputError
from glomtile.io.atomic import write_bytes
from glomtile.io.images import (
    IMAGE_SUFFIXES,
    MAX_PX,
    damaged,
    encode_png,
    image_size,
    open_image,
    read_image,
    require_readable,
)
from glomtile.palette import Palette
from glomtile.types import UInt8

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".npz")
Datatype = Literal["categorized", "indexed"]

# zipfile raises RuntimeError for an encrypted archive.
_NPZ_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def mask_size(path: Path) -> tuple[int, int]:
    """Read ``(H, W)`` from the header of an image or ``.npz``, without decoding a pixel.

    Raises
    ------
    InputError
        The file is missing, damaged or no mask.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        return image_size(path)
    shape = _npz_header(path)[1]
    return shape[0], shape[1]


def read_mask(
    path: Path,
    palette: Palette,
    *,
    datatype: Datatype = "categorized",
    tolerance: int = 0,
    max_px: int = MAX_PX,
) -> UInt8:
    """Read a mask file as class numbers.

    Parameters
    ----------
    path : Path
        Any image file, or ``.npz`` with one array (called ``mask``, or the only one) of class
        numbers ``(H, W)`` or colours ``(H, W, 3)``.
    palette : Palette
        Class numbers and their colours.
    datatype : "categorized" or "indexed"
        Whether colours stand for classes (a palette PNG's through its palette), or grey values or palette
        indices are the class numbers.
    tolerance : int
        Largest distance of red, green and blue each from a class's colour; 0 is exact.
    max_px : int
        Larger files are refused before they are decoded.

    Returns
    -------
    (H, W) uint8 ndarray
        Class numbers below K. Fully transparent pixels are class 0, except palette indices and grey values of
        "indexed" masks, which stay as they are.

    Raises
    ------
    InputError
        Damaged, too large, of more than 8 bits, half transparent, or with colours or numbers that belong to
        no class, which are listed with their share.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        values = _read_npz(path, max_px)
        if values.ndim == 3:
            return palette.decode(values, tolerance, where=path)
        palette.require_known(values, where=path)
        return values
    with open_image(path) as image:
        require_readable(image, path, max_px)
        alpha_band = "A" in image.getbands()
        has_alpha = alpha_band or "transparency" in image.info
        plain_indices = image.mode == "P" and not has_alpha
    if datatype == "indexed":
        return _read_indices(path, palette, alpha_band)
    if plain_indices:
        return _read_painted_indices(path, palette, tolerance)
    if not has_alpha:
        return palette.decode(read_image(path, max_px), tolerance, where=path)
    rgba = _decoded(path, "RGBA")
    clear = _is_clear(rgba[..., 3], path)
    rgb: UInt8 = np.where(clear[..., None], np.array(palette.classes[0].rgb, np.uint8), rgba[..., :3])
    return palette.decode(rgb, tolerance, where=path)


def _decoded(path: Path, mode: str | None) -> UInt8:
    """Decode the stored samples, in Pillow's `mode` if one is given."""
    with open_image(path) as image:
        try:
            return np.array(image.convert(mode) if mode else image)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise damaged(path, "image", error) from error


def _read_indices(path: Path, palette: Palette, alpha_band: bool) -> UInt8:
    values = _decoded(path, None)
    if values.ndim == 3:
        if alpha_band:
            clear = _is_clear(values[..., -1], path)
            values = np.where(clear[..., None], np.uint8(0), values[..., :-1])
        if (values[..., :1] != values).any():
            raise InputError(
                path,
                "expected one class number a pixel, got colours",
                hint='mask_datatype = "categorized" reads them',
            )
        values = values[..., 0]
    labels: UInt8 = np.ascontiguousarray(values).astype(np.uint8, copy=False)
    palette.require_known(labels, where=path)
    return labels


def _read_painted_indices(path: Path, palette: Palette, tolerance: int) -> UInt8:
    """Decode a palette PNG by the colours of its palette: at most 256 lookups."""
    with open_image(path) as image:
        try:
            indices = np.array(image)
            flat = image.getpalette("RGB") or []
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise damaged(path, "image", error) from error
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(flat) // 3] = np.array(flat, np.uint8).reshape(-1, 3)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    table = np.zeros(256, np.uint8)
    try:
        table[used] = palette.decode(colours[used][None], tolerance, where=path)[0]
    except InputError:
        palette.decode(colours[indices], tolerance, where=path)  # the same error with shares of pixels
        raise
    labels: UInt8 = table[indices]
    return labels


def _is_clear(alpha: UInt8, path: Path) -> NDArray[np.bool_]:
    """Return the transparent pixels; half transparent ones are refused."""
    half = (alpha > 0) & (alpha < 255)
    if half.any():
        raise InputError(
            path,
            f"expected pixels that are opaque or transparent, got {100 * half.mean():.3g} % in between",
            hint="save the mask without smoothing or transparency",
        )
    return np.asarray(alpha == 0)


def _npz_header(path: Path) -> tuple[str, tuple[int, ...], np.dtype[np.generic]]:
    """Read name, shape and type of the only array, without decompressing it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            name = "mask.npy" if "mask.npy" in names else names[0] if len(names) == 1 else None
            if name is None:
                listed = ", ".join(names) or "none"
                raise InputError(path, f'expected one array or one called "mask", got {listed}')
            with archive.open(name) as stream:
                first = npy_format.read_magic(stream) == (1, 0)
                read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
                shape, _, dtype = read(stream)
    except FileNotFoundError:
        raise InputError(path, "expected a mask, the file does not exist") from None
    except _NPZ_ERRORS as error:
        raise InputError(path, f"expected an .npz of one array, got: {error}") from error
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not fits or 0 in shape or dtype.kind not in "bui":
        raise InputError(
            path, f"expected (H, W) class numbers or (H, W, 3) colours, whole numbers, got {shape} {dtype}"
        )
    return name, shape, dtype


def _read_npz(path: Path, max_px: int) -> UInt8:
    name, shape, _ = _npz_header(path)
    if shape[0] * shape[1] > max_px:
        raise InputError(
            path, f"expected at most {max_px / 1e6:,.0f} Mpx, got {shape[1]:,} x {shape[0]:,} px"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive[name.removesuffix(".npy")]
    except _NPZ_ERRORS as error:
        raise InputError(path, f"expected a whole .npz, got: {error}") from error
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise InputError(path, f"expected numbers of 0 to 255, got {low} to {high}")
    small: UInt8 = values.astype(np.uint8)
    return small[..., 0] if small.ndim == 3 and small.shape[2] == 1 else small


def encode_mask(labels: UInt8, palette: Palette, mpp: float | None = None) -> bytes:
    """Encode class numbers as a palette PNG with their colours.

    Raises
    ------
    InputError
        A label is no class of the palette; files have no colour for ``IGNORE``.
    """
    palette.require_known(labels)
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image.putpalette(palette.flat())
    return encode_png(image, mpp)


def write_mask(path: Path, labels: UInt8, palette: Palette, mpp: float | None = None) -> None:
    """Write class numbers as a palette PNG, whole or not at all.

    Parameters
    ----------
    path : Path
    labels : (H, W) uint8 ndarray
        Class numbers below K.
    palette : Palette
        Its colours, in the order of the class numbers (reference §6.11: in the order of the colour map).
    mpp : float, optional
        Micrometres per pixel, stored in the file.

    Raises
    ------
    InputError
        See `encode_mask`.
    StorageError
        The file cannot be written.
    """
    write_bytes(path, encode_mask(labels, palette, mpp))


def resize_labels(labels: UInt8, size_px: tuple[int, int]) -> UInt8:
    """Resize labels; no new class appears.

    Parameters
    ----------
    labels : (H, W) uint8 ndarray
    size_px : (int, int)
        Wanted ``(H, W)``.

    Returns
    -------
    uint8 ndarray of `size_px`
        Along an axis that grows, the nearest pixel; along one that shrinks, the class that covers most of the
        new pixel's area, the lower number in a tie.

    Notes
    -----
    The reference interpolates one-hot planes linearly and so moves thin borders (§6.7).
    """
    shrunk = min(size_px[0], labels.shape[0]), min(size_px[1], labels.shape[1])
    if shrunk != labels.shape:
        best, most = np.zeros(shrunk, np.uint8), np.zeros(shrunk, np.float32)
        for number in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)):
            plane = (labels == number).astype(np.float32)
            share = cv2.resize(plane, shrunk[::-1], interpolation=cv2.INTER_AREA)
            wins = share > most + 1e-6
            best[wins], most[wins] = number, share[wins]
        labels = best
    if size_px != labels.shape:
        sides = zip(size_px, labels.shape, strict=True)
        rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in sides)
        labels = labels[rows[:, None], columns]
    return labels
