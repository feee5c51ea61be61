"""Atomic writes, temporary files, locks and cache folders."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import PlaceError, StorageError, UsageError
from glomtile.types import SILENT, Progress

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


_STEM_LETTERS = 40
"""Of the file's own name: four bytes each at most, in a name of 255."""
_LOOK_AGAIN_S = 60.0
_NAME = re.compile(
    r"\..*\.(?P<system>[0-9a-f]{12})-(?P<process>[1-9][0-9]*)-[0-9a-f]{8}(\.[^.]*)?", re.DOTALL
)

_looked: dict[Path, float] = {}


def temporary_name(path: Path) -> str:
    """A hidden name beside `path`, new each time, which tells the process that writes it."""
    told = f"{_system() or '0' * 12}-{os.getpid()}-{secrets.token_hex(4)}"
    return f".{path.stem[:_STEM_LETTERS]}.{told}{path.suffix}"


def clear_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers were killed.

    Parameters
    ----------
    folder : Path
        Looked through once a minute and process at most: it may hold a hundred thousand tiles.

    Notes
    -----
    A file goes only when its name tells that a process of this very system (this boot of this machine, this
    container) wrote it, and the system has no process of that number. So nothing hangs on the file system:
    locks are a machine's own on some network drives, are missing on others, or keep the writer itself from
    writing, and its clock says nothing about one that was paused. Nor can a file that somebody else made be
    meant, as the name holds a digest that only this system has. What stays, because nobody here can tell:
    files of other machines, of earlier boots and of containers that ended; those whose number another process
    has now; and on Windows all, which has no harmless way to ask whether a process lives.
    """
    now = time.monotonic()
    if now - _looked.get(folder, -_LOOK_AGAIN_S) < _LOOK_AGAIN_S:
        return
    _looked[folder] = now
    system = _system()
    if system is None:
        return
    with suppress(OSError):  # who may write here need not be let list, or remove what others made
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and match["system"] == system and _has_ended(int(match["process"])):
                path.unlink(missing_ok=True)


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing; it only asks
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return False
    return False


@functools.cache
def _system() -> str | None:
    """What numbers our processes, as 12 digits; ``None`` where that or the living cannot be told."""
    try:
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            told = f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
        elif sys.platform == "win32":
            return None
        else:
            told = f"{socket.gethostname()} {uuid.getnode()}"
    except (OSError, ValueError):
        return None
    return hashlib.sha256(told.encode("utf-8")).hexdigest()[:12]


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot fit.

    Parameters
    ----------
    folder : Path
        Where it will be written; need not exist yet.
    needed_bytes : int
        How much will be written.

    Raises
    ------
    StorageError
        Less than `needed_bytes` is free there.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    with storage_errors(folder):
        free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StorageError(
            folder, f"expected {_megabytes(needed_bytes)} of free space, got {_megabytes(free)}"
        )


def require_place(folder: Path) -> None:
    """Refuse a place where no folder can be written to, without making anything.

    Parameters
    ----------
    folder : Path
        It need not exist yet, nor those above it.

    Raises
    ------
    PlaceError
        What exists of its path ends in a file, or may not be written to.
    """
    place = Path(folder).absolute()
    with storage_errors(folder):
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "", str(place))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


class TemporaryFolder:
    """A temporary folder that goes when nobody holds this any more, or the process ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glomtile-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


VARIABLE = "GLOMTILE_CACHE_DIR"
"""Environment variable that names the folder."""


def user_cache() -> Path:
    """The folder of this user's cache, which need not exist.

    Returns
    -------
    Path
        ``GLOMTILE_CACHE_DIR``, else ``glomtile`` in ``XDG_CACHE_HOME`` or ``~/.cache``; absolute. A relative
        ``XDG_CACHE_HOME`` counts as none, as its specification wants.

    Raises
    ------
    PlaceError
        Neither is set and the user has no home folder.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if named := os.environ.get(VARIABLE):
            return Path(named).expanduser().absolute()
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "glomtile"
    except RuntimeError as problem:
        raise PlaceError(
            "cache", "expected a home folder to keep it in, found none", f"name a folder in {VARIABLE}"
        ) from problem


LOCK_FILE = "lock"

_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_READ_BYTES = 4096
_ASK_AGAIN_S = 0.5
_LOCKED_AT = 2**30
"""Windows locks bytes against reading: one that no note reaches."""


@contextmanager
def run_lock(
    folder: Path,
    progress: Progress = SILENT,
    *,
    name: str = LOCK_FILE,
    wait: bool = False,
    given: Path | None = None,
) -> Iterator[None]:
    """Keep other runs out of a folder, or of a part of it.

    Parameters
    ----------
    folder : Path
        Made if missing. In it lies a file that says who holds it and stays when the run has ended.
    progress : Progress
        Is warned where the file system knows no locks, and told who is waited for.
    name : str
        Of the file: parts of one folder are locked by a name each.
    wait : bool
        Wait until who holds it has ended, and leave no file behind.
    given : Path, optional
        The folder that the user named, if `folder` is a hidden one in it: errors are told of that.

    Raises
    ------
    UsageError
        Another run holds the folder and is not waited for; it is named.
    StorageError
        The folder cannot be written.

    Notes
    -----
    The lock is the system's (``flock``), not the file: it ends with the process that holds it, however that
    ends, so none is ever left behind and nobody has to guess whether a run still lives. Who asks twice in
    one process is refused, too.
    """
    path = Path(folder) / name
    told = path.parent if given is None else given
    with storage_errors(told):
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _taken(path, progress, wait, told)
    try:
        yield
    finally:
        if wait:
            with suppress(OSError):  # Windows removes no file that is open; it may as well stay
                path.unlink()
        os.close(descriptor)


def _taken(path: Path, progress: Progress, wait: bool, told: Path) -> int:
    """The open file that holds the lock; it is opened anew at each try, as it may have been removed."""
    waiting = False
    while True:
        with storage_errors(path if path.is_dir() else told):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as problem:
            if problem.errno not in _TAKEN:
                if not wait:  # who waits for a part has been warned of the whole
                    progress.warn(
                        f"{told}: cannot be locked ({problem.strerror}); let no second run write here"
                    )
                return descriptor
            holder = _holder(descriptor)
            os.close(descriptor)
            if not wait:
                raise UsageError(
                    told,
                    f"expected no other run in this folder, got {holder}",
                    "wait until it has ended, or choose another folder",
                ) from None
            if not waiting:
                waiting = True
                progress.note(f"{path.stem}: waiting for {holder}")
            time.sleep(_ASK_AGAIN_S)
            continue
        if _lies_at(path, descriptor):
            try:
                with storage_errors(told):
                    _say_who(descriptor)
            except BaseException:
                os.close(descriptor)  # the lock would be held, by nobody, until this process ends
                raise
            return descriptor
        os.close(descriptor)


def _lies_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name: who held it may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _say_who(descriptor: int) -> None:
    told = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(told).encode("utf-8"))


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as the file says it: it may just be being written."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        told = json.loads(os.read(descriptor, _READ_BYTES))
        return f"process {told['process']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "one that holds it"
