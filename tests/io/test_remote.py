"""Remote files: addresses, listings, local copies, uploads and error messages."""

from __future__ import annotations

import datetime
import errno
import functools
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import RecordingProgress

fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")

from glomtile.errors import InputError, MissingExtraError, StorageError, UsageError  # noqa: E402
from glomtile.io import remote  # noqa: E402
from glomtile.io.remote import (  # noqa: E402
    RemoteFile,
    RemoteFolder,
    fetched,
    is_address,
    list_remote,
    local_path,
    require_persistent,
    require_store,
)

SUFFIXES = (".svs", ".png")


class Counting(RecordingProgress):
    total, steps = 0, 0

    def start(self, title: str, total: int | None = None) -> None:
        self.total = total or 0

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        self.steps += steps


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in this process's memory."""
    memory = fsspec.filesystem("memory")
    for name in ("b10.svs", "b9.SVS", "a.png", "notes.txt", ".hidden.svs", "deep/c.svs"):
        memory.pipe_file(f"/study/{name}", name.encode() * 1000)
    yield memory
    memory.rm("/", recursive=True)


def test_addresses_and_paths_are_distinguished() -> None:
    for text in ("s3://b/k.svs", "gs://b", "memory://x", "https://host/x.svs"):
        assert is_address(text)
    for text in ("C:\\slides\\a.svs", "C://slides", "slides/a.svs", "/a://b", "s3:/b/k", "a"):
        assert not is_address(text)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///a/b c", "/a/b c"),
        ("file:///a%20%C3%BC", "/a ü"),
        ("file://localhost/a", "/a"),
        ("local:///a#1?.svs", "/a#1?.svs"),
        ("FILE:///a", "/a"),
        ("s3://bucket/a", None),
        ("memory://a", None),
    ],
)
def test_a_file_address_is_a_path(address: str, path: str | None) -> None:
    assert local_path(address) == (None if path is None else Path(path))


@pytest.mark.parametrize("address", ["file://a/b", "file://", "file:////host/a", "local://../a"])
def test_a_file_address_without_an_absolute_path_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected a whole path as file:///abs/path"):
        local_path(address)


def test_an_address_in_memory_is_refused_for_results() -> None:
    for address in ("s3://bucket/out", "gs://b/out", "file:///a", "out"):
        require_persistent(address)
    with pytest.raises(UsageError, match=r"memory://x: expected .* s3://bucket/out, got a place in the mem"):
        require_persistent("memory://x")


def test_folders_patterns_and_files_are_listed(store: Any) -> None:
    def names(address: str) -> list[str]:
        return [file.name for file in list_remote(address, SUFFIXES)]

    assert names("memory://study") == ["a.png", "b9.SVS", "b10.svs"]
    assert names("memory://study/") == ["a.png", "b9.SVS", "b10.svs"]
    assert names("memory://study/b*") == ["b9.SVS", "b10.svs"]
    assert names("memory://study/**") == ["a.png", "b9.SVS", "b10.svs", "c.svs"]
    assert names("memory://study/notes.txt") == ["notes.txt"]
    with pytest.raises(InputError, match=r"expected at least one of \.svs, \.png, got none"):
        names("memory://study/*.ndpi")
    with pytest.raises(InputError, match="got nothing there"):
        names("memory://study/d.svs")


def test_the_version_of_a_file_changes_with_its_content(store: Any) -> None:
    (before,) = list_remote("memory://study/a.png", SUFFIXES)
    (listed, *_) = list_remote("memory://study", SUFFIXES)
    assert before == listed
    assert before.bytes == 5000
    store.pipe_file("/study/a.png", b"b.png" * 1000)
    (after,) = list_remote("memory://study/a.png", SUFFIXES)
    assert after.address == before.address
    assert after.version != before.version


def test_a_copy_is_whole_and_removed_afterwards(store: Any, tmp_path: Path) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)
    folder = tmp_path / "deep" / "copy"
    folder.mkdir(parents=True)
    (folder / "of a killed run.svs").write_bytes(b"half")
    with fetched(file, folder) as path:
        assert path.read_bytes() == b"a.png" * 1000
        assert [entry.name for entry in folder.iterdir()] == ["a.png"]
    assert not folder.exists()


