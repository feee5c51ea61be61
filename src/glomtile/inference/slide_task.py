"""Segmentation of one slide: found, locked, resumed and recorded."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from glomtile.errors import GlomtileError, InputError, LockedError, ModelError, StorageError, UsageError
from glomtile.formatting import printable
from glomtile.inference.label_store import remove_work
from glomtile.inference.records import (
    SlideRecord,
    differing_settings,
    fingerprint,
    lock_path,
    read_record,
    record_path,
    record_text,
    settings_fingerprint,
    work_path,
)
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER
from glomtile.io.images import natural_key
from glomtile.io.remote import RemoteFile, RemoteFolder, fetched, is_address, list_remote, local_path
from glomtile.slides.slide import SEVERAL_FILES, SLIDE_SUFFIXES, list_slides, slide_name
from glomtile.types import Progress

if TYPE_CHECKING:
    from glomtile.inference.result import Segmentation
    from glomtile.inference.segmenter import Segmenter
    from glomtile.inference.window_size import TilingSettings

SlidePath = Path | RemoteFile
"""A slide or image: a local file, or a file behind an address."""

REPORTED = ("objects", "geojson", "overlays")
"""Folders of outputs that the report is made from."""

KINDS = (*REPORTED, "masks", "tissue", "zarr")
"""Folders of outputs, one for each kind."""

_SHARED_WITHIN_S = 3.0
"""Time in which a folder made on one machine shows on another."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `segment`, apart from inputs and output.

    Attributes
    ----------
    model : Path or None
        A model folder; the bundled one where `None`.
    mpp : float or None
        Scale of all inputs, in place of the files' own.
    settings : TilingSettings or None
        Windows, memory and threads.
    tta : str or None
        Test-time augmentation, in place of the model's own.
    overwrite : bool
        Replace results of other settings.
    zarr : bool
        Also write masks as OME-Zarr.
    runtime : {"auto", "openvino", "keras"}
        Program that computes the network.
    scratch : Path or None
        Folder for copies of remote slides, and for results on their way to an address. By default copies are
        in ``.glomtile`` of the results, and results on their way in the user's cache.
    threshold : float or None
        Above 0 and below 1: foreground probability, in place of the model's own.
    """

    model: Path | None = None
    mpp: float | None = None
    settings: TilingSettings | None = None
    tta: str | None = None
    overwrite: bool = False
    zarr: bool = False
    runtime: str = "auto"
    scratch: Path | None = None
    threshold: float | None = None

    def segmenter(self) -> Segmenter:
        """Load the model with these options.

        Raises
        ------
        ModelError, UsageError, MissingExtraError
            See `Segmenter.load`.
        """
        from glomtile.inference.segmenter import Segmenter

        return Segmenter.load(
            self.model, self.settings, self.tta, threshold=self.threshold, runtime=self.runtime
        )


def runtime_of(options: SegmentOptions) -> str:
    """Return the program that will compute the network: ``"openvino"`` or ``"keras"``.

    Raises
    ------
    ModelError, UsageError, MissingExtraError
        See `Segmenter.load`.
    """
    from glomtile.inference.runtime import chosen_runtime
    from glomtile.models.folder import model_folder, read_card, read_whole

    folder = model_folder(options.model)
    return chosen_runtime(read_whole(folder, read_card), options.runtime, folder)


@dataclass(frozen=True)
class SlideStatus:
    """State of one input after an attempt at it.

    Attributes
    ----------
    state : {"done", "skipped", "locked", "failed"}
        Segmented now, finished before, held by another process, or failed.
    problem : GlomtileError or None
        Reason of a failure.
    traceback : str
        Of a failure that glomtile does not foresee.
    """

    state: Literal["done", "skipped", "locked", "failed"]
    problem: GlomtileError | None = None
    traceback: str = ""


@dataclass(frozen=True)
class SlideTask:
    """Segmentation of slides into one folder of results.

    Attributes
    ----------
    out : Path
    segmenter : Segmenter
    options : SegmentOptions
    address : str or None
        Remote folder that results are put to from `out`.
    """

    out: Path
    segmenter: Segmenter
    options: SegmentOptions
    address: str | None = None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Part of the fingerprints that all slides share."""
        return settings_fingerprint(self.options.mpp, self.segmenter)

    def run(self, source: SlidePath, progress: Progress) -> SlideStatus:
        """Segment one input, unless its results exist or another process is at it.

        Any exception but the user's interrupt becomes a status: a run of many does not end for one input.
        """
        try:
            _require_encodable(source)
            with atomic.file_lock(lock_path(self.out, source), progress):
                return self._run(source, progress)
        except LockedError:
            return SlideStatus("locked")
        except Exception as problem:
            error = as_error(problem, source)
            return SlideStatus("failed", error, "" if error is problem else traceback.format_exc())

    def _run(self, source: SlidePath, progress: Progress) -> SlideStatus:
        record = read_record(record_path(self.out, source))
        if isinstance(source, RemoteFile) and record is not None and record.origin == source.origin:
            known = {key: record.fingerprint.get(key) for key in ("bytes", "sha256")}
            if self._is_done(source, record, {**known, **self.settings}, progress):
                return SlideStatus("skipped")
        with local_copy(source, self._copy_folder(source), progress) as path:
            identity = fingerprint(path, self.options.mpp, self.segmenter)
            if record is not None and self._is_done(source, record, identity, progress):
                if isinstance(source, RemoteFile):
                    self._write_record(source, record.model_copy(update={"origin": source.origin}))
                return SlideStatus("skipped")
            self._segment(source, path, identity, progress)
        return SlideStatus("done")

    def _is_done(
        self, source: SlidePath, record: SlideRecord, identity: dict[str, Any], progress: Progress
    ) -> bool:
        """Check whether results exist that would come out the same."""
        if self.options.overwrite or not require_same(source, self.out, record, identity):
            return False
        if self.options.zarr and not any(name.startswith("zarr/") for name in record.files):
            return False
        if self.address is None and not all(_is_whole(self.out / name) for name in record.files):
            return False
        progress.note(f"{printable(source)}: done before")
        _warn_of_flags(source, record.quality_flags, progress)
        return True

    def _segment(self, source: SlidePath, path: Path, identity: dict[str, Any], progress: Progress) -> None:
        from glomtile.system import cores, processor

        began, work = time.time(), work_path(self.out, source)
        if work.is_symlink():
            raise StorageError(work, "expected a folder of glomtile, got a link")
        found = self.segmenter.segment(
            path, mpp=self.options.mpp, work=work, identity=identity, progress=progress
        )
        written = found.save(self.out, zarr=self.options.zarr)
        names = {path: path.relative_to(self.out).as_posix() for path in written}
        if self.address is not None:
            for made, name in names.items():
                RemoteFolder(self.address).put(made, name)
        record = SlideRecord(
            input=printable(source),
            origin=source.origin if isinstance(source, RemoteFile) else None,
            fingerprint=identity,
            figures=found.figures(),
            quality_flags=list(found.quality.warnings),
            files=sorted(names.values()),
            computed={
                "threads": self.segmenter.settings.network_threads or cores(),
                "processor": processor(),
            },
            effort=vars(found.effort),
            seconds=round(time.time() - began, 2),
        )
        self._write_record(source, record)
        if self.address is not None:
            for made, name in names.items():
                if not name.startswith(REPORTED):
                    remove(made)
        with suppress(StorageError):  # the results are whole; the next run clears what is in its way
            remove_work(work)
        progress.note(f"{printable(source)}: {_counts(found)}, {found.tissue.area_mm2:.2f} mm² of tissue")
        _warn_of_flags(source, record.quality_flags, progress)

    def _write_record(self, source: SlidePath, record: SlideRecord) -> None:
        """Write the record of a finished slide, at the address first: a local one means that both exist."""
        path, text = record_path(self.out, source), record_text(record)
        if self.address is not None:
            RemoteFolder(self.address).write(path.relative_to(self.out).as_posix(), text.encode("utf-8"))
        atomic.write_text(path, text)

    def _copy_folder(self, source: SlidePath) -> Path:
        """Return the folder for the copy of a remote slide; the slide's lock guards it."""
        folder = copies_folder(self.out, self.options.scratch) or self.out / PRIVATE_FOLDER
        return folder / f"{slide_name(source.name)}.fetched"


