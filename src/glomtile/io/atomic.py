"""Atomic writes, JSON files, file locks and the cache folder."""

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
import stat
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import GlomtileError, InputError, LockedError, PlaceError, StorageError, UsageError
from glomtile.types import SILENT, Progress

PRIVATE_FOLDER = ".glomtile"
"""Folder in an output folder for records, unfinished label rows and lock files."""
CACHE_VARIABLE = "GLOMTILE_CACHE_DIR"
"""Environment variable that names the cache folder."""

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for the file system",
    errno.EIO: "the disk reports an input/output error",
}
_PATH_ERRORS = {
    errno.EROFS: "the file system is read-only",
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
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}

_STEM_LETTERS = 40
"""Letters of the file's own name in a temporary name: at most four bytes each, in a name of 255 bytes."""
_TEMPORARY = re.compile(
    r"\..*\.(?P<host>[0-9a-f]{8})-(?P<process>[1-9][0-9]*)-[0-9a-f]{8}\.partial(\.[^.]*)?", re.DOTALL
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to, and rename it to `path` when the block succeeds.

    Parameters
    ----------
    path : Path
        The file to create or replace; missing folders above it are made.

    Yields
    ------
    Path
        A hidden name in the same folder with the same suffix, not existing yet.

    Raises
    ------
    StorageError
        The file cannot be written. `path` is then as it was before.

    Notes
    -----
    A killed process leaves its temporary file; the next process that writes into the folder removes it.
    """
    path = Path(path)
    partial = _temporary_path(path)
    try:
        with storage_errors(path, inside=partial):
            yield partial
        with storage_errors(path):
            _sync(partial)
            partial.replace(path)
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
    """Write `value` as `json_text` whole or not at all; see `atomic_write`."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Format `value` as indented JSON; NumPy numbers, arrays and paths are converted.

    Raises
    ------
    ValueError
        `value` holds NaN or an infinity.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    # A name of bytes that are not UTF-8 holds lone surrogates, which JSON's own escapes keep.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_json(
    path: Path, what: str = "a JSON object", error: type[GlomtileError] = InputError
) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path
    what : str
        Content of the file for the error message: ``"expected <what>, got …"``.
    error : type of GlomtileError
        Raised when the file is missing, unreadable, not JSON or not an object.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(path, f"expected {what}, got no regular file")
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise error(path, f"expected {what}, the file does not exist") from None
    except OSError as problem:
        raise error(path, f"expected {what}, got: {problem.strerror or problem}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(path, f"expected {what}, got unreadable JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise error(path, f"expected {what}, got JSON that is no object")
    return value


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder, and rename it to `final` when the block succeeds.

    Parameters
    ----------
    final : Path
        The folder to create or replace. An existing one stays until the new one is whole, and is then
        removed: the caller makes sure that it may be.

    Yields
    ------
    Path
        A hidden folder beside `final`.

    Raises
    ------
    StorageError
        Something cannot be written. `final` is then as it was before.

    Notes
    -----
    A process killed between the two renames leaves the old folder as ``.<name>.previous``;
    `restore_folder` renames it back.
    """
    final = Path(final)
    restore_folder(final)
    partial, previous = _temporary_path(final), final.with_name(f".{final.name}.previous")
    with storage_errors(final):
        partial.mkdir()
    try:
        with storage_errors(final, inside=partial):
            yield partial
        with storage_errors(final):
            for path in partial.rglob("*"):
                if path.is_file():
                    _sync(path)
            if final.exists():
                final.rename(previous)
            partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        restore_folder(final)
        raise
    _remove(previous)


def restore_folder(final: Path) -> None:
    """Undo what a process killed in `replace_folder` left; only for the folder's only writer."""
    final = Path(final)
    previous = final.with_name(f".{final.name}.previous")
    with storage_errors(final):
        if not previous.exists():
            return
        if final.exists():
            _remove(previous)
        else:
            previous.rename(final)


def link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to the file `target`, or a copy where links cannot be made.

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
    """Rename a folder to ``<name>-YYYYmmdd-HHMMSS``, the time of its last change.

    Returns
    -------
    Path or None
        The new name; ``None`` when the folder does not exist or is empty, and nothing was done.

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
    """Compute a file's SHA-256 as hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def storage_errors(path: object, inside: Path | None = None) -> Iterator[None]:
    """Turn the operating system's errors into `StorageError`, and those of the path into `PlaceError`.

    With `inside`, an error other than a full disk is converted only if it names a path in there: code that
    fills an output also reads inputs, whose errors stay as they are.
    """
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        reason = _DISK_ERRORS.get(code)
        if code == errno.EROFS:
            reason = _PATH_ERRORS[code]
        if reason is None and "no space left" in str(error).lower():
            reason = _DISK_ERRORS[errno.ENOSPC]
        about = str(error.filename or "")
        if reason is None and (inside is None or about.startswith(str(inside))):
            reason = _PATH_ERRORS.get(code, error.strerror or str(error))
        if reason is None:
            raise
        kind = PlaceError if code in _PATH_ERRORS else StorageError
        raise kind(path, f"expected to write here, got: {reason}") from error


def require_place(folder: Path) -> None:
    """Check that a folder can be made and written to, without making anything.

    Parameters
    ----------
    folder : Path
        It need not exist yet, nor those above it.

    Raises
    ------
    PlaceError
        The deepest existing part of its path is a file, or is not writable.
    """
    place = Path(folder).absolute()
    with storage_errors(folder):
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "", str(place))


