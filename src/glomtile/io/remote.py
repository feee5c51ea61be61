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

_UNREACHED = {
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL,
    getattr(errno, "EHOSTDOWN", errno.EHOSTUNREACH),
}  # fmt: skip
_CONNECTORS = ("ClientConnectorError", "EndpointConnectionError")
"""Of aiohttp and botocore, which may keep the system's number to themselves."""

_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)

_ANYTHING = "is the store reached from here, and are its credentials set?"
_ADDRESS = "is the address right, and is the store reached from here?"


def nothing_there(problem: Exception) -> bool:
    """Whether a store was asked and has no such file, folder or bucket.

    fsspec says of whatever goes wrong on the web that a file is missing; what it was stands behind that.
    """
    if not isinstance(problem, FileNotFoundError):
        return _status(problem) in _GONE
    return not isinstance(problem.__cause__, Exception) or _status(problem.__cause__) in _GONE


def trouble(problem: Exception) -> tuple[str, str]:
    """What a store raised.

    Returns
    -------
    got : str
        What came instead of what was expected: ``": …"``, or ``" no connection: …"``.
    hint : str
        What to try.
    """
    if nothing_there(problem):
        return f": {said(problem)}", "is there such a bucket or folder?"
    chain = list(_chain(problem))
    if any(isinstance(one, TimeoutError) for one in chain):
        return " no answer in time", _ADDRESS
    unreached = next((one for one in reversed(chain) if _is_unreached(one)), None)
    asked = next(one for one in chain if not isinstance(one, FileNotFoundError))
    if unreached is not None:
        return f" no connection: {_with_reason(asked, unreached)}", _ADDRESS
    status = next(filter(None, map(_status, chain)), None)
    if status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f": {_status_words(status)}", "the server itself is in trouble; try again later"
    if status in _REFUSED or any(isinstance(one, PermissionError) for one in chain):
        words = _status_words(status) if _is_web(asked) and status else said(asked)
        return f": {words}", "the store refuses: are its credentials set, and do they allow this?"
    return f": {_status_words(status) if _is_web(asked) and status else said(asked)}", _ANYTHING


def said(problem: BaseException) -> str:
    """What a store raised, on one line; each has exceptions of its own."""
    return " ".join(str(problem).split()) or type(problem).__name__


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised for, the last one first."""
    met: set[int] = set()
    now: BaseException | None = problem
    while now is not None and id(now) not in met:
        met.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)


def _is_unreached(problem: BaseException) -> bool:
    if isinstance(problem, socket.gaierror | ssl.SSLError) or type(problem).__name__ in _CONNECTORS:
        return True
    return isinstance(problem, OSError) and problem.errno in _UNREACHED


def _with_reason(asked: BaseException, unreached: BaseException) -> str:
    """Which place was asked, as its client tells, and why there is no way to it, as the system does."""
    number = getattr(unreached, "errno", None)
    reason = os.strerror(number) if number in _UNREACHED else getattr(unreached, "strerror", None)
    place = said(asked)
    return place if not reason or reason in place else f"{reason} ({place})"


def _status(problem: BaseException) -> int | None:
    """The status that a server answered with, as aiohttp and botocore tell it."""
    answer = getattr(problem, "response", None)
    if isinstance(answer, dict):
        told = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        told = getattr(problem, "status", None)
    return told if isinstance(told, int) else None


def _is_web(problem: BaseException) -> bool:
    """Whether a server said nothing but its status."""
    return isinstance(getattr(problem, "status", None), int)


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}"


_ADDRESS_remote = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:\ is none
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
    return _ADDRESS_remote.match(text) is not None


def scheme_of(address: str) -> str:
    """What an address begins with, in small letters: ``s3``, ``gs``, ``https``."""
    match = _ADDRESS_remote.match(address)
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


def require_persistent(address: str) -> None:
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


_AT_ONCE = 50
"""So many files are brought in one go: their answers are held in memory."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of a store, named by its address; names in it are relative, with slashes.

    A store gives a file whole or not at all, and a file that is put anew takes the place of the old one at
    once.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def at(self, name: str) -> str:
        """The address of a file in it."""
        return f"{self.address.rstrip('/')}/{name}"

    def names(self) -> set[str]:
        """What lies in it, at any depth; nothing where there is no such folder.

        Raises
        ------
        StorageError
            The store cannot be reached, or refuses; so do all that follow.
        """
        with self._errors("a folder that can be listed"):
            store, root = self._opened()
            found = store.find(root)
            return {path[len(root) :].lstrip("/") for path in found}

    def put(self, path: Path, name: str) -> None:
        """Put a file there, or a folder with all that is in it."""
        if path.is_dir():
            for inner in sorted(path.rglob("*")):
                if inner.is_file():
                    self.put(inner, f"{name}/{inner.relative_to(path).as_posix()}")
            return
        size = path.stat().st_size
        with self._errors("a folder that takes files", name):
            store, root = self._opened()
            store.put_file(str(path), f"{root}/{name}")
            store.invalidate_cache()
            came = store.info(f"{root}/{name}")["size"]
        if came != size:
            raise StorageError(self.at(name), f"expected {size:,} bytes to arrive, got {came:,}")

    def write(self, name: str, data: bytes) -> None:
        """Put a small file there."""
        with self._errors("a folder that takes files", name):
            store, root = self._opened()
            store.pipe_file(f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; ``None`` where there is none."""
        with self._errors("a file that can be read", name):
            store, root = self._opened()
            try:
                return bytes(store.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        with self._errors("a file that can be removed", name):
            store, root = self._opened()
            store.rm_file(f"{root}/{name}")

    def bring(self, names: Iterable[str], folder: Path) -> None:
        """Copy files here, under the same names; those that are here already are replaced.

        Raises
        ------
        StorageError
            Also where a name leads out of `folder`.
        """
        wanted = sorted(names)
        for name in wanted:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise StorageError(self.at(name), "expected a name inside the folder, got one that leads out")
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            with self._errors("files that can be fetched"):
                store, root = self._opened()
                paths = [f"{root}/{name}" for name in some]
                # Of several paths fsspec takes those with such letters for patterns.
                got = {path: store.cat_file(path) for path in paths if set(path) & set("*?[")}
                if len(got) < len(paths):
                    got |= store.cat([path for path in paths if path not in got])
            for name in some:
                path = folder / name
                with storage_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(got[f"{root}/{name}"])

    def _opened(self) -> tuple[Any, str]:
        store, root = opened_store(self.address)
        return store, root.rstrip("/")

    @contextmanager
    def _errors(self, expected: str, name: str = "") -> Iterator[None]:
        where = self.at(name) if name else self.address
        require_store(self.address)
        try:
            yield
        except GlomtileError:
            raise
        except Exception as problem:
            got, hint = trouble(problem)
            raise StorageError(where, f"expected {expected}, got{got}", hint) from problem
