"""Whether a place can take what is to come, before anything is made there."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from glomtile.errors import StorageError
from glomtile.files.workspace import storage_errors


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot fit.

    Parameters
    ----------
    folder : Path
        Where it will be written; need not exist yet.
    needed_bytes : int
        How much will be written.

    Raises
    ------
    StorageError
        Less than `needed_bytes` is free there.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    with storage_errors(folder):
        free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StorageError(
            folder, f"expected {_megabytes(needed_bytes)} of free space, got {_megabytes(free)}"
        )


def require_place(folder: Path) -> None:
    """Refuse a place where no folder can be written to, without making anything.

    Parameters
    ----------
    folder : Path
        It need not exist yet, nor those above it.

    Raises
    ------
    PlaceError
        What exists of its path ends in a file, or may not be written to.
    """
    place = Path(folder).absolute()
    with storage_errors(folder):
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "", str(place))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
