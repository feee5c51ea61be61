"""How one run at a time works in a folder: by a lock that the system takes back when the run ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glomtile.errors import UsageError
from glomtile.files.workspace import storage_errors
from glomtile.types import SILENT, Progress

LOCK_FILE = "lock"

_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_READ_BYTES = 4096
_LOCKED_AT = 2**30
"""Windows locks bytes against reading: one that no note reaches."""


@contextmanager
def sole_run(folder: Path, progress: Progress = SILENT) -> Iterator[None]:
    """Keep other runs out of a folder.

    Parameters
    ----------
    folder : Path
        Made if missing. In it lies ``lock``, a file that says who holds it and stays when the run has ended.
    progress : Progress
        Is warned where the file system knows no locks.

    Raises
    ------
    UsageError
        Another run holds the folder; it is named.
    StorageError
        The folder cannot be written.

    Notes
    -----
    The lock is the system's (``flock``), not the file: it ends with the process that holds it, however that
    ends, so none is ever left behind and nobody has to guess whether a run still lives. Who asks twice in
    one process is refused, too.
    """
    path = Path(folder) / LOCK_FILE
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock(descriptor)
        except OSError as problem:
            if problem.errno in _TAKEN:
                raise UsageError(
                    folder, f"expected no other run in this folder, got {_holder(descriptor)}",
                    "wait until it has ended, or choose another folder",
                ) from None  # fmt: skip
            progress.warn(f"{folder}: cannot be locked ({problem.strerror}); let no second run write here")
        else:
            with storage_errors(path):
                _say_who(descriptor)
        yield
    finally:
        os.close(descriptor)


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
