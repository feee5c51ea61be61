"""Writing of pyramidal OME-TIFF label masks.

The pixels are the class numbers, photometric *palette*, and the palette's colours are the TIFF's colour
table. tifffile reads the class numbers of every level, OpenSlide the colours of level 0 (it knows no
SubIFD levels), Pillow and so `files.masks.read_mask` either. Grey would open black, since class 1 of
255 is hardly a colour; RGB would hold three bytes where one will do, and numbers would have to be
guessed back from colours.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import UsageError
from glomtile.io.atomic import atomic_write
from glomtile.palette import Palette
from glomtile.types import Box, UInt8

TILE_PX = 512
"""Side of a tile of the TIFF, and so of the largest piece of a level held at a time."""

_CLASSIC_BYTES = 2**32 - 2**25
_DEFLATE_LEVEL = 6
_UM_PER_CM = 10_000.0
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "glomtile/mask")
_BYTE_TO_WORD = 257


class LabelPlane(Protocol):
    """Class numbers ``(H, W) uint8`` read by slices: an array in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> Any:
        """The pixels of rows and columns."""
        ...


@runtime_checkable
class SupportsIsBlank(Protocol):
    """A plane that knows, without reading, where it holds nothing but background."""

    def is_blank(self, box: Box) -> bool:
        """Whether all of a box is surely 0; False where that is not known."""
        ...


class WritablePlane(LabelPlane, Protocol):
    """A `LabelPlane` that also takes pixels."""

    def __setitem__(self, key: tuple[slice, slice], value: UInt8, /) -> None:
        """Put pixels at rows and columns."""
        ...


def level_sizes(size_px: tuple[int, int], smallest: int = 512) -> list[tuple[int, int]]:
    """The sizes of a pyramid's levels, each half of the last and rounded up.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of level 0.
    smallest : int
        The first level whose longer side is no longer than this is the last.

    Returns
    -------
    list of (int, int)
        Begins with `size_px`.

    Raises
    ------
    UsageError
        `smallest` or a side is below 1.

    Examples
    --------
    >>> level_sizes((1500, 2100))
    [(1500, 2100), (750, 1050), (375, 525), (188, 263)]
    """
    if min(*size_px, smallest) < 1:
        raise UsageError("level_sizes", f"expected sizes of at least 1 px, got {size_px} and {smallest}")
    sizes = [size_px]
    while max(sizes[-1]) > smallest:
        sizes.append(_half(sizes[-1]))
    return sizes


