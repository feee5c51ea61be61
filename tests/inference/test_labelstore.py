"""The label store: rows come back, a stopped run is taken up, another run's rows are not."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import PlaceError, StorageError
from glomtile.inference import label_store as labelstore
from glomtile.inference.label_store import CHUNK_PX, CachedPlane, LabelStore, crop, panels_of, remove_work
from glomtile.types import Box

SIZE = (1300, 1500)


def planes(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, SIZE, dtype=np.uint8), rng.integers(0, 256, SIZE, dtype=np.uint8)


def store(folder: Path, identity: str = "a") -> LabelStore:
    return LabelStore(folder, SIZE, panels_of(SIZE[1], 1024), {"model": identity})


def write(target: LabelStore, until: int, step: int = 170) -> None:
    labels, confidence = planes()
    for panel, (left, right) in enumerate(panels_of(SIZE[1], 1024)):
        writer = target.writer(panel)
        for top in range(target.rows_done(panel), until, step):
            rows = slice(top, min(top + step, until))
            writer(top, labels[rows, left:right], confidence[rows, left:right])


def test_rows_of_any_height_come_back(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    assert not made.complete
    write(made, SIZE[0])
    assert made.complete
    labels, confidence = planes()
    assert (made.labels[:] == labels).all()
    assert (made.confidence[:] == confidence).all()
    box = Box(500, 1000, 520, 1040)
    assert (crop(made.labels, box) == labels[500:520, 1000:1040]).all()


def test_a_stopped_run_is_taken_up_where_whole_bands_ended(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), 1200)
    again = store(tmp_path / "work")
    assert [again.rows_done(i) for i in (0, 1)] == [1024, 1024]
    write(again, SIZE[0], step=99)
    assert (again.labels[:] == planes()[0]).all()


def test_rows_of_another_model_are_not_taken_up(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    other = store(tmp_path / "work", "b")
    assert other.rows_done(0) == 0
    assert not other.labels[:].any()


@pytest.mark.parametrize("text", ["", "{", '{"identity": 3}', "[]"])
def test_a_damaged_state_means_a_new_beginning(tmp_path: Path, text: str) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    (tmp_path / "work/state.json").write_text(text)
    assert store(tmp_path / "work").rows_done(0) == 0


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_stop_before_the_planes_were_there_means_a_new_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """It ended later runs, too: the state told of planes that nobody had made."""
    made, plane = list[str](), labelstore._plane

    def stopped(group: object, name: str, *more: object, **how: object) -> object:
        if len(made) == survivors:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(name)
        return plane(group, name, *more, **how)

    with monkeypatch.context() as patch:
        patch.setattr(labelstore, "_plane", stopped)
        with pytest.raises(StorageError, match="the disk is full"):
            store(tmp_path / "work").fresh_planes([SIZE])
    again = store(tmp_path / "work")
    write(again, SIZE[0])
    assert (again.labels[:] == planes()[0]).all()


class Killed(BaseException):
    """What no handler of errors catches."""


def stopping(remove: Callable[..., None], left: list[int]) -> Callable[..., None]:
    """A removal that stops when as many as are left have been done."""

    def call(*where: object, **how: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        remove(*where, **how)

    return call


@pytest.mark.parametrize("step", [0, 1, 2, 12, -3, -2, -1])
@pytest.mark.parametrize("why", ["done", "another model"])
def test_a_kill_while_the_work_is_removed_blocks_nothing_and_is_not_taken_up(
    tmp_path: Path, why: str, step: int
) -> None:
    """The state went before the rest, which was nobody's then; going last, it would tell of rows gone."""

    def remove(folder: Path, most: int) -> int:
        """Remove so many files and folders at most; how many were not needed."""
        left = [most]
        with suppress(Killed), pytest.MonkeyPatch.context() as patch:
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, stopping(getattr(os, name), left))
            remove_work(folder) if why == "done" else store(folder, "b")
        return left[0]

    folder = tmp_path / "work"
    write(store(folder), SIZE[0])
    if step < 0:
        shutil.copytree(folder, tmp_path / "twin")
        step += 1000 - remove(tmp_path / "twin", 1000)
    assert remove(folder, step) == -1, "it was stopped"
    again = store(folder)
    assert again.rows_whole == 0
    write(again, SIZE[0])
    assert (again.labels[:] == planes()[0]).all()
    remove_work(folder)
    assert not folder.exists()
    remove_work(folder)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="something else"):
        store(tmp_path / "work")
    assert (tmp_path / "work/thesis.txt").read_text() == "mine"