@dataclass(frozen=True)
class WorkerJob:
    """A `SlideTask` as it is sent to the workers of a cluster.

    Attributes
    ----------
    out : Path
        As the workers see it.
    options : SegmentOptions
    settings : str
        `SlideTask.settings` of the client, as JSON.
    address : str or None
    """

    out: Path
    options: SegmentOptions
    settings: str
    address: str | None = None


def segment_on_worker(job: WorkerJob, source: SlidePath, progress: Progress) -> SlideStatus:
    """Segment one input in a worker of a cluster.

    Raises
    ------
    UsageError
        The worker does not see the folder of results.
    ModelError
        The worker has another model, or another runtime, than the client.
    MissingExtraError
        The worker has no runtime for it.
    """
    from glomtile.cluster import worker_threads

    return _load_on_worker(job, worker_threads()).run(source, progress)


@functools.lru_cache(maxsize=1)
def _load_on_worker(job: WorkerJob, threads: int) -> SlideTask:
    from glomtile.inference.window_size import TilingSettings
    from glomtile.system import limit_threads

    _require_shared(job.out)
    settings = replace(job.options.settings or TilingSettings(), network_threads=threads)
    limit_threads(threads, runtime_of(job.options))
    task = SlideTask(job.out, replace(job.options, settings=settings).segmenter(), job.options, job.address)
    expected = json.loads(job.settings)
    others = [key for key, value in task.settings.items() if expected.get(key) != value]
    if others:
        raise ModelError(
            job.options.model or "bundled model",
            f"expected the model and runtime of the client on every worker, got other: {', '.join(others)}",
            "give all machines the same installation and the same model folder",
        )
    return task


