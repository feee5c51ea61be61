"""Slides and pictures in, glomeruli out: each finished once, whatever stops the run between."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, InputError, StorageError, UsageError
from glomtile.files import workspace
from glomtile.files.lock import sole_run
from glomtile.files.slides import list_slides, open_slide, slide_name
from glomtile.files.tables import write_csv
from glomtile.types import SILENT, Progress
from glomtile.verbs.planned import Planned
from glomtile.verbs.report import report

if TYPE_CHECKING:
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.windows import Settings

_OWN = ".glomtile"
_WHOLE_BYTES = 64 * 2**20
"""Files up to this size are told apart by all their bytes, larger ones by pieces spread over them."""

_PIECES, _PIECE_BYTES = 64, 2**16


@dataclass(frozen=True)
class SegmentResult:
    """What became of each input.

    Attributes
    ----------
    done, skipped : tuple of Path
        Inputs segmented now, and those that an earlier run had finished.
    failed : tuple of (Path, str)
        The others, each with the reason.
    paths : tuple of Path
        ``summary.csv``, ``run.json``, ``report.html`` and the folders of outputs, those that exist.
    """

    done: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Request:
    """How to segment, apart from the inputs.

    Attributes
    ----------
    model : Path or None
        A model folder; the bundled one where `None`.
    mpp : float or None
        Scale of all inputs, in place of what the files say.
    settings : Settings or None
    tta : str or None
        Test-time augmentation, in place of the model's own.
    overwrite : bool
        Replace results of other settings.
    zarr : bool
        Also write masks as OME-Zarr.
    runtime : {"auto", "openvino", "keras"}
        What computes the network.
    """

    model: Path | None = None
    mpp: float | None = None
    settings: Settings | None = None
    tta: str | None = None
    overwrite: bool = False
    zarr: bool = False
    runtime: str = "auto"


def segment(
    inputs: Sequence[Path], out: Path, request: Request, *, progress: Progress = SILENT
) -> SegmentResult:
    """Segment slides and pictures into a folder of results.

    Parameters
    ----------
    inputs : sequence of Path
        Files, and folders whose slides and pictures are taken.
    out : Path
        See docs/outputs.md for what comes to lie in it.
    request : Request
    progress : Progress

    Returns
    -------
    SegmentResult

    Raises
    ------
    UsageError
        There is no input, `out` is a file, or another run works in it.
    ModelError
        The model cannot be used.
    StorageError
        The folder of results cannot be written at all.

    Notes
    -----
    A run that was killed continues: finished slides are passed over, the rows of an unfinished one are taken
    up, and the outputs end the same, byte for byte, except for times in ``run.json`` and ``summary.csv``.
    """
    from glomtile.engine.segmenter import Segmenter

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(out, "expected a folder for the results, got a file")
    files, failed = _files(inputs)
    if not files and not failed:
        raise UsageError("inputs", "expected at least one slide, picture or folder, got none")
    segmenter = Segmenter.load(request.model, request.settings, request.tta, runtime=request.runtime)
    with sole_run(out / _OWN, progress):
        return _all(files, failed, out, segmenter, request, progress)


def _all(
    files: Sequence[Path],
    failed: list[tuple[Path, str]],
    out: Path,
    segmenter: Segmenter,
    request: Request,
    progress: Progress,
) -> SegmentResult:
    """Segment the inputs one after the other; `failed` are those of which that is known already."""
    done: list[Path] = []
    skipped: list[Path] = []
    names: dict[str, Path] = {}
    for number, path in enumerate(files, 1):
        first = names.setdefault(slide_name(path).casefold(), path)
        if first != path:
            failed.append((path, f"expected a name of its own, got that of {first}: their results would mix"))
            continue
        progress.note(f"{path} ({number} of {len(files)})" if len(files) > 1 else f"{path}")
        try:
            fresh = _one(path, out, segmenter, request, progress)
        except (GlomtileError, MemoryError, OSError) as problem:
            failed.append((path, _reason(problem, path)))
            progress.warn(f"{path}: {_reason(problem, path)}")
            if isinstance(problem, StorageError) and not _writable(out):
                raise
            continue
        (done if fresh else skipped).append(path)
        _write_summary(out)
    _write_summary(out)
    told = _write_run(out, segmenter, request, done, skipped, failed)
    page = _report(out, progress)
    folders = [out / kind for kind in ("masks", "geojson", "objects", "overlays") if (out / kind).is_dir()]
    summary = out / "summary.csv"
    written = (*folders, *((summary,) if summary.is_file() else ()), told, *page)
    return SegmentResult(tuple(done), tuple(skipped), tuple(failed), written)


def _report(out: Path, progress: Progress) -> tuple[Path, ...]:
    """The page over all results of the folder; what keeps it from being written is a warning."""
    try:
        return (report(out),)
    except InputError as problem:
        progress.warn(f"no report: {problem}")
        return ()


def survey(
    inputs: Sequence[Path], request: Request, *, progress: Progress = SILENT
) -> tuple[list[Planned], list[tuple[Path, str]]]:
    """What `segment` would do with each input, and what of them cannot be done.

    Raises
    ------
    UsageError, ModelError
        See `segment`.
    """
    from glomtile.engine.segmenter import Segmenter

    files, failed = _files(inputs)
    segmenter = Segmenter.load(request.model, request.settings, request.tta, runtime=request.runtime)
    plans = []
    for path in files:
        try:
            with open_slide(path, mpp=request.mpp, progress=progress) as slide:
                plan, tissue = segmenter.plan(slide, path)
                masked = not slide.plain and (request.settings is None or request.settings.tissue_mask)
                seen = sum(not masked or tissue.near_tissue(window.own) for window in plan)
                assert slide.mpp is not None
                plans.append(
                    Planned(
                        path, slide.kind, slide.size_px, slide.mpp, slide.mpp_source or "given",
                        tissue.area_mm2, len(plan), seen,
                    )
                )  # fmt: skip
        except GlomtileError as problem:
            failed.append((path, _reason(problem, path)))
    return plans, failed


def runtime_of(request: Request) -> str:
    """What will compute the network: ``"openvino"`` or ``"keras"``.

    Raises
    ------
    ModelError, UsageError, MissingExtraError
        See `Segmenter.load`.
    """
    from glomtile.engine.modelfolder import model_folder, read_card
    from glomtile.engine.runtime import chosen_runtime

    folder = model_folder(request.model)
    return chosen_runtime(read_card(folder), request.runtime, folder)


def _files(inputs: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files meant, each once, and what of the inputs is none."""
    files: dict[Path, Path] = {}
    failed: list[tuple[Path, str]] = []
    for given in map(Path, inputs):
        try:
            for path in list_slides(given) if given.is_dir() else [given]:
                files.setdefault(path.resolve(), path)
        except InputError as problem:
            failed.append((given, _reason(problem, given)))
    return list(files.values()), failed


