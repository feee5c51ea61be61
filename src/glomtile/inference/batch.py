"""Segmentation of many slides, here or on a cluster."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from glomtile.errors import (
    ClusterError,
    GlomtileError,
    InputError,
    LockedError,
    ModelError,
    PlaceError,
    StorageError,
    UsageError,
)
from glomtile.formatting import printable
from glomtile.inference.records import (
    SlideRecord,
    content_digest,
    differing_settings,
    image_facts,
    own_path,
    read_record,
    read_records,
    write_summary,
)
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER, require_place, storage_errors, user_cache
from glomtile.io.images import natural_key
from glomtile.io.remote import (
    WEB,
    RemoteFile,
    RemoteFolder,
    fetched,
    is_address,
    list_remote,
    local_path,
    require_persistent,
    require_store,
    scheme_of,
)
from glomtile.models.folder import versions
from glomtile.slides.slide import SEVERAL_FILES, SLIDE_SUFFIXES, list_slides, open_slide, slide_name
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.inference.image import TilingSettings
    from glomtile.inference.segmenter import Segmenter

logger = logging.getLogger("glomtile")

SlidePath = Path | RemoteFile
"""A slide or image: a local file, or a file behind an address."""

REPORTED = ("objects", "geojson", "overlays")
"""Folders of outputs that the report is made from."""

KINDS = (*REPORTED, "masks", "tissue", "zarr")
"""Folders of outputs, one for each kind."""

RUN_FILES = ("summary.csv", "run.json", "report.html")
"""Files of a whole run; rebuilt from the records by each run that ends."""

_LISTED = ("masks", "geojson", "objects", "overlays")
"""Folders of outputs that a run lists."""

_RETRY_S = 1.0
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
class DryRunEntry:
    """Work planned for one input; ``str()`` of it is a line.

    Attributes
    ----------
    input : Path or RemoteFile
    kind : str
    size_px : (int, int)
        ``(H, W)`` at full resolution.
    mpp : float
    mpp_source : str
    tissue_mm2 : float
    windows, windows_seen : int
        All windows, and those that the network will see.
    """

    input: SlidePath
    kind: str
    size_px: tuple[int, int]
    mpp: float
    mpp_source: str
    tissue_mm2: float
    windows: int
    windows_seen: int

    def __str__(self) -> str:
        height, width = self.size_px
        return (
            f"{printable(self.input)}: {self.kind}, {width:,} x {height:,} px at {self.mpp:.4g} µm "
            f"({self.mpp_source}), {self.tissue_mm2:.3g} mm² of tissue, "
            f"{self.windows_seen} of {self.windows} windows"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        height, width = self.size_px
        return {
            "input": printable(self.input), "kind": self.kind, "width_px": width, "height_px": height,
            "mpp": self.mpp, "mpp_source": self.mpp_source, "tissue_mm2": self.tissue_mm2,
            "windows": self.windows, "windows_seen": self.windows_seen,
        }  # fmt: skip


@dataclass(frozen=True)
class SegmentResult:
    """Inputs of a run by their status, and what it wrote.

    Attributes
    ----------
    done, skipped : tuple of Path or RemoteFile
        Inputs segmented now, and those that were finished before.
    failed : tuple of (Path or RemoteFile or str, str)
        The others, each with the reason.
    images : tuple of dict
        Facts of each input in `done` and `skipped`; see `glomtile.inference.records.image_facts`.
    paths : tuple of Path or str
        Folders of outputs, ``summary.csv`` and ``run.json``, those that exist; addresses where the results
        are remote.
    folder : Path
        Local folder of the results.
    address : str or None
        Remote folder of the results.
    """

    done: tuple[SlidePath, ...]
    skipped: tuple[SlidePath, ...]
    failed: tuple[tuple[SlidePath | str, str], ...]
    images: tuple[dict[str, Any], ...]
    paths: tuple[Path | str, ...]
    folder: Path
    address: str | None = None


def segment(
    inputs: Sequence[str | Path],
    out: str | Path,
    options: SegmentOptions,
    *,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> SegmentResult:
    """Segment slides and images into a folder of results.

    Parameters
    ----------
    inputs : sequence of str or Path
        Files, folders whose slides and images are taken, and addresses of both as ``s3://bucket/*.svs``.
    out : str or Path
        A folder, or the address of one as ``s3://bucket/out``; see docs/outputs.md for its contents.
    options : SegmentOptions
    cluster : Cluster, optional
        Segments one slide a worker at a time; this process segments where it is left out.
    progress : Progress

    Returns
    -------
    SegmentResult

    Raises
    ------
    UsageError
        There is no input, `out` is a file or holds files that no run wrote, the results of an input were made
        with other settings, or the cluster cannot be used. Nothing is written then.
    MissingExtraError
        The cluster or an address needs a package that is not installed.
    ModelError
        The model cannot be used.
    StorageError
        The folder of results cannot be written at all.
    ClusterError
        The connection to the scheduler was lost.

    Notes
    -----
    A run that was stopped continues: finished slides are skipped, the rows of an unfinished one are used, and
    the outputs end the same, byte for byte, except for times in ``run.json`` and ``summary.csv``. Several
    runs may share a folder: each takes the slides that no other is at.
    """
    folder, address = _output_folder(out, options, cluster)
    files, failed = expand_inputs(inputs)
    if address is not None:
        options = replace(options, scratch=None)  # the folder itself is there
    task = SlideTask(folder, options.segmenter(), options, address)
    if address is not None:
        _fetch_records(address, folder)
    _require_same_settings(files, task)
    with storage_errors(folder):
        (folder / PRIVATE_FOLDER).mkdir(parents=True, exist_ok=True)
    done: list[SlidePath] = []
    skipped: list[SlidePath] = []
    with closing(_segment_all(files, task, cluster, progress)) as statuses:
        for source, status in statuses:
            if status.problem is None:
                (done if status.state == "done" else skipped).append(source)
                continue
            why = _reason(status.problem, source)
            failed.append((source, why))
            progress.warn(f"{printable(source)}: {why}")
            if status.traceback:
                logger.error("%s: unexpected error\n%s", printable(source), status.traceback)
            if isinstance(status.problem, StorageError):
                probe = folder / PRIVATE_FOLDER / ".probe"
                try:
                    atomic.write_text(probe, "")
                    probe.unlink()
                except (GlomtileError, OSError):
                    raise status.problem from None  # the folder takes nothing at all
    with atomic.file_lock(folder / PRIVATE_FOLDER / "lock", progress, wait=True):
        records = read_records(folder)
        summary = write_summary(folder, records)
        made = [folder / "run.json"] if summary is None else [summary, folder / "run.json"]
        finished = {
            source: records[name]
            for source in (*done, *skipped)
            if (name := own_path(folder, source, "json").name) in records
        }
        card = task.segmenter.card
        run = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "model": {
                "folder": "bundled" if options.model is None else printable(options.model),
                "sha256": card.sha256,
                "mpp": card.mpp,
            },
            "settings": task.segmenter.identity,
            "inputs": {
                printable(source): record.model_dump(exclude={"input", "figures"}, exclude_none=True)
                for source, record in finished.items()
            },
            "done": [printable(source) for source in done],
            "skipped": [printable(source) for source in skipped],
            "failed": {printable(source): printable(reason) for source, reason in failed},
        }
        atomic.write_json(folder / "run.json", run)
        if address is not None:
            for path in made:
                RemoteFolder(address).put(path, path.name)
    if options.scratch is not None:
        with suppress(OSError):  # another run has copies in it, or it was never made
            _copies_folder(folder, options.scratch).rmdir()
    new = set(done)
    images = [
        image_facts(source, "done" if source in new else "skipped", record)
        for source, record in finished.items()
    ]
    kinds = [kind for kind in _LISTED if (folder / kind).is_dir() or (address is not None and records)]
    names = (*kinds, *(path.name for path in made))
    paths = tuple(folder / name if address is None else RemoteFolder(address).at(name) for name in names)
    return SegmentResult(tuple(done), tuple(skipped), tuple(failed), tuple(images), paths, folder, address)


def attach_report(
    result: SegmentResult, build: Callable[[Path], Path], progress: Progress = SILENT
) -> SegmentResult:
    """Write the report of a run beside its tables.

    Parameters
    ----------
    result : SegmentResult
    build : callable
        Writes the report of a folder of results and returns its path. An `InputError` of it is a warning.
    progress : Progress

    Returns
    -------
    SegmentResult
        With the report among its paths.

    Raises
    ------
    StorageError
        The report cannot be written.
    """
    folder, address = result.folder, result.address
    with atomic.file_lock(folder / PRIVATE_FOLDER / "lock", progress, wait=True):
        if address is not None:
            names = {name for record in read_records(folder).values() for name in record.files}
            missing = [name for name in names if name.startswith(REPORTED) and not (folder / name).exists()]
            RemoteFolder(address).bring(missing, folder)
        try:
            page = build(folder)
        except InputError as problem:
            progress.warn(f"no report: {problem}")
            return result
        if address is None:
            return replace(result, paths=(*result.paths, page))
        RemoteFolder(address).put(page, page.name)
        for kind in KINDS:
            _remove(folder / kind)
    return replace(result, paths=(*result.paths, RemoteFolder(address).at(page.name)))


def dry_run(
    inputs: Sequence[str | Path],
    out: str | Path,
    options: SegmentOptions,
    *,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> tuple[list[DryRunEntry], list[tuple[SlidePath | str, str]]]:
    """List the work of a run without doing it; nothing is written.

    Parameters
    ----------
    inputs, out, options, cluster, progress
        See `segment`.

    Returns
    -------
    plans : list of DryRunEntry
    failed : list of (Path or RemoteFile or str, str)
        Inputs that cannot be segmented, each with the reason.

    Raises
    ------
    UsageError, ModelError, MissingExtraError
        See `segment`.
    PlaceError
        `out` cannot be a folder of results.
    """
    folder, address = _output_folder(out, options, cluster)
    require_place(folder)
    files, failed = expand_inputs(inputs)
    segmenter = options.segmenter()
    if address is None:
        _require_same_settings(files, SlideTask(folder, segmenter, options))
    plans = []
    with tempfile.TemporaryDirectory(prefix="glomtile-", dir=options.scratch) as copies:
        for source in files:
            try:
                with (
                    _local_copy(source, Path(copies) / "fetched", progress) as path,
                    open_slide(path, mpp=options.mpp, progress=progress) as slide,
                ):
                    plan, tissue = segmenter.plan(slide, path)
                    masked = not slide.plain and (options.settings is None or options.settings.tissue_mask)
                    seen = sum(not masked or tissue.near_tissue(window.own) for window in plan)
                    assert slide.mpp is not None
                    entry = DryRunEntry(
                        source, slide.kind, slide.size_px, slide.mpp, slide.mpp_source or "given",
                        tissue.area_mm2, len(plan), seen,
                    )  # fmt: skip
                    plans.append(entry)
            except Exception as problem:
                failed.append((source, _reason(_as_error(problem, source), source)))
    return plans, failed


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
            error = _as_error(problem, source)
            return SlideStatus("failed", error, "" if error is problem else traceback.format_exc())

    def _run(self, source: SlidePath, progress: Progress) -> SlideStatus:
        record = read_record(own_path(self.out, source, "json"))
        if isinstance(source, RemoteFile) and record is not None and record.origin == source.origin:
            known = {key: record.fingerprint.get(key) for key in ("bytes", "sha256")}
            if self._is_done(source, record, {**known, **self.settings}, progress):
                return SlideStatus("skipped")
        # The slide's lock guards the folder of its copy.
        copy = _copies_folder(self.out, self.options.scratch) / f"{slide_name(source.name)}.fetched"
        with _local_copy(source, copy, progress) as path:
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
                    _remove(made)
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


def expand_inputs(
    inputs: Sequence[str | Path],
) -> tuple[list[SlidePath], list[tuple[SlidePath | str, str]]]:
    """List the slides of inputs, each once, and the inputs that hold none or whose results would mix.

    Parameters
    ----------
    inputs : sequence of str or Path
        Files, folders, and addresses of them as ``s3://bucket/study/*.svs``; ``file:///abs/path`` is a path.

    Raises
    ------
    UsageError
        There is no input, or an address of this machine is no absolute path.
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
            failed.append((where, _reason(problem, where)))
    if not found and not failed:
        raise UsageError("inputs", "expected at least one slide, image or folder, got none")
    names: dict[str, SlidePath] = {}
    for source in found.values():
        first = names.setdefault(slide_name(source.name).casefold(), source)
        if first != source:
            failed.append((source, f"duplicate file name: the results would mix with those of {first}"))
    return list(names.values()), failed


