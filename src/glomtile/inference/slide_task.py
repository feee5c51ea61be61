"""Segmentation of one slide of a run: fetched, locked, continued, recorded."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from glomtile.errors import (
    GlomtileError,
    InputError,
    LockedError,
    ModelError,
    StorageError,
    UsageError,
)
from glomtile.formatting import printable
from glomtile.inference.records import (
    SlideRecord,
    content_digest,
    differing_settings,
    own_path,
    read_record,
)
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER
from glomtile.io.remote import (
    RemoteFile,
    RemoteFolder,
    fetched,
)
from glomtile.slides.slide import SEVERAL_FILES, slide_name
from glomtile.types import Progress

if TYPE_CHECKING:
    from glomtile.inference.image import TilingSettings
    from glomtile.inference.segmenter import Segmenter

logger = logging.getLogger("glomtile")

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
    from glomtile.inference.predictor import chosen_runtime
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
        """Part of the fingerprints that all slides share, as JSON holds it."""
        plain: dict[str, Any] = json.loads(json.dumps({"mpp": self.options.mpp, **self.segmenter.identity}))
        return plain

    def run(self, source: SlidePath, progress: Progress) -> SlideStatus:
        """Segment one input, unless its results exist or another process is at it.

        Any exception but the user's interrupt becomes a status: a run of many does not end for one input.
        """
        try:
            _require_encodable(source)
            with atomic.file_lock(own_path(self.out, source, "lock"), progress):
                return self._run(source, progress)
        except LockedError:
            return SlideStatus("locked")
        except Exception as problem:
            error = as_error(problem, source)
            return SlideStatus("failed", error, "" if error is problem else traceback.format_exc())

    def _run(self, source: SlidePath, progress: Progress) -> SlideStatus:
        record = read_record(own_path(self.out, source, "json"))
        if isinstance(source, RemoteFile) and record is not None and record.origin == source.origin:
            known = {key: record.fingerprint.get(key) for key in ("bytes", "sha256")}
            if self._is_done(source, record, {**known, **self.settings}, progress):
                return SlideStatus("skipped")
        # The slide's lock guards the folder of its copy.
        copy = copies_folder(self.out, self.options.scratch) / f"{slide_name(source.name)}.fetched"
        with local_copy(source, copy, progress) as path:
            fingerprint = {**content_digest(path), **self.settings}
            if record is not None and self._is_done(source, record, fingerprint, progress):
                if isinstance(source, RemoteFile):
                    self._write_record(source, record.model_copy(update={"origin": source.origin}))
                return SlideStatus("skipped")
            self._segment(source, path, fingerprint, progress)
        return SlideStatus("done")

    def _is_done(
        self, source: SlidePath, record: SlideRecord, fingerprint: dict[str, Any], progress: Progress
    ) -> bool:
        """Check whether results exist that would come out the same; an InputError if they are others."""
        if self.options.overwrite:
            return False
        if record.fingerprint.get("sha256") != fingerprint["sha256"]:
            raise InputError(
                printable(source),
                f"expected the content of {record.input}, which its results in {self.out} were made from, "
                "got another",
                "--overwrite replaces them; rename it if it is another slide",
            )
        if differing := differing_settings(record, fingerprint):
            raise InputError(
                printable(source),
                f"expected the settings that its results in {self.out} were made with, got others: "
                + ", ".join(differing),
                "--overwrite replaces them, or choose another folder",
            )
        if self.options.zarr and not any(name.startswith("zarr/") for name in record.files):
            return False
        if self.address is None:
            paths = [self.out / name for name in record.files]
            if not all(path.is_dir() or (path.is_file() and path.stat().st_size > 0) for path in paths):
                return False
        progress.note(f"{printable(source)}: done before")
        _warn_of_flags(source, record, progress)
        return True

    def _segment(self, source: SlidePath, path: Path, identity: dict[str, Any], progress: Progress) -> None:
        from glomtile.system import cores, processor

        began, work = time.time(), own_path(self.out, source, "work")
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
                    remove_file(made)
        if work.exists():
            from glomtile.inference.label_store import remove_work

            with suppress(StorageError):  # the results are whole; the next run clears what is in its way
                remove_work(work)
        counts = (
            f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
        )
        progress.note(f"{printable(source)}: {', '.join(counts)}, {found.tissue.area_mm2:.2f} mm² of tissue")
        _warn_of_flags(source, record, progress)

    def _write_record(self, source: SlidePath, record: SlideRecord) -> None:
        """Write the record of a finished slide, at the address first: a local one means that both exist."""
        path, text = (
            own_path(self.out, source, "json"),
            atomic.json_text(record.model_dump(exclude_none=True)),
        )
        if self.address is not None:
            RemoteFolder(self.address).write(path.relative_to(self.out).as_posix(), text.encode("utf-8"))
        atomic.write_text(path, text)


def segment_on_worker(
    out: Path,
    options: SegmentOptions,
    settings: str,
    address: str | None,
    source: SlidePath,
    progress: Progress,
) -> SlideStatus:
    """Segment one input in a worker of a cluster.

    Parameters
    ----------
    out : Path
        As the workers see it.
    options : SegmentOptions
    settings : str
        `SlideTask.settings` of the client, as JSON.
    address : str or None
        See `SlideTask`.
    source : Path or RemoteFile
    progress : Progress

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

    return _load_on_worker(out, options, settings, address, worker_threads()).run(source, progress)


@functools.lru_cache(maxsize=1)
def _load_on_worker(
    out: Path, options: SegmentOptions, expected: str, address: str | None, threads: int
) -> SlideTask:
    from glomtile.inference.image import TilingSettings
    from glomtile.system import limit_threads

    until = time.monotonic() + _SHARED_WITHIN_S
    while not (out / PRIVATE_FOLDER).is_dir():
        if time.monotonic() > until:
            raise UsageError(
                out,
                "expected a folder that client and workers share, got one that a worker does not find",
                "give --out (or --scratch, for an address) on a file system that all machines mount",
            )
        time.sleep(0.1)
    options = replace(
        options, settings=replace(options.settings or TilingSettings(), network_threads=threads)
    )
    limit_threads(threads, runtime_of(options))
    task = SlideTask(out, options.segmenter(), options, address)
    known = json.loads(expected)
    others = [key for key, value in task.settings.items() if known.get(key) != value]
    if others:
        raise ModelError(
            options.model or "bundled model",
            f"expected the model and runtime of the client on every worker, got other: {', '.join(others)}",
            "give all machines the same installation and the same model folder",
        )
    return task


@contextmanager
def local_copy(source: SlidePath, folder: Path, progress: Progress) -> Iterator[Path]:
    """Give a local file of a slide: its own, or a copy in `folder` that is removed in the end."""
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


def copies_folder(out: Path, scratch: Path | None) -> Path:
    """Return the folder for copies of remote slides; in `scratch` there is one for each folder of results."""
    if scratch is None:
        return out / PRIVATE_FOLDER
    return scratch / f"glomtile-{hashlib.sha256(os.fsencode(out.absolute())).hexdigest()[:12]}"


def reason_of(problem: GlomtileError, source: object) -> str:
    """Return why an input has no results, without its name."""
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    names = {str(source), printable(source)}
    if isinstance(source, Path):
        names |= {source.name, str(source.absolute())}
    return printable(text if problem.where in names else f"{problem.where}: {text}")


def remove_file(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def _warn_of_flags(source: SlidePath, record: SlideRecord, progress: Progress) -> None:
    if record.quality_flags:
        progress.warn(f"{printable(source)}: flagged: {'; '.join(record.quality_flags)}")
