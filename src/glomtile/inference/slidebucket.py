"""Remote output."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from glomtile.errors import InputError, PlaceError, StorageError
from glomtile.inference.records import OWN, read_note
from glomtile.io.atomic import storage_errors, user_cache
from glomtile.io.remote import WEB, RemoteFolder, require_store, scheme_of
from glomtile.types import Progress

_MARK = f"{OWN}/lock"
"""Says who works in the bucket; what has no lock has this."""

_SHOWN = ("objects", "geojson", "overlays")
"""Kinds of outputs that the report is made from."""

KINDS = (*_SHOWN, "masks", "tissue", "zarr")
"""Folders of outputs, one for each kind."""


class TakenOverError(StorageError):
    """Another run has begun to work in the bucket."""


@dataclass(frozen=True)
class Bucket:
    """A folder of results in a store, and the run that fills it; plain values, workers are sent it.

    Attributes
    ----------
    address : str
    token : str
        Tells this run from others.
    """

    address: str
    token: str

    @property
    def folder(self) -> RemoteFolder:
        """Where the results go."""
        return RemoteFolder(self.address)

    def require_ours(self) -> None:
        """See that no other run has begun to work here.

        Raises
        ------
        TakenOverError
            One has.
        StorageError
            The store cannot be asked.
        """
        with _told_of(self.address):
            holder = _holder(self.folder)
        if holder is not None and holder.get("token") != self.token:
            raise TakenOverError(
                self.address,
                f"expected no other run in this folder, got {_told(holder)}",
                "what this one finished is kept; let one run at a time work there",
            )

    def take(self, out: Path, written: Iterable[Path]) -> None:
        """Put a slide's files there; of those the report does not need, none stays here.

        Raises
        ------
        StorageError
            The store does not take them, or `TakenOverError`.
        """
        self.require_ours()
        for path in written:
            name = path.relative_to(out).as_posix()
            self.folder.put(path, name)
            if not name.startswith(_SHOWN):
                _remove(path)

    def note(self, out: Path, path: Path) -> None:
        """Put a file there that lies here, under the same name."""
        self.folder.put(path, path.relative_to(out).as_posix())


def place_of(address: str, scratch: Path | None) -> Path:
    """Where results for a bucket are made: a folder of its own in `scratch` or the user's cache.

    It ends as the address does, because the report is named after its folder and the one above.
    """
    address = address.rstrip("/")
    own = f"results-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    names = [scheme_of(address), *filter(None, address.partition("://")[2].split("/"))]
    return (scratch or user_cache()).joinpath(own, *names[-2:])


def require_writable(address: str) -> None:
    """See that files can be put to addresses of this kind, without asking the store.

    Raises
    ------
    PlaceError
        It is of the web, or nobody knows such addresses.
    MissingExtraError
        The package that the address needs is not installed.
    """
    if scheme_of(address) in WEB:
        raise PlaceError(address, "expected a store that takes files, as s3:// or gs://, got the web")
    try:
        require_store(address)
    except InputError as problem:
        raise PlaceError(problem.where, problem.message, problem.hint) from problem


def begin(address: str, out: Path, progress: Progress) -> Bucket:
    """Say that a run works in a bucket now, and bring here what it says of finished slides.

    Parameters
    ----------
    address : str
    out : Path
        Where results are made; its notes become those of the bucket.
    progress : Progress
        Told of a run that did not say that it had ended.

    Raises
    ------
    PlaceError
        Nobody knows such addresses; the bucket is not there, cannot be reached, or does not take files.
    MissingExtraError
        The package that the address needs is not installed.
    """
    bucket = Bucket(address.rstrip("/"), secrets.token_hex(8))
    require_writable(address)
    try:
        with _told_of(bucket.address):
            holder = _holder(bucket.folder)
        mark = {"process": os.getpid(), "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": bucket.token}  # fmt: skip
        with _told_of(bucket.address):
            bucket.folder.write(_MARK, json.dumps(mark).encode())
        if holder is not None and holder.get("host") != mark["host"]:  # here, the lock would have told
            progress.warn(
                f"{address}: {_told(holder)} did not end here; if it still works, it stops at its next slide"
            )
        _bring_notes(bucket.folder, out)
    except (InputError, StorageError) as problem:
        raise PlaceError(problem.where, problem.message, problem.hint) from problem
    return bucket


def bring_shown(bucket: Bucket, out: Path) -> None:
    """Bring here what the report shows of slides that earlier runs finished.

    Raises
    ------
    StorageError
        The store cannot be reached.
    """
    notes = (read_note(path) for path in (out / OWN).glob("*.json"))
    names = {name for note in notes if note for name in note["files"] if name.startswith(_SHOWN)}
    bucket.folder.bring((name for name in names if not (out / name).exists()), out)


def finish(bucket: Bucket, out: Path, written: Iterable[Path]) -> None:
    """Put the files of the whole run there, say that it has ended, and keep only those here.

    Raises
    ------
    StorageError
        See `Bucket.take`.
    """
    bucket.require_ours()
    for path in written:
        bucket.note(out, path)
    with _told_of(bucket.address):
        bucket.folder.remove(_MARK)
    for kind in KINDS:
        _remove(out / kind)


def _bring_notes(folder: RemoteFolder, out: Path) -> None:
    """The bucket's notes of slides whose files are all there, and no others."""
    names = folder.names()
    with storage_errors(out):
        for path in (*(out / OWN).glob("*.json"), *(out / kind for kind in KINDS)):
            _remove(path)
    own = [name for name in names if PurePosixPath(name).match(f"{OWN}/*.json") and name.count("/") == 1]
    folder.bring(own, out)
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {"/".join(name.split("/")[:2]) for name in names if name.startswith("zarr/")}
    for name in own:
        note = read_note(out / name)
        if note is None or not all(file in names or file in folders for file in note["files"]):
            (out / name).unlink()


def _holder(folder: RemoteFolder) -> dict[str, Any] | None:
    """Who says that it works there."""
    mark = folder.read(_MARK)
    if mark is None:
        return None
    try:
        told = json.loads(mark)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {}


@contextmanager
def _told_of(address: str) -> Iterator[None]:
    """Tell what goes wrong with the mark of the folder that the user named."""
    try:
        yield
    except StorageError as problem:
        raise StorageError(address, problem.message, problem.hint) from problem


def _told(holder: dict[str, Any]) -> str:
    if "token" not in holder:
        return "one that left no name"
    return f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
