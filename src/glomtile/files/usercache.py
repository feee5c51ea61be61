"""Where things that can be made again are kept for this user."""

from __future__ import annotations

import os
from pathlib import Path

from glomtile.errors import PlaceError

VARIABLE = "GLOMTILE_CACHE_DIR"
"""Environment variable that names the folder."""


def user_cache() -> Path:
    """The folder of this user's cache, which need not exist.

    Returns
    -------
    Path
        ``GLOMTILE_CACHE_DIR``, else ``glomtile`` in ``XDG_CACHE_HOME`` or ``~/.cache``; absolute. A relative
        ``XDG_CACHE_HOME`` counts as none, as its specification wants.

    Raises
    ------
    PlaceError
        Neither is set and the user has no home folder.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if named := os.environ.get(VARIABLE):
            return Path(named).expanduser().absolute()
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "glomtile"
    except RuntimeError as problem:
        raise PlaceError(
            "cache", "expected a home folder to keep it in, found none", f"name a folder in {VARIABLE}"
        ) from problem
