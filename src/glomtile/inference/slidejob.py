"""Slide job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from glomtile.errors import ClusterError, ModelError
from glomtile.inference.records import OWN
from glomtile.inference.slide_task import Outcome, SegmentOptions, SlideWork, Source, bytes_of, runtime_of
from glomtile.inference.slidebucket import Bucket
from glomtile.io.remote import RemoteFile, require_store
from glomtile.types import Progress

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.inference.crew import Crew
    from glomtile.inference.segmenter import Segmenter

MEETING = "cluster"
"""Folder beside the notes where client and workers find each other's marks."""

PANEL_PX = 4096
"""Width at the model's scale of the panels that a slide is cut into: narrower ones see more windows twice."""


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes
    ----------
    path : Path or RemoteFile
        As the workers see it.
    panel : int or None
        Only this panel of a slide that was begun; the whole slide where ``None``.
    widest_px : int or None
        Where given, a wide slide is cut into panels of this width.
    """

    path: Source
    panel: int | None = None
    widest_px: int | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.panel is None else f"{self.path}, panel {self.panel + 1}"


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
    addresses : tuple of str
        One of each kind that the workers will fetch from or put to.
    bucket : Bucket or None
        See `SlideWork`.
    """

    out: Path
    request: SegmentOptions
    identity: dict[str, Any]
    addresses: tuple[str, ...] = ()
    bucket: Bucket | None = None

    stage: ClassVar[str] = "windows"
    figure: ClassVar[str] = "windows"

    @property
    def folder(self) -> Path:
        """Where client and workers find each other's marks."""
        return self.out / OWN / MEETING

    def ready(self, threads: int) -> Any:
        """Load the model, to compute with so many threads.

        Raises
        ------
        ModelError
            The worker has another model, or another runtime, than the client.
        MissingExtraError
            The worker has no runtime for it, or lacks the package that addresses need.
        """
        from glomtile.inference.window_size import TilingSettings
        from glomtile.system import limit_threads

        for address in self.addresses:
            require_store(address)
        request = self.request
        settings = replace(request.settings or TilingSettings(), network_threads=threads)
        limit_threads(threads, runtime_of(request))
        segmenter = request.segmenter(settings)
        others = [key for key, value in segmenter.identity.items() if self.identity.get(key) != value]
        if others:
            raise ModelError(
                request.model or "bundled model",
                f"expected what the client has, got other: {', '.join(others)}",
                "give all machines the same installation and the same model folder",
            )
        work = SlideWork(self.out, segmenter, request, self.bucket)

        def do(piece: Piece, progress: Progress) -> Outcome:
            if piece.panel is not None:
                return work.fill(piece.path, piece.panel, progress)
            return work.segment(piece.path, progress, piece.widest_px)

        return do


def segmented_there(
    files: Sequence[Source],
    out: Path,
    segmenter: Segmenter,
    request: SegmentOptions,
    cluster: Cluster,
    progress: Progress,
    bucket: Bucket | None = None,
) -> Iterator[tuple[Source, Outcome]]:
    """Segment on a cluster; what becomes of each file, once.

    Parameters
    ----------
    files : sequence of Path or RemoteFile
        The largest go first, so that no worker is left with one at the end; where they are fewer than the
        workers, wide slides are cut into panels.
    out, segmenter, request, cluster, progress, bucket
        See `glomtile.inference.batch.segment`, and `SlideWork`.
    """
    from glomtile.cluster import crew_of

    files = sorted(files, key=bytes_of, reverse=True)
    model = None if request.model is None else request.model.resolve()
    scratch = None if request.scratch is None else request.scratch.absolute()
    kinds = {file.scheme: file.address for file in files if isinstance(file, RemoteFile)}
    told = replace(request, model=model, scratch=scratch)
    addresses = (*kinds.values(), *((bucket.address,) if bucket is not None else ()))
    job = SlideJob(out.resolve(), told, segmenter.identity, addresses, bucket)
    # Before any worker is there: they take seconds to start, and say nothing until one has ended a slide.
    progress.note(f"{len(files):,} slide{'s' if len(files) != 1 else ''} for {cluster}")
    with crew_of(cluster, job, progress) as crew:
        progress.start("slides", len(files))
        cut = PANEL_PX if len(files) < crew.present() else None
        for number, outcome in _whole([Piece(_seen_there(file), None, cut) for file in files], crew):
            progress.advance(1, **crew.figures())
            yield files[number], outcome


def _whole(pieces: Sequence[Piece], crew: Crew) -> Iterator[tuple[int, Outcome]]:
    """What becomes of slides, panels put together: the last one filled, the slide is handed out again."""
    slide_of = dict(enumerate(range(len(pieces))))
    told = {number: str(piece) for number, piece in enumerate(pieces)}
    missing: dict[int, int] = {}
    ended: set[int] = set()
    for number, said in crew.answers(pieces):
        slide, piece = slide_of[number], told[number]
        outcome = said if isinstance(said, Outcome) else Outcome(problem=_poisonous(piece, said.deaths))
        if slide in ended:
            continue
        if outcome.parts:
            path = pieces[slide].path
            missing[slide] = len(outcome.parts)
            more = [Piece(path, panel) for panel in outcome.parts]
        elif outcome.problem is None and missing.get(slide):
            missing[slide] -= 1
            more = [] if missing[slide] else [Piece(pieces[slide].path)]
        else:
            ended.add(slide)
            yield slide, outcome
            continue
        for added, new in zip(crew.more(more), more, strict=True):
            slide_of[added], told[added] = slide, str(new)


def _seen_there(source: Source) -> Source:
    """As a worker, which may have been started elsewhere, finds it."""
    return source.absolute() if isinstance(source, Path) else source


def _poisonous(piece: str, deaths: int) -> ClusterError:
    return ClusterError(
        piece,
        f"expected a worker that lives through it, got {deaths} that died at it",
        "segment it alone, without --scheduler and --workers, to see why; memory is the usual reason",
    )
