"""A disk that fills up while we write: a mounted megabyte where that is allowed, else by decree."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from glomtile.datasets.prepare import prepare
from glomtile.errors import StorageError
from glomtile.io.atomic import replace_folder, write_bytes
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI

MEGABYTE = 2**20


@pytest.fixture
def small_disk(mount):
    """A file system of one megabyte."""
    return mount("1m")


def test_a_file_that_does_not_fit_leaves_the_old_one(small_disk):
    path = small_disk / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(StorageError, match=r"a\.bin: expected to write here, got: the disk is full"):
        write_bytes(path, bytes(2 * MEGABYTE))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in small_disk.iterdir()] == ["a.bin"]


def test_a_folder_that_does_not_fit_leaves_the_old_one(small_disk):
    final = small_disk / "best"
    with replace_folder(final) as partial:
        (partial / "weights").write_bytes(b"old")
    with pytest.raises(StorageError, match=r"best: .*the disk is full"), replace_folder(final) as partial:
        (partial / "weights").write_bytes(bytes(2 * MEGABYTE))
    assert (final / "weights").read_bytes() == b"old"
    assert [entry.name for entry in small_disk.iterdir()] == ["best"]
    write_bytes(small_disk / "fits again", bytes(MEGABYTE // 2))


def test_a_dataset_that_does_not_fit_leaves_nothing(small_disk, tmp_path):
    sources(tmp_path, 8, 600)
    with pytest.raises(StorageError, match=r"set: .*the disk is full"):
        prepare(tmp_path / "images", tmp_path / "masks", small_disk / "set", tile_px=256)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_while_tiles_are_cut_leaves_no_dataset(tmp_path, monkeypatch):
    sources(tmp_path, 4, 64)
    written, write = [], Path.write_bytes

    def until_full(self, data):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        written.append(self)
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(StorageError, match=r"set: .*the disk is full"):
        prepare(tmp_path / "images", tmp_path / "masks", tmp_path / "set", tile_px=32)
    monkeypatch.undo()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", "masks"]


def test_a_file_by_decree_too(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def sources(folder: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        labels = np.zeros((side, side), np.uint8)
        labels[5:20, 5:20] = 1
        write_png(folder / "images" / f"{number}.png", rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
        write_mask(folder / "masks" / f"{number}.png", labels, GLOMERULI)
