import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from glomtile.errors import StorageError
from glomtile.files.workspace import (
    atomic_write,
    move_aside,
    replace_folder,
    require_space,
    settle_folder,
    sha256,
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
        from glomtile.files.workspace import replace_folder
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

    class Killed(BaseException):
        pass

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
    assert settle_folder(final) == final
    assert (final / "a").read_text() == "new", "the new folder was whole before the first rename"
    assert names(tmp_path) == ["best"]
    assert names(final) == ["a"]


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
