"""Temporary files of killed processes go; those of living ones, of elsewhere and of others stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.io import atomic as leftovers
from glomtile.io.atomic import atomic_write, clear_abandoned, temporary_name, write_bytes

WRITER = """
import sys
from pathlib import Path
from glomtile.io.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="nothing is cleared there")


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of folders that other tests looked through nothing is known."""
    monkeypatch.setattr(leftovers, "_looked", {})


def writer(path: Path) -> subprocess.Popen[str]:
    """A process amid writing a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@posix
def test_what_killed_writers_left_goes_with_the_next_write_into_the_folder(tmp_path: Path) -> None:
    """It stayed for good, and may be as large as a slide's mask."""
    path = tmp_path / "masks/a.ome.tif"
    dead = [writer(path), writer(path), writer(tmp_path / "masks/b.ome.tif")]
    assert len(list(path.parent.iterdir())) == 3
    for process in dead:
        kill(process)
    write_bytes(path, b"whole")
    assert [p.name for p in path.parent.iterdir()] == ["a.ome.tif"]


@posix
def test_what_another_process_is_writing_stays_and_becomes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    living = writer(path)
    write_bytes(path, b"ours")
    living.communicate("go on\n")
    assert living.returncode == 0
    assert path.read_bytes() == b"half", "whole, as far as that process knows"
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]


def test_two_writers_of_one_process_keep_each_others_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as outer:
        outer.write_text("outer")
        leftovers._looked.clear()
        write_bytes(path, b"inner")
        assert outer.exists()
    assert path.read_text() == "outer"


@posix
def test_files_of_other_systems_and_of_other_programs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    ours = temporary_name(tmp_path / "a.tif")
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "_system", lambda: "0123456789ab")
        elsewhere = temporary_name(tmp_path / "a.tif")
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "_system", lambda: None)
        unknown = temporary_name(tmp_path / "a.tif")
    theirs = {
        elsewhere, unknown, ours[1:], ours + ".bak", ".a.113a5284.tif", f".a.{ended.pid}.tif",
        ours.replace(f"-{ended.pid}-", "-0-"), ours.replace(f"-{ended.pid}-", f"-{10**30}-"),
    }  # fmt: skip
    for name in {*theirs, ours}:
        (tmp_path / name).touch()
    clear_abandoned(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == theirs


@posix
def test_a_folder_is_looked_through_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, now, listing = list[Path](), [5.0], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: looks.append(folder) or listing(folder))
    monkeypatch.setattr(leftovers.time, "monotonic", lambda: now[0])
    for second in (5.0, 6.0, 64.9, 65.1, 66.0):
        now[0] = second
        write_bytes(tmp_path / "a.txt", b"")
    assert looks == [tmp_path] * 2


def test_a_folder_that_lets_nobody_list_it_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    write_bytes(tmp_path / "a.txt", b"here")
    assert (tmp_path / "a.txt").read_bytes() == b"here"


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_a_temporary_name_is_known_again_and_no_longer_than_a_name_may_be(name: str) -> None:
    path = Path("folder") / name
    if not path.stem or len(path.suffix) > 12:
        return
    made = temporary_name(path)
    match = leftovers._NAME.fullmatch(made)
    assert match is not None
    assert int(match["process"]) == os.getpid()
    assert match["system"] in (leftovers._system(), "0" * 12)
    assert len(made.encode()) <= 255
    assert made != temporary_name(path)
