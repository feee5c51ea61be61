"""How outputs come to stand whole or not at all, and never delete what others made."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import PlaceError, StorageError
from glomtile.files.leftovers import clear_abandoned, temporary_name

_UNFINISHED, _WHOLE, _REPLACED = ".glomtile-unfinished", ".glomtile-whole", ".glomtile-replaced"
_DISK_TROUBLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for the file system",
    errno.EIO: "the disk reports an input/output error",
}
_PLACE_TROUBLE = {errno.EROFS: "the file system is read-only"}
_PATH_TROUBLE = {
    errno.ENOENT: "there is no such folder and none can be made",
    errno.ELOOP: "it is a loop of links",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTEMPTY: "the folder is not empty",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in the place of `path` when all went well.

    Parameters
    ----------
    path : Path
        The file that shall exist in the end; missing folders above it are made.

    Yields
    ------
    Path
        A hidden name in the same folder with the same suffix, not existing yet.

    Raises
    ------
    StorageError
        The file cannot be written: full disk, no permission, not a folder. `path` is then as
        it was before.

    Notes
    -----
    A killed process leaves its sibling, which may be large; the next that writes into the folder removes it,
    see `leftovers.clear_abandoned`.
    """
    path = Path(path)
    partial = path.with_name(temporary_name(path))
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(path.parent)
        with storage_errors(path, inside=partial):
            yield partial
        with storage_errors(path):
            _sync(partial)
            partial.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all; see `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 with ``\n`` line ends whole or not at all; see `atomic_write`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON whole or not at all; NumPy numbers and paths are understood.

    Raises
    ------
    ValueError
        `value` holds NaN or an infinity, which JSON has no word for.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as `write_json` writes it.

    Raises
    ------
    ValueError
        `value` holds NaN or an infinity, which JSON has no word for.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Build a folder beside `final` and put it in its place when it is whole.

    Parameters
    ----------
    final : Path
        The folder that shall exist in the end. What stands there stays until the new one is
        whole, and is removed then: callers make sure that it is theirs.

    Yields
    ------
    Path
        ``<final>.partial``, empty.

    Raises
    ------
    StorageError
        Something cannot be written, or ``<final>.partial`` or ``<final>.previous`` holds what is not ours.

    Notes
    -----
    The swap is two renames. Hidden marker files say how far a killed process got, and that a
    folder beside `final` is ours; `settle_folder` finishes what was whole.
    """
    final = Path(final)
    settle_folder(final)
    partial, previous = _beside(final)
    with storage_errors(final):
        if final.exists():
            _make_room(previous, _REPLACED)  # a refusal comes before the work, not after it
        _make_room(partial, _UNFINISHED)
        partial.mkdir(parents=True)
        (partial / _UNFINISHED).touch()
    try:
        with storage_errors(final, inside=partial):
            yield partial
        with storage_errors(final):
            _sync_tree(partial)
            (partial / _UNFINISHED).replace(partial / _WHOLE)
            _sync_folder(partial)
    except BaseException:
        with suppress(OSError):
            remove_folder(partial, _WHOLE)
        raise
    settle_folder(final)


def settle_folder(final: Path) -> Path:
    """Finish a swap that `replace_folder` was killed in; touches nothing otherwise.

    Only for who writes the folder, alone: amid a swap of a living process it takes away what that is about to
    rename. Readers ask `whole_folder`.

    Returns
    -------
    Path
        `final`, which exists if a whole folder, new or old, was left.

    Raises
    ------
    StorageError
        A rename is refused.
    """
    final = Path(final)
    partial, previous = _beside(final)
    with storage_errors(final):
        if (partial / _WHOLE).exists():
            if final.exists():
                _make_room(previous, _REPLACED)
                (final / _REPLACED).touch()
                final.rename(previous)
            partial.rename(final)
            _sync_folder(final.parent)
        elif not final.exists() and (previous / _REPLACED).exists():
            previous.rename(final)
        if final.exists():
            for marker in (_WHOLE, _REPLACED):
                if (final / marker).exists():
                    (final / marker).unlink()
            if _is_ours(previous, _REPLACED):
                with suppress(OSError):
                    remove_folder(previous, _REPLACED)
    return final


def whole_folder(final: Path) -> Path:
    """Where the folder that `replace_folder` writes lies now; changes nothing.

    Returns
    -------
    Path
        `final` where it exists; between the two renames of a swap, be its writer killed or at it, the whole
        folder beside it. `final` also where there is none.
    """
    final = Path(final)
    partial, previous = _beside(final)
    if not final.exists():
        for place, marker in ((partial, _WHOLE), (previous, _REPLACED)):
            if (place / marker).exists():
                return place
    return final


def remove_folder(folder: Path, marker: str) -> None:
    """Remove a folder of ours; `empty_folder` says what a kill on the way leaves.

    Parameters
    ----------
    folder : Path
        Of a link, the folder it leads to is emptied and the link is removed.
    marker : str
        See `empty_folder`.

    Raises
    ------
    OSError
        Something in it cannot be removed.
    """
    empty_folder(folder, marker)
    if folder.is_symlink():
        folder.unlink()
    else:
        folder.rmdir()


def empty_folder(folder: Path, marker: str) -> None:
    """Remove all that lies in a folder of ours.

    A kill on the way leaves an empty folder or one that `is_unfinished`: neither taken for whole nor for
    somebody else's.

    Parameters
    ----------
    folder : Path
    marker : str
        Name of the file in it that says that the folder is ours. It is renamed first, to one that says
        no more than that, and this goes last.

    Raises
    ------
    OSError
        Something in it cannot be removed.
    """
    last = folder / _UNFINISHED
    with suppress(FileNotFoundError):
        (folder / marker).replace(last)
    for path in list(folder.iterdir()):
        if path.name == _UNFINISHED:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    left = [path.name for path in folder.iterdir() if path.name != _UNFINISHED]
    if left:  # a network drive keeps a file that is open under another name
        raise OSError(errno.ENOTEMPTY, f"{left[0]} cannot be removed", str(folder))
    last.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is ours and stands for nothing: half built, or half removed."""
    return (folder / _UNFINISHED).exists()


def link(path: Path, target: Path) -> None:
    """Make `path` another name of the file `target`: a symbolic link, or a copy where links cannot be made.

    Parameters
    ----------
    path : Path
        Its folder is made; a link to another file and an older copy are replaced.
    target : Path

    Raises
    ------
    StorageError
        It cannot be written.
    """
    target = target.resolve()
    if path.is_symlink() and path.readlink() == target:
        return
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(target)
        except (OSError, NotImplementedError):  # Windows without the right to, some network drives
            shutil.copyfile(target, path)


def move_aside(folder: Path) -> Path | None:
    """Rename a folder to ``<name>-YYYYmmdd-HHMMSS``, the time it was last written to.

    Returns
    -------
    Path or None
        The new name; ``None`` when there was no folder or it was empty, and nothing was done.

    Raises
    ------
    StorageError
        It cannot be renamed, or it is a file.
    """
    folder = Path(folder)
    with storage_errors(folder):
        if not folder.exists() or not any(folder.iterdir()):
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        aside = folder.with_name(f"{folder.name}-{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}-{stamp}-{number}")
        folder.rename(aside)
    return aside


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def storage_errors(path: object, inside: Path | None = None) -> Iterator[None]:
    """Turn the operating system's refusals into `StorageError`, those of the place into `PlaceError`.

    With `inside`, a refusal other than a full disk counts only if it is about a path in there:
    code that fills an output also reads inputs, whose errors are not ours to rename.
    """
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        reason = _DISK_TROUBLE.get(code) or _PLACE_TROUBLE.get(code)
        if reason is None and "no space left" in str(error).lower():
            reason = _DISK_TROUBLE[errno.ENOSPC]
        about = str(error.filename or "")
        if reason is None and (inside is None or about.startswith(str(inside))):
            reason = _PATH_TROUBLE.get(code, error.strerror or str(error))
        if reason is None:
            raise
        kind = PlaceError if code in _PLACE_TROUBLE or code in _PATH_TROUBLE else StorageError
        raise kind(path, f"expected to write here, got: {reason}") from error


def _beside(final: Path) -> tuple[Path, Path]:
    return final.with_name(final.name + ".partial"), final.with_name(final.name + ".previous")


def _is_ours(folder: Path, marker: str) -> bool:
    return (folder / marker).exists() or is_unfinished(folder)


def _make_room(folder: Path, marker: str) -> None:
    """Remove what a killed run of ours left; anything else is refused."""
    if not folder.exists():
        return
    with storage_errors(folder):
        if any(folder.iterdir()) and not _is_ours(folder, marker):
            raise PlaceError(
                folder,
                "expected nothing or a folder that glomtile left, got other files",
                "rename or remove it",
            )
        remove_folder(folder, marker)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        _sync(folder)


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync_folder(Path(place))


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no place in JSON")
