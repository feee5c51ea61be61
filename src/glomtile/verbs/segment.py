"""Slides and pictures in, glomeruli out: each finished once, whatever stops the run between."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from glomtile.errors import ClusterError, GlomtileError, InputError, ModelError, StorageError, UsageError
from glomtile.files.lock import sole_run
from glomtile.files.slides import list_slides, open_slide, slide_name
from glomtile.types import SILENT, Progress
from glomtile.verbs.slidenotes import (
    OWN,
    Summary,
    can_write,
    done_before,
    identity_of,
    work_path,
    write_note,
    write_run,
)

if TYPE_CHECKING:
    from glomtile.engine.cluster import Cluster
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.windows import Settings


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
        ``summary.csv``, ``run.json`` and the folders of outputs, those that exist.
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
    inputs: Sequence[Path],
    out: Path,
    request: Request,
    *,
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> SegmentResult:
    """Segment slides and pictures into a folder of results.

    Parameters
    ----------
    inputs : sequence of Path
        Files, and folders whose slides and pictures are taken.
    out : Path
        See docs/outputs.md for what comes to lie in it.
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
        There is no input, `out` is a file, another run works in it, or the cluster cannot be used.
    ModelError
        The model cannot be used.
    StorageError
        The folder of results cannot be written at all.
    ClusterError
        The scheduler of the cluster was lost and did not return.

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
    with sole_run(out / OWN, progress):
        files = _of_own_names(files, failed)
        if cluster is None:
            outcomes = _here(files, out, segmenter, request, progress)
        else:
            outcomes = _there(files, out, segmenter, request, cluster, progress)
        done, skipped = _gather(files, outcomes, out, failed, progress)
        told = write_run(out, segmenter, request.model, done, skipped, failed)
    folders = [out / kind for kind in ("masks", "geojson", "objects", "overlays") if (out / kind).is_dir()]
    summary = out / "summary.csv"
    written = (*folders, *((summary,) if summary.is_file() else ()), told)
    return SegmentResult(tuple(done), tuple(skipped), tuple(failed), written)


@dataclass(frozen=True)
class _Outcome:
    """What became of one input: segmented now, done before, or what stood in the way."""

    fresh: bool = False
    problem: Exception | None = None


def _here(
    files: Sequence[Path], out: Path, segmenter: Segmenter, request: Request, progress: Progress
) -> Iterator[tuple[Path, _Outcome]]:
    """Segment one after the other in this process."""
    for path in files:
        progress.note(f"{path}")
        yield path, _tried(path, progress, out=out, segmenter=segmenter, request=request)


def _there(
    files: Sequence[Path],
    out: Path,
    segmenter: Segmenter,
    request: Request,
    cluster: Cluster,
    progress: Progress,
) -> Iterator[tuple[Path, _Outcome]]:
    """Segment on a cluster, the largest first, so that no worker is left with one at the end."""
    from glomtile.engine.cluster import crew_of
    from glomtile.engine.crew import GivenUp

    files = sorted(files, key=_bytes, reverse=True)
    model = None if request.model is None else request.model.resolve()
    job = SlideJob(out.resolve(), replace(request, model=model), segmenter.identity)
    with crew_of(cluster, job, progress) as crew:
        progress.start("slides", len(files))
        for number, outcome in crew.answers([path.absolute() for path in files]):
            if isinstance(outcome, GivenUp):
                outcome = _Outcome(problem=_poisonous(files[number], outcome.deaths))
            yield files[number], outcome


@dataclass(frozen=True)
class SlideJob:
    """Segmenting slides, as the workers of a cluster are told of it.

    Attributes
    ----------
    out : Path
        As the workers see it.
    request : Request
    identity : dict
        Of the client's segmenter: what decides the pixels, besides the slide.
    """

    out: Path
    request: Request
    identity: dict[str, Any]

    stage: ClassVar[str] = "windows"
    figure: ClassVar[str] = "windows"

    @property
    def folder(self) -> Path:
        """Where client and workers find each other's marks."""
        return self.out / OWN / "cluster"

    def ready(self, threads: int) -> Any:
        """Load the model, to compute with so many threads.

        Raises
        ------
        ModelError
            The worker has another model, or another runtime, than the client.
        MissingExtraError
            The worker has no runtime for it.
        """
        from glomtile.engine.segmenter import Segmenter
        from glomtile.engine.threads import limit_threads
        from glomtile.engine.windows import Settings

        request = self.request
        settings = replace(request.settings or Settings(), network_threads=threads)
        limit_threads(threads, runtime_of(request))
        segmenter = Segmenter.load(request.model, settings, request.tta, runtime=request.runtime)
        others = [key for key, value in segmenter.identity.items() if self.identity.get(key) != value]
        if others:
            raise ModelError(
                request.model or "bundled model",
                f"expected what the client has, got other: {', '.join(others)}",
                "give all machines the same installation and the same model folder",
            )
        return partial(_tried, out=self.out, segmenter=segmenter, request=request)


