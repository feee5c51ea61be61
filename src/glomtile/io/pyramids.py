"""Pyramids of label masks, written as OME-TIFF and OME-Zarr.

The pixels of a TIFF are class numbers, photometric *palette*, and the palette's colours are its colour table.
tifffile reads the class numbers of every level, OpenSlide the colours of level 0 (it reads no SubIFD levels),
Pillow and `glomtile.io.masks.read_mask` either. A grey image would appear black; RGB would take three bytes a
pixel, and class numbers would have to be derived from colours.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glomtile.errors import UsageError
from glomtile.io.atomic import atomic_write, replace_folder
from glomtile.palette import Palette
from glomtile.types import Box, UInt8, crop

TILE_PX = 512
"""Side of a tile of the TIFF, and of the largest piece of a level in memory."""

CHUNK_PX = 1024
"""Side of a chunk of the Zarr array; one without a label takes no space."""

_CLASSIC_BYTES = 2**32 - 2**25
_DEFLATE_LEVEL = 6
_UM_PER_CM = 10_000.0
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "glomtile/mask")
_BYTE_TO_WORD = 257
_ZSTD_LEVEL = 5


class LabelPlane(Protocol):
    """Class numbers ``(H, W) uint8`` that are read by slices, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> Any:
        """Return the pixels of rows and columns."""
        ...


@runtime_checkable
class SupportsIsBlank(Protocol):
    """A plane that can state, without reading, where it is background only."""

    def is_blank(self, box: Box) -> bool:
        """Return whether all of a box is certainly 0."""
        ...


class WritablePlane(LabelPlane, Protocol):
    """A `LabelPlane` that can be written."""

    def __setitem__(self, key: tuple[slice, slice], value: UInt8, /) -> None:
        """Write the pixels of rows and columns."""
        ...


