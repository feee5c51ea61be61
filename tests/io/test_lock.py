"""One run at a time in a folder, and no lock that outlives its run."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glomtile.errors import PlaceError, StorageError, UsageError
from glomtile.io import atomic as lock
from glomtile.io.atomic import run_lock
from glomtile.types import SILENT

HOLD = """
import sys, time
from pathlib import Path
from glomtile.io.atomic import sole_run
with sole_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_holds_the_folder_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"got process {holder.pid} on ") as told, run_lock(folder):
            pass
        assert "choose another folder" in str(told.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert (folder / lock.LOCK_FILE).exists()
    with run_lock(folder):
        assert f'"process": {os.getpid()}' in (folder / lock.LOCK_FILE).read_text("utf-8")


def test_a_run_that_ended_lets_the_next_in_and_one_that_runs_does_not(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path), pytest.raises(UsageError, match="no other run"), run_lock(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 3}'])
def test_a_note_that_says_nothing_does_not_hide_the_lock(tmp_path: Path, text: str) -> None:
    with run_lock(tmp_path):
        (tmp_path / lock.LOCK_FILE).write_text(text)
        with pytest.raises(UsageError, match="got one that holds it"), run_lock(tmp_path):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(lock, "_lock", _no_locks)
    monkeypatch.setattr(SILENT, "warn", told.append)
    with run_lock(tmp_path):
        pass
    assert len(told) == 1
    assert "let no second run write here" in told[0]


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(StorageError, match="a part of the path is a file"),
        run_lock(tmp_path / "file" / "out"),
    ):
        pass


def test_who_waits_for_a_part_is_next_and_leaves_no_file(tmp_path: Path) -> None:
    """The file is removed by who held it: one that is still open then must not count as the lock."""
    held, told, order = threading.Event(), [], []

    class Listening:
        def note(self, text: str) -> None:
            told.append(text)

    def wait_for_it() -> None:
        with run_lock(tmp_path, Listening(), name="a.lock", wait=True):  # type: ignore[arg-type]
            order.append("second")

    with run_lock(tmp_path, name="a.lock", wait=True), run_lock(tmp_path, name="b.lock", wait=True):
        second = threading.Thread(target=wait_for_it)
        second.start()
        held.wait(1.5 * lock._ASK_AGAIN_S)
        order.append("first")
    second.join(60)
    assert order == ["first", "second"]
    assert told == [f"a: waiting for process {os.getpid()} on {socket.gethostname()} since {told[0][-19:]}"]
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_folder_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has heard of the folder in it, nor of the lock."""
    given = tmp_path / "out"
    own = given / ".glomtile"
    with (
        run_lock(own, given=given),
        pytest.raises(UsageError, match="no other run") as held,
        run_lock(own, given=given),
    ):
        pass
    assert held.value.where == str(given)
    for function, folder in (("open", given), ("mkdir", tmp_path / "new")):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, _denied)
            with (
                pytest.raises(PlaceError, match="permission denied") as denied,
                run_lock(folder / ".glomtile", given=folder),
            ):
                pass
            assert denied.value.where == str(folder)
    told: list[str] = []
    monkeypatch.setattr(lock, "_lock", _no_locks)
    monkeypatch.setattr(SILENT, "warn", told.append)
    with run_lock(own, given=given):
        pass
    assert told[0].startswith(f"{given}: cannot be locked")


def test_a_folder_in_the_place_of_the_lock_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / ".glomtile" / "lock").mkdir(parents=True)
    with (
        pytest.raises(StorageError, match="it is a folder") as told,
        run_lock(tmp_path / ".glomtile", given=tmp_path),
    ):
        pass
    assert told.value.where == str(tmp_path / ".glomtile" / "lock")


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _no_locks(descriptor: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
