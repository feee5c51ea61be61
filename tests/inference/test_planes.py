"""Planes on disk: what an array would hold, and nothing where nothing is."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import ArgumentError
from glomtile.inference.label_store import CHUNK_PX, CachedPlane, LabelStore, SparsePlane
from glomtile.io.ome_tiff import halve, level_sizes, write_mask_pyramid
from glomtile.io.ome_zarr import write_label_zarr
from glomtile.palette import GLOMERULI
from glomtile.types import Box

SIZE = (1300, 1500)


def fresh(folder: Path, size: tuple[int, int] = SIZE) -> SparsePlane:
    (plane,) = LabelStore(folder, size, [(0, size[1])], {}).fresh_planes([size])
    return plane


def chunk_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "zarr.json" and "shaped0" in path.parts
    }


spans = st.tuples(st.integers(0, 1299), st.integers(1, 700), st.integers(0, 1499), st.integers(1, 700))


@given(st.lists(st.tuples(spans, st.integers(0, 2)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_sparse_plane_holds_what_an_array_holds(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[tuple[int, int, int, int], int]]
) -> None:
    plane, expected = fresh(tmp_path_factory.mktemp("work") / "w"), np.zeros(SIZE, np.uint8)
    for (top, height, left, width), number in writes:
        part = expected[top : top + height, left : left + width]
        part[:] = number
        plane[top : top + height, left : left + width] = part
        assert (plane[top : top + 9, left : left + 9] == expected[top : top + 9, left : left + 9]).all()
    assert (plane[:] == expected).all()
    for row in range(0, SIZE[0], CHUNK_PX):
        for column in range(0, SIZE[1], CHUNK_PX):
            box = Box(row, column, row + CHUNK_PX, column + CHUNK_PX)
            assert not plane.is_blank(box) or not expected[row : box.bottom, column : box.right].any()


@pytest.mark.parametrize(
    "key", [(slice(0, 10, 2), slice(None)), slice(None, None, -1), (0, 0), 3, (slice(None),) * 3, ()]
)
def test_what_a_plane_cannot_be_asked_for_is_refused_not_misread(tmp_path: Path, key: object) -> None:
    plane = fresh(tmp_path / "work")
    for each in (plane, CachedPlane(plane)):
        with pytest.raises(ArgumentError, match="slices of step 1"):
            each[key]  # type: ignore[index]
        with pytest.raises(ArgumentError, match="slices of step 1"):
            each[key] = np.uint8(1)  # type: ignore[index]


def test_numpy_takes_a_whole_plane(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[3:5, 7:9] = 2
    whole = np.asarray(plane)
    assert (whole.shape, whole.dtype, int(whole.sum())) == (SIZE, np.uint8, 8)
    assert np.asarray(plane, np.float32).dtype == np.float32


def test_glass_leaves_no_file_and_what_there_is_is_found_again(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "work", SIZE, [(0, SIZE[1])], {})
    band = np.zeros((CHUNK_PX, SIZE[1]), np.uint8)
    band[5, CHUNK_PX + 3] = 1
    store.write_band(0, 0, band, band * 0)
    again = LabelStore(tmp_path / "work", SIZE, [(0, SIZE[1])], {})
    assert again.rows_whole == CHUNK_PX
    assert not again.labels.is_blank(Box(0, CHUNK_PX, 1, CHUNK_PX + 1))
    assert again.labels.is_blank(Box(0, 0, CHUNK_PX, CHUNK_PX))
    assert again.confidence.is_blank(Box(0, 0, *SIZE))
    assert (again.labels[:CHUNK_PX] == band).all()
    chunks = [p for p in (tmp_path / "work").rglob("c/*/*") if p.is_file()]
    assert [p.parts[-4:] for p in chunks] == [("labels", "c", "0", "1")]


def test_what_is_overwritten_with_glass_is_glass(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[0:600, 0:600] = 1
    plane[0:600, 0:600] = 0
    assert not plane[:].any()
    assert chunk_files(tmp_path / "work") == set()


def test_half_a_chunk_that_a_kill_left_is_no_chunk(tmp_path: Path) -> None:
    plane = fresh(tmp_path / "work")
    plane[0:10, 0:10] = 1
    (chunk,) = [p for p in (tmp_path / "work").rglob("c/0/0") if p.is_file()]
    chunk.with_name("1.0f0f.partial").write_bytes(b"half")
    array = plane._array
    assert not SparsePlane(array, chunk.parents[2]).is_blank(Box(0, 0, 1, 1))
    assert SparsePlane(array, chunk.parents[2]).is_blank(Box(0, CHUNK_PX, 1, CHUNK_PX + 1))


def test_a_cached_plane_knows_of_glass_and_of_what_is_not_yet_on_disk(tmp_path: Path) -> None:
    cached = CachedPlane(fresh(tmp_path / "work"))
    assert cached.is_blank(Box(0, 0, *SIZE))
    cached[3:4, 3:4] = np.ones((1, 1), np.uint8)
    assert not cached.is_blank(Box(0, 0, 1, 1))
    assert cached[0:5, 0:5].sum() == 1
    assert cached.is_blank(Box(0, CHUNK_PX, 1, SIZE[1]))


def test_rows_are_read_while_those_below_are_written(tmp_path: Path) -> None:
    size = (CHUNK_PX * 12, CHUNK_PX * 2)
    expected = np.random.default_rng(0).integers(0, 3, size, dtype=np.uint8)
    plane, wrong = fresh(tmp_path / "work", size), list[int]()
    done = threading.Semaphore(0)

    def read() -> None:
        for top in range(0, size[0], CHUNK_PX):
            done.acquire()
            rows = slice(top, top + CHUNK_PX)
            if not (plane[rows] == expected[rows]).all():
                wrong.append(top)

    reader = threading.Thread(target=read)
    reader.start()
    for top in range(0, size[0], CHUNK_PX):
        plane[top : top + CHUNK_PX, :] = expected[top : top + CHUNK_PX]
        done.release()
    reader.join()
    assert wrong == []


def test_glass_that_is_known_is_written_as_glass_that_is_read(tmp_path: Path) -> None:
    """Mask, pyramid and OME-Zarr have the same bytes, whether a plane knows its glass or not."""
    size = (2600, 2100)
    labels = np.zeros(size, np.uint8)
    labels[700:900, 600:1500] = 1
    labels[2599, 2099] = 1
    store = LabelStore(tmp_path / "work", size, [(0, size[1])], {})
    sparse = store.fresh_planes(level_sizes(size))
    arrays = [np.full(level, 9, np.uint8) for level in level_sizes(size)]
    sparse[0][:, :], arrays[0][:] = labels, labels
    for planes in (sparse, arrays):
        for upper, lower in itertools.pairwise(planes):
            halve(upper, lower)
    assert all((a[:] == b).all() for a, b in zip(sparse, arrays, strict=True))
    for name, planes in (("sparse", sparse), ("array", arrays)):
        write_mask_pyramid(tmp_path / f"{name}.ome.tif", planes, GLOMERULI, 2.0, name="a", identity="a")
        write_label_zarr(tmp_path / f"{name}.zarr", planes, GLOMERULI, 2.0, "a")
    assert (tmp_path / "sparse.ome.tif").read_bytes() == (tmp_path / "array.ome.tif").read_bytes()
    assert (tifffile.imread(tmp_path / "sparse.ome.tif") == labels).all()
    known, read = (
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "sparse.zarr", tmp_path / "array.zarr")
    )
    assert known == read
