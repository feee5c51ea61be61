"""Records of segmented slides and tables made from them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, InputError, StorageError
from glomtile.io import atomic
from glomtile.io.remote import RemoteFile
from glomtile.io.tables import read_csv, write_csv
from glomtile.slides.slide import slide_name

if TYPE_CHECKING:
    from glomtile.inference.result import Segmentation
    from glomtile.inference.segmenter import Segmenter
    from glomtile.inference.slide_task import Source
    from glomtile.inference.slidebucket import Bucket

_WORST = 3
_TEXTS = ("image", "kind", "mpp_source")
_TOLD_ELSEWHERE = ("quality_flags", "seconds")


def slides_outcome(out: Path) -> list[dict[str, Any]]:
    """What the last run of `segment` did with each slide that has results.

    Parameters
    ----------
    out : Path
        The folder of results: its ``run.json`` and ``summary.csv`` are read.

    Returns
    -------
    list of dict
        ``input``, ``status`` (``"done"``, or ``"skipped"`` where an earlier run had finished it), the columns
        of ``summary.csv`` as numbers, ``None`` where they are empty, ``quality_flags`` as a list,
        ``windows``, ``windows_skipped`` and ``seconds``.

    Raises
    ------
    InputError
        One of the two cannot be read.
    """
    run = _read_json(out / "run.json")
    summary = out / "summary.csv"
    rows = {row["image"]: row for row in read_csv(summary, ("image",))} if summary.is_file() else {}
    found = []
    for status in ("done", "skipped"):
        for given in run[status]:
            record = run["inputs"].get(given, {})
            effort = record.get("effort", {})
            found.append(
                {
                    "input": given,
                    "status": status,
                    **{
                        key: value if key in _TEXTS else _number(value)
                        for key, value in rows.get(slide_name(given), {}).items()
                        if key not in _TOLD_ELSEWHERE
                    },
                    "quality_flags": record.get("quality_flags", []),
                    "windows": effort.get("windows"),
                    "windows_skipped": effort.get("skipped"),
                    "seconds": record.get("seconds"),
                }
            )
    return found


def scores_outcome(folder: Path) -> dict[str, Any]:
    """The figures of a scored set of images.

    Parameters
    ----------
    folder : Path
        Its ``scores.json`` and ``per_image.csv`` are read.

    Returns
    -------
    dict
        ``scores``, the content of ``scores.json``, and ``worst``, a list of the images of lowest Dice:
        ``image``, and ``class`` (its name) and ``dice`` of its worst class.

    Raises
    ------
    InputError
        One of the two cannot be read.
    """
    rows: list[dict[str, Any]] = [
        {"image": row["image"], "class": row["name"], "dice": float(row["dice"])}
        for row in read_csv(folder / "per_image.csv", ("image", "name", "dice"))
        if row["dice"]
    ]
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["dice"]):
        worst.setdefault(row["image"], row)
    return {"scores": _read_json(folder / "scores.json"), "worst": list(worst.values())[:_WORST]}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(path, f"expected what the run has just written, got: {problem}") from problem
    return content


def _number(text: str) -> float | int | None:
    """A cell of numbers; ``None`` where it is empty."""
    if not text:
        return None
    value = float(text)
    return int(value) if text.lstrip("-").isdecimal() else value


OWN = ".glomtile"
"""Folder of the notes."""

_WHOLE_BYTES = 64 * 2**20
"""Files up to this size are told apart by all their bytes, larger ones by pieces spread over them."""

_PIECES, _PIECE_BYTES = 64, 2**16
_SUMMARY_SHARE = 20
"""The summary of a run under way is written anew when so many times its writing has passed."""


def note_path(out: Path, source: Source) -> Path:
    """The note of a slide, there when it is finished."""
    return out / OWN / f"{slide_name(source.name)}.json"


def work_path(out: Path, source: Source) -> Path:
    """The folder of a slide's rows, there while it is not."""
    return out / OWN / f"{slide_name(source.name)}.work"


def identity_of(path: Path, mpp: float | None, segmenter: Segmenter) -> dict[str, Any]:
    """What decides the outputs of one input, as JSON has it.

    Raises
    ------
    InputError
        It is not there or cannot be read.
    """
    try:
        digest = _digest(path)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(path, "expected a slide or picture, got nothing there") from None
    except OSError as problem:
        raise InputError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    return _identity(size, digest, mpp, segmenter)


def known_identity(
    out: Path, source: Source, mpp: float | None, segmenter: Segmenter
) -> dict[str, Any] | None:
    """What `identity_of` would say of a remote slide, without fetching it.

    That is possible where its results were made from a file of this address, size and version; ``None``
    where they were not.

    Raises
    ------
    StorageError
        The slide's note is there and cannot be read.
    """
    if isinstance(source, Path):
        return None
    note = read_note(note_path(out, source))
    if note is None or note.get("origin") != source.origin:
        return None
    return _identity(note["identity"].get("bytes"), note["identity"].get("sha256"), mpp, segmenter)


def done_before(
    out: Path, source: Source, identity: dict[str, Any], zarr: bool, bucket: Bucket | None = None
) -> bool:
    """Whether a slide's results are there and the same would come again.

    In a bucket they are where there is a note: that was seen when the run began.

    Raises
    ------
    InputError
        There are results of another slide of this name, or of other settings.
    """
    note = read_note(note_path(out, source))
    if note is None:
        return False
    if note["identity"].get("sha256") != identity["sha256"]:
        raise InputError(
            source,
            f"expected the content of {note['input']}, which its results in {out} were made from, "
            "got another",
            "--overwrite replaces them; rename it if it is another slide",
        )
    if note["identity"] != identity:
        differing = [k for k in identity if note["identity"].get(k) != identity[k]]
        raise InputError(
            source,
            f"expected the settings that its results in {out} were made with, got others: "
            + ", ".join(differing),
            "--overwrite replaces them, or choose another folder",
        )
    missing_zarr = zarr and not any(name.startswith("zarr/") for name in note["files"])
    there = bucket is not None or all((out / name).exists() for name in note["files"])
    return there and not missing_zarr