def _expand(where: str | Path) -> Sequence[SlidePath]:
    path = where if isinstance(where, Path) else local_path(where)
    if path is None:
        return list_remote(str(where), SLIDE_SUFFIXES)
    if path is not where and set(str(path)) & set("*[?") and not path.exists():
        # No shell expands a pattern behind file://.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207  (it is absolute)
        slides = [one for one in map(Path, names) if one.suffix.lower() in SLIDE_SUFFIXES and one.is_file()]
        if not slides:
            raise InputError(path, f"expected at least one of {', '.join(SLIDE_SUFFIXES)}, got none")
        return sorted(slides, key=lambda one: (one.parent, natural_key(one.stem), one.suffix))
    return list_slides(path) if path.is_dir() else [path]


@contextmanager
def _local_copy(source: SlidePath, folder: Path, progress: Progress) -> Iterator[Path]:
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


def _as_error(problem: Exception, source: SlidePath) -> GlomtileError:
    """Return an exception as an error of an input that can be sent between processes."""
    if isinstance(problem, GlomtileError):
        return problem
    if isinstance(problem, MemoryError):
        return InputError(printable(source), "expected an image that fits the memory, got MemoryError")
    got = f"{type(problem).__name__}: {problem}"
    return InputError(printable(source), f"expected a slide that can be segmented, got {got}")


