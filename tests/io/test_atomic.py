"""Atomic files and folders, temporary files of killed processes, file locks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.fakes import RecordingProgress

from glomtile.errors import GlomtileError, LockedError, ModelError, PlaceError, StorageError
from glomtile.io import atomic
from glomtile.io.atomic import (
    atomic_write,
    file_lock,
    link,
    move_aside,
    read_json,
    replace_folder,
    restore_folder,
    sha256,
    user_cache,
    write_bytes,
    write_json,
    write_text,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes and links")

PROCESS = """
import sys
from pathlib import Path
from glomtile.io.atomic import atomic_write, file_lock, replace_folder
with {call}(Path(sys.argv[1])) as partial:
    {write}
    print("ready", flush=True)
    sys.stdin.readline()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(final: Path, text: str) -> None:
    with replace_folder(final) as partial:
        for name in ("model.json", "model.keras", "sub/a"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text)


def started(path: Path, call: str, write: str = "") -> subprocess.Popen[str]:
    """Start a process that waits inside the block of `call`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(call=call, write=write or "pass"), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


class Killed(BaseException):
    """An exception that no error handler catches."""


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    assert names(path.parent) == ["a.txt"]
    assert sha256(path) == hashlib.sha256("größe\n".encode()).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:  # noqa: PT012
        assert partial.suffix == ".txt"
        assert partial.name.startswith(".")
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as outer:
        outer.write_text("outer")
        write_bytes(path, b"inner")
    assert path.read_text() == "outer"


def test_json_converts_numpy_and_paths_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x") / "y", "d": np.int64(3)})
    assert read_json(path) == {"a": 0.5, "b": [0, 1], "c": "x/y", "d": 3}
    write_json(path.with_name("b.json"), {"name": "caf\udce9.svs"})
    assert read_json(path.with_name("b.json")) == {"name": "caf\udce9.svs"}, "a Latin-1 file name"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="set cannot be written"):
        write_json(path, {"a": {1}})
    assert json.loads(path.read_text())["d"] == 3


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "the file does not exist"),
        (b"{", "got unreadable JSON: Expecting"),
        (b"\xff{}", "got unreadable JSON: 'utf-8' codec"),
        (b"[" * 10**5, "got unreadable JSON: "),
        (b"[]", "got JSON that is no object"),
        ("folder", "got no regular file"),
        ("fifo", "got no regular file"),
    ],
)
def test_unreadable_json_is_named(tmp_path: Path, content: bytes | str | None, got: str) -> None:
    path = tmp_path / "model.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        (path.mkdir if content == "folder" else lambda: os.mkfifo(path))()
    with pytest.raises(ModelError, match=f"model.json: expected a model card, {got}"):
        read_json(path, "a model card", ModelError)


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"a\.txt.*is a file"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "dir.txt").mkdir()
    with pytest.raises(StorageError, match="folder"):
        write_text(tmp_path / "dir.txt", "x")
    assert names(tmp_path) == ["dir.txt", "file"]


@pytest.mark.parametrize("call", [atomic_write, replace_folder])
def test_an_error_of_reading_an_input_is_no_storage_error(
    tmp_path: Path, call: Callable[[Path], object]
) -> None:
    with pytest.raises(FileNotFoundError), call(tmp_path / "out"):  # type: ignore[attr-defined]
        (tmp_path / "no such input").read_bytes()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_is_named_without_a_path(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageError, match=r"a\.txt: expected to write here, got: the"):  # noqa: PT012, SIM117
        with atomic_write(tmp_path / "a.txt") as partial:
            partial.touch()
            raise OSError(number, "no")
    assert names(tmp_path) == []


def test_a_full_disk_is_known_by_its_words(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"), atomic_write(tmp_path / "a.h5"):
        raise OSError("can't write data: [Errno 28] No space left on device")


def test_a_folder_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    final = tmp_path / "best"
    for text in ("one", "two"):
        save(final, text)
    assert names(tmp_path) == ["best"]
    assert names(final) == ["model.json", "model.keras", "sub"]
    assert (final / "sub" / "a").read_text() == "two"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "best"
    save(final, "old")
    with pytest.raises(ZeroDivisionError), replace_folder(final) as partial:  # noqa: PT012
        (partial / "a").write_text("new")
        raise ZeroDivisionError
    assert (final / "model.json").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_link_to_a_folder_is_replaced_by_the_folder(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "best").symlink_to(tmp_path / "far", target_is_directory=True)
    for text in ("one", "two"):
        save(tmp_path / "best", text)
    assert names(tmp_path) == ["best", "far"]
    assert names(tmp_path / "far") == []


@pytest.mark.parametrize("renames_done", [0, 1, 2])
@pytest.mark.parametrize("had_old", [True, False])
def test_a_kill_between_the_renames_loses_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_done: int, had_old: bool
) -> None:
    final = tmp_path / "best"
    if had_old:
        save(final, "old")
    rename, done = Path.rename, list[Path]()

    def until_killed(self: Path, target: Path) -> Path:
        if len(done) == renames_done:
            monkeypatch.setattr(atomic, "restore_folder", lambda _: None)  # nothing runs after a kill
            raise Killed
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", until_killed)
    with suppress(Killed):
        save(final, "new")
    monkeypatch.undo()
    restore_folder(final)
    expected = (
        "new" if renames_done == 2 or (renames_done == 1 and not had_old) else "old" if had_old else None
    )
    assert (final / "model.json").read_text() == expected if expected else not final.exists()
    save(final, "newer")
    assert names(tmp_path) == ["best"]


@posix
def test_what_killed_processes_left_is_removed_by_the_next_write_into_the_folder(tmp_path: Path) -> None:
    """Such files stayed for good, and may be as large as a slide's mask."""
    path = tmp_path / "masks/a.ome.tif"
    half = 'partial.write_bytes(b"half")'
    processes = [started(path, "atomic_write", half) for _ in range(2)]
    processes.append(started(tmp_path / "masks/best", "replace_folder"))
    assert len(names(path.parent)) == 3
    for process in processes:
        kill(process)
    atomic._remove_abandoned.cache_clear()
    write_bytes(path, b"whole")
    assert names(path.parent) == ["a.ome.tif"]


