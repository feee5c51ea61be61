"""What a caller gives to be segmented: opened at the wanted scale, named, and told from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from glomtile.core.arguments import number_argument
from glomtile.engine.slidelook import SlideLike
from glomtile.errors import ArgumentError
from glomtile.files.scale import PLAUSIBLE_MPP
from glomtile.files.slides import Slide, open_slide
from glomtile.types import SILENT, Box, Progress

_SAME = 1e-6
_READ_PX = 16 * 2**20
"""Pixels that are read at once for a digest of them all."""


@contextmanager
def opened(
    source: str | Path | SlideLike, mpp: float | None = None, progress: Progress = SILENT
) -> Iterator[SlideLike]:
    """The slide that is meant; closed in the end where it was opened here.

    Parameters
    ----------
    source : path or slide
    mpp : float or None
        Micrometres per pixel at full resolution, in place of what the file says.
    progress : Progress

    Raises
    ------
    ArgumentError
        `source` is neither a path nor a slide, or `mpp` is not plausible, or is another than a slide was
        opened with or, being none of ours, has.
    InputError
        The slide cannot be read.
    """
    if not all(hasattr(source, name) for name in ("at", "thumbnail", "size_px", "mpp")):
        if not isinstance(source, str | PathLike):
            raise ArgumentError("source", "a path or a slide", source)
        with open_slide(source, mpp=mpp, progress=progress) as slide:
            yield slide
        return
    given = cast(SlideLike, source)
    if mpp is None or _has_scale(given, number_argument("mpp", mpp, *PLAUSIBLE_MPP, "µm per pixel")):
        yield given
    elif isinstance(given, Slide) and given.mpp_source != "given":
        with open_slide(given.path, mpp=mpp, progress=progress) as slide:
            yield slide
    else:
        wanted = (
            "none, as this slide has no scale"
            if given.mpp is None
            else f"the {given.mpp:g} µm per pixel that this slide has"
        )
        raise ArgumentError("mpp", wanted, mpp, "open_slide(path, mpp=...) opens a slide at another")


def _has_scale(slide: SlideLike, mpp: float) -> bool:
    return slide.mpp is not None and abs(mpp / slide.mpp - 1) <= _SAME


def file_name(slide: SlideLike) -> str:
    """Name of the file that a slide is from; ``"slide"`` where it is from none."""
    path = getattr(slide, "path", None)
    return Path(path).name if isinstance(path, str | PathLike) else "slide"


def json_digest(name: str, told: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping, the same in any order; an ArgumentError names it where JSON cannot hold it."""
    try:
        text = json.dumps(told, sort_keys=True)
    except (TypeError, ValueError) as problem:
        raise ArgumentError(name, "a mapping that JSON can hold", told) from problem
    return hashlib.sha256(text.encode()).hexdigest()


def told_apart(slide: SlideLike, mpp: float | None) -> dict[str, Any]:
    """What tells a slide from others, as JSON has it.

    Parameters
    ----------
    slide : SlideLike
    mpp : float or None
        Micrometres per pixel at which it is looked at.

    Returns
    -------
    dict
        Place, size and time of its file; where it is from none, a digest of its pixels, which are all read.
    """
    path = getattr(slide, "path", None)
    if isinstance(path, str | PathLike) and Path(path).is_file():
        facts = Path(path).stat()
        return {"path": str(Path(path).resolve()), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    reader = slide.at(mpp)
    height, width = reader.size_px
    digest, rows = hashlib.sha256(), max(1, _READ_PX // width)
    for top in range(0, height, rows):
        band = reader.read(Box(top, 0, min(top + rows, height), width))
        digest.update(np.ascontiguousarray(band).data)
    return {"pixels": digest.hexdigest()}