def _one(path: Path, out: Path, segmenter: Segmenter, request: Request, progress: Progress) -> bool:
    """Segment one input; False where that was done before."""
    began = time.time()
    own = out / _OWN
    record_path = own / f"{slide_name(path)}.json"
    identity = _identity(path, segmenter, request)
    record = _record(record_path)
    if record is not None and not request.overwrite:
        if record["identity"].get("sha256") != identity["sha256"]:
            raise InputError(
                path,
                f"expected the content of {record['input']}, which its results in {out} were made from, "
                "got another",
                "--overwrite replaces them; rename it if it is another slide",
            )
        if record["identity"] != identity:
            differing = [k for k in identity if record["identity"].get(k) != identity[k]]
            raise InputError(
                path,
                f"expected the settings that its results in {out} were made with, got others: "
                + ", ".join(differing),
                "--overwrite replaces them, or choose another folder",
            )
        missing_zarr = request.zarr and not any(name.startswith("zarr/") for name in record["files"])
        if not missing_zarr and all((out / name).exists() for name in record["files"]):
            progress.note(f"{path}: done before")
            _warn_of_doubts(path, record.get("doubts", ()), progress)
            return False
    work = own / f"{slide_name(path)}.work"
    found = segmenter.segment(path, mpp=request.mpp, work=work, identity=identity, progress=progress)
    written = found.save(out, zarr=request.zarr)
    workspace.write_json(
        record_path,
        {
            "input": str(path),
            "identity": identity,
            "figures": found.figures(),
            "doubts": list(found.doubts.warnings),
            "files": sorted(p.relative_to(out).as_posix() for p in written),
            "effort": vars(found.effort),
            "seconds": round(time.time() - began, 2),
        },
    )
    if work.exists():
        shutil.rmtree(work, ignore_errors=True)
    counts = ", ".join(
        f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
    )
    progress.note(f"{path}: {counts}, {found.tissue.area_mm2:.2f} mm² of tissue")
    _warn_of_doubts(path, found.doubts.warnings, progress)
    return True


