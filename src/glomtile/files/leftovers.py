"""Whose temporary file it is, and whether who was writing it is gone."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import socket
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

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
