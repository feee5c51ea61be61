"""Reading and writing of remote files through fsspec."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from glomtile.errors import GlomtileError, InputError, MissingExtraError, StorageError, UsageError
from glomtile.io.atomic import storage_errors
from glomtile.io.images import natural_key
from glomtile.types import SILENT, Progress

WEB = ("http", "https")
_LOCAL = ("file", "local")
_IN_PROCESS = ("memory",)
"""Stores that end with the process."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:\ is a drive
_VERSION_KEYS = (
    "ETag", "etag", "generation", "md5Hash", "Last-Modified", "LastModified", "last_modified", "updated",
    "mtime", "created",
)  # fmt: skip
"""Keys under which stores give a mark that changes with a file's content, the most precise first."""
_MEGABYTE = 10**6
_BATCH = 50
"""Files fetched in one call, whose content is held in memory."""

_UNREACHED = {
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL,
    getattr(errno, "EHOSTDOWN", errno.EHOSTUNREACH),
}  # fmt: skip
_CONNECTION_ERRORS = ("ClientConnectorError", "EndpointConnectionError")
"""Classes of aiohttp and botocore that may hide the system's error number."""
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store.

    Attributes
    ----------
    address : str
    bytes : int or None
        Its size; ``None`` where the store does not state it.
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
        """The file name, the last part of the address."""
        if self.scheme in WEB:
            return PurePosixPath(unquote(urlsplit(self.address).path)).name
        return self.address.rpartition("/")[2]

    @property
    def scheme(self) -> str:
        """The start of the address: ``s3``, ``gs``, ``https``."""
        return scheme_of(self.address)

    @property
    def origin(self) -> dict[str, Any]:
        """Address, size and version as a JSON object, to recognise the same content later."""
        return {"address": self.address, "bytes": self.bytes, "version": self.version}


def is_address(text: str) -> bool:
    r"""Return whether a text starts like ``s3://``; ``C:\\slides`` and ``C://slides`` do not."""
    return _ADDRESS.match(text) is not None


def scheme_of(address: str) -> str:
    """Return the start of an address in small letters: ``s3``, ``gs``, ``https``."""
    match = _ADDRESS.match(address)
    return match[1].lower() if match else ""


def local_path(address: str) -> Path | None:
    """Return the path of an address like ``file:///abs/path``, or ``None`` for any other address.

    Raises
    ------
    UsageError
        It is an address of this machine without an absolute path.
    """
    if scheme_of(address) not in _LOCAL:
        return None
    rest = address.partition("://")[2].removeprefix("localhost")
    if not rest.startswith("/") or rest.startswith("//"):
        raise UsageError(
            address,
            "expected a whole path as file:///abs/path, got none that starts at the root",
            "give the path itself, without file://",
        )
    return Path(url2pathname(rest))


def require_persistent(address: str) -> None:
    """Refuse an address in this process's memory.

    Raises
    ------
    UsageError
        Files put there end with the process.
    """
    if scheme_of(address) in _IN_PROCESS:
        raise UsageError(
            address,
            "expected a folder, or an address that lasts as s3://bucket/out, got a place in the "
            "memory of one process, which ends with it",
        )