def _require_shared(out: Path) -> None:
    until = time.monotonic() + _SHARED_WITHIN_S
    while not (out / PRIVATE_FOLDER).is_dir():
        if time.monotonic() > until:
            raise UsageError(
                out,
                "expected a folder that client and workers share, got one that a worker does not find",
                "give --out (or --scratch, for an address) on a file system that all machines mount",
            )
        time.sleep(0.1)


def require_same(source: SlidePath, out: Path, record: SlideRecord, identity: dict[str, Any]) -> bool:
    """Check that a record is of this content and these settings.

    Raises
    ------
    InputError
        There are results of another slide of this name, or of other settings.
    """
    if record.fingerprint.get("sha256") != identity["sha256"]:
        raise InputError(
            printable(source),
            f"expected the content of {record.input}, which its results in {out} were made from, got another",
            "--overwrite replaces them; rename it if it is another slide",
        )
    differing = differing_settings(record, identity)
    if differing:
        raise InputError(
            printable(source),
            f"expected the settings that its results in {out} were made with, got others: "
            + ", ".join(differing),
            "--overwrite replaces them, or choose another folder",
        )
    return True


def expand_inputs(
    inputs: Sequence[str | Path],
) -> tuple[list[SlidePath], list[tuple[SlidePath | str, str]]]:
    """List the slides of inputs, each once, and the inputs that hold none.

    Parameters
    ----------
    inputs : sequence of str or Path
        Files, folders, and addresses of them as ``s3://bucket/study/*.svs``; ``file:///abs/path`` is a path.

    Raises
    ------
    UsageError
        An address of this machine is no absolute path.
    MissingExtraError
        An address needs a package that is not installed.
    """
    found: dict[str | RemoteFile, SlidePath] = {}
    failed: list[tuple[SlidePath | str, str]] = []
    for given in inputs:
        where = given if isinstance(given, str) and is_address(given) else Path(given)
        try:
            for source in _expand(where):
                # Not Path.resolve(), which raises for a link to itself.
                key = os.path.realpath(source) if isinstance(source, Path) else source
                found.setdefault(key, source)
        except InputError as problem:
            failed.append((where, reason(problem, where)))
    return list(found.values()), failed


