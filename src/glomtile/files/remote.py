"""Files behind an address like ``s3://bucket/name``: what is one, what lies there, and how it comes here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from glomtile.errors import GlomtileError, InputError, MissingExtraError, UsageError
from glomtile.files.images import natural_key
from glomtile.files.room import require_space
from glomtile.files.storetrouble import nothing_there, trouble
from glomtile.files.workspace import storage_errors
from glomtile.types import SILENT, Progress

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:\ is none
WEB = ("http", "https")
_LOCAL = ("file", "local")
_PASSING = ("memory",)
"""Stores that live and die with a process."""

_VERSIONS = (
    "ETag", "etag", "generation", "md5Hash", "Last-Modified", "LastModified", "last_modified", "updated",
    "mtime", "created",
)  # fmt: skip
"""What stores call a mark that changes with a file's content, those that say most first."""

_MEGABYTE = 10**6


@dataclass(frozen=True)
class RemoteFile:
    """A file that a store has.

    Attributes
    ----------
    address : str
        What it is known by.
    bytes : int or None
        Its size; ``None`` where the store does not tell.
    version : str or None
        A mark of the store that changes with the content (an ETag, a time); ``None`` where there is none.
    """

    address: str
    bytes: int | None
    version: str | None

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of the address, as a file is called."""
        if self.scheme in WEB:
            return PurePosixPath(unquote(urlsplit(self.address).path)).name
        return self.address.rpartition("/")[2]

    @property
    def scheme(self) -> str:
        """What the address begins with: ``s3``, ``gs``, ``https``."""
        return scheme_of(self.address)

    @property
    def origin(self) -> dict[str, Any]:
        """All that says whether it is the same file as before, as JSON has it."""
        return {"address": self.address, "bytes": self.bytes, "version": self.version}


def is_address(text: str) -> bool:
    r"""Whether it begins as ``s3://`` does; ``C:\\slides`` and ``C://slides`` do not."""
    return _ADDRESS.match(text) is not None


def scheme_of(address: str) -> str:
    """What an address begins with, in small letters: ``s3``, ``gs``, ``https``."""
    match = _ADDRESS.match(address)
    return match[1].lower() if match else ""


def local_path(address: str) -> Path | None:
    """The path that an address of this machine means, ``file:///abs/path``; ``None`` of any other address.

    Raises
    ------
    UsageError
        It is one of this machine, and does not say from the root on where.
    """
    if scheme_of(address) not in _LOCAL:
        return None
    rest = address.partition("://")[2].removeprefix("localhost")
    if not rest.startswith("/") or rest.startswith("//"):
        raise UsageError(
            address,
            "expected a whole path as file:///abs/path, got none that begins at the root",
            "a path may as well be given by itself, without file://",
        )
    return Path(url2pathname(rest))


def require_lasting(address: str) -> None:
    """See that what is put there is still there when the process has ended.

    Raises
    ------
    UsageError
        The store is this process's memory.
    """
    if scheme_of(address) in _PASSING:
        raise UsageError(
            address,
            "expected a folder, or an address that lasts as s3://bucket/out, got a place in the "
            "memory of one process, which ends with it",
        )


def require_store(address: str) -> None:
    """See that addresses of this kind can be used here.

    Raises
    ------
    MissingExtraError
        The package that they need is not installed.
    InputError
        Nobody knows this kind.
    """
    extra = "pip install 'glomtile[remote]'"
    if find_spec("fsspec") is None:
        raise MissingExtraError(address, "expected fsspec to be installed, it is not", extra)
    from fsspec import get_filesystem_class

    scheme = scheme_of(address)
    try:
        get_filesystem_class(scheme)
    except ImportError as problem:
        raise MissingExtraError(
            address, f"expected what {scheme}:// needs to be installed, got: {problem}", extra
        ) from problem
    except ValueError as problem:
        raise InputError(
            address, f"expected an address that fsspec knows, as s3://, gs:// or https://, got {scheme}://"
        ) from problem


