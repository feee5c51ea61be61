"""Which tables of a folder of results the page reads, and that numbers stand where numbers belong in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glomtile.errors import GlomtileError
from glomtile.files.tables import read_csv, require_numbers

IMAGE_COLUMNS = (
    *("image", "name", "dice", "precision", "recall", "truth_objects", "predicted_objects"),
    *("found", "false", "missed"),
)
OBJECT_COLUMNS = (
    *("image", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
SLIDE_COLUMNS = ("image", "kind", "width_px", "height_px", "mpp")

_WHOLE = (
    *("truth_objects", "predicted_objects", "found", "false", "missed"),
    *("area_px", "top", "left", "bottom", "right", "width_px", "height_px", "pixels", "true_pixels"),
)
_NUMBERS = ("dice", "precision", "recall", "area_um2", "iou", "hd95_px", "mpp", "tissue_mm2")
_OF_A_CLASS = ("_count", "_area_mm2", "_per_mm2")
"""How the names of those columns of ``summary.csv`` end that are numbers of a class."""


def numbered_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table that anybody may have edited since we wrote it.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that it must have.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, or a cell of a column of numbers holds none.
    """
    rows = read_csv(path, required)
    columns = list(rows[0]) if rows else []
    whole = [name for name in columns if name in _WHOLE]
    require_numbers(path, rows, whole, whole=True)
    numbers = [name for name in columns if name in _NUMBERS or name.endswith(_OF_A_CLASS)]
    require_numbers(path, rows, numbers)
    return rows


def readable_rows(path: Path, required: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    """`numbered_rows` of a table that may be missing; where it is of no use, `notes` takes the reason."""
    if not path.exists():
        return []
    try:
        return numbered_rows(path, required)
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return []