def _warn_of_doubts(path: Path, doubts: Sequence[str], progress: Progress) -> None:
    if doubts:
        progress.warn(f"{path}: doubtful: {'; '.join(doubts)}")


def _identity(path: Path, segmenter: Segmenter, request: Request) -> dict[str, Any]:
    """What decides the outputs of one input, as JSON has it."""
    try:
        digest = _digest(path)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(path, "expected a slide or picture, got nothing there") from None
    except OSError as problem:
        raise InputError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    told = {
        "bytes": size,
        "sha256": digest,
        "mpp": request.mpp,
        **segmenter.identity,
    }
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _digest(path: Path) -> str:
    """SHA-256 of a small file, or of pieces of a large one, head and tail among them."""
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return workspace.sha256(path)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for number in range(_PIECES):
            stream.seek((size - _PIECE_BYTES) * number // (_PIECES - 1))
            digest.update(stream.read(_PIECE_BYTES))
    return digest.hexdigest()


def _record(path: Path) -> dict[str, Any] | None:
    """What an earlier run noted of an input; a damaged note counts for nothing."""
    try:
        record = json.loads(path.read_text("utf-8"))
        kinds = {"input": str, "identity": dict, "figures": dict, "files": list}
        whole = all(isinstance(record.get(key), kind) for key, kind in kinds.items())
    except (FileNotFoundError, ValueError, AttributeError):
        return None
    except OSError as problem:
        raise StorageError(path, f"expected a file that can be read, got: {problem.strerror}") from problem
    return record if whole else None


def _write_summary(out: Path) -> None:
    """One row for each finished slide, from the notes of all runs."""
    rows = [
        {**record["figures"], "seconds": record.get("seconds", "")}
        for path in sorted((out / _OWN).glob("*.json"))
        if (record := _record(path)) is not None
    ]
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(out / "summary.csv", columns, [[row.get(key, "") for key in columns] for row in rows])


def _write_run(
    out: Path,
    segmenter: Segmenter,
    request: Request,
    done: Iterable[Path],
    skipped: Iterable[Path],
    failed: Iterable[tuple[Path, str]],
) -> Path:
    from glomtile.engine.modelfolder import versions

    records = {}
    for path in (*done, *skipped):
        record = _record(out / _OWN / f"{slide_name(path)}.json")
        if record is not None:
            records[str(path)] = {
                k: record[k] for k in ("identity", "doubts", "effort", "seconds", "files") if k in record
            }
    target = out / "run.json"
    workspace.write_json(
        target,
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "model": {
                "folder": "bundled" if request.model is None else str(request.model),
                "sha256": segmenter.card.sha256,
                "mpp": segmenter.card.mpp,
            },
            "settings": segmenter.identity,
            "inputs": records,
            "done": [str(path) for path in done],
            "skipped": [str(path) for path in skipped],
            "failed": {str(path): reason for path, reason in failed},
        },
    )
    return target


def _writable(out: Path) -> bool:
    probe = out / _OWN / ".probe"
    with suppress(GlomtileError):
        workspace.write_text(probe, "")
        probe.unlink()
        return True
    return False


def _reason(problem: BaseException, path: Path) -> str:
    if isinstance(problem, MemoryError):
        return "expected a picture that fits the memory, got MemoryError"
    if not isinstance(problem, GlomtileError):
        return str(problem)
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    return text if problem.where in (str(path), path.name) else f"{problem.where}: {text}"