def require_store(address: str) -> None:
    """Check, without a connection, that addresses of this kind can be used.

    Raises
    ------
    MissingExtraError
        The package that they need is not installed.
    InputError
        fsspec does not support this kind.
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
            address, f"expected an address that fsspec supports, as s3://, gs:// or https://, got {scheme}://"
        ) from problem


def list_remote(address: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """List the files of an address in natural order.

    Parameters
    ----------
    address : str
        Of one file with any suffix; of a folder, for the files directly in it; or a pattern with ``*``,
        ``**``, ``[…]`` and, except on the web, ``?``.
    suffixes : tuple of str
        Small letters. Other files of a folder or pattern, and hidden ones, are left out.

    Raises
    ------
    MissingExtraError
        See `require_store`.
    InputError
        Nothing is there, the store cannot be reached, or it refuses.
    """
    magic = "*[" if scheme_of(address) in WEB else "*[?"
    with _store_errors(address, "files or a folder", InputError):
        store, path = _open_store(address)
        if any(letter in path for letter in magic):
            entries: list[Mapping[str, Any]] = list(store.glob(path, detail=True).values())
        else:
            entry = store.info(path)
            if entry["type"] != "directory":
                return [_remote_file(store, entry, path)]
            entries = store.ls(path, detail=True)
        files = []
        for entry in entries:
            file = _remote_file(store, entry, entry["name"])
            name = PurePosixPath(file.name)
            if entry["type"] != "file" or name.suffix.lower() not in suffixes or file.name.startswith("."):
                continue
            if not file.version:  # listings of the web give names only
                path = store._strip_protocol(file.address)
                file = _remote_file(store, store.info(path), path)
            files.append((natural_key(name.stem), name.suffix, file.address, file))
    if not files:
        raise InputError(address, f"expected at least one of {', '.join(suffixes)}, got none")
    return [file for *_, file in sorted(files, key=lambda entry: entry[:3])]


@contextmanager
def fetched(file: RemoteFile, folder: Path, progress: Progress = SILENT) -> Iterator[Path]:
    """Yield a local copy of a remote file, and remove it afterwards.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Folder for this copy only; its content is removed first, and the folder itself in the end.
    progress : Progress
        Advanced by megabytes.

    Yields
    ------
    Path
        The whole file in `folder`, under its own name.

    Raises
    ------
    InputError
        The file is gone or was replaced since it was listed, the connection was lost, or bytes are missing.
    StorageError
        The copy cannot be written.
    """
    target = folder / file.name
    try:
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        progress.start(f"MB of {file.name} fetched", None if file.bytes is None else file.bytes // _MEGABYTE)
        with _store_errors(file.address, "a file that can be fetched", InputError):
            store, path = _open_store(file.address)
            with storage_errors(target, inside=target):
                store.get_file(path, str(target), callback=_megabytes(progress))
            store.invalidate_cache()
            now = _remote_file(store, store.info(path), path)
        size = target.stat().st_size
        if file.bytes is not None and size != file.bytes:
            raise InputError(file, f"expected {file.bytes:,} bytes, got {size:,}")
        if file.version is not None and now.version != file.version:
            raise InputError(
                file,
                f"expected the version that was listed, {file.version}, got {now.version}: it was replaced "
                "meanwhile",
                "run the same command again",
            )
        yield target
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in a store; names in it are relative, with slashes.

    Its methods raise `StorageError` when the store cannot be reached or refuses.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def at(self, name: str) -> str:
        """Return the address of a file in it."""
        return f"{self.address.rstrip('/')}/{name}"

    def names(self) -> set[str]:
        """List the files at any depth; none when the folder does not exist."""
        with self._opened("a folder that can be listed") as (store, root):
            return {path[len(root) :].lstrip("/") for path in store.find(root)}

    def put(self, path: Path, name: str) -> None:
        """Upload a file, or a folder with all that is in it."""
        if path.is_dir():
            for inner in sorted(path.rglob("*")):
                if inner.is_file():
                    self.put(inner, f"{name}/{inner.relative_to(path).as_posix()}")
            return
        size = path.stat().st_size
        with self._opened("a folder that takes files", name) as (store, root):
            store.put_file(str(path), f"{root}/{name}")
            store.invalidate_cache()
            arrived = store.info(f"{root}/{name}")["size"]
        if arrived != size:
            raise StorageError(self.at(name), f"expected {size:,} bytes to arrive, got {arrived:,}")

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with self._opened("a folder that takes files", name) as (store, root):
            store.pipe_file(f"{root}/{name}", data)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._opened("a file that can be removed", name) as (store, root):
            store.rm_file(f"{root}/{name}")

    def bring(self, names: Iterable[str], folder: Path) -> None:
        """Download files into a local folder under the same names, replacing those that exist.

        Raises
        ------
        StorageError
            Also for a name that leads out of `folder`.
        """
        wanted = sorted(names)
        for name in wanted:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise StorageError(self.at(name), "expected a name inside the folder, got one that leads out")
        for first in range(0, len(wanted), _BATCH):
            batch = wanted[first : first + _BATCH]
            with self._opened("files that can be fetched") as (store, root):
                paths = [f"{root}/{name}" for name in batch]
                # Of several paths, fsspec takes those with such letters for patterns.
                content = {path: store.cat_file(path) for path in paths if set(path) & set("*?[")}
                if len(content) < len(paths):
                    content |= store.cat([path for path in paths if path not in content])
            for name in batch:
                path = folder / name
                with storage_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content[f"{root}/{name}"])

    @contextmanager
    def _opened(self, expected: str, name: str = "") -> Iterator[tuple[Any, str]]:
        with _store_errors(self.at(name) if name else self.address, expected, StorageError):
            store, root = _open_store(self.address)
            yield store, root.rstrip("/")


def _open_store(address: str) -> tuple[Any, str]:
    """Return the file system and its path of an address; earlier listings are forgotten."""
    from fsspec.core import url_to_fs

    store, path = url_to_fs(address)
    store.invalidate_cache()
    return store, path


def _megabytes(progress: Progress) -> Any:
    """Return a callback of fsspec that advances `progress` by megabytes."""
    from fsspec.callbacks import Callback

    class MegabyteCallback(Callback):  # type: ignore[misc]
        rest = 0

        def relative_update(self, inc: int = 1) -> None:
            steps, self.rest = divmod(self.rest + inc, _MEGABYTE)
            progress.advance(steps)

    return MegabyteCallback()


def _remote_file(store: Any, entry: Mapping[str, Any], path: str) -> RemoteFile:
    mark = next((entry[key] for key in _VERSION_KEYS if entry.get(key)), None)
    if isinstance(mark, datetime):  # a listing may have it as a number
        mark = mark.timestamp()
    return RemoteFile(
        str(store.unstrip_protocol(path)), entry.get("size"), None if mark is None else str(mark)
    )


@contextmanager
def _store_errors(address: str, expected: str, error: type[GlomtileError]) -> Iterator[None]:
    """Turn whatever a store raises into `error`; each store has exceptions of its own."""
    require_store(address)
    try:
        yield
    except GlomtileError:
        raise
    except Exception as problem:
        got, hint = _describe(problem)
        raise error(address, f"expected {expected}, got{got}", hint) from problem


def _describe(problem: Exception) -> tuple[str, str | None]:
    """Return what a store raised as the text behind "got", and a hint."""
    # fsspec raises FileNotFoundError for whatever fails on the web; the cause is behind it.
    chain: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    status = next(filter(None, map(_status, chain)), None)
    first = next((one for one in chain if not isinstance(one, FileNotFoundError)), problem)
    text = " ".join(str(first).split()) or type(first).__name__
    if status and isinstance(getattr(first, "status", None), int):  # a web server gives its status only
        text = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    address = "is the address right, and is the store reached from here?"
    if status in _GONE or isinstance(first, FileNotFoundError):
        return " nothing there", "does this bucket, folder or file exist?"
    if any(isinstance(one, TimeoutError) for one in chain):
        return " no answer in time", address
    for one in reversed(chain):
        number = getattr(one, "errno", None)
        known = isinstance(one, socket.gaierror | ssl.SSLError) or type(one).__name__ in _CONNECTION_ERRORS
        if known or (isinstance(one, OSError) and number in _UNREACHED):
            reason = os.strerror(number) if number in _UNREACHED else getattr(one, "strerror", None)
            more = f"{reason} ({text})" if reason and reason not in text else text
            return f" no connection: {more}", address
    if status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f": {text}", "the server reports an error of its own; try again later"
    if status in _REFUSED or any(isinstance(one, PermissionError) for one in chain):
        return f": {text}", "the store refuses: are its credentials set, and do they allow this?"
    return f": {text}", "is the store reached from here, and are its credentials set?"


def _status(problem: BaseException) -> int | None:
    """Return the HTTP status in an exception of aiohttp or botocore."""
    response = getattr(problem, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(problem, "status", None)
    return status if isinstance(status, int) else None
