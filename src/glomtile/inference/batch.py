"""Segmentation of many slides, here or on a cluster."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from glomtile.errors import (
    ClusterError,
    GlomtileError,
    InputError,
    PlaceError,
    StorageError,
    UsageError,
)
from glomtile.formatting import printable
from glomtile.inference.records import (
    differing_settings,
    image_facts,
    own_path,
    read_record,
    read_records,
    write_summary,
)
from glomtile.inference.slide_task import (
    KINDS,
    REPORTED,
    SegmentOptions,
    SlidePath,
    SlideStatus,
    SlideTask,
    as_error,
    copies_folder,
    local_copy,
    reason_of,
    remove_file,
    segment_on_worker,
)
from glomtile.io import atomic
from glomtile.io.atomic import PRIVATE_FOLDER, require_place, storage_errors, user_cache
from glomtile.io.images import natural_key
from glomtile.io.remote import (
    WEB,
    RemoteFile,
    RemoteFolder,
    is_address,
    list_remote,
    local_path,
    require_persistent,
    require_store,
    scheme_of,
)
from glomtile.models.folder import versions
from glomtile.slides.slide import SLIDE_SUFFIXES, list_slides, open_slide, slide_name
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
            why = reason_of(status.problem, source)
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
            copies_folder(folder, options.scratch).rmdir()
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
            remove_file(folder / kind)
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
                    local_copy(source, Path(copies) / "fetched", progress) as path,
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
                failed.append((source, reason_of(as_error(problem, source), source)))
    return plans, failed


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
            failed.append((where, reason_of(problem, where)))
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
