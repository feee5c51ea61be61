"""A folder behind an address takes files whole and gives them back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")

from glomtile.errors import StorageError  # noqa: E402
from glomtile.io.remote import RemoteFolder  # noqa: E402


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in this process's memory."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


@pytest.mark.parametrize("address", ["memory://deep/out", "memory://deep/out/"])
def test_what_is_put_there_comes_back(store: Any, tmp_path: Path, address: str) -> None:
    folder, here = RemoteFolder(address), tmp_path / "here"
    assert folder.names() == set()
    (here / "zarr" / "a").mkdir(parents=True)
    (here / "zarr" / "a" / ".zattrs").write_bytes(b"{}")
    (here / "zarr" / "a" / "0").write_bytes(b"\0" * 10)
    (here / "b [1]?.csv").write_bytes(b"x,y")
    folder.put(here / "zarr", "zarr")
    folder.put(here / "b [1]?.csv", "b [1]?.csv")
    folder.write("c/d.json", b"1")
    names = {"zarr/a/.zattrs", "zarr/a/0", "b [1]?.csv", "c/d.json"}
    assert folder.names() == names
    folder.bring(names, tmp_path / "back")
    assert (tmp_path / "back" / "b [1]?.csv").read_bytes() == b"x,y"
    assert (tmp_path / "back" / "zarr" / "a" / "0").read_bytes() == b"\0" * 10
    assert folder.read("c/d.json") == b"1"
    folder.remove("c/d.json")
    assert folder.read("c/d.json") is None
    assert folder.at("x") == "memory://deep/out/x"


def test_nothing_is_brought_for_no_names(store: Any, tmp_path: Path) -> None:
    RemoteFolder("memory://out").bring([], tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["a/../../b", "/etc/b"])
def test_no_name_leads_out_of_the_folder_here(store: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="got one that leads out"):
        RemoteFolder("memory://out").bring([name], tmp_path / "back")
    assert not list(tmp_path.iterdir())


def test_a_file_that_did_not_arrive_whole_is_told(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "a").write_bytes(b"whole")
    monkeypatch.setattr(type(store), "put_file", lambda self, here, there: self.pipe_file(there, b"who"))
    with pytest.raises(StorageError, match="memory://out/a: expected 5 bytes to arrive, got 3"):
        RemoteFolder("memory://out").put(path, "a")


def test_what_a_store_raises_is_told_with_the_address(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    for name in ("put_file", "pipe_file", "cat_file", "find", "cat", "rm_file"):
        monkeypatch.setattr(type(store), name, refuse)
    (path := tmp_path / "a").write_bytes(b"whole")
    folder = RemoteFolder("memory://out")
    for work in (
        lambda: folder.put(path, "a"), lambda: folder.write("a", b""), lambda: folder.read("a"), folder.names,
        lambda: folder.bring(["a"], tmp_path), lambda: folder.remove("a"),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=r"memory://out.*: expected .*, got: Access Denied"):
            work()