def _tried(path: Path, progress: Progress, *, out: Path, segmenter: Segmenter, request: Request) -> _Outcome:
    try:
        return _Outcome(fresh=_one(path, out, segmenter, request, progress))
    except (GlomtileError, MemoryError, OSError) as problem:
        return _Outcome(problem=problem)


def _gather(
    files: Sequence[Path],
    outcomes: Iterable[tuple[Path, _Outcome]],
    out: Path,
    failed: list[tuple[Path, str]],
    progress: Progress,
) -> tuple[list[Path], list[Path]]:
    """Inputs segmented now and done before, and those that could not be into `failed`, as they come."""
    done: list[Path] = []
    skipped: list[Path] = []
    summary = Summary(out)
    for path, outcome in outcomes:
        if outcome.problem is not None:
            reason = _reason(outcome.problem, path)
            failed.append((path, reason))
            progress.warn(f"{path}: {reason}")
            if isinstance(outcome.problem, StorageError) and not can_write(out):
                raise outcome.problem
            continue
        (done if outcome.fresh else skipped).append(path)
        summary.add(path)
    summary.write()
    given = {path: number for number, path in enumerate(files)}
    return sorted(done, key=given.__getitem__), sorted(skipped, key=given.__getitem__)


def survey(
    inputs: Sequence[Path], request: Request, *, progress: Progress = SILENT
) -> tuple[list[str], list[tuple[Path, str]]]:
    """What `segment` would do with each input, a line each, and what of them cannot be done.

    Raises
    ------
    UsageError, ModelError
        See `segment`.
    """
    from glomtile.engine.segmenter import Segmenter

    files, failed = _files(inputs)
    segmenter = Segmenter.load(request.model, request.settings, request.tta, runtime=request.runtime)
    lines = []
    for path in files:
        try:
            with open_slide(path, mpp=request.mpp, progress=progress) as slide:
                plan, tissue = segmenter.plan(slide, path)
                masked = not slide.plain and (request.settings is None or request.settings.tissue_mask)
                seen = sum(not masked or tissue.near_tissue(window.own) for window in plan)
                height, width = slide.size_px
                lines.append(
                    f"{path}: {slide.kind}, {width:,} x {height:,} px at {slide.mpp:.4g} µm "
                    f"({slide.mpp_source}), {tissue.area_mm2:.3g} mm² of tissue, "
                    f"{seen} of {len(plan)} windows"
                )
        except GlomtileError as problem:
            failed.append((path, _reason(problem, path)))
    return lines, failed


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


def _of_own_names(files: Sequence[Path], failed: list[tuple[Path, str]]) -> list[Path]:
    """Those whose results will not mix with those of an earlier one."""
    names: dict[str, Path] = {}
    for path in files:
        first = names.setdefault(slide_name(path).casefold(), path)
        if first != path:
            failed.append((path, f"expected a name of its own, got that of {first}: their results would mix"))
    return list(names.values())


def _one(path: Path, out: Path, segmenter: Segmenter, request: Request, progress: Progress) -> bool:
    """Segment one input; False where that was done before.

    Where another process still works on it, one that a cluster has given up, say, its end is waited for.
    """
    from glomtile.engine.threads import cores, processor

    began = time.time()
    identity = identity_of(path, request.mpp, segmenter)
    with sole_run(out / OWN, progress, name=f"{slide_name(path)}.lock", wait=True):
        if not request.overwrite and done_before(out, path, identity, request.zarr):
            progress.note(f"{path}: done before")
            return False
        work = work_path(out, path)
        found = segmenter.segment(path, mpp=request.mpp, work=work, identity=identity, progress=progress)
        written = found.save(out, zarr=request.zarr)
        computed = {"threads": segmenter.settings.network_threads or cores(), "processor": processor()}
        write_note(out, path, identity, found, written, computed, time.time() - began)
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)
    counts = ", ".join(
        f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
    )
    progress.note(f"{path}: {counts}, {found.tissue.area_mm2:.2f} mm² of tissue")
    if found.doubts.warnings:
        progress.warn(f"{path}: doubtful: {'; '.join(found.doubts.warnings)}")
    return True


def _bytes(path: Path) -> int:
    """Size of a file, 0 of one that is not there: it is told of when its turn comes."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _poisonous(path: Path, deaths: int) -> ClusterError:
    return ClusterError(
        path,
        f"expected a worker that lives through it, got {deaths} that died at it",
        "segment it alone, without --scheduler and --workers, to see why; memory is the usual reason",
    )


def _reason(problem: BaseException, path: Path) -> str:
    if isinstance(problem, MemoryError):
        return "expected a picture that fits the memory, got MemoryError"
    if not isinstance(problem, GlomtileError):
        return str(problem)
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    return (
        text if problem.where in (str(path), path.name, str(path.absolute())) else f"{problem.where}: {text}"
    )