def _copies_folder(out: Path, scratch: Path | None) -> Path:
    """Return the folder for copies of remote slides; in `scratch` there is one for each folder of results."""
    if scratch is None:
        return out / PRIVATE_FOLDER
    return scratch / f"glomtile-{hashlib.sha256(os.fsencode(out.absolute())).hexdigest()[:12]}"


def _reason(problem: GlomtileError, source: object) -> str:
    """Return why an input has no results, without its name."""
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    names = {str(source), printable(source)}
    if isinstance(source, Path):
        names |= {source.name, str(source.absolute())}
    return printable(text if problem.where in names else f"{problem.where}: {text}")


def _remove(path: Path) -> None:
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


def _output_folder(
    out: str | Path, options: SegmentOptions, cluster: Cluster | None
) -> tuple[Path, str | None]:
    """Return the local folder of the results, and the address that they go to, if any.

    A folder with files that no run wrote is refused, as are links that lead out of it.
    """
    if out == "":
        raise UsageError(
            "--out", "expected a folder for the results, got an empty text", "a variable that is not set?"
        )
    if isinstance(out, str) and is_address(out):
        if cluster is not None:
            require_persistent(out)
        path = local_path(out)
        if path is None:
            return _folder_for(out.rstrip("/"), options.scratch), out.rstrip("/")
        out = path
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(out, "expected a folder for the results, got a file")
    for name in (PRIVATE_FOLDER, *KINDS):
        if (out / name).is_symlink():
            raise UsageError(
                out / name, "expected a folder, got a link", "results are not written through it"
            )
    if (out / PRIVATE_FOLDER).is_dir():
        return out, None
    with storage_errors(out):
        inside = [path for kind in KINDS if (out / kind).is_dir() for path in sorted((out / kind).iterdir())]
        found = [*inside, *(out / name for name in RUN_FILES if (out / name).exists())]
    if found:
        raise UsageError(
            out,
            f"expected a new folder or one of results, got one with {found[0].relative_to(out).as_posix()}, "
            "which no run of segment wrote",
            "choose another folder for -o",
        )
    return out, None


