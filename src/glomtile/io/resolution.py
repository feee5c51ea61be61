"""Micrometres per pixel from the metadata of image files."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from glomtile.errors import InputError
from glomtile.types import SILENT, Progress, UInt8

PLAUSIBLE_MPP = (0.05, 20.0)
_UM_PER_UNIT = {
    "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0,
    "mm": 1e3, "cm": 1e4, "inch": 25_400.0, "m": 1e6,
}  # fmt: skip
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 270, 282, 283, 296
_WARN_APART, _REFUSE_APART = 0.01, 0.10


def header_mpp(image: Image.Image, path: Path, progress: Progress = SILENT) -> float | None:
    """Read micrometres per pixel from the header of an opened image.

    Parameters
    ----------
    image : PIL.Image.Image
    path : Path
        Named in errors and warnings.
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
        Rows and columns differ by more than 10 %.
    """
    pair = _tiff_header_mpp(image) if isinstance(image, TiffImageFile) else _dots_mpp(image)
    return square_mpp(pair, path, progress)


def square_mpp(pair: tuple[float, float] | None, path: Path, progress: Progress = SILENT) -> float | None:
    """Combine the scales of columns and rows.

    Parameters
    ----------
    pair : (float, float) or None
        Micrometres per pixel along x and along y.
    path, progress : Path, Progress
        See `header_mpp`.

    Returns
    -------
    float or None
        Their mean; ``None`` when there is no pair or it is not plausible.

    Raises
    ------
    InputError
        They differ by more than 10 %.
    """
    if pair is None or not all(PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] for mpp in pair):
        return None
    x_mpp, y_mpp = pair
    apart = max(pair) / min(pair) - 1
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


def _dots_mpp(image: Image.Image) -> tuple[float, float] | None:
    """Convert the dots per inch of PNG, JPEG and BMP."""
    dpi = image.info.get("dpi")
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    return _per_pixel(25_400.0, dpi[0], dpi[1])


def _tiff_header_mpp(image: TiffImageFile) -> tuple[float, float] | None:
    tags = image.tag_v2
    text = description_of_page(str(tags.get(_DESCRIPTION, "")), image.tell(), (image.height, image.width))
    return tiff_mpp(text, (tags.get(_X_RESOLUTION), tags.get(_Y_RESOLUTION)), tags.get(_RESOLUTION_UNIT, 2))


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
    matching = [image for image in images if page in _first_pages(image)]
    if not matching:
        matching = [image for image in images if _ome_size(image) == size_px]
    return matching[0] if len(matching) == 1 else ""


def _first_pages(image: str) -> list[int]:
    """Return the pages at which the data of an OME image start; 0 where none is stated."""
    blocks = re.findall(r"<(?:\w+:)?TiffData\b([^>]*)>", image)
    named = [re.search(r'\bIFD="(\d+)"', block) for block in blocks]
    return [int(match[1]) if match else 0 for match in named]


def _ome_size(image: str) -> tuple[int, ...]:
    sides = [re.search(rf'\bSize{axis}="(\d+)"', image) for axis in "YX"]
    return tuple(int(match[1]) for match in sides if match)


def tiff_mpp(
    description: str, dots: tuple[object | None, object | None], unit: object
) -> tuple[float, float] | None:
    """Read micrometres per pixel along x and y from a TIFF's tags.

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


def both_numbers(x: object, y: object) -> tuple[float, float] | None:
    """Convert two values to numbers, or return ``None`` where one is none."""
    first, second = number(x), number(y)
    return (first, second) if first is not None and second is not None else None


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
