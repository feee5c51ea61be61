"""Which slides are meant by paths and addresses, and where one lies while it is worked on."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from glomtile.errors import GlomtileError, InputError
from glomtile.files.images import natural_key
from glomtile.files.remote import RemoteFile, fetched, is_address, list_remote, local_path
from glomtile.files.slides import SEVERAL_FILES, SLIDE_SUFFIXES, list_slides, slide_name
from glomtile.types import Progress

Source = Path | RemoteFile
"""A slide or picture: here, or behind an address."""


def sources_of(inputs: Sequence[str | Path]) -> tuple[list[Source], list[tuple[Source | str, str]]]:
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


def of_own_names(sources: Sequence[Source], failed: list[tuple[Source | str, str]]) -> list[Source]:
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
def at_hand(source: Source, folder: Path, progress: Progress) -> Iterator[Path]:
    """A file of this machine with the slide in it: its own, or a copy that is removed in the end.

    Parameters
    ----------
    source : Path or RemoteFile
    folder : Path
        Where a copy lies meanwhile, alone; see `glomtile.files.remote.fetched`.
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