def test_a_copy_with_missing_bytes_is_refused(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)

    def cut_off(self: Any, source: str, target: str, **rest: Any) -> None:
        Path(target).write_bytes(b"half")

    monkeypatch.setattr(type(store), "get_file", cut_off)
    with (
        pytest.raises(InputError, match=r"a\.png: expected 5,000 bytes, got 4"),
        fetched(file, tmp_path / "copy"),
    ):
        pytest.fail("there is no copy")
    assert not (tmp_path / "copy").exists()


def test_a_file_replaced_since_it_was_listed_is_refused(store: Any, tmp_path: Path) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)
    store.pipe_file("/study/a.png", b"b.png" * 1000)
    with pytest.raises(InputError, match="it was replaced meanwhile"), fetched(file, tmp_path / "copy"):
        pytest.fail("there is no copy")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (ConnectionResetError("the peer went"), "expected a file that can be fetched, got: the peer went"),
        (RuntimeError("Unable to locate credentials"), "are its credentials set"),
    ],
)
def test_an_error_amid_a_copy_is_named_and_nothing_stays(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: str
) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)

    def fail(self: Any, source: str, target: str, **rest: Any) -> None:
        Path(target).write_bytes(b"half")
        raise raised

    monkeypatch.setattr(type(store), "get_file", fail)
    with pytest.raises((InputError, StorageError), match=expected), fetched(file, tmp_path / "copy"):
        pytest.fail("there is no copy")
    assert not (tmp_path / "copy").exists()


def test_progress_counts_megabytes(store: Any, tmp_path: Path) -> None:
    store.pipe_file("/study/large.svs", bytes(12_345_678))
    (file,) = list_remote("memory://study/large.svs", SUFFIXES)

    progress = Counting()
    with fetched(file, tmp_path / "copy", progress):
        pass
    assert progress.total == progress.steps == 12