def level_sizes(size_px: tuple[int, int], smallest: int = 512) -> list[tuple[int, int]]:
    """Compute the sizes of a pyramid's levels, each half of the last and rounded up.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of level 0.
    smallest : int
        The first level whose longer side is no longer than this is the last.

    Returns
    -------
    list of (int, int)
        The first is `size_px`.

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
        Side of the squares of `source` that are read at once, even.

    Raises
    ------
    UsageError
        `target` has another size, or `band_px` is odd or below 2.

    Notes
    -----
    No new class appears, and pixel ``(r, c)`` of level n is pixel ``(2^n r, 2^n c)`` of level 0.
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


def checked_sizes(
    levels: Sequence[LabelPlane], mpp: float | None = None, path: object = "levels"
) -> list[tuple[int, int]]:
    """Return the sizes ``(H, W)`` of a pyramid's levels.

    Raises
    ------
    UsageError
        There is no level or no pixel, a level is not half of the last, rounded up, or `mpp` is not above 0.
    """
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise UsageError(path, f"expected micrometres per pixel above 0, got {mpp}")
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
        Ends in ``.ome.tif`` or ``.ome.tiff``, by which other programs recognise it.
    levels : sequence of LabelPlane
        Class numbers below K, ``(H, W) uint8``; each level half the size of the last, rounded up.
    palette : Palette
        Its colours become the colour table, its names an annotation of the OME-XML.
    mpp : float or None
        Micrometres per pixel of level 0; without it the file states no size.
    name : str
        The image's name in the OME-XML.
    identity : str
        Text from which the file's UUID is derived: the same input gives the same bytes.

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

    sizes = checked_sizes(levels, mpp, path)
    # By the uncompressed size, so that the format does not depend on the pixels.
    tiles = sum(-(-height // TILE_PX) * -(-width // TILE_PX) for height, width in sizes)
    bigtiff = tiles * TILE_PX**2 >= _CLASSIC_BYTES
    colours = np.zeros((3, 256), np.uint16)
    colours[:, : palette.num_classes] = np.array([entry.rgb for entry in palette.classes]).T * _BYTE_TO_WORD
    options: dict[str, Any] = {
        "dtype": np.uint8,
        "photometric": "palette",
        "colormap": colours,
        "tile": (TILE_PX, TILE_PX),
        "compression": "adobe_deflate",
        "software": False,
        "maxworkers": 1,
    }
    with (
        atomic_write(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=bigtiff, byteorder="<", ome=True) as tiff,
    ):
        for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
            first = number == 0
            per_cm = None if mpp is None else _UM_PER_CM / (mpp * 2**number)
            tiff.write(
                _deflated_tiles(level, palette, path),
                shape=size,
                subifds=len(levels) - 1 if first and len(levels) > 1 else None,
                subfiletype=0 if first else 1,
                metadata=_ome(palette, mpp, name, identity) if first else None,
                resolution=None if per_cm is None else (per_cm, per_cm),
                resolutionunit=None if per_cm is None else "CENTIMETER",
                **options,
            )


def _half(size_px: tuple[int, int]) -> tuple[int, int]:
    return -(-size_px[0] // 2), -(-size_px[1] // 2)


def _deflated_tiles(level: LabelPlane, palette: Palette, path: Path) -> Iterator[bytes]:
    """Yield deflated tiles in reading order, padded with background at the edge."""
    height, width = level.shape
    blank = _deflate(np.zeros((TILE_PX, TILE_PX), np.uint8))
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            box = Box(top, left, min(top + TILE_PX, height), min(left + TILE_PX, width))
            if isinstance(level, SupportsIsBlank) and level.is_blank(box):
                yield blank
                continue
            piece = _piece(level, box)
            palette.require_known(piece, where=path)
            tile = np.zeros((TILE_PX, TILE_PX), np.uint8)
            tile[: piece.shape[0], : piece.shape[1]] = piece
            yield _deflate(tile) if tile.any() else blank


def _deflate(tile: UInt8) -> bytes:
    """Compress a tile as tifffile does."""
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE_LEVEL))


def _piece(plane: LabelPlane, box: Box, step: int = 1) -> UInt8:
    """Return every pixel of a box, or every second one."""
    if isinstance(plane, SupportsIsBlank) and plane.is_blank(box):
        return np.broadcast_to(np.uint8(0), (-(-box.height // step), -(-box.width // step)))
    return crop(plane, box)[::step, ::step]


def _ome(palette: Palette, mpp: float | None, name: str, identity: str) -> dict[str, Any]:
    physical: dict[str, Any] = {}
    for axis in "XY" if mpp is not None else "":
        physical |= {f"PhysicalSize{axis}": mpp, f"PhysicalSize{axis}Unit": "µm"}
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


def write_label_zarr(
    path: Path, levels: Sequence[LabelPlane], palette: Palette, mpp: float | None, name: str
) -> None:
    """Write class numbers as an OME-Zarr 0.5 image-label (Zarr v3), whole or not at all.

    Parameters
    ----------
    path : Path
        The folder, usually ``<stem>.ome.zarr``; see `replace_folder` for an existing one.
    levels : sequence of LabelPlane
        Class numbers below K, ``(H, W) uint8``; each level half the size of the last, rounded up, its
        pixel ``(r, c)`` pixel ``(2r, 2c)`` of the last (`halve`).
    palette : Palette
        Its colours and names are the label's.
    mpp : float or None
        Micrometres per pixel of level 0; without it the axes have no unit and the scale counts pixels.
    name : str
        The multiscale image's name.

    Raises
    ------
    UsageError
        No level, one of another size than the last one's half, or an `mpp` not above 0.
    InputError
        A label is no class of the palette.
    StorageError
        The folder cannot be written.

    Notes
    -----
    The group is multiscale and image-label in one, and names no source image.
    Metadata as in https://ngff.openmicroscopy.org/0.5/.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    sizes = checked_sizes(levels, mpp, path)
    with replace_folder(path) as partial:
        group = zarr.open_group(partial, mode="a", zarr_format=3)
        for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
            plane = group.create_array(
                str(number),
                shape=size,
                dtype="uint8",
                chunks=(CHUNK_PX, CHUNK_PX),
                compressors=[ZstdCodec(level=_ZSTD_LEVEL)],
                fill_value=0,
                dimension_names=("y", "x"),
            )
            _copy(level, plane, palette, path)
        group.attrs["ome"] = _metadata(len(sizes), palette, mpp, name)


def _copy(level: LabelPlane, plane: Any, palette: Palette, path: Path) -> None:
    height, width = level.shape
    for top in range(0, height, CHUNK_PX):
        for left in range(0, width, CHUNK_PX):
            box = Box(top, left, min(top + CHUNK_PX, height), min(left + CHUNK_PX, width))
            if isinstance(level, SupportsIsBlank) and level.is_blank(box):
                continue  # the new array's fill value
            piece = crop(level, box)
            palette.require_known(piece, where=path)
            plane[box.slices()] = piece


def _metadata(count: int, palette: Palette, mpp: float | None, name: str) -> dict[str, Any]:
    unit = {} if mpp is None else {"unit": "micrometer"}
    scale = 1.0 if mpp is None else float(mpp)
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
                "datasets": [
                    {
                        "path": str(number),
                        "coordinateTransformations": [{"type": "scale", "scale": [scale * 2**number] * 2}],
                    }
                    for number in range(count)
                ],
                "type": "every second pixel",
            }
        ],
        "image-label": {
            "colors": [
                {"label-value": entry.number, "rgba": [*entry.rgb, 255 if entry.number else 0]}
                for entry in palette.classes
            ],
            "properties": [{"label-value": entry.number, "class": entry.name} for entry in palette.classes],
        },
    }