def read_note(path: Path) -> dict[str, Any] | None:
    """What an earlier run noted of a slide; a damaged note counts for nothing.

    Raises
    ------
    StorageError
        It is there and cannot be read.
    """
    try:
        note = json.loads(path.read_text("utf-8"))
        kinds = {"input": str, "identity": dict, "figures": dict, "files": list}
        whole = all(isinstance(note.get(key), kind) for key, kind in kinds.items())
    except (FileNotFoundError, ValueError, AttributeError):
        return None
    except OSError as problem:
        raise StorageError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    return note if whole else None


def write_note(
    out: Path,
    source: Source,
    identity: dict[str, Any],
    found: Segmentation,
    written: Iterable[Path],
    computed: dict[str, Any],
    seconds: float,
    bucket: Bucket | None = None,
) -> None:
    """Note that a slide is finished; after this, and not before, it counts as done."""
    origin = {} if isinstance(source, Path) else {"origin": source.origin}
    _put_note(
        out,
        source,
        {
            "input": str(source),
            **origin,
            "identity": identity,
            "figures": found.figures(),
            "quality_flags": list(found.quality.warnings),
            "files": sorted(p.relative_to(out).as_posix() for p in written),
            "computed": computed,
            "effort": vars(found.effort),
            "seconds": round(seconds, 2),
        },
        bucket,
    )


def note_origin(out: Path, source: Source, bucket: Bucket | None = None) -> None:
    """Note where the content of a finished slide lies now, so that it is known without being fetched."""
    note = read_note(note_path(out, source))
    if note is not None and isinstance(source, RemoteFile) and note.get("origin") != source.origin:
        _put_note(out, source, {**note, "origin": source.origin}, bucket)


def _put_note(out: Path, source: Source, told: dict[str, Any], bucket: Bucket | None) -> None:
    """Write a note; in the bucket first, since one that lies here says that the other does."""
    path = note_path(out, source)
    if bucket is not None:
        name = path.relative_to(out).as_posix()
        bucket.folder.write(name, atomic.json_text(told).encode("utf-8"))
    atomic.write_json(path, told)


class Summary:
    """``summary.csv``: a row for each finished slide, from the notes of all runs into a folder.

    Parameters
    ----------
    out : Path
        Its notes are read once, here.

    Notes
    -----
    Reading every note again for every slide would take hours with ten thousand of them, and writing the
    table as often some minutes: while a run is under way it is written when it has become worth it.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._rows: dict[str, dict[str, Any]] = {}
        self._next = 0.0
        for path in (out / OWN).glob("*.json"):
            self._take(path)

    def add(self, source: Source) -> None:
        """Take up a slide that was finished now."""
        self._take(note_path(self._out, source))
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the table, if any slide is finished."""
        if not self._rows:
            return
        began = time.monotonic()
        rows = [row for _, row in sorted(self._rows.items())]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(self._out / "summary.csv", columns, [[row.get(key, "") for key in columns] for row in rows])
        ended = time.monotonic()
        self._next = ended + _SUMMARY_SHARE * (ended - began)

    def _take(self, path: Path) -> None:
        note = read_note(path)
        if note is not None:
            self._rows[path.name] = {**note["figures"], "seconds": note.get("seconds", "")}


def write_run(
    out: Path,
    segmenter: Segmenter,
    model: Path | None,
    done: Iterable[Source],
    skipped: Iterable[Source],
    failed: Iterable[tuple[Source | str, str]],
) -> Path:
    """Write ``run.json``: what this run was, did and could not do."""
    from glomtile.models.folder import versions

    notes = {}
    for path in (*done, *skipped):
        note = read_note(note_path(out, path))
        if note is not None:
            kept = ("origin", "identity", "quality_flags", "computed", "effort", "seconds", "files")
            notes[str(path)] = {k: note[k] for k in kept if k in note}
    target = out / "run.json"
    atomic.write_json(
        target,
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "model": {
                "folder": "bundled" if model is None else str(model),
                "sha256": segmenter.card.sha256,
                "mpp": segmenter.card.mpp,
            },
            "settings": segmenter.identity,
            "inputs": notes,
            "done": [str(path) for path in done],
            "skipped": [str(path) for path in skipped],
            "failed": {str(path): reason for path, reason in failed},
        },
    )
    return target


def can_write(out: Path) -> bool:
    """Whether the folder of results takes anything at all."""
    probe = out / OWN / ".probe"
    with suppress(GlomtileError):
        atomic.write_text(probe, "")
        probe.unlink()
        return True
    return False


def _identity(size: Any, digest: Any, mpp: float | None, segmenter: Segmenter) -> dict[str, Any]:
    told = {"bytes": size, "sha256": digest, "mpp": mpp, **segmenter.identity}
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _digest(path: Path) -> str:
    """SHA-256 of a small file, or of pieces of a large one, head and tail among them."""
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return atomic.sha256(path)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for number in range(_PIECES):
            stream.seek((size - _PIECE_BYTES) * number // (_PIECES - 1))
            digest.update(stream.read(_PIECE_BYTES))
    return digest.hexdigest()
