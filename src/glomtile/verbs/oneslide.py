"""One slide or picture in, its results out, whoever asks and whatever stopped the run before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError
from glomtile.files.lock import sole_run
from glomtile.files.slides import slide_name
from glomtile.types import Progress
from glomtile.verbs.slidenotes import (
    OWN,
    done_before,
    identity_of,
    note_path,
    read_note,
    work_path,
    write_note,
)

if TYPE_CHECKING:
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.windows import Settings


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
    """

    out: Path
    segmenter: Segmenter
    request: Request

    def segment(self, path: Path, progress: Progress, widest_px: int | None = None) -> Outcome:
        """Segment one input, unless that was done before.

        Parameters
        ----------
        path : Path
        progress : Progress
        widest_px : int, optional
            Where given, a slide of several panels of this width is only begun, and its panels are told.

        Notes
        -----
        Where another process still works on it, one that a cluster has given up, say, its end is waited for.
        """
        try:
            identity = identity_of(path, self.request.mpp, self.segmenter)
            with sole_run(self.out / OWN, progress, name=f"{slide_name(path)}.lock", wait=True):
                return self._segment(path, identity, progress, widest_px)
        except (GlomtileError, MemoryError, OSError) as problem:
            return Outcome(problem=problem)

    def fill(self, path: Path, panel: int, progress: Progress) -> Outcome:
        """Label one panel of a slide that was begun; `segment` goes on when all are."""
        mpp, name = self.request.mpp, f"{slide_name(path)}.{panel}.lock"
        try:
            identity = identity_of(path, mpp, self.segmenter)
            with sole_run(self.out / OWN, progress, name=name, wait=True):
                work = work_path(self.out, path)
                self.segmenter.fill(path, panel, mpp=mpp, work=work, identity=identity, progress=progress)
        except (GlomtileError, MemoryError, OSError) as problem:
            return Outcome(problem=problem)
        return Outcome(fresh=True)

    def _segment(
        self, path: Path, identity: dict[str, Any], progress: Progress, widest_px: int | None
    ) -> Outcome:
        from glomtile.engine.threads import cores, processor

        began, out, segmenter, mpp = time.time(), self.out, self.segmenter, self.request.mpp
        if not self.request.overwrite and done_before(out, path, identity, self.request.zarr):
            progress.note(f"{path}: done before")
            note = read_note(note_path(out, path)) or {}
            _warn_of_doubts(path, note.get("doubts", ()), progress)
            return Outcome()
        work = work_path(out, path)
        if widest_px is not None:
            parts = segmenter.split(path, mpp=mpp, work=work, identity=identity, widest_px=widest_px)
            if parts:
                return Outcome(parts=tuple(parts))
        found = segmenter.segment(path, mpp=mpp, work=work, identity=identity, progress=progress)
        written = found.save(out, zarr=self.request.zarr)
        computed = {"threads": segmenter.settings.network_threads or cores(), "processor": processor()}
        write_note(out, path, identity, found, written, computed, time.time() - began)
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)
        counts = ", ".join(
            f"{len(found.objects_of(entry.number))} x {entry.name}" for entry in found.palette.classes[1:]
        )
        progress.note(f"{path}: {counts}, {found.tissue.area_mm2:.2f} mm² of tissue")
        _warn_of_doubts(path, found.doubts.warnings, progress)
        return Outcome(fresh=True)


def _warn_of_doubts(path: Path, doubts: Sequence[str], progress: Progress) -> None:
    if doubts:
        progress.warn(f"{path}: doubtful: {'; '.join(doubts)}")


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
