import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from glomtile.errors import StorageError
from glomtile.io import atomic as workspace
from glomtile.io.atomic import (
    atomic_write,
    move_aside,
    replace_folder,
    require_space,
    settle_folder,
    sha256,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    assert names(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_temporary_name_keeps_the_suffix_and_hides(tmp_path):
    with atomic_write(tmp_path / "b.png") as partial:
        assert partial.suffix == ".png"
        assert partial.name.startswith(".")
        partial.touch()


def test_json_knows_numpy_and_paths_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x") / "y", "d": np.int64(3)})
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1], "c": "x/y", "d": 3}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="set"):
        write_json(path, {"a": {1}})
    assert json.loads(path.read_text())["d"] == 3


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"a\.txt.*is a file"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "dir.txt").mkdir()
    with pytest.raises(StorageError, match="folder"):
        write_text(tmp_path / "dir.txt", "x")
    assert names(tmp_path) == ["dir.txt", "file"]


def test_an_error_of_reading_an_input_is_not_called_a_storage_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "no such input").read_bytes()
    with pytest.raises(FileNotFoundError), replace_folder(tmp_path / "out"):
        (tmp_path / "no such input").read_bytes()
    assert names(tmp_path) == []


def test_a_folder_appears_whole_and_replaces_the_old(tmp_path):
    final = tmp_path / "best"
    for text in ("one", "two"):
        with replace_folder(final) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / text).write_text(text)
    assert names(tmp_path) == ["best"]
    assert names(final) == ["sub"]
    assert names(final / "sub") == ["two"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    final = tmp_path / "best"
    with replace_folder(final) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replace_folder(final) as partial:  # noqa: PT012
        (partial / "a").write_text("new")
        raise ZeroDivisionError
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_what_a_killed_run_left_half_done_is_replaced(tmp_path):
    kill = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from glomtile.io.atomic import replace_folder
        with replace_folder(Path(sys.argv[1])) as partial:
            (partial / "half").write_text("half")
            os._exit(9)
        """
    )
    final = tmp_path / "best"
    with replace_folder(final) as partial:
        (partial / "a").write_text("old")
    assert subprocess.run([sys.executable, "-c", kill, str(final)], check=False).returncode == 9
    assert (final / "a").read_text() == "old"
    assert names(tmp_path) == ["best", "best.partial"]
    with replace_folder(final) as partial:
        (partial / "a").write_text("new")
    assert (final / "a").read_text() == "new"
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize("renames_done", [0, 1, 2])
@pytest.mark.parametrize("had_old", [True, False])
def test_a_swap_killed_between_its_renames_is_finished(tmp_path, monkeypatch, renames_done, had_old):
    final = tmp_path / "best"
    if had_old:
        with replace_folder(final) as partial:
            (partial / "a").write_text("old")
    rename, done = Path.rename, []

    def until_killed(self, target):
        if len(done) == renames_done:
            raise Killed
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", until_killed)
    try:
        with replace_folder(final) as partial:
            (partial / "a").write_text("new")
    except Killed:
        pass
    monkeypatch.undo()
    before = sorted(tmp_path.rglob("*"))
    text = (whole_folder(final) / "a").read_text()
    assert text == ("old" if had_old and renames_done == 0 else "new")
    assert sorted(tmp_path.rglob("*")) == before, "who reads changes nothing"
    assert settle_folder(final) == final
    assert (final / "a").read_text() == "new", "the new folder was whole before the first rename"
    assert names(tmp_path) == ["best"]
    assert names(final) == ["a"]


class Killed(BaseException):
    """What no handler of errors catches."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Stop at the removal of a file or folder of this number, counted from 0."""
    seen = 0

    def stopping(remove):
        def call(*where, **how):
            nonlocal seen
            seen += 1
            if seen > step:
                raise Killed
            return remove(*where, **how)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        yield


def save(final: Path, text: str) -> None:
    with replace_folder(final) as partial:
        for name in ("model.json", "model.keras", "sub/a"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text)


@pytest.mark.parametrize("step", range(8))
def test_a_kill_while_the_replaced_folder_is_removed_blocks_nothing(tmp_path, step):
    """Its marker went before the rest: every later save was refused until somebody removed the rest."""
    final = tmp_path / "best"
    save(final, "one")
    stopped = True
    with suppress(Killed), killed_at(step):
        save(final, "two")
        stopped = False
    assert stopped == (step < 7), "the new folder's marker, the old one's five names and itself"
    settle_folder(final)
    assert (final / "model.json").read_text() == "two"
    assert names(tmp_path) in (["best"], ["best", "best.previous"])
    save(final, "three")
    assert (final / "sub/a").read_text() == "three"
    assert names(tmp_path) == ["best"]
    assert names(final) == ["model.json", "model.keras", "sub"]


@pytest.mark.parametrize("step", range(7))
@pytest.mark.parametrize("when", ["fails", "cannot be made safe", "comes anew"])
def test_a_kill_while_an_unfinished_folder_is_removed_blocks_nothing(tmp_path, monkeypatch, when, step):
    """And what is left of one that was about to stand for whole does not stand for it any more."""
    final = tmp_path / "best"
    save(final, "one")
    sync = workspace._sync_folder

    def refused(folder: Path) -> None:
        if (folder / ".glomtile-whole").exists():
            raise OSError(errno.EIO, "no")
        sync(folder)

    def half() -> None:
        with replace_folder(final) as partial:
            for name in ("model.json", "model.keras", "training.npz"):
                (partial / name).write_text("half")
            if when == "fails":
                raise ZeroDivisionError
            if when == "comes anew":
                raise Killed

    if when == "comes anew":
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            patch.setattr(workspace, "remove_folder", lambda *_: None)
            half()
        assert names(tmp_path) == ["best", "best.partial"]
    with suppress(Killed, ZeroDivisionError, StorageError), killed_at(step), monkeypatch.context() as patch:
        if when == "comes anew":
            save(final, "two")
        else:
            patch.setattr(workspace, "_sync_folder", refused)
            half()
    settle_folder(final)
    assert {path.read_text() for path in final.rglob("*") if path.is_file()} <= {"one", "two"}
    save(final, "three")
    assert (final / "model.json").read_text() == "three"
    assert names(tmp_path) == ["best"]
    assert names(final) == ["model.json", "model.keras", "sub"]


def test_what_is_left_of_a_replaced_folder_is_never_taken_for_the_whole(tmp_path):
    final = tmp_path / "best"
    save(final, "one")
    with suppress(Killed), killed_at(4):
        save(final, "two")
    assert (tmp_path / "best.previous").exists()
    shutil.rmtree(final)
    settle_folder(final)
    assert not final.exists()


def test_somebody_elses_previous_is_named_before_the_work_begins(tmp_path):
    final = tmp_path / "best"
    save(final, "one")
    (tmp_path / "best.previous").mkdir()
    (tmp_path / "best.previous" / "thesis.docx").touch()
    with pytest.raises(StorageError, match=r"best\.previous: .*got other files"), replace_folder(final):
        pytest.fail("it would be for nothing")
    assert names(tmp_path / "best.previous") == ["thesis.docx"]
    assert names(tmp_path) == ["best", "best.previous"]


def test_a_link_to_a_folder_is_replaced_by_the_folder_time_and_again(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "best").symlink_to(tmp_path / "far", target_is_directory=True)
    for text in ("one", "two", "three"):
        save(tmp_path / "best", text)
    assert names(tmp_path) == ["best", "far"]


def test_a_kill_before_the_new_folder_was_whole_leaves_the_old_one_to_readers(tmp_path):
    final = tmp_path / "best"
    save(final, "one")
    (final / ".glomtile-replaced").touch()
    final.rename(tmp_path / "best.previous")
    assert whole_folder(final) == tmp_path / "best.previous"
    (tmp_path / "best.previous" / ".glomtile-replaced").rename(
        tmp_path / "best.previous" / ".glomtile-unfinished"
    )
    assert whole_folder(final) == final, "half removed, it is none"


def test_settling_touches_nothing_where_nothing_is_to_be_settled(tmp_path, monkeypatch):
    """On a read-only drive, taking away a marker that was not there was refused."""
    save(tmp_path / "best", "one")

    def refused(*where, **how):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "rename", "replace", "mkdir", "rmdir", "open"):
        monkeypatch.setattr(os, name, refused)
    assert settle_folder(tmp_path / "best") == tmp_path / "best"


