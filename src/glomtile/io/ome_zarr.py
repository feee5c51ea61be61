"""Writing of OME-Zarr images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import UsageError
from glomtile.io.atomic import replace_folder
from glomtile.io.ome_tiff import LabelPlane, SupportsIsBlank, checked_sizes
from glomtile.palette import Palette
from glomtile.types import Box

CHUNK_PX = 1024
"""Side of a chunk; one without a label takes no space."""

_VERSION = "0.5"
_ZSTD_LEVEL = 5


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
        pixel ``(r, c)`` pixel ``(2r, 2c)`` of the last (`glomtile.io.ome_tiff.halve`).
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

    sizes = checked_sizes(levels)
    if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
        raise UsageError(path, f"expected micrometres per pixel above 0, got {mpp}")
    with replace_folder(path) as partial:
        group = zarr.open_group(partial, mode="a", zarr_format=3)
        for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
            _copy(level, _plane(group, str(number), size), palette, path)
        group.attrs["ome"] = _metadata(len(sizes), palette, mpp, name)


def _plane(group: Any, name: str, size_px: tuple[int, int]) -> Any:
    from zarr.codecs import ZstdCodec

    return group.create_array(
        name,
        shape=size_px,
        dtype="uint8",
        chunks=(CHUNK_PX, CHUNK_PX),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL)],
        fill_value=0,
        dimension_names=("y", "x"),
    )


def _copy(level: LabelPlane, plane: Any, palette: Palette, path: Path) -> None:
    height, width = level.shape
    for top in range(0, height, CHUNK_PX):
        for left in range(0, width, CHUNK_PX):
            box = Box(top, left, min(top + CHUNK_PX, height), min(left + CHUNK_PX, width))
            if isinstance(level, SupportsIsBlank) and level.is_blank(box):
                continue  # the new array's fill value
            key = slice(box.top, box.bottom), slice(box.left, box.right)
            piece = np.asarray(level[key], np.uint8)
            palette.require_known(piece, where=path)
            plane[key] = piece


def _metadata(count: int, palette: Palette, mpp: float | None, name: str) -> dict[str, Any]:
    unit = {} if mpp is None else {"unit": "micrometer"}
    scale = 1.0 if mpp is None else float(mpp)
    return {
        "version": _VERSION,
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