@posix
def test_what_a_running_process_writes_and_files_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    living = started(path, "atomic_write", 'partial.write_bytes(b"half")')
    (made,) = names(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    ours = made.replace(f"-{living.pid}-", f"-{ended.pid}-")
    host = f"{(int(ours.split('.')[3].split('-')[0], 16) + 1) % 2**32:08x}"
    theirs = {
        ours[1:],
        ours + ".bak.x",
        f".a.{ended.pid}.tif",
        ".a.partial",
        f".a.{host}-{ended.pid}-00000000.partial",
    }
    for name in {*theirs, ours}:
        (tmp_path / name).touch()
    atomic._remove_abandoned.cache_clear()
    write_bytes(path, b"ours")
    assert set(names(tmp_path)) == {*theirs, made, "a.ome.tif"}
    living.communicate("go on\n")
    assert path.read_bytes() == b"half"


def test_a_folder_that_cannot_be_listed_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    write_bytes(tmp_path / ("ü" * 100 + ".txt"), b"here")
    assert (tmp_path / ("ü" * 100 + ".txt")).read_bytes() == b"here"


def test_an_old_run_is_moved_aside_with_its_date(tmp_path: Path) -> None:
    run = tmp_path / "models"
    assert move_aside(run) is None
    run.mkdir()
    assert move_aside(run) is None, "an empty folder"
    moved = []
    for text in "ab":
        run.mkdir(exist_ok=True)
        (run / text).touch()
        os.utime(run, (1_700_000_000, 1_700_000_000))
        aside = move_aside(run)
        assert aside is not None
        moved.append(aside)
    assert not run.exists()
    first, second = moved
    assert first.name.startswith("models-2023111")
    assert second.name == first.name + "-2"
    assert names(first) == ["a"]
    assert names(second) == ["b"]


def test_a_link_is_made_once_and_replaced_when_it_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("a", "a", "b"):
        (tmp_path / name).write_text(name)
        link(tmp_path / "new" / "link", tmp_path / name)
        assert (tmp_path / "new" / "link").read_text() == name


def test_the_cache_folder_is_the_named_one_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOMTILE_CACHE_DIR", str(tmp_path / "mine"))
    assert user_cache() == tmp_path / "mine"
    monkeypatch.delenv("GLOMTILE_CACHE_DIR")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert user_cache() == tmp_path / "glomtile"


@posix
def test_a_second_run_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out" / ".glomtile" / "lock"
    holder = started(path, "file_lock")
    for _ in range(2):
        with pytest.raises(LockedError, match=f"got process {holder.pid} on ") as refused, file_lock(path):
            pass
        assert refused.value.where == str(tmp_path / "out")
        assert "choose another folder" in str(refused.value)
    kill(holder)
    with file_lock(path), pytest.raises(LockedError, match=f"got process {os.getpid()} on "), file_lock(path):
        pass
    with pytest.raises(ZeroDivisionError), file_lock(path):
        raise ZeroDivisionError
    with file_lock(path):
        pass


def test_a_run_that_waits_is_next(tmp_path: Path) -> None:
    waiting, order, notes = threading.Event(), list[str](), RecordingProgress()
    notes.note = lambda text: (notes.notes.append(text), waiting.set())  # type: ignore[method-assign, assignment]

    def second_run() -> None:
        with file_lock(tmp_path / "a.lock", notes, wait=True):
            order.append("second")

    with file_lock(tmp_path / "a.lock", wait=True), file_lock(tmp_path / "b.lock", wait=True):
        second = threading.Thread(target=second_run)
        second.start()
        assert waiting.wait(60)
        order.append("first")
    second.join(60)
    assert order == ["first", "second"]
    assert notes.notes[0].startswith(f"a: waiting for process {os.getpid()} on ")


@posix
@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "fifo", "folder", "linked folder"])
def test_a_lock_file_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    """Through a link, the content of a file outside the output folder was replaced."""
    mine, private = tmp_path / "mine.txt", tmp_path / "out" / ".glomtile"
    mine.write_text("mine")
    lock = private / "lock"
    (tmp_path / "elsewhere").mkdir()
    if kind == "linked folder":
        private.parent.mkdir()
        private.symlink_to(tmp_path / "elsewhere")
    else:
        private.mkdir(parents=True)
    if kind.startswith("link") and kind != "linked folder":
        lock.symlink_to(mine if kind == "link" else tmp_path / "new.txt")
    elif kind == "hard link":
        os.link(mine, lock)
    elif kind == "fifo":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    with pytest.raises(GlomtileError, match="expected a") as refused, file_lock(lock):
        pass
    assert str(private) in refused.value.where
    assert refused.value.exit_code == 2
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new.txt").exists()
    assert names(tmp_path / "elsewhere") == []


@posix
def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    notes = RecordingProgress()
    with file_lock(tmp_path / ".glomtile" / "lock", notes):
        pass
    assert notes.warnings == [f"{tmp_path}: the file system has no locks; start no second run in this folder"]


def test_a_lock_that_cannot_be_made_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(PlaceError, match="a part of the path is a file") as refused,
        file_lock(tmp_path / "file" / ".glomtile" / "lock"),
    ):
        pass
    assert refused.value.where == str(tmp_path / "file")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / ".glomtile").mkdir()
    monkeypatch.setattr(os, "open", denied)
    with (
        pytest.raises(PlaceError, match="permission denied") as refused,
        file_lock(tmp_path / ".glomtile" / "lock"),
    ):
        pass
    assert refused.value.where == str(tmp_path)
