"""Networks as OpenVINO has compiled them, kept in the user's cache: the next process reads them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from glomtile.errors import StorageError
from glomtile.files.usercache import user_cache
from glomtile.files.workspace import sha256, write_bytes

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
    is compiled anew where its own bytes have changed or OpenVINO refuses it. A cache that cannot be read or
    written is none.
    """
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    if sum(part.stat().st_size for part in parts) > _LARGEST_BYTES:
        return core.compile_model(core.read_model(path), "CPU", settings)
    try:
        place = user_cache() / "compiled" / f"{_key(core, parts, settings)}{_SUFFIX}"
    except StorageError:  # no home folder
        return core.compile_model(core.read_model(path), "CPU", settings)
    blob = _read(place)
    if blob is not None:
        with suppress(RuntimeError):  # OpenVINO wants another's: it is compiled anew
            return core.import_model(blob, "CPU", settings)
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    _keep(place, compiled.export_model().getvalue())
    return compiled


def _key(core: Any, parts: list[Path], settings: Mapping[str, str]) -> str:
    """A name for all that decides what compiling gives."""
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
    """What is kept there, its digest before it; ``None`` where nothing is, or not what was written."""
    try:
        data = place.read_bytes()
    except OSError:
        return None
    digest, blob = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    with suppress(OSError):  # the time of its last use is all that is lost
        os.utime(place)
    return blob


def _keep(place: Path, blob: bytes) -> None:
    with suppress(StorageError):  # a full disk or a read-only home: the next process compiles, too
        write_bytes(place, hashlib.sha256(blob).digest() + blob)
    with suppress(OSError):  # another process may be tidying as well
        oldest_last = sorted(place.parent.glob(f"*{_SUFFIX}"), key=_last_used, reverse=True)
        for old in oldest_last[_KEPT:]:
            old.unlink(missing_ok=True)


def _last_used(path: Path) -> float:
    return path.stat().st_mtime
