"""Compile cache."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from glomtile.errors import PlaceError, StorageError
from glomtile.io.atomic import atomic_write, sha256, user_cache

_LARGEST_BYTES = 32 * 2**20
"""Files of larger networks are compiled each time: computing one image takes them longer than that."""

_KEPT = 8
"""Networks kept; the one that was not used for longest goes first."""

_SUFFIX = ".compiled"
_DIGEST_BYTES = hashlib.sha256().digest_size


def kept_network(core: Any, path: Path, settings: Mapping[str, str]) -> Any:
    """A network compiled for this processor, from the cache where an earlier process left it there.

    Parameters
    ----------
    core : openvino.Core
    path : Path
        ONNX, or OpenVINO's own XML with its weights beside it.
    settings : mapping of str to str
        Of the compilation.

    Returns
    -------
    openvino.CompiledModel
        With the same answers, to the bit, from the cache or not.

    Raises
    ------
    RuntimeError
        OpenVINO cannot read or compile the file.

    Notes
    -----
    What is kept is found by the network's bytes, the settings, OpenVINO's version and the processor, and
    is compiled anew where its own bytes have changed, others could have written it or OpenVINO refuses it. A
    cache that cannot be read or written is none.
    """
    place, parts = None, _parts(path)
    with suppress(OSError, PlaceError):  # no home folder; or no file, which OpenVINO will tell
        if sum(part.stat().st_size for part in parts) <= _LARGEST_BYTES:
            place = user_cache() / "compiled" / f"{_key(core, parts, settings)}{_SUFFIX}"
    blob = _read(place) if place is not None else None
    if blob is not None:
        with suppress(RuntimeError):  # OpenVINO wants another's: it is compiled anew
            return core.import_model(blob, "CPU", settings)
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    if place is not None:
        # A cache that cannot be written is none; nor is kept what was exchanged after its key was taken.
        with suppress(OSError, StorageError, RuntimeError):
            if place.stem == _key(core, parts, settings):
                _keep(place, compiled.export_model())
    return compiled


def _parts(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _key(core: Any, parts: list[Path], settings: Mapping[str, str]) -> str:
    """A name for what is compiled, and for what; OpenVINO refuses what another set of instructions needs."""
    import openvino

    abilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    facts = (
        [sha256(part) for part in parts],
        sorted(settings.items()),
        openvino.get_version(),
        core.get_property("CPU", "FULL_DEVICE_NAME"),
        abilities,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _read(place: Path) -> bytes | None:
    """What is kept there, its digest before it; ``None`` where nothing is, or not what this user wrote."""
    try:
        if not place.is_file():  # a pipe would be waited for
            return None
        with place.open("rb") as stream:
            if not _is_own(os.fstat(stream.fileno())):
                return None
            data = stream.read()
    except OSError:
        return None
    digest, blob = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    with suppress(OSError):  # the time of its last use is all that is lost
        os.utime(place)
    return blob


def _is_own(told: os.stat_result) -> bool:
    """Whether nobody else could have written a file: OpenVINO trusts what it reads."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: the folder lies in the user's own
    return told.st_uid == os.geteuid() and not told.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _keep(place: Path, exported: Any) -> None:
    """Write a compiled network, and make room for it."""
    blob: bytes = exported if isinstance(exported, bytes) else exported.getvalue()  # OpenVINO 2025.0, later
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write(place) as partial:
        partial.touch(mode=0o600)
        partial.write_bytes(hashlib.sha256(blob).digest() + blob)
    others = [path for path in place.parent.glob(f"[!.]*{_SUFFIX}") if path != place]
    for old in sorted(others, key=_last_used, reverse=True)[_KEPT - 1 :]:
        with suppress(OSError):  # open on Windows, or another process was faster
            old.unlink()


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