@contextmanager
def file_lock(path: Path, progress: Progress = SILENT, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock while the block runs.

    Parameters
    ----------
    path : Path
        The lock file, made with its folder if missing; it stays afterwards. Errors name its folder, or the
        folder above if that is `PRIVATE_FOLDER`.
    progress : Progress
        Receives a note when the lock is waited for, and a warning where the file system has no locks.
    wait : bool
        Wait for the holder to release it.

    Raises
    ------
    LockedError
        Another run holds the lock.
    UsageError
        The lock file, or the `PRIVATE_FOLDER` that it is in is a link.
    StorageError
        The folder cannot be written.

    Notes
    -----
    The operating system releases the lock when the process ends, however it ends. A second lock on the same
    file in one process is refused too.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    private = path.parent.name == PRIVATE_FOLDER
    folder = path.parent.parent if private else path.parent
    if private and path.parent.is_symlink():
        raise UsageError(path.parent, "expected a folder of glomtile, got a link", "remove it")
    with storage_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):  # through a link, a file elsewhere would be written
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                raise PlaceError(path, "expected a lock file, got a folder")
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise UsageError(
                    path, "expected a lock file of glomtile, got a link or special file", "remove it"
                )
    try:  # first: opening the lock may empty the file
        stated = read_json(path)
        holder = f"process {stated['process']} on {stated['host']}"
    except (GlomtileError, KeyError):
        holder = "another process"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise LockedError(
                    folder,
                    f"expected no other run in this folder, got {holder}",
                    "wait until it has ended, or choose another folder",
                ) from None
            progress.note(f"{path.stem}: waiting for {holder}")
            lock.acquire(poll_interval=0.5)
        if os.name == "posix":  # Windows refuses to write to a locked file
            text = json.dumps({"process": os.getpid(), "host": socket.gethostname()})
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
    except (OSError, NotImplementedError) as problem:
        lock.release()
        if not isinstance(problem, NotImplementedError) and problem.errno not in _NO_LOCKS:
            with storage_errors(folder):
                raise
        progress.warn(f"{folder}: the file system has no locks; start no second run in this folder")
    try:
        yield
    finally:
        lock.release()


def user_cache() -> Path:
    """Return the absolute path of the user's cache folder, which need not exist."""
    from platformdirs import user_cache_path

    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    return user_cache_path("glomtile", appauthor=False).absolute()


class TemporaryFolder:
    """A temporary folder that is removed with this object, or when the process ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="glomtile-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def _temporary_path(path: Path) -> Path:
    """Return a new hidden name beside `path`, in a folder without files of killed processes."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent.absolute())
    unique = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem[:_STEM_LETTERS]}.{unique}.partial{path.suffix}")


@functools.cache
def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders of processes of this host that have ended."""
    if os.name != "posix":  # os.kill would stop the process
        return
    with suppress(OSError):  # the folder may be writable but not listable
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and match["host"] == _host():
                try:
                    os.kill(int(match["process"]), 0)
                except ProcessLookupError:
                    _remove(path)
                except (PermissionError, OverflowError):  # another user's process, or no process number
                    continue


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