def _folder_for(address: str, scratch: Path | None) -> Path:
    """Return the local folder for results that go to an address; refuse one that takes no files.

    It ends as the address does, because the report is named after its folder and the one above.
    """
    if scheme_of(address) in WEB:
        raise PlaceError(address, "expected a store that takes files, as s3:// or gs://, got the web")
    try:
        require_store(address)
    except InputError as problem:
        raise PlaceError(problem.where, problem.message, problem.hint) from problem
    own = f"results-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    names = [scheme_of(address), *filter(None, address.partition("://")[2].split("/"))]
    return (scratch or user_cache()).joinpath(own, *names[-2:])


def _fetch_records(address: str, folder: Path) -> None:
    """Make the local records those of slides whose results are complete at the address."""
    remote, probe = RemoteFolder(address), f"{PRIVATE_FOLDER}/probe"
    with storage_errors(folder):
        for path in (folder / PRIVATE_FOLDER).glob("*.json"):
            path.unlink()
    try:
        remote.write(probe, b"")
        remote.remove(probe)
        names = remote.names()
        own = [
            name
            for name in names
            if PurePosixPath(name).match(f"{PRIVATE_FOLDER}/*.json") and name.count("/") == 1
        ]
        remote.bring(own, folder)
    except (InputError, StorageError) as problem:
        raise PlaceError(address, problem.message, problem.hint) from problem
    there = names | {"/".join(name.split("/")[:2]) for name in names}
    for name in own:
        record = read_record(folder / name)
        if record is None or not there.issuperset(record.files):
            (folder / name).unlink()


