"""How one run at a time works in a folder: by a lock that the system takes back when the run ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glomtile.errors import UsageError
from glomtile.files.workspace import storage_errors
from glomtile.types import SILENT, Progress

LOCK_FILE = "lock"

_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_READ_BYTES = 4096
_ASK_AGAIN_S = 0.5
_LOCKED_AT = 2**30
"""Windows locks bytes against reading: one that no note reaches."""


@contextmanager
def sole_run(
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