def list_remote(address: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The files that an address means.

    Parameters
    ----------
    address : str
        Of one file, which may have any suffix; of a folder, whose files directly in it are taken; or a
        pattern with ``*``, ``**``, ``[…]`` and, but for the web, ``?``.
    suffixes : tuple of str
        Of the files that are taken of a folder or a pattern, small letters; hidden ones are not.

    Returns
    -------
    list of RemoteFile
        In natural order.

    Raises
    ------
    MissingExtraError
        See `require_store`.
    InputError
        Nothing is there, the store cannot be reached, or it refuses.
    """
    require_store(address)
    magic = "*[" if scheme_of(address) in WEB else "*[?"
    with _store_errors(address, "files or a folder"):
        store, path = opened_store(address)
        if any(letter in path for letter in magic):
            found: list[Mapping[str, Any]] = list(store.glob(path, detail=True).values())
        else:
            told = store.info(path)
            if told["type"] != "directory":
                return [_file(store, told, path)]
            found = store.ls(path, detail=True)
        files = [_file(store, told, told["name"]) for told in found if told["type"] == "file"]
        taken = [
            file
            if file.version
            else _file(store, store.info(path), path)  # the web's listings tell names only
            for file, path in ((file, store._strip_protocol(file.address)) for file in files)
            if PurePosixPath(file.name).suffix.lower() in suffixes and not file.name.startswith(".")
        ]
    if not taken:
        raise InputError(address, f"expected at least one of {', '.join(suffixes)}, got none")
    return sorted(taken, key=_natural)


def opened_store(address: str) -> tuple[Any, str]:
    """The store and what it calls the file; what it remembers of earlier listings is forgotten."""
    from fsspec.core import url_to_fs

    store, path = url_to_fs(address)
    store.invalidate_cache()
    return store, path


@contextmanager
def fetched(file: RemoteFile, folder: Path, progress: Progress = SILENT) -> Iterator[Path]:
    """A copy of a remote file, removed in the end.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Made for it alone: what a killed process left in it is removed first, and it itself in the end.
    progress : Progress
        Told the megabytes.

    Yields
    ------
    Path
        In `folder`, of the file's own name; there when it is whole.

    Raises
    ------
    InputError
        It is gone, it changed since it was listed, the store was lost, or fewer bytes came than it has.
    StorageError
        There is no room for it.
    """
    target = folder / file.name
    try:
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        require_space(folder, file.bytes or 0)
        _fetch(file, target, progress)
        yield target
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(file: RemoteFile, target: Path, progress: Progress) -> None:
    """Stream it under another name, and give it its own when all of it came."""
    part = target.with_name(target.name + ".part")
    require_store(file.address)
    progress.start(f"MB of {file.name} fetched", None if file.bytes is None else file.bytes // _MEGABYTE)
    with _store_errors(file.address, "a file that can be fetched"):
        store, path = opened_store(file.address)
        with storage_errors(target, inside=part):
            store.get_file(path, str(part), callback=_telling(progress))
        store.invalidate_cache()
        now = _file(store, store.info(path), path)
    came = part.stat().st_size
    if file.bytes is not None and came != file.bytes:
        raise InputError(file, f"expected {file.bytes:,} bytes, got {came:,}")
    if file.version is not None and now.version != file.version:
        raise InputError(
            file,
            f"expected the version that was listed, {file.version}, got {now.version}: it was replaced "
            "meanwhile",
            "the same line takes the new one",
        )
    with storage_errors(target):
        part.replace(target)


def _telling(progress: Progress) -> Any:
    """What fsspec calls as bytes come."""
    from fsspec.callbacks import Callback

    class Telling(Callback):  # type: ignore[misc]
        rest = 0

        def relative_update(self, inc: int = 1) -> None:
            steps, self.rest = divmod(self.rest + inc, _MEGABYTE)
            progress.advance(steps)

    return Telling()


def _file(store: Any, told: Mapping[str, Any], path: str) -> RemoteFile:
    """A file as its store tells of it."""
    mark = next((told[key] for key in _VERSIONS if told.get(key)), None)
    if isinstance(mark, datetime):  # a listing may have it as a number
        mark = mark.timestamp()
    return RemoteFile(
        str(store.unstrip_protocol(path)), told.get("size"), None if mark is None else str(mark)
    )


def _natural(file: RemoteFile) -> tuple[Any, ...]:
    name = PurePosixPath(file.name)
    return natural_key(name.stem), name.suffix, file.address


@contextmanager
def _store_errors(address: str, expected: str) -> Iterator[None]:
    """Turn what a store raises into `InputError`."""
    try:
        yield
    except GlomtileError:
        raise
    except Exception as problem:
        if nothing_there(problem):
            raise InputError(address, f"expected {expected}, got nothing there") from problem
        got, hint = trouble(problem)
        raise InputError(address, f"expected {expected}, got{got}", hint) from problem