def halve(source: LabelPlane, target: WritablePlane, band_px: int = 2048) -> None:
    """Fill a plane with every second pixel (rows and columns 0, 2, 4, …) of another.

    Parameters
    ----------
    source : LabelPlane
        ``(H, W) uint8``.
    target : WritablePlane
        ``(ceil(H / 2), ceil(W / 2))``; every pixel is written.
    band_px : int
        Side of the squares of `source` that are read, even; the memory it takes is its square.

    Raises
    ------
    UsageError
        `target` has another size, or `band_px` is odd or below 2.

    Notes
    -----
    No class is averaged away or made up, and pixel ``(r, c)`` of level n is pixel ``(2^n r, 2^n c)`` of
    level 0: whoever looks at a small level looks at true labels.
    """
    height, width = source.shape
    if tuple(target.shape) != _half((height, width)):
        raise UsageError("halve", f"expected a target of {_half((height, width))}, got {tuple(target.shape)}")
    if band_px < 2 or band_px % 2:
        raise UsageError("halve", f"expected an even band_px of at least 2, got {band_px}")
    for top in range(0, height, band_px):
        for left in range(0, width, band_px):
            box = Box(top, left, min(top + band_px, height), min(left + band_px, width))
            piece = _piece(source, box, step=2)
            rows = slice(top // 2, top // 2 + piece.shape[0])
            columns = slice(left // 2, left // 2 + piece.shape[1])
            target[rows, columns] = piece


def checked_sizes(levels: Sequence[LabelPlane]) -> list[tuple[int, int]]:
    """The sizes ``(H, W)`` of a pyramid's levels.

    Raises
    ------
    UsageError
        There is no level or no pixel, or a level is not half of the last, rounded up.
    """
    sizes = [(int(level.shape[0]), int(level.shape[1])) for level in levels]
    if not sizes or 0 in sizes[0]:
        raise UsageError("levels", "expected at least one level of at least one pixel, got none")
    for upper, lower in itertools.pairwise(sizes):
        if lower != _half(upper):
            raise UsageError("levels", f"expected {_half(upper)} below {upper}, got {lower}")
    return sizes


def write_mask_pyramid(
    path: Path,
    levels: Sequence[LabelPlane],
    palette: Palette,
    mpp: float | None,
    *,
    name: str,
    identity: str,
) -> None:
    """Write class numbers as a tiled, deflated OME-TIFF, whole or not at all.

    Parameters
    ----------
    path : Path
        Ends in ``.ome.tif`` or ``.ome.tiff``, or other programs will not take it for one.
    levels : sequence of LabelPlane
        Class numbers below K, ``(H, W) uint8``; each level half the size of the last, rounded up.
    palette : Palette
        Its colours become the colour table, its names an annotation of the OME-XML.
    mpp : float or None
        Micrometres per pixel of level 0; without it the file says nothing about size.
    name : str
        The picture's name in the OME-XML.
    identity : str
        What decides the pixels. The file's UUID follows from it: the same input gives the same bytes.

    Raises
    ------
    UsageError
        No level, one of another size than the last one's half, or an `mpp` not above 0.
    InputError
        A label is no class of the palette.
    StorageError
        The file cannot be written.

    Notes
    -----
    One tile is in memory at a time. BigTIFF where the uncompressed tiles reach 4 GiB. OME-TIFF with
    SubIFDs as in the specification, https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/.
    """
    import tifffile

    sizes = checked_sizes(levels)
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise UsageError(path, f"expected micrometres per pixel above 0, got {mpp}")
    how: dict[str, Any] = {
        "dtype": np.uint8,
        "photometric": "palette",
        "colormap": _colour_table(palette),
        "tile": (TILE_PX, TILE_PX),
        "compression": "adobe_deflate",
        "software": False,
        "maxworkers": 1,
    }
    with (
        atomic_write(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=_needs_bigtiff(sizes), byteorder="<", ome=True) as tiff,
    ):
        for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
            first = number == 0
            tiff.write(
                _packed_tiles(level, palette, path),
                shape=size,
                subifds=len(levels) - 1 if first and len(levels) > 1 else None,
                subfiletype=0 if first else 1,
                metadata=_ome(palette, mpp, name, identity) if first else None,
                **_resolution(mpp, 2**number),
                **how,
            )


def _half(size_px: tuple[int, int]) -> tuple[int, int]:
    return -(-size_px[0] // 2), -(-size_px[1] // 2)


def _packed_tiles(level: LabelPlane, palette: Palette, path: Path) -> Iterator[bytes]:
    """The tiles in reading order, deflated, those at the edge filled up with background."""
    height, width = level.shape
    glass = _packed(np.zeros((TILE_PX, TILE_PX), np.uint8))
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            box = Box(top, left, min(top + TILE_PX, height), min(left + TILE_PX, width))
            if isinstance(level, SupportsIsBlank) and level.is_blank(box):
                yield glass
                continue
            piece = _piece(level, box)
            palette.require_known(piece, where=path)
            tile = np.zeros((TILE_PX, TILE_PX), np.uint8)
            tile[: piece.shape[0], : piece.shape[1]] = piece
            yield _packed(tile) if tile.any() else glass


def _packed(tile: UInt8) -> bytes:
    """As tifffile packs it; it takes tiles that are packed already, so that glass is packed once."""
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE_LEVEL))


def _piece(plane: LabelPlane, box: Box, step: int = 1) -> UInt8:
    """Every pixel of a box, or every second; glass that is known as such is not read."""
    if isinstance(plane, SupportsIsBlank) and plane.is_blank(box):
        return np.broadcast_to(np.uint8(0), (-(-box.height // step), -(-box.width // step)))
    return np.asarray(plane[box.top : box.bottom, box.left : box.right], np.uint8)[::step, ::step]


def _colour_table(palette: Palette) -> NDArray[np.uint16]:
    """``(3, 256)``: the classes' colours as 16-bit words, black elsewhere."""
    table = np.zeros((3, 256), np.uint16)
    table[:, : palette.num_classes] = np.array([entry.rgb for entry in palette.classes]).T * _BYTE_TO_WORD
    return table


def _needs_bigtiff(sizes: Sequence[tuple[int, int]]) -> bool:
    """Judged by uncompressed tiles: what the pixels are must not decide the file's kind."""
    return sum(-(-h // TILE_PX) * -(-w // TILE_PX) for h, w in sizes) * TILE_PX**2 >= _CLASSIC_BYTES


def _resolution(mpp: float | None, times: int) -> dict[str, Any]:
    if mpp is None:
        return {}
    per_cm = _UM_PER_CM / (mpp * times)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}


def _ome(palette: Palette, mpp: float | None, name: str, identity: str) -> dict[str, Any]:
    physical = (
        {}
        if mpp is None
        else {
            "PhysicalSizeX": mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": mpp,
            "PhysicalSizeYUnit": "µm",
        }
    )
    return {
        "axes": "YX",
        "UUID": str(uuid.uuid5(_NAMESPACE, identity)),
        "Creator": "glomtile",
        "Name": name,
        "MapAnnotation": {
            "Namespace": "glomtile/classes",
            **{str(entry.number): entry.name for entry in palette.classes},
        },
        **physical,
    }