def tree(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"state.json": '{"mine": 1}'}, "state.json of another program"),
        ({"state.json": '{"identity": {"mine": 1}, "panels": []}'}, "state.json of another program"),
        ({"state.json": "[" * 100_000}, "state.json of another program"),
        ({"state.json": '{"mine": 1}', "thesis.txt": "mine"}, "thesis.txt"),
        ({"state.json": '{"mine": 1}', "planes.zarr/flights.csv": "mine"}, "flights.csv"),
    ],
)
def test_a_folder_with_a_state_of_somebody_else_is_not_touched(
    tmp_path: Path, files: dict[str, str], named: str
) -> None:
    """Any `state.json` made a folder ours, and all else in it was removed."""
    folder = tmp_path / "work"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = tree(folder)
    for attempt in (lambda: store(folder), lambda: remove_work(folder)):
        with pytest.raises(PlaceError, match=rf"work: expected .*something else: .*{named}"):
            attempt()
        assert tree(folder) == before


def test_what_somebody_laid_beside_our_rows_stays_and_they_are_taken_up(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    (tmp_path / "work/thesis.txt").write_text("mine")
    assert store(tmp_path / "work").complete
    before = tree(tmp_path / "work")
    with pytest.raises(PlaceError, match=r"thesis\.txt"):
        store(tmp_path / "work", "b")
    assert tree(tmp_path / "work") == before


def test_what_killed_writers_left_in_the_folder_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write(store(folder), SIZE[0])
    for name in (
        ".state.113a5284-9-113a5284.partial.json",
        "._state.json",
        f"planes.zarr/zarr.{'0af3' * 8}.partial",
    ):
        (folder / name).touch()
    assert store(folder, "b").rows_whole == 0
    assert sorted(path.name for path in folder.iterdir()) == ["planes.zarr", "state.json"]


def test_a_row_out_of_order_is_refused(tmp_path: Path) -> None:
    writer = store(tmp_path / "work").writer(0)
    rows = np.zeros((10, 1024), np.uint8)
    writer(0, rows, rows)
    with pytest.raises(StorageError, match="expected row 10, got row 20"):
        writer(20, rows, rows)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="not a folder"):
        store(tmp_path / "file" / "work")


def test_empty_chunks_take_no_space(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    zeros = np.zeros((SIZE[0], 1024), np.uint8)
    made.writer(0)(0, zeros, zeros)
    files = [p for p in (tmp_path / "work/planes.zarr").rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert files == []


def test_a_cached_plane_reads_as_the_plane_does(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    write(made, SIZE[0])
    cached, labels, rng = CachedPlane(made.labels, most=4), planes()[0], np.random.default_rng(4)
    assert cached.shape == SIZE
    for _ in range(60):
        top, left = (int(rng.integers(0, n)) for n in SIZE)
        height, width = rng.integers(1, 700, 2)
        assert (
            cached[top : top + height, left : left + width] == labels[top : top + height, left : left + width]
        ).all()
    assert (cached[:, 3:4] == labels[:, 3:4]).all()


def test_what_is_assigned_to_a_cached_plane_is_on_disk_after_a_flush(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    (plane,) = made.fresh_planes([SIZE])
    cached, expected, rng = CachedPlane(plane, most=2), np.zeros(SIZE, np.uint8), np.random.default_rng(6)
    for number in range(1, 30):
        top, left = (int(rng.integers(0, n - 1)) for n in SIZE)
        part = expected[top : top + 600, left : left + 300]
        part[:] = number
        cached[top : top + 600, left : left + 300] = part
        assert (cached[top : top + 9, left : left + 9] == expected[top : top + 9, left : left + 9]).all()
    cached.flush()
    assert (plane[:] == expected).all()


def test_derived_planes_begin_empty_each_time(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    first, second = made.fresh_planes([SIZE, (650, 750)])
    first[:5, :5] = 7
    assert second.shape == (650, 750)
    assert not made.fresh_planes([SIZE, (650, 750)])[0][:].any()


@given(st.integers(1, 20_000), st.integers(1, 9_000))
@settings(max_examples=100)
def test_panels_cover_the_width_once_and_begin_at_chunks(width: int, panel: int) -> None:
    panels = panels_of(width, panel)
    assert panels[0][0] == 0
    assert panels[-1][1] == width
    assert all(a[1] == b[0] and b[0] % CHUNK_PX == 0 for a, b in itertools.pairwise(panels))
    assert all(0 < right - left <= max(panel, CHUNK_PX) for left, right in panels)
