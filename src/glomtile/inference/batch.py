"""Segmentation of many slides, here or on a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from glomtile.errors import ClusterError, GlomtileError, InputError, PlaceError, StorageError, UsageError
from glomtile.formatting import printable
from glomtile.inference.records import (
    differing_settings,
    image_facts,
    read_record,
    read_records,
    record_path,
    write_run,
    write_summary,
)
from glomtile.inference.slide_task import (
    KINDS,
    REPORTED,
    SegmentOptions,
    SlidePath,
    SlideStatus,
    SlideTask,
    WorkerJob,
    as_error,
    copies_folder,
    expand_inputs,
    local_copy,
    reason,
    reject_name_clashes,
    remove,
    segment_on_worker,
    size_bytes,
)
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER, require_place, storage_errors, user_cache
from glomtile.io.remote import (
    WEB,
    RemoteFolder,
    is_address,
    local_path,
    require_persistent,
    require_store,
    scheme_of,
)
from glomtile.slides.slide import open_slide
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    from glomtile.cluster import Cluster

logger = logging.getLogger("glomtile")

RUN_FILES = ("summary.csv", "run.json", "report.html")
"""Files of a whole run; rebuilt from the records by each run that ends."""

_LISTED = ("masks", "geojson", "objects", "overlays")
"""Folders of outputs that a run lists."""

_RETRY_S = 1.0


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
    files, failed = _list_inputs(inputs)
    if address is not None:
        options = replace(options, scratch=None)  # the folder itself is there
    task = SlideTask(folder, options.segmenter(), options, address)
    if address is not None:
        _fetch_records(address, folder)
    _require_same_settings(files, task)
    with storage_errors(folder):
        (folder / PRIVATE_FOLDER).mkdir(parents=True, exist_ok=True)
    with closing(_segment_all(files, task, cluster, progress)) as statuses:
        done, skipped = _collect(statuses, task, failed, progress)
    with _run_files_locked(folder, progress):
        records = read_records(folder)
        made = [write_run(folder, task.segmenter, options.model, records, done, skipped, failed)]
        if (summary := write_summary(folder, records)) is not None:
            made.insert(0, summary)
        if address is not None:
            _put_run_files(address, folder, made)
    _remove_empty(copies_folder(folder, options.scratch))
    images = [
        image_facts(source, state, records[name])
        for state, sources in (("done", done), ("skipped", skipped))
        for source in sources
        if (name := record_path(folder, source).name) in records
    ]
    kinds = [kind for kind in _LISTED if (folder / kind).is_dir() or (address is not None and records)]
    paths = tuple(_shown_at(folder / name, address) for name in (*kinds, *(path.name for path in made)))
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
    with _run_files_locked(folder, progress):
        if address is not None:
            names = {name for record in read_records(folder).values() for name in record.files}
            missing = [name for name in names if name.startswith(REPORTED) and not (folder / name).exists()]
            RemoteFolder(address).bring(missing, folder)
        try:
            page = build(folder)
        except InputError as problem:
            progress.warn(f"no report: {problem}")
            return result
        if address is not None:
            _put_run_files(address, folder, [page])
            for kind in KINDS:
                remove(folder / kind)
    return replace(result, paths=(*result.paths, _shown_at(page, address)))


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
    files, failed = _list_inputs(inputs)
    task = SlideTask(folder, options.segmenter(), options, address)
    if address is None:
        _require_same_settings(files, task)
    plans = []
    with tempfile.TemporaryDirectory(prefix="glomtile-", dir=options.scratch) as copies:
        for source in files:
            try:
                with local_copy(source, Path(copies) / "fetched", progress) as path:
                    plans.append(_plan(source, path, task, progress))
            except Exception as problem:
                failed.append((source, reason(as_error(problem, source), source)))
    return plans, failed


def _plan(source: SlidePath, path: Path, task: SlideTask, progress: Progress) -> DryRunEntry:
    options = task.options
    with open_slide(path, mpp=options.mpp, progress=progress) as slide:
        plan, tissue = task.segmenter.plan(slide, path)
        masked = not slide.plain and (options.settings is None or options.settings.tissue_mask)
        seen = sum(not masked or tissue.near_tissue(window.own) for window in plan)
        assert slide.mpp is not None
        return DryRunEntry(
            source, slide.kind, slide.size_px, slide.mpp, slide.mpp_source or "given",
            tissue.area_mm2, len(plan), seen,
        )  # fmt: skip


def _output_folder(
    out: str | Path, options: SegmentOptions, cluster: Cluster | None
) -> tuple[Path, str | None]:
    """Return the local folder of the results, and the address that they go to, if any."""
    if out == "":
        raise UsageError(
            "--out", "expected a folder for the results, got an empty text", "a variable that is not set?"
        )
    if isinstance(out, str) and is_address(out):
        if cluster is not None:
            require_persistent(out)
        path = local_path(out)
        if path is None:
            _require_writable(out)
            return _folder_for(out.rstrip("/"), options.scratch), out.rstrip("/")
        out = path
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(out, "expected a folder for the results, got a file")
    _require_own(out)
    return out, None


def _require_own(out: Path) -> None:
    """Refuse a folder with files that no run wrote, or links that lead out of it."""
    for name in (PRIVATE_FOLDER, *KINDS):
        if (out / name).is_symlink():
            raise UsageError(
                out / name, "expected a folder, got a link", "results are not written through it"
            )
    if (out / PRIVATE_FOLDER).is_dir():
        return
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


def _folder_for(address: str, scratch: Path | None) -> Path:
    """Return the local folder for results that go to an address.

    It ends as the address does, because the report is named after its folder and the one above.
    """
    own = f"results-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    names = [scheme_of(address), *filter(None, address.partition("://")[2].split("/"))]
    return (scratch or user_cache()).joinpath(own, *names[-2:])


def _require_writable(address: str) -> None:
    """Refuse addresses that no file can be put to, without a connection."""
    if scheme_of(address) in WEB:
        raise PlaceError(address, "expected a store that takes files, as s3:// or gs://, got the web")
    try:
        require_store(address)
    except InputError as problem:
        raise PlaceError(problem.where, problem.message, problem.hint) from problem


def _list_inputs(
    inputs: Sequence[str | Path],
) -> tuple[list[SlidePath], list[tuple[SlidePath | str, str]]]:
    files, failed = expand_inputs(inputs)
    if not files and not failed:
        raise UsageError("inputs", "expected at least one slide, image or folder, got none")
    return reject_name_clashes(files, failed), failed


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
        record = read_record(record_path(task.out, source))
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
        attempt = _run_locally(task, len(files), progress)
        if cluster is not None:
            # The largest first, so that no worker is left with one at the end.
            files = sorted(files, key=size_bytes, reverse=True)
            attempt = _run_on_cluster(files, task, cluster, progress, held)
        waited_for: set[SlidePath] = set()
        while files:
            locked = []
            for source, status in attempt(files):
                if status.state != "locked":
                    yield source, status
                    continue
                locked.append(source)
                if source not in waited_for:
                    waited_for.add(source)
                    progress.note(f"{printable(source)}: another process is segmenting it")
            if len(locked) == len(files):
                time.sleep(_RETRY_S)
            files = locked


_Attempt = Callable[[Sequence[SlidePath]], Iterable[tuple[SlidePath, SlideStatus]]]


def _run_locally(task: SlideTask, total: int, progress: Progress) -> _Attempt:
    """Segment in this process."""
    started: set[SlidePath] = set()

    def attempt(files: Sequence[SlidePath]) -> Iterator[tuple[SlidePath, SlideStatus]]:
        for source in files:
            if source not in started:
                started.add(source)
                number = f" ({len(started)} of {total})" if total > 1 else ""
                progress.note(f"{printable(source)}{number}")
            yield source, task.run(source, progress)

    return attempt


def _run_on_cluster(
    files: Sequence[SlidePath], task: SlideTask, cluster: Cluster, progress: Progress, held: ExitStack
) -> _Attempt:
    """Segment on the workers of a cluster."""
    from glomtile.cluster import connect, run_on

    options = replace(
        task.options,
        model=None if task.options.model is None else task.options.model.resolve(),
        scratch=None if task.options.scratch is None else task.options.scratch.absolute(),
    )
    job = WorkerJob(task.out.resolve(), options, json.dumps(task.settings), task.address)
    # Before the workers start, which takes seconds.
    progress.note(f"{len(files):,} slide{'s' if len(files) != 1 else ''} for {cluster}")
    client = held.enter_context(connect(cluster))
    progress.start("slides", len(files))

    def attempt(files: Sequence[SlidePath]) -> Iterator[tuple[SlidePath, SlideStatus]]:
        # Workers may have been started in another folder.
        given = {source.absolute() if isinstance(source, Path) else source: source for source in files}
        for source, status in run_on(client, partial(segment_on_worker, job), given, progress):
            if isinstance(status, ClusterError):
                status = SlideStatus("failed", status)
            elif isinstance(status, GlomtileError):
                raise status  # the worker could not be set up: no slide would fare better
            if status.state != "locked":
                progress.advance(1)
            yield given[source], status

    return attempt


def _collect(
    statuses: Iterable[tuple[SlidePath, SlideStatus]],
    task: SlideTask,
    failed: list[tuple[SlidePath | str, str]],
    progress: Progress,
) -> tuple[list[SlidePath], list[SlidePath]]:
    """Return inputs segmented now and finished before; append the others to `failed` as they come."""
    done: list[SlidePath] = []
    skipped: list[SlidePath] = []
    for source, status in statuses:
        if status.problem is None:
            (done if status.state == "done" else skipped).append(source)
            continue
        why = reason(status.problem, source)
        failed.append((source, why))
        progress.warn(f"{printable(source)}: {why}")
        if status.traceback:
            logger.error("%s: unexpected error\n%s", printable(source), status.traceback)
        if isinstance(status.problem, StorageError) and not _can_write(task.out):
            raise status.problem
    return done, skipped


def _can_write(out: Path) -> bool:
    """Check whether the folder of results takes anything at all."""
    probe = out / PRIVATE_FOLDER / ".probe"
    with suppress(GlomtileError, OSError):
        atomic.write_text(probe, "")
        probe.unlink()
        return True
    return False


def _run_files_locked(folder: Path, progress: Progress) -> AbstractContextManager[None]:
    """Let one process at a time rebuild the files of the whole run: the last one sees all records."""
    return atomic.file_lock(folder / PRIVATE_FOLDER / "lock", progress, wait=True)


def _put_run_files(address: str, folder: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        RemoteFolder(address).put(path, path.relative_to(folder).as_posix())


def _shown_at(path: Path, address: str | None) -> Path | str:
    return path if address is None else RemoteFolder(address).at(path.name)


def _remove_empty(folder: Path | None) -> None:
    if folder is not None:
        with suppress(OSError):  # another run has copies in it, or it was never made
            folder.rmdir()