def _require_same_settings(files: Sequence[SlidePath], task: SlideTask) -> None:
    """Refuse a run over results of other settings before anything is written."""
    if task.options.overwrite:
        return
    for source in files:
        record = read_record(own_path(task.out, source, "json"))
        differing = [] if record is None else differing_settings(record, task.settings)
        if differing:
            raise UsageError(
                task.address or task.out,
                f"expected the settings that the results of {printable(source)} in it were made with, "
                f"got others: {', '.join(differing)}",
                "--overwrite replaces them, or choose another folder",
            )


def _segment_all(
    files: Sequence[SlidePath], task: SlideTask, cluster: Cluster | None, progress: Progress
) -> Generator[tuple[SlidePath, SlideStatus]]:
    """Segment each input once; those that another process is at are tried again after the others."""
    with ExitStack() as held:
        client: Any = None
        if cluster is not None:
            from glomtile.cluster import connect

            # The largest first, so that no worker is left with one at the end.
            files = sorted(files, key=_size_bytes, reverse=True)
            # Before the workers start, which takes seconds.
            progress.note(f"{len(files):,} slide{'s' if len(files) != 1 else ''} for {cluster}")
            client = held.enter_context(connect(cluster))
            progress.start("slides", len(files))
        first = True
        while files:
            locked = []
            if cluster is None:
                attempts = _run_here(files, task, first, progress)
            else:
                attempts = _run_on_workers(files, task, client, progress)
            for source, status in attempts:
                if status.state != "locked":
                    yield source, status
                    continue
                locked.append(source)
                if first:
                    progress.note(f"{printable(source)}: another process is segmenting it")
            if len(locked) == len(files):
                time.sleep(_RETRY_S)
            files, first = locked, False


def _run_here(
    files: Sequence[SlidePath], task: SlideTask, first: bool, progress: Progress
) -> Iterator[tuple[SlidePath, SlideStatus]]:
    for number, source in enumerate(files, 1):
        if first:
            progress.note(f"{printable(source)}{f' ({number} of {len(files)})' if len(files) > 1 else ''}")
        yield source, task.run(source, progress)


def _run_on_workers(
    files: Sequence[SlidePath], task: SlideTask, client: Any, progress: Progress
) -> Iterator[tuple[SlidePath, SlideStatus]]:
    from glomtile.cluster import run_tasks

    # Workers may have been started in another folder.
    given = {source.absolute() if isinstance(source, Path) else source: source for source in files}
    model, scratch = task.options.model, task.options.scratch
    options = replace(
        task.options,
        model=None if model is None else model.resolve(),
        scratch=None if scratch is None else scratch.absolute(),
    )
    run = functools.partial(
        segment_on_worker, task.out.resolve(), options, json.dumps(task.settings), task.address
    )
    for source, status in run_tasks(client, run, given, progress):
        if isinstance(status, ClusterError):
            status = SlideStatus("failed", status)
        elif isinstance(status, GlomtileError):
            raise status  # the worker could not be set up: no slide would fare better
        if status.state != "locked":
            progress.advance(1)
        yield given[source], status


def _size_bytes(source: SlidePath) -> int:
    """Return the size of a slide's file, 0 where it is not known."""
    if isinstance(source, RemoteFile):
        return source.bytes or 0
    try:
        return source.stat().st_size
    except OSError:
        return 0
