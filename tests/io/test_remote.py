"""Addresses: what they mean, what comes of them here, and what is said where nothing does."""

from __future__ import annotations

import datetime
import errno
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")

from glomtile.errors import InputError, MissingExtraError, StorageError, UsageError  # noqa: E402
from glomtile.io import remote  # noqa: E402
from glomtile.io.remote import (  # noqa: E402
    RemoteFile,
    fetched,
    is_address,
    list_remote,
    local_path,
    require_persistent,
    require_store,
)

SUFFIXES = (".svs", ".png")


class Counting:
    total, steps = 0, 0

    def start(self, title: str, total: int | None = None) -> None:
        self.total = total or 0

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        self.steps += steps

    note: Callable[[str], None] = staticmethod(print)
    warn: Callable[[str], None] = staticmethod(print)


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in this process's memory."""
    memory = fsspec.filesystem("memory")
    for name in ("b10.svs", "b9.SVS", "a.png", "notes.txt", ".hidden.svs", "deep/c.svs"):
        memory.pipe_file(f"/study/{name}", name.encode() * 1000)
    yield memory
    memory.rm("/", recursive=True)


@pytest.mark.parametrize("text", ["s3://b/k.svs", "gs://b", "memory://x", "https://host/x.svs"])
def test_what_is_an_address(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text", ["C:\\slides\\a.svs", "C://slides", "slides/a.svs", "/a://b", "s3:/b/k", "a"]
)
def test_what_is_a_path(text: str) -> None:
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
def test_an_address_of_this_machine_is_a_path(address: str, path: str | None) -> None:
    assert local_path(address) == (None if path is None else Path(path))


@pytest.mark.parametrize("address", ["file://a/b", "file://", "file:////host/a", "local://../a"])
def test_an_address_of_this_machine_says_the_whole_path(address: str) -> None:
    with pytest.raises(UsageError, match="expected a whole path as file:///abs/path"):
        local_path(address)


def test_only_what_lasts_is_taken_for_results() -> None:
    for address in ("s3://bucket/out", "gs://b/out", "file:///a", "out"):
        require_persistent(address)
    with pytest.raises(UsageError, match=r"memory://x: expected .* s3://bucket/out, got a place in the mem"):
        require_persistent("memory://x")


def test_a_folder_a_pattern_and_a_file_give_what_they_mean(store: Any) -> None:
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


def test_a_file_is_known_by_address_size_and_what_its_store_says(store: Any) -> None:
    (before,) = list_remote("memory://study/a.png", SUFFIXES)
    (listed, *_) = list_remote("memory://study", SUFFIXES)
    assert before == listed
    assert before.bytes == 5000
    store.pipe_file("/study/a.png", b"b.png" * 1000)
    (after,) = list_remote("memory://study/a.png", SUFFIXES)
    assert after.address == before.address
    assert after.version != before.version


def test_a_copy_is_whole_and_gone_in_the_end(store: Any, tmp_path: Path) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)
    folder = tmp_path / "deep" / "copy"
    folder.mkdir(parents=True)
    (folder / "left by a killed run.part").write_bytes(b"half")
    with fetched(file, folder) as path:
        assert path.read_bytes() == b"a.png" * 1000
        assert [entry.name for entry in folder.iterdir()] == ["a.png"]
    assert not folder.exists()


def test_less_than_the_whole_is_no_copy(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_replaced_since_it_was_listed_is_told(store: Any, tmp_path: Path) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)
    store.pipe_file("/study/a.png", b"b.png" * 1000)
    with pytest.raises(InputError, match="it was replaced meanwhile"), fetched(file, tmp_path / "copy"):
        pytest.fail("there is no copy")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (ConnectionResetError("the peer went"), "expected a file that can be fetched, got: the peer went"),
        (RuntimeError("Unable to locate credentials"), "are its credentials set"),
    ],
)
def test_what_stops_a_copy_is_told_and_nothing_stays(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str
) -> None:
    (file,) = list_remote("memory://study/a.png", SUFFIXES)

    def fail(self: Any, source: str, target: str, **rest: Any) -> None:
        Path(target).write_bytes(b"half")
        raise raised

    monkeypatch.setattr(type(store), "get_file", fail)
    with pytest.raises((InputError, StorageError), match=told), fetched(file, tmp_path / "copy"):
        pytest.fail("there is no copy")
    assert not (tmp_path / "copy").exists()


def test_what_no_disk_has_room_for_is_not_begun(store: Any, tmp_path: Path) -> None:
    file = RemoteFile("memory://study/a.png", 10**18, None)
    with pytest.raises(StorageError, match="free space"), fetched(file, tmp_path / "copy"):
        pytest.fail("there is no copy")


def test_progress_is_told_in_megabytes(store: Any, tmp_path: Path) -> None:
    store.pipe_file("/study/large.svs", bytes(12_345_678))
    (file,) = list_remote("memory://study/large.svs", SUFFIXES)

    progress = Counting()
    with fetched(file, tmp_path / "copy", progress):
        pass
    assert progress.total == progress.steps == 12


def test_a_kind_that_nobody_knows_is_named() -> None:
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


def test_files_of_the_web_are_listed_by_its_links_and_fetched(tmp_path: Path) -> None:
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


class Saying(BaseHTTPRequestHandler):
    """Answers with the status that the path begins with."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815  (the name is the base's)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (404, "got nothing there"),
        (410, "got nothing there"),
        (401, r"got: 401 Unauthorized \(the store refuses"),
        (403, r"got: 403 Forbidden \(the store refuses"),
        (503, r"got: 503 Service Unavailable \(the server itself is in trouble"),
        (429, "got: 429 Too Many Requests"),
    ],
)
def test_what_a_web_server_answers_is_told_apart(status: int, told: str) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")
    with ThreadingHTTPServer(("127.0.0.1", 0), Saying) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{web.server_address[1]}"
        with pytest.raises(InputError, match=told):
            list_remote(f"{base}/{status}.svs", SUFFIXES)
        if status != 404:  # where there is no list of files, a pattern matches none
            with pytest.raises(InputError, match=told):
                list_remote(f"{base}/{status}/*.svs", SUFFIXES)
        web.shutdown()


@pytest.mark.parametrize("name", ["x.svs", "*.svs"])
def test_a_server_that_cannot_be_reached_is_not_said_to_have_nothing(name: str) -> None:
    pytest.importorskip("aiohttp", reason="the web needs aiohttp: pip install 'glomtile[remote]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening: nobody answers, and nobody else gets the port meanwhile
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
    ("raised", "told"),
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
def test_what_a_store_raises_is_told_apart(
    store: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(type(store), "info", fail)
    with pytest.raises(InputError, match=f"memory://study/a.png: expected files or a folder, {told}"):
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


def test_whoever_is_told_of_progress_can_end_a_fetch(store: Any, tmp_path: Path) -> None:
    """So a worker stops whose run has ended."""

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
    file = remote._file(Store(), {"size": 3, "created": at}, "a")
    assert file.version == str(at.timestamp())
    assert remote._file(Store(), {"size": 3}, "a").version is None
