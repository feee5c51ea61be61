"""Segmentation of one slide: resumed, locked and recorded."""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, InputError, StorageError
from glomtile.inference.label_store import remove_work
from glomtile.inference.records import (
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
from glomtile.io.atomic import file_lock
from glomtile.io.images import natural_key
from glomtile.io.remote import RemoteFile, fetched, is_address, list_remote, local_path
from glomtile.slides.slide import SEVERAL_FILES, SLIDE_SUFFIXES, list_slides, slide_name
from glomtile.types import Progress

if TYPE_CHECKING:
    from glomtile.inference.segmenter import Segmenter
    from glomtile.inference.slidebucket import Bucket
    from glomtile.inference.window_size import TilingSettings

Source = Path | RemoteFile
"""A slide or picture: here, or behind an address."""


def expand_inputs(inputs: Sequence[str | Path]) -> tuple[list[Source], list[tuple[Source | str, str]]]:
    """The slides meant, each once, and what of the inputs is none.

    Parameters
    ----------
    inputs : sequence of str or Path
        Files, folders, and addresses of them as ``s3://bucket/study/*.svs``; ``file:///abs/path`` is a path.

    Raises
    ------
    UsageError
        An address of this machine is no whole path.
    MissingExtraError
        An address needs a package that is not installed.
    """
    found: dict[Source, Source] = {}
    failed: list[tuple[Source | str, str]] = []
    for given in inputs:
        where = given if isinstance(given, str) and is_address(given) else Path(given)
        try:
            for source in _meant(where):
                found.setdefault(source.resolve() if isinstance(source, Path) else source, source)
        except InputError as problem:
            failed.append((where, reason(problem, where)))
    return list(found.values()), failed


def reject_name_clashes(sources: Sequence[Source], failed: list[tuple[Source | str, str]]) -> list[Source]:
    """Those whose results will not mix with those of an earlier one; the others into `failed`."""
    names: dict[str, Source] = {}
    for source in sources:
        first = names.setdefault(slide_name(source.name).casefold(), source)
        if first != source:
            failed.append(
                (source, f"expected a name of its own, got that of {first}: their results would mix")
            )
    return list(names.values())


def bytes_of(source: Source) -> int:
    """Size of a slide's file, 0 where nobody can tell: that is told of when its turn comes."""
    if isinstance(source, RemoteFile):
        return source.bytes or 0
    try:
        return source.stat().st_size
    except OSError:
        return 0


@contextmanager
def local_copy(source: Source, folder: Path, progress: Progress) -> Iterator[Path]:
    """A file of this machine with the slide in it: its own, or a copy that is removed in the end.

    Parameters
    ----------
    source : Path or RemoteFile
    folder : Path
        Where a copy lies meanwhile, alone; see `glomtile.io.remote.fetched`.
    progress : Progress

    Raises
    ------
    InputError
        It cannot be fetched, or consists of several files; it is named by its address, also by what was
        raised of its copy.
    StorageError
        There is no room for the copy.
    """
    if isinstance(source, Path):
        yield source
        return
    suffix = PurePosixPath(source.name).suffix.lower()
    if suffix in SEVERAL_FILES:
        raise InputError(
            source,
            f"expected a slide that is one file, got {suffix}, whose pixels may lie in files beside it",
            "copy all of them to a folder",
        )
    with fetched(source, folder, progress) as path:
        try:
            yield path
        except InputError as problem:
            if problem.where != str(path):
                raise
            raise InputError(source, problem.message, problem.hint) from problem


def copies_folder(out: Path, scratch: Path | None) -> Path | None:
    """Where copies of fetched slides lie, if not beside the notes: results of other folders lie elsewhere."""
    if scratch is None:
        return None
    return scratch / f"glomtile-{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:12]}"


def tidy_copies(folder: Path | None) -> None:
    """Remove the folder of copies if none is left in it."""
    if folder is not None:
        with suppress(OSError):
            folder.rmdir()


def reason(problem: BaseException, source: object) -> str:
    """Why an input has no results, without saying again which it is."""
    if isinstance(problem, MemoryError):
        return "expected a picture that fits the memory, got MemoryError"
    if not isinstance(problem, GlomtileError):
        return str(problem)
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    names = {str(source)}
    if isinstance(source, Path):
        names |= {source.name, str(source.absolute())}
    return text if problem.where in names else f"{problem.where}: {text}"


def _meant(where: str | Path) -> Sequence[Source]:
    if isinstance(where, Path):
        return list_slides(where) if where.is_dir() else [where]
    path = local_path(where)
    if path is None:
        return list_remote(where, SLIDE_SUFFIXES)
    if set(str(path)) & set("*[?") and not path.exists():
        return _matching(path)
    return _meant(path)


def _matching(pattern: Path) -> list[Path]:
    """The slides and pictures of a pattern, which no shell has replaced behind ``file://``."""
    found = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207  (it is absolute)
    slides = [path for path in found if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()]
    if not slides:
        raise InputError(pattern, f"expected at least one of {', '.join(SLIDE_SUFFIXES)}, got none")
    return sorted(slides, key=lambda path: (path.parent, natural_key(path.stem), path.suffix))


@dataclass(frozen=True)
class SegmentOptions:
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
    settings: TilingSettings | None = None
    tta: str | None = None
    overwrite: bool = False
    zarr: bool = False
    runtime: str = "auto"
    scratch: Path | None = None
    threshold: float | None = None

    def segmenter(self, settings: TilingSettings | None = None) -> Segmenter:
        """The model, asked as is wanted here, with other settings where they are given.

        Raises
        ------
        ModelError, UsageError, MissingExtraError
            See `Segmenter.load`.
        """
        from glomtile.inference.segmenter import Segmenter

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
    request: SegmentOptions
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
                with local_copy(source, self._copy_folder(name), progress) as path:
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
                local_copy(source, self._copy_folder(name), progress) as path,
            ):
                identity = identity_of(path, mpp, self.segmenter)
                self.segmenter.segment(path, mpp=mpp, work=work, identity=identity, progress=progress)
        except (GlomtileError, MemoryError, OSError) as problem:
            return Outcome(problem=problem)
        return Outcome(fresh=True)

    def _alone(self, name: str, progress: Progress) -> AbstractContextManager[None]:
        """Keep others from a slide, or a panel of one."""
        return file_lock(self.out / OWN / f"{name}.lock", progress, wait=True)

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
        _warn_of_flags(source, note.get("quality_flags", ()), progress)
        return True

    def _segment(
        self,
        source: Source,
        path: Path,
        identity: dict[str, Any],
        progress: Progress,
        widest_px: int | None,
    ) -> Outcome:
        from glomtile.system import cores, processor

        began, out, segmenter, mpp = time.time(), self.out, self.segmenter, self.request.mpp
        if self._done_before(source, identity, progress):
            note_origin(out, source, self.bucket)
            return Outcome()
        work = work_path(out, source)
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
        _warn_of_flags(source, found.quality.warnings, progress)
        return Outcome(fresh=True)


def _warn_of_flags(source: Source, flags: Sequence[str], progress: Progress) -> None:
    if flags:
        progress.warn(f"{source}: flagged: {'; '.join(flags)}")


def runtime_of(request: SegmentOptions) -> str:
    """What will compute the network: ``"openvino"`` or ``"keras"``.

    Raises
    ------
    ModelError, UsageError, MissingExtraError
        See `Segmenter.load`.
    """
    from glomtile.inference.runtime import chosen_runtime
    from glomtile.models.folder import model_folder, read_card, read_whole

    folder = model_folder(request.model)
    return chosen_runtime(read_whole(folder, read_card), request.runtime, folder)
