"""Segmentation of many slides, here or on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, InputError, StorageError, UsageError
from glomtile.inference.records import OWN, Summary, can_write, write_run
from glomtile.inference.slide_task import (
    Outcome,
    SegmentOptions,
    SlideWork,
    Source,
    copies_folder,
    expand_inputs,
    local_copy,
    reason,
    reject_name_clashes,
    tidy_copies,
)
from glomtile.inference.slidebucket import (
    KINDS,
    Bucket,
    TakenOverError,
    begin,
    bring_shown,
    finish,
    place_of,
    require_writable,
)
from glomtile.inference.slidejob import MEETING, segmented_there
from glomtile.io.atomic import TemporaryFolder, file_lock, require_place, storage_errors
from glomtile.io.remote import RemoteFile, is_address, local_path, require_persistent
from glomtile.report.build import write_report
from glomtile.slides.slide import open_slide
from glomtile.types import SILENT, Progress

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.inference.segmenter import Segmenter


@dataclass(frozen=True)
class DryRunEntry:
    """What there is to do for one input; ``str()`` of it is a line.

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
        All, and those that the network will look at.
    """

    input: Path | RemoteFile
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
            f"{self.input}: {self.kind}, {width:,} x {height:,} px at {self.mpp:.4g} µm "
            f"({self.mpp_source}), {self.tissue_mm2:.3g} mm² of tissue, "
            f"{self.windows_seen} of {self.windows} windows"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        height, width = self.size_px
        return {
            "input": str(self.input), "kind": self.kind, "width_px": width, "height_px": height,
            "mpp": self.mpp, "mpp_source": self.mpp_source, "tissue_mm2": self.tissue_mm2,
            "windows": self.windows, "windows_seen": self.windows_seen,
        }  # fmt: skip


@dataclass(frozen=True)
class SegmentResult:
    """What became of each input.

    Attributes
    ----------
    done, skipped : tuple of Path or RemoteFile
        Inputs segmented now, and those that an earlier run had finished.
    failed : tuple of (Path or RemoteFile or str, str)
        The others, each with the reason.
    paths : tuple of Path or str
        ``summary.csv``, ``run.json``, ``report.html`` and the folders of outputs, those that exist; addresses
        of them where they lie in a bucket.
    folder : Path
        Where the first three lie here.
    """

    done: tuple[Source, ...]
    skipped: tuple[Source, ...]
    failed: tuple[tuple[Source | str, str], ...]
    paths: tuple[Path | str, ...]
    folder: Path


def segment(
    inputs: Sequence[str | Path],
    out: str | Path,
    request: SegmentOptions,
    *,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> SegmentResult:
    """Segment slides and pictures into a folder of results.

    Parameters
    ----------
    inputs : sequence of str or Path
        Files, folders whose slides and pictures are taken, and addresses of both as ``s3://bucket/*.svs``.
    out : str or Path
        A folder, or the address of one as ``s3://bucket/out``; see docs/outputs.md for what comes there.
        What is put into ``memory://`` ends with this process, and is not shared with workers.
    request : Request
    cluster : Cluster, optional
        Whose workers segment, a slide each at a time; this process does where it is left out.
    progress : Progress

    Returns
    -------
    SegmentResult

    Raises
    ------
    UsageError
        There is no input, `out` is a file or holds outputs that no run wrote, another run works in it, or the
        cluster cannot be used.
    MissingExtraError
        The cluster or an address needs a package that is not installed.
    ModelError
        The model cannot be used.
    StorageError
        The folder of results cannot be written at all, or another run began to work in the bucket.
    ClusterError
        The scheduler of the cluster was lost and did not return.

    Notes
    -----
    A run that was killed continues: finished slides are passed over, the rows of an unfinished one are taken
    up, and the outputs end the same, byte for byte, except for times in ``run.json`` and ``summary.csv``.
    """
    out, address = _place(out, request, cluster)
    files, failed = _named(inputs)
    segmenter = request.segmenter()
    if address is not None:
        request = replace(request, scratch=None)
    with file_lock(out / OWN / "lock", progress):
        bucket = None if address is None else begin(address, out, progress)
        if cluster is None:
            # Workers of a client that was killed see by this that their run has ended.
            shutil.rmtree(out / OWN / MEETING, ignore_errors=True)
            outcomes = _here(files, out, segmenter, request, progress, bucket)
        else:
            outcomes = segmented_there(files, out, segmenter, request, cluster, progress, bucket)
        done, skipped = _gather(files, outcomes, out, failed, progress)
        told = write_run(out, segmenter, request.model, done, skipped, failed)
        if bucket is not None:
            bring_shown(bucket, out)
        paths = _concluded(out, (told, *_report(out, progress)), bucket)
    tidy_copies(copies_folder(out, request.scratch))
    return SegmentResult(tuple(done), tuple(skipped), tuple(failed), paths, out)


def _place(out: str | Path, request: SegmentOptions, cluster: Cluster | None) -> tuple[Path, str | None]:
    """Where results are made here, and the address of the bucket that they go to, if any."""
    if out == "":
        raise UsageError(
            "--out", "expected a folder for the results, got an empty text", "a variable that is not set?"
        )
    if isinstance(out, str) and is_address(out):
        if cluster is not None:
            require_persistent(out)
        path = local_path(out)
        if path is None:
            return place_of(out, request.scratch), out
        out = path
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(out, "expected a folder for the results, got a file")
    _require_none_of_others(out)
    return out, None


def _require_none_of_others(out: Path) -> None:
    """See that no file would be replaced that no run of ours wrote: true masks lie in a ``masks/``, too."""
    if (out / OWN).is_dir():
        return
    for kind in KINDS:
        with storage_errors(out):
            found = min((out / kind).iterdir(), default=None) if (out / kind).is_dir() else None
        if found is not None:
            raise UsageError(
                out,
                f"expected a new folder or one of results, got one with {kind}/{found.name}, "
                "which no run of segment wrote",
                "choose another folder for -o",
            )


def _named(inputs: Sequence[str | Path]) -> tuple[list[Source], list[tuple[Source | str, str]]]:
    """What is to be segmented, each under a name of its own, and what of the inputs cannot be."""
    files, failed = expand_inputs(inputs)
    if not files and not failed:
        raise UsageError("inputs", "expected at least one slide, picture or folder, got none")
    return reject_name_clashes(files, failed), failed


def _concluded(out: Path, made: Sequence[Path], bucket: Bucket | None) -> tuple[Path | str, ...]:
    """The results that are there, in the bucket where they go to one, in which the run has ended then."""
    kinds = ("masks", "geojson", "objects", "overlays")
    whole = [path for path in (out / "summary.csv", *made) if path.is_file()]
    if bucket is None:
        return (*(out / kind for kind in kinds if (out / kind).is_dir()), *whole)
    finish(bucket, out, whole)
    there = kinds if any((out / OWN).glob("*.json")) else ()
    return tuple(bucket.folder.at(name) for name in (*there, *(path.name for path in whole)))


def _report(out: Path, progress: Progress) -> tuple[Path, ...]:
    """The page over all results of the folder; what keeps it from being written is a warning."""
    try:
        return (write_report(out),)
    except InputError as problem:
        progress.warn(f"no report: {problem}")
        return ()


def _here(
    files: Sequence[Source],
    out: Path,
    segmenter: Segmenter,
    request: SegmentOptions,
    progress: Progress,
    bucket: Bucket | None,
) -> Iterator[tuple[Source, Outcome]]:
    """Segment one after the other in this process."""
    work = SlideWork(out, segmenter, request, bucket)
    for number, path in enumerate(files, 1):
        progress.note(f"{path} ({number} of {len(files)})" if len(files) > 1 else f"{path}")
        yield path, work.segment(path, progress)


def _gather(
    files: Sequence[Source],
    outcomes: Iterable[tuple[Source, Outcome]],
    out: Path,
    failed: list[tuple[Source | str, str]],
    progress: Progress,
) -> tuple[list[Source], list[Source]]:
    """Inputs segmented now and done before, and those that could not be into `failed`, as they come."""
    done: list[Source] = []
    skipped: list[Source] = []
    summary = Summary(out)
    for path, outcome in outcomes:
        if outcome.problem is not None:
            why = reason(outcome.problem, path)
            failed.append((path, why))
            progress.warn(f"{path}: {why}")
            taken_over = isinstance(outcome.problem, TakenOverError)
            if taken_over or (isinstance(outcome.problem, StorageError) and not can_write(out)):
                raise outcome.problem
            continue
        (done if outcome.fresh else skipped).append(path)
        summary.add(path)
    summary.write()
    given = {path: number for number, path in enumerate(files)}
    return sorted(done, key=given.__getitem__), sorted(skipped, key=given.__getitem__)


def survey(
    inputs: Sequence[str | Path],
    out: str | Path,
    request: SegmentOptions,
    *,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> tuple[list[DryRunEntry], list[tuple[Source | str, str]]]:
    """What `segment` would do with each input, and what of them cannot be done.

    Nothing is written to `out`, and neither its store nor the cluster is asked whether it is there; results
    of earlier runs are not looked at. A slide behind an address is fetched to be looked at.

    Raises
    ------
    UsageError, ModelError, MissingExtraError
        See `segment`.
    PlaceError
        `out` can be no folder of results.
    """
    out, address = _place(out, request, cluster)
    require_place(out)
    if address is not None:
        require_writable(address)
    files, failed = _named(inputs)
    segmenter = request.segmenter()
    plans, scratch = [], TemporaryFolder()
    for source in files:
        try:
            copy = (request.scratch or scratch.folder) / scratch.folder.name
            with local_copy(source, copy, progress) as path:
                plans.append(_planned(source, path, segmenter, request, progress))
        except GlomtileError as problem:
            failed.append((source, reason(problem, source)))
    return plans, failed


def _planned(
    source: Source, path: Path, segmenter: Segmenter, request: SegmentOptions, progress: Progress
) -> DryRunEntry:
    with open_slide(path, mpp=request.mpp, progress=progress) as slide:
        plan, tissue = segmenter.plan(slide, path)
        masked = not slide.plain and (request.settings is None or request.settings.tissue_mask)
        seen = sum(not masked or tissue.near_tissue(window.own) for window in plan)
        assert slide.mpp is not None
        return DryRunEntry(
            source, slide.kind, slide.size_px, slide.mpp, slide.mpp_source or "given",
            tissue.area_mm2, len(plan), seen,
        )  # fmt: skip