def reject_name_clashes(
    sources: Sequence[SlidePath], failed: list[tuple[SlidePath | str, str]]
) -> list[SlidePath]:
    """Return the inputs whose names differ; append the others to `failed`."""
    names: dict[str, SlidePath] = {}
    for source in sources:
        first = names.setdefault(slide_name(source.name).casefold(), source)
        if first != source:
            failed.append((source, f"duplicate file name: the results would mix with those of {first}"))
    return list(names.values())


def size_bytes(source: SlidePath) -> int:
    """Return the size of a slide's file, 0 where it is not known."""
    if isinstance(source, RemoteFile):
        return source.bytes or 0
    try:
        return source.stat().st_size
    except OSError:
        return 0


@contextmanager
def local_copy(source: SlidePath, folder: Path, progress: Progress) -> Iterator[Path]:
    """Give a local file of a slide: its own, or a copy that is removed in the end.

    Parameters
    ----------
    source : Path or RemoteFile
    folder : Path
        Holds the copy and nothing else; see `glomtile.io.remote.fetched`.
    progress : Progress

    Raises
    ------
    InputError
        It cannot be fetched, or consists of several files. Errors of the copy name its address.
    StorageError
        The copy does not fit the disk.
    """
    if isinstance(source, Path):
        yield source
        return
    suffix = PurePosixPath(source.name).suffix.lower()
    if suffix in SEVERAL_FILES:
        raise InputError(
            source,
            f"expected a slide that is one file, got {suffix}, whose pixels may be in files beside it",
            "copy all of them to a folder",
        )
    with fetched(source, folder, progress) as path:
        try:
            yield path
        except InputError as problem:
            if problem.where != str(path):
                raise
            raise InputError(source, problem.message, problem.hint) from problem


def as_error(problem: Exception, source: SlidePath) -> GlomtileError:
    """Return an exception as an error of an input that can be sent between processes."""
    if isinstance(problem, GlomtileError):
        return problem
    if isinstance(problem, MemoryError):
        return InputError(printable(source), "expected an image that fits the memory, got MemoryError")
    got = f"{type(problem).__name__}: {problem}"
    return InputError(printable(source), f"expected a slide that can be segmented, got {got}")


def copies_folder(out: Path, scratch: Path | None) -> Path | None:
    """Return the folder in `scratch` for copies of remote slides, one for each folder of results."""
    if scratch is None:
        return None
    return scratch / f"glomtile-{hashlib.sha256(os.fsencode(out.absolute())).hexdigest()[:12]}"


def reason(problem: GlomtileError, source: object) -> str:
    """Return why an input has no results, without its name."""
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    names = {str(source), printable(source)}
    if isinstance(source, Path):
        names |= {source.name, str(source.absolute())}
    return printable(text if problem.where in names else f"{problem.where}: {text}")


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _expand(where: str | Path) -> Sequence[SlidePath]:
    if isinstance(where, Path):
        return list_slides(where) if where.is_dir() else [where]
    path = local_path(where)
    if path is None:
        return list_remote(where, SLIDE_SUFFIXES)
    if set(str(path)) & set("*[?") and not path.exists():
        return _matching(path)
    return _expand(path)


def _matching(pattern: Path) -> list[Path]:
    """List the slides and images of a pattern behind ``file://``, which no shell expands."""
    found = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207  (it is absolute)
    slides = [path for path in found if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()]
    if not slides:
        raise InputError(pattern, f"expected at least one of {', '.join(SLIDE_SUFFIXES)}, got none")
    return sorted(slides, key=lambda path: (path.parent, natural_key(path.stem), path.suffix))


def _require_encodable(source: SlidePath) -> None:
    """Refuse a file name that UTF-8 cannot hold: masks, tables and GeoJSON name it."""
    try:
        source.name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            printable(source),
            "expected a file name in UTF-8, got other bytes",
            "rename it, or set a UTF-8 locale",
        ) from None


def _is_whole(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def _counts(found: Segmentation) -> str:
    return ", ".join(
        f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
    )


def _warn_of_flags(source: SlidePath, flags: Sequence[str], progress: Progress) -> None:
    if flags:
        progress.warn(f"{printable(source)}: flagged: {'; '.join(flags)}")
