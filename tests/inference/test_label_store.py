"""Tests of the label store: rows of a stopped run are continued, those of another run are not."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import ArgumentError, PlaceError, StorageError
from glomtile.inference.label_store import CHUNK_PX, LabelStore, Plane, panels_of, remove_work
from glomtile.io.pyramids import halve, level_sizes, write_label_zarr, write_mask_pyramid
from glomtile.palette import GLOMERULI
from glomtile.types import Box, crop

SIZE = (1300, 1500)


def planes(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, SIZE, dtype=np.uint8), rng.integers(0, 256, SIZE, dtype=np.uint8)


def store(folder: Path, identity: str = "a") -> LabelStore:
    return LabelStore(folder, SIZE, panels_of(SIZE[1], 1024), {"model": identity})


def write(target: LabelStore, until: int, step: int = 170) -> None:
    labels, confidence = planes()
    for panel, (left, right) in enumerate(panels_of(SIZE[1], 1024)):
        for top in range(target.rows_done[panel], until, step):
            rows = slice(top, min(top + step, until))
            target.append(panel, labels[rows, left:right], confidence[rows, left:right])
        target._pending = []  # a panel that ends early is only met after a stop


def fresh(folder: Path, size: tuple[int, int] = SIZE) -> Plane:
    (plane,) = LabelStore(folder, size, [(0, size[1])], {}).fresh_planes([size])
    return plane


def tree(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def test_rows_of_any_height_are_read_back(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    write(made, SIZE[0])
    assert made.rows_done == [SIZE[0]] * 2
    labels, confidence = planes()
    assert (made.labels[:] == labels).all()
    assert (made.confidence[:] == confidence).all()
    assert (crop(made.labels, Box(500, 1000, 520, 1040)) == labels[500:520, 1000:1040]).all()


def test_a_stopped_run_continues_after_its_last_whole_row_of_chunks(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), 1200)
    again = store(tmp_path / "work")
    assert again.rows_done == [1024, 1024]
    write(again, SIZE[0], step=99)
    assert (again.labels[:] == planes()[0]).all()


def test_rows_of_another_model_are_not_continued(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    other = store(tmp_path / "work", "b")
    assert other.rows_done == [0, 0]
    assert not other.labels[:].any()


@pytest.mark.parametrize("text", ["", "{", '{"identity": 3}', "[]"])
def test_a_damaged_state_starts_anew(tmp_path: Path, text: str) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    (tmp_path / "work/state.json").write_text(text)
    assert store(tmp_path / "work").rows_done == [0, 0]


class Killed(BaseException):
    """A stop that no handler of errors catches."""


def stopping(remove: Callable[..., None], left: list[int]) -> Callable[..., None]:
    def call(*where: object, **how: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        remove(*where, **how)

    return call


@pytest.mark.parametrize("step", [0, 1, 2, 12, -3, -2, -1])
@pytest.mark.parametrize("why", ["done", "another model"])
def test_a_kill_during_removal_blocks_nothing_and_leaves_nothing_to_continue(
    tmp_path: Path, why: str, step: int
) -> None:
    def remove(folder: Path, most: int) -> int:
        """Stop after so many removals; return how many were not needed."""
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
    assert again.rows_done == [0, 0]
    write(again, SIZE[0])
    assert (again.labels[:] == planes()[0]).all()
    remove_work(folder)
    assert not folder.exists()
    remove_work(folder)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"thesis.txt": "mine"}, "thesis.txt"),
        ({"state.json": '{"mine": 1}'}, "state.json of another program"),
        (
            {"state.json": '{"identity": {"mine": 1}, "panels": [], "rows": []}'},
            "state.json of another program",
        ),
        ({"state.json": "[" * 100_000}, "state.json of another program"),
        ({"state.json": '{"mine": 1}', "thesis.txt": "mine"}, "thesis.txt"),
        ({"planes.zarr/zarr.json": "{}", "thesis.txt": "mine"}, "thesis.txt"),
    ],
)
def test_a_folder_of_something_else_is_not_changed(tmp_path: Path, files: dict[str, str], named: str) -> None:
    folder = tmp_path / "work"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = tree(folder)
    for attempt in (lambda: store(folder), lambda: remove_work(folder)):
        with pytest.raises(PlaceError, match=rf"work: expected an empty folder or .*, .*{named}"):
            attempt()
        assert tree(folder) == before


def test_a_file_beside_our_rows_stays_and_they_are_continued(tmp_path: Path) -> None:
    write(store(tmp_path / "work"), SIZE[0])
    (tmp_path / "work/thesis.txt").write_text("mine")
    assert store(tmp_path / "work").rows_done == [SIZE[0]] * 2
    before = tree(tmp_path / "work")
    with pytest.raises(PlaceError, match=r"thesis\.txt"):
        store(tmp_path / "work", "b")
    assert tree(tmp_path / "work") == before


def test_temporary_files_of_killed_writers_do_not_block(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write(store(folder), SIZE[0])
    for name in (".state.113a5284.partial.json", "._state.json"):
        (folder / name).touch()
    assert store(folder, "b").rows_done == [0, 0]
    assert sorted(path.name for path in folder.iterdir()) == ["planes.zarr", "state.json"]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="not a folder"):
        store(tmp_path / "file" / "work")


def test_derived_planes_are_empty_each_time(tmp_path: Path) -> None:
    made = store(tmp_path / "work")
    first, second = made.fresh_planes([SIZE, (650, 750)])
    first[:5, :5] = 7
    assert second.shape == (650, 750)
    assert not made.fresh_planes([SIZE, (650, 750)])[0][:].any()


@given(st.integers(1, 20_000), st.integers(1, 9_000))
@settings(max_examples=100)
def test_panels_cover_the_width_once_and_start_at_chunks(width: int, panel: int) -> None:
    panels = panels_of(width, panel)
    assert panels[0][0] == 0
    assert panels[-1][1] == width
    assert all(a[1] == b[0] and b[0] % CHUNK_PX == 0 for a, b in itertools.pairwise(panels))
    assert all(0 < right - left <= max(panel, CHUNK_PX) for left, right in panels)


spans = st.tuples(st.integers(0, 1299), st.integers(1, 700), st.integers(0, 1499), st.integers(1, 700))


@given(st.lists(st.tuples(spans, st.integers(0, 2)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_plane_holds_what_an_array_holds(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[tuple[int, int, int, int], int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glomtile.inference.label_store._CACHED_CHUNKS", 2)
        plane, expected = fresh(tmp_path_factory.mktemp("work") / "w"), np.zeros(SIZE, np.uint8)
        for (top, height, left, width), number in writes:
            part = expected[top : top + height, left : left + width]
            part[:] = number
            plane[top : top + height, left : left + width] = part
            assert (plane[top : top + 9, left : left + 9] == expected[top : top + 9, left : left + 9]).all()
        assert (plane[:] == expected).all()
        assert (Plane(plane._array, plane._folder)[:] == expected).all()
    for row in range(0, SIZE[0], CHUNK_PX):
        for column in range(0, SIZE[1], CHUNK_PX):
            box = Box(row, column, row + CHUNK_PX, column + CHUNK_PX)
            assert not plane.is_blank(box) or not expected[row : box.bottom, column : box.right].any()


@pytest.mark.parametrize(
    "key", [(slice(0, 10, 2), slice(None)), slice(None, None, -1), (0, 0), 3, (slice(None),) * 3, ()]
)
def test_a_plane_refuses_keys_other_than_slices(tmp_path: Path, key: object) -> None:
    plane = fresh(tmp_path / "work")
    with pytest.raises(ArgumentError, match="slices of step 1"):
        plane[key]  # type: ignore[index]
    with pytest.raises(ArgumentError, match="slices of step 1"):
        plane[key] = np.uint8(1)  # type: ignore[index]


def test_numpy_reads_a_whole_plane(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[3:5, 7:9] = 2
    whole = np.asarray(plane)
    assert (whole.shape, whole.dtype, int(whole.sum())) == (SIZE, np.uint8, 8)
    assert np.asarray(plane, np.float32).dtype == np.float32


def test_only_chunks_with_labels_are_files(tmp_path: Path) -> None:
    first = LabelStore(tmp_path / "work", SIZE, [(0, SIZE[1])], {})
    band = np.zeros((CHUNK_PX, SIZE[1]), np.uint8)
    band[5, CHUNK_PX + 3] = 1
    first.append(0, band, band * 0)
    again = LabelStore(tmp_path / "work", SIZE, [(0, SIZE[1])], {})
    assert again.rows_done == [CHUNK_PX]
    assert not again.labels.is_blank(Box(0, CHUNK_PX, 1, CHUNK_PX + 1))
    assert again.labels.is_blank(Box(0, 0, CHUNK_PX, CHUNK_PX))
    assert again.confidence.is_blank(Box(0, 0, *SIZE))
    assert (again.labels[:CHUNK_PX] == band).all()
    chunks = [p for p in (tmp_path / "work").rglob("c/*/*") if p.is_file()]
    assert [p.parts[-4:] for p in chunks] == [("labels", "c", "0", "1")]


def test_a_chunk_overwritten_with_background_is_removed(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[0:600, 0:600] = 1
    plane[0:600, 0:600] = 0
    assert not plane[:].any()
    assert [p for p in (tmp_path / "work").rglob("shaped0/c/*/*") if p.is_file()] == []


def test_half_a_chunk_of_a_killed_writer_is_no_chunk(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[0:10, 0:10] = 1
    (chunk,) = [p for p in (tmp_path / "work").rglob("c/0/0") if p.is_file()]
    chunk.with_name("1.0f0f.partial").write_bytes(b"half")
    again = Plane(plane._array, chunk.parents[2])
    assert not again.is_blank(Box(0, 0, 1, 1))
    assert again.is_blank(Box(0, CHUNK_PX, 1, CHUNK_PX + 1))


def test_masks_have_the_same_bytes_from_planes_and_from_arrays(tmp_path: Path) -> None:
    size = (2600, 2100)
    labels = np.zeros(size, np.uint8)
    labels[700:900, 600:1500] = 1
    labels[2599, 2099] = 1
    on_disk = LabelStore(tmp_path / "work", size, [(0, size[1])], {}).fresh_planes(level_sizes(size))
    arrays = [np.full(level, 9, np.uint8) for level in level_sizes(size)]
    on_disk[0][:, :], arrays[0][:] = labels, labels
    for levels in (on_disk, arrays):
        for upper, lower in itertools.pairwise(levels):
            halve(upper, lower)
    assert all((a[:] == b).all() for a, b in zip(on_disk, arrays, strict=True))
    for name, levels in (("disk", on_disk), ("array", arrays)):
        write_mask_pyramid(tmp_path / f"{name}.ome.tif", levels, GLOMERULI, 2.0, name="a", identity="a")
        write_label_zarr(tmp_path / f"{name}.zarr", levels, GLOMERULI, 2.0, "a")
    assert (tmp_path / "disk.ome.tif").read_bytes() == (tmp_path / "array.ome.tif").read_bytes()
    assert (tifffile.imread(tmp_path / "disk.ome.tif") == labels).all()
    assert tree(tmp_path / "disk.zarr") == tree(tmp_path / "array.zarr")
