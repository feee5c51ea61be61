"""Records of segmented slides, and the tables of a run made from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from glomtile.errors import InputError, StorageError
from glomtile.formatting import printable
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER
from glomtile.io.remote import RemoteFile, is_address
from glomtile.io.tables import write_csv
from glomtile.slides.slide import slide_name

_WHOLE_BYTES = 64 * 2**20
"""Size up to which a fingerprint covers all bytes of a file; of larger ones it covers pieces."""

_PIECES, _PIECE_BYTES = 64, 2**16
_TEXT_FIGURES = ("image", "kind", "mpp_source", "quality_flags")


class SlideRecord(BaseModel):
    """Facts of a finished slide, ``.glomtile/<slide>.json``.

    Attributes
    ----------
    input : str
        Path or address of the slide.
    origin : dict or None
        Address, size and version of a remote slide.
    fingerprint : dict
        Content of the file, model and settings: all that decides the outputs.
    figures : dict
        Row of ``summary.csv``.
    quality_flags : list of str
    files : list of str
        Outputs, relative to the folder of results.
    computed : dict
        Threads and processor.
    effort : dict
        Windows, and seconds of each stage.
    seconds : float
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    input: str
    origin: dict[str, str | int | None] | None = None
    fingerprint: dict[str, Any]
    figures: dict[str, int | float | str]
    quality_flags: list[str] = []
    files: list[str]
    computed: dict[str, int | str] = {}
    effort: dict[str, int | float] = {}
    seconds: float | None = None

    @model_validator(mode="after")
    def _is_plausible(self) -> Self:
        if "image" not in self.figures or isinstance(self.figures["image"], int | float):
            raise ValueError("expected the image's name")
        for key, value in self.figures.items():
            if key not in _TEXT_FIGURES:
                _number(value)
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in self.files):
            raise ValueError("expected names inside the folder of results")
        return self


def own_path(out: Path, source: Path | RemoteFile, kind: str) -> Path:
    """Return a path of glomtile's own for a slide in a folder of results.

    Parameters
    ----------
    out : Path
    source : Path or RemoteFile
    kind : {"json", "work", "lock"}
        The record, which exists when the slide is finished; the folder of label rows, which exists while it
        is not; the lock file.
    """
    return out / PRIVATE_FOLDER / f"{slide_name(source.name)}.{kind}"


def content_digest(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file; of a large one, of pieces of it, head and tail among them.

    Raises
    ------
    InputError
        The file does not exist or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size <= _WHOLE_BYTES:
            return {"bytes": size, "sha256": atomic.sha256(path)}
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            for number in range(_PIECES):
                stream.seek((size - _PIECE_BYTES) * number // (_PIECES - 1))
                digest.update(stream.read(_PIECE_BYTES))
    except FileNotFoundError:
        raise InputError(path, "expected a slide or image, the file does not exist") from None
    except OSError as problem:
        raise InputError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    return {"bytes": size, "sha256": digest.hexdigest()}


def differing_settings(record: SlideRecord, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that a record was made with otherwise."""
    return [key for key, value in settings.items() if record.fingerprint.get(key) != value]


def read_record(path: Path) -> SlideRecord | None:
    """Read the record of a slide.

    Returns
    -------
    SlideRecord or None
        ``None`` where there is none or it is damaged.

    Raises
    ------
    StorageError
        It exists and cannot be read.
    """
    try:
        return SlideRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as problem:
        raise StorageError(path, f"expected a file that can be read, got: {problem.strerror}") from problem


def read_records(out: Path) -> dict[str, SlideRecord]:
    """Read the records of all finished slides of a folder, by the names of their files, sorted."""
    found = ((path.name, read_record(path)) for path in sorted((out / PRIVATE_FOLDER).glob("*.json")))
    return {name: record for name, record in found if record is not None}


def original_input(out: Path, name: str) -> Path | None:
    """Return the path of the file that a result was made from; ``None`` where it is not known or remote."""
    record = read_record(out / PRIVATE_FOLDER / f"{name}.json")
    return None if record is None or is_address(record.input) else Path(record.input)


def write_summary(out: Path, records: Mapping[str, SlideRecord]) -> Path | None:
    """Write ``summary.csv``, a row for each finished slide; nothing where there is none."""
    if not records:
        return None
    rows = [
        {**record.figures, "seconds": "" if record.seconds is None else record.seconds}
        for record in records.values()
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    target = out / "summary.csv"
    write_csv(target, columns, [[row.get(key, "") for key in columns] for row in rows])
    return target


def image_facts(source: Path | RemoteFile, status: str, record: SlideRecord) -> dict[str, Any]:
    """Return the facts of one segmented image for a table or a program.

    Returns
    -------
    dict
        ``input``, ``status`` (``"done"``, or ``"skipped"`` where it was finished before), the columns of
        ``summary.csv`` as numbers, ``None`` where they are empty, ``quality_flags`` as a list, ``windows``,
        ``windows_skipped`` and ``seconds``.
    """
    figures = {
        key: value if key in _TEXT_FIGURES else _number(value)
        for key, value in record.figures.items()
        if key != "quality_flags"
    }
    return {
        "input": printable(source),
        "status": status,
        **figures,
        "quality_flags": record.quality_flags,
        "windows": record.effort.get("windows"),
        "windows_skipped": record.effort.get("skipped"),
        "seconds": record.seconds,
    }


def _number(value: float | str) -> float | int | None:
    """Read a figure; ``None`` where it is empty."""
    if not isinstance(value, str):
        return value
    if not value:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a number, got {value}")
    return int(value) if value.lstrip("-").isdecimal() else number