def test_settling_does_nothing_where_nothing_happened(tmp_path):
    settle_folder(tmp_path / "best")
    (tmp_path / "best.previous").mkdir()
    (tmp_path / "best.previous" / "mine").touch()
    (tmp_path / "best").mkdir()
    settle_folder(tmp_path / "best")
    assert names(tmp_path / "best.previous") == ["mine"]


def test_a_folder_of_someone_else_is_never_removed(tmp_path):
    theirs = tmp_path / "best.partial"
    theirs.mkdir()
    (theirs / "thesis.docx").touch()
    with pytest.raises(StorageError, match="got other files"), replace_folder(tmp_path / "best"):
        pass
    assert names(theirs) == ["thesis.docx"]


def test_an_old_run_is_moved_aside_with_its_date(tmp_path):
    run = tmp_path / "models"
    assert move_aside(run) is None
    run.mkdir()
    assert move_aside(run) is None, "an empty folder is in nobody's way"
    moved = []
    for text in "ab":
        run.mkdir(exist_ok=True)
        (run / text).touch()
        os.utime(run, (1_700_000_000, 1_700_000_000))
        moved.append(move_aside(run))
    assert not run.exists()
    first, second = moved
    assert first.name.startswith("models-2023111")
    assert second.name == first.name + "-2"
    assert names(first) == ["a"]
    assert names(second) == ["b"]


def test_more_than_is_free_is_refused_before_it_is_written(tmp_path):
    require_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(StorageError, match=r"expected 1,000,000,000,000 MB of free space, got"):
        require_space(tmp_path / "not" / "there", 10**18)


def test_the_digest_is_the_files(tmp_path):
    write_bytes(tmp_path / "a", b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_trouble_of_the_disk_is_named_whichever_file_it_meets(tmp_path, number):
    with pytest.raises(StorageError, match=r"a\.txt: expected to write here, got: the"):  # noqa: PT012, SIM117
        with atomic_write(tmp_path / "a.txt") as partial:
            partial.touch()
            raise OSError(number, "trouble")
    assert names(tmp_path) == []


def test_a_full_disk_told_in_words_alone_is_understood(tmp_path):
    with pytest.raises(StorageError, match="disk is full"), atomic_write(tmp_path / "a.h5"):
        raise OSError("can't write data: [Errno 28] No space left on device")
