"""A folder behind an address: what lies in it, and how files of this machine come to lie there and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from glomtile.errors import GlomtileError, StorageError
from glomtile.files.remote import opened_store, require_store
from glomtile.files.storetrouble import trouble
from glomtile.files.workspace import storage_errors

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
