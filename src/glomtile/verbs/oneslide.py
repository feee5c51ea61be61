"""One slide or picture in, its results out, whoever asks and whatever stopped the run before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, StorageError
from glomtile.files.labelstore import remove_work
from glomtile.files.lock import sole_run
from glomtile.files.slides import slide_name
from glomtile.types import Progress
from glomtile.verbs.slidenotes import (
    OWN,
    done_before,
    identity_of,
    known_identity,
    note_origin,
    note_path,
    read_note,
    work_path,
    write_note,
)
from glomtile.verbs.slidesources import Source, at_hand, copies_folder

if TYPE_CHECKING:
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.windows import Settings
    from glomtile.verbs.slidebucket import Bucket


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
    scratch : Path or None
        Where slides behind addresses lie while they are worked on, beside the notes where `None`; and where
        results for a bucket are made, the user's cache where `None`.
    threshold : float or None
        Above 0 and below 1: probability from which a pixel is no background, in place of the model's own.
    """

    model: Path | None = None
    mpp: float | None = None
    settings: Settings | None = None
    tta: str | None = None
    overwrite: bool = False
    zarr: bool = False
    runtime: str = "auto"
    scratch: Path | None = None
    threshold: float | None = None

    def segmenter(self, settings: Settings | None = None) -> Segmenter:
        """The model, asked as is wanted here, with other settings where they are given.

        Raises
        ------
        ModelError, UsageError, MissingExtraError
            See `Segmenter.load`.
        """
        from glomtile.engine.segmenter import Segmenter

        return Segmenter.load(
            self.model, settings or self.settings, self.tta, threshold=self.threshold, runtime=self.runtime
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes
    ----------
    fresh : bool
        It was segmented now; it was done before where neither this nor anything else is said.
    problem : Exception or None
        What stood in the way.
    parts : tuple of int
        Panels that are to be filled first.
    """

    fresh: bool = False
    problem: Exception | None = None
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class SlideWork:
    """What each input is worked on with.

    Attributes
    ----------
    out : Path
    segmenter : Segmenter
    request : Request
    bucket : Bucket or None
        Where results go that are made in `out`.
    """

    out: Path
    segmenter: Segmenter
    request: Request
    bucket: Bucket | None = None

    def segment(self, source: Source, progress: Progress, widest_px: int | None = None) -> Outcome:
        """Segment one input, unless that was done before.

        Parameters
        ----------
        source : Path or RemoteFile
        progress : Progress
        widest_px : int, optional
            Where given, a slide of several panels of this width is only begun, and its panels are told.

        Notes
        -----
        Where another process still works on it, one that a cluster has given up, say, its end is waited for.
        """
        name, mpp = slide_name(source.name), self.request.mpp
        try:
            with self._alone(name, progress):
                known = known_identity(self.out, source, mpp, self.segmenter)
                if known is not None and self._done_before(source, known, progress):
                    return Outcome()
                if self.bucket is not None:
                    self.bucket.require_ours()
                with at_hand(source, self._copy_folder(name), progress) as path:
                    identity = identity_of(path, mpp, self.segmenter)
                    return self._segment(source, path, identity, progress, widest_px)
        except (GlomtileError, MemoryError, OSError) as problem:
            return Outcome(problem=problem)

    def fill(self, source: Source, panel: int, progress: Progress) -> Outcome:
        """Label one panel of a slide that was begun; `segment` goes on when all are."""
        mpp, name = self.request.mpp, f"{slide_name(source.name)}.{panel}"
        work = work_path(self.out, source)
        try:
            with (
                self._alone(name, progress),
                at_hand(source, self._copy_folder(name), progress) as path,
            ):
                identity = identity_of(path, mpp, self.segmenter)
                self.segmenter.fill(path, panel, mpp=mpp, work=work, identity=identity, progress=progress)
        except (GlomtileError, MemoryError, OSError) as problem:
            return Outcome(problem=problem)
        return Outcome(fresh=True)

    def _alone(self, name: str, progress: Progress) -> AbstractContextManager[None]:
        """Keep others from a slide, or a panel of one."""
        return sole_run(self.out / OWN, progress, name=f"{name}.lock", wait=True, given=self.out)

    def _copy_folder(self, name: str) -> Path:
        """Where a slide behind an address lies while it is worked on; it has the lock of this name."""
        return (copies_folder(self.out, self.request.scratch) or self.out / OWN) / f"{name}.fetched"

    def _done_before(self, source: Source, identity: dict[str, Any], progress: Progress) -> bool:
        """Whether it is not to be done; says so."""
        out = self.out
        if self.request.overwrite or not done_before(out, source, identity, self.request.zarr, self.bucket):
            return False
        progress.note(f"{source}: done before")
        note = read_note(note_path(out, source)) or {}
        _warn_of_doubts(source, note.get("doubts", ()), progress)
        return True

    def _segment(
        self,
        source: Source,
        path: Path,
        identity: dict[str, Any],
        progress: Progress,
        widest_px: int | None,
    ) -> Outcome:
        from glomtile.engine.threads import cores, processor

        began, out, segmenter, mpp = time.time(), self.out, self.segmenter, self.request.mpp
        if self._done_before(source, identity, progress):
            note_origin(out, source, self.bucket)
            return Outcome()
        work = work_path(out, source)
        if widest_px is not None:
            parts = segmenter.split(path, mpp=mpp, work=work, identity=identity, widest_px=widest_px)
            if parts:
                return Outcome(parts=tuple(parts))
        found = segmenter.segment(path, mpp=mpp, work=work, identity=identity, progress=progress)
        written = found.save(out, zarr=self.request.zarr)
        if self.bucket is not None:
            self.bucket.take(out, written)
        computed = {"threads": segmenter.settings.network_threads or cores(), "processor": processor()}
        write_note(out, source, identity, found, written, computed, time.time() - began, self.bucket)
        with suppress(StorageError):  # the results are whole; what is left is cleared when it is in the way
            remove_work(work)
        counts = ", ".join(
            f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
        )
        progress.note(f"{source}: {counts}, {found.tissue.area_mm2:.2f} mm² of tissue")
        _warn_of_doubts(source, found.doubts.warnings, progress)
        return Outcome(fresh=True)


def _warn_of_doubts(source: Source, doubts: Sequence[str], progress: Progress) -> None:
    if doubts:
        progress.warn(f"{source}: doubtful: {'; '.join(doubts)}")


def runtime_of(request: Request) -> str:
    """What will compute the network: ``"openvino"`` or ``"keras"``.

    Raises
    ------
    ModelError, UsageError, MissingExtraError
        See `Segmenter.load`.
    """
    from glomtile.engine.modelfolder import model_folder, read_card, read_whole
    from glomtile.engine.runtime import chosen_runtime

    folder = model_folder(request.model)
    return chosen_runtime(read_whole(folder, read_card), request.runtime, folder)