def test_an_unknown_kind_of_address_is_named() -> None:
    with pytest.raises(InputError, match=r"sss://bucket: expected an address .* got sss://"):
        require_store("sss://bucket")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError(f"Install {scheme}fs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtraError, match=r"Install gsfs \(pip install 'glomtile\[remote\]'\)"):
        require_store("gs://bucket")
    monkeypatch.setattr(remote, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="expected fsspec to be installed"):
        require_store("s3://bucket")


def test_files_on_the_web_are_listed_by_their_links_and_fetched(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")
    (tmp_path / "web").mkdir()
    for name in ("a b.svs", "c.svs", "notes.txt"):
        (tmp_path / "web" / name).write_bytes(name.encode() * 1000)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_address[1]}"
        listed = list_remote(f"{address}/*.svs", SUFFIXES)
        assert [(file.name, file.bytes) for file in listed] == [("a b.svs", 7000), ("c.svs", 5000)]
        assert all(file.version for file in listed)
        assert list_remote(f"{address}/c.svs", SUFFIXES) == listed[1:]
        with fetched(listed[0], tmp_path / "copy") as path:
            assert path.read_bytes() == b"a b.svs" * 1000
        with pytest.raises(InputError, match="got nothing there"):
            list_remote(f"{address}/d.svs", SUFFIXES)
        web.shutdown()


class Status(BaseHTTPRequestHandler):
    """Server that answers with the status at the start of the path."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815  (the name is the base's)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "got nothing there"),
        (410, "got nothing there"),
        (401, r"got: 401 Unauthorized \(the store refuses"),
        (403, r"got: 403 Forbidden \(the store refuses"),
        (503, r"got: 503 Service Unavailable \(the server reports an error of its own"),
        (429, "got: 429 Too Many Requests"),
    ],
)
def test_the_status_of_a_web_server_is_explained(status: int, expected: str) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")
    with ThreadingHTTPServer(("127.0.0.1", 0), Status) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{web.server_address[1]}"
        with pytest.raises(InputError, match=expected):
            list_remote(f"{base}/{status}.svs", SUFFIXES)
        if status != 404:  # where there is no list of files, a pattern matches none
            with pytest.raises(InputError, match=expected):
                list_remote(f"{base}/{status}/*.svs", SUFFIXES)
        web.shutdown()


@pytest.mark.parametrize("name", ["x.svs", "*.svs"])
def test_a_server_that_cannot_be_reached_is_named(name: str) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening, and no other process gets the port
        address = f"http://127.0.0.1:{free.getsockname()[1]}/{name}"
        with pytest.raises(InputError, match=r"got no connection: .*refused.*\(is the address right"):
            list_remote(address, SUFFIXES)


def _of_the_web(problem: Exception) -> FileNotFoundError:
    """As fsspec raises whatever stands in the way of a file of the web."""
    try:
        raise FileNotFoundError("http://host/x.svs") from problem
    except FileNotFoundError as raised:
        return raised


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (FileNotFoundError("bucket/x"), "got nothing there"),
        (TimeoutError(), "got no answer in time"),
        (_of_the_web(TimeoutError()), "got no answer in time"),
        (_of_the_web(socket.gaierror(-2, "Name or service not known")), "got no connection: .*not known"),
        (_of_the_web(OSError(errno.ENETUNREACH, "far")), "got no connection: Network is unreachable"),
        (_of_the_web(ssl.SSLError(1, "self-signed certificate")), "got no connection: .*certificate"),
        (PermissionError("Access Denied"), r"got: Access Denied \(the store refuses"),
        (RuntimeError("odd"), r"got: odd \(is the store reached from here"),
    ],
)
def test_errors_of_a_store_are_explained(
    store: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(type(store), "info", fail)
    with pytest.raises(InputError, match=f"memory://study/a.png: expected files or a folder, {expected}"):
        list_remote("memory://study/a.png", SUFFIXES)


def test_a_server_that_goes_away_half_way_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")

    class Half(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"x" * 50000)
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Half) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_address[1]}/a.svs"
        with (
            pytest.raises(InputError, match=r"a\.svs: expected a file that can be fetched, got: .*payload"),
            fetched(RemoteFile(address, 100000, None), tmp_path / "copy"),
        ):
            pytest.fail("there is no copy")
        web.shutdown()
    assert not (tmp_path / "copy").exists()


def test_an_error_of_the_progress_ends_a_copy(store: Any, tmp_path: Path) -> None:
    """A worker stops this way when its run has ended."""

    class Ending(Counting):
        def advance(self, steps: int = 1, **figures: float | str) -> None:
            raise UsageError("worker", "expected a run to work for, got one that has ended")

    (file,) = list_remote("memory://study/a.png", SUFFIXES)
    with pytest.raises(UsageError, match="got one that has ended"), fetched(file, tmp_path / "c", Ending()):
        pytest.fail("there is no copy")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://bucket/deep/a b?.svs", "a b?.svs"),
        ("https://host/deep/a%20b.svs?version=3", "a b.svs"),
    ],
)
def test_the_name_of_a_file(address: str, name: str) -> None:
    assert RemoteFile(address, None, None).name == name


def test_a_time_and_its_number_are_one_version() -> None:
    class Store:
        def unstrip_protocol(self, path: str) -> str:
            return f"x://{path}"

    at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    file = remote._remote_file(Store(), {"size": 3, "created": at}, "a")
    assert file.version == str(at.timestamp())
    assert remote._remote_file(Store(), {"size": 3}, "a").version is None


@pytest.mark.parametrize("address", ["memory://deep/out", "memory://deep/out/"])
def test_uploaded_files_come_back(store: Any, tmp_path: Path, address: str) -> None:
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
    assert (tmp_path / "back" / "c" / "d.json").read_bytes() == b"1"
    folder.remove("c/d.json")
    assert folder.names() == names - {"c/d.json"}
    assert folder.at("x") == "memory://deep/out/x"


def test_no_names_bring_nothing(store: Any, tmp_path: Path) -> None:
    RemoteFolder("memory://out").bring([], tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["a/../../b", "/etc/b"])
def test_a_name_that_leads_out_of_the_local_folder_is_refused(store: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="got one that leads out"):
        RemoteFolder("memory://out").bring([name], tmp_path / "back")
    assert not list(tmp_path.iterdir())


def test_an_upload_with_missing_bytes_is_refused(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "a").write_bytes(b"whole")
    monkeypatch.setattr(type(store), "put_file", lambda self, here, there: self.pipe_file(there, b"who"))
    with pytest.raises(StorageError, match="memory://out/a: expected 5 bytes to arrive, got 3"):
        RemoteFolder("memory://out").put(path, "a")


def test_errors_of_an_upload_name_the_address(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    for name in ("put_file", "pipe_file", "cat_file", "find", "cat", "rm_file"):
        monkeypatch.setattr(type(store), name, refuse)
    (path := tmp_path / "a").write_bytes(b"whole")
    folder = RemoteFolder("memory://out")
    for work in (
        lambda: folder.put(path, "a"), lambda: folder.write("a", b""), folder.names,
        lambda: folder.bring(["a"], tmp_path), lambda: folder.remove("a"),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=r"memory://out.*: expected .*, got: Access Denied"):
            work()
