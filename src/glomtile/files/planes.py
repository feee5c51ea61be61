"""Planes of class numbers on disk, cut into chunks: those without a label are neither read nor written."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from glomtile.errors import ArgumentError, StorageError
from glomtile.types import Box, UInt8

if TYPE_CHECKING:
    import zarr

CHUNK_PX = 512
"""Side of a chunk."""

_Key = slice | tuple[slice, slice]


class SparsePlane:
    """A Zarr array that knows which of its chunks are there, so that glass costs next to nothing.

    Parameters
    ----------
    array : zarr.Array
        ``(H, W) uint8`` in chunks of `CHUNK_PX` a side, 0 where nothing was written.
    folder : Path
        Where it lies.

    Notes
    -----
    Which chunks there are is read from the folder once: of one plane only one object may write. Reading
    chunks while others are written is safe, from another thread too.
    """

    def __init__(self, array: zarr.Array[Any], folder: Path) -> None:
        self._array, self._folder = array, folder
        self._owner: object = None
        self._there = set(_chunks_in(folder))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        return tuple(self._array.shape)

    def hold(self, owner: object) -> None:
        """Keep alive with this plane what its folder goes with: a `glomtile.files.scratch.Scratch`."""
        self._owner = owner

    def is_blank(self, box: Box) -> bool:
        """Whether nothing but 0 was written to any chunk that a box meets."""
        if not self._there:
            return True
        return not any(place in self._there for place in _places(box))

    def __getitem__(self, key: _Key) -> UInt8:
        """A copy of the pixels of two slices of step 1.

        Raises
        ------
        ArgumentError
            The key is anything else.
        StorageError
            Something was written and the folder is gone: Zarr would take that for 0.
        """
        box = box_of(key, self.shape)
        result = np.zeros((box.height, box.width), np.uint8)
        if self._there and not self._folder.exists():
            raise StorageError(self._folder, "expected the plane that was written there, found it gone")
        for place in _places(box):
            if place in self._there:
                here, there = _shared(place, box)
                result[there] = np.asarray(self._array[_rows_columns(place, here)], np.uint8)
        return result

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        """All of it: what `numpy.asarray` takes."""
        if copy is False:
            raise ValueError("expected leave to copy: the pixels lie on disk")
        return np.asarray(self[:, :], dtype)

    def __setitem__(self, key: _Key, value: UInt8 | int) -> None:
        box = box_of(key, self.shape)
        value = np.broadcast_to(np.asarray(value, np.uint8), (box.height, box.width))
        if not box.height or not box.width:
            return
        for _, row in itertools.groupby(_places(box), key=lambda place: place[0]):
            wanted = [place for place in row if place in self._there or value[_shared(place, box)[1]].any()]
            # Chunks side by side are written in one call: their packing then runs at once.
            for _, run in itertools.groupby(enumerate(wanted), key=lambda entry: entry[1][1] - entry[0]):
                places = [place for _, place in run]
                self._write(box, places[0], places[-1], value)
                self._there.update(places)

    def _write(self, box: Box, first: tuple[int, int], last: tuple[int, int], value: UInt8) -> None:
        top, bottom = max(box.top, first[0] * CHUNK_PX), min(box.bottom, (first[0] + 1) * CHUNK_PX)
        left, right = max(box.left, first[1] * CHUNK_PX), min(box.right, (last[1] + 1) * CHUNK_PX)
        self._array[top:bottom, left:right] = value[
            top - box.top : bottom - box.top, left - box.left : right - box.left
        ]


class CachedPlane:
    """A plane on disk, sliced as an array, the chunks last used kept in memory: objects lie near each other.

    Parameters
    ----------
    plane : SparsePlane
        Chunks that were read must not be written by others afterwards.
    most : int
        How many chunks of `CHUNK_PX` a side are kept, a quarter of a megabyte each.

    Notes
    -----
    What is assigned is on disk after `flush`.
    """

    def __init__(self, plane: SparsePlane, most: int = 256) -> None:
        self._plane, self._most = plane, most
        self._held: OrderedDict[tuple[int, int], UInt8] = OrderedDict()
        self._changed: set[tuple[int, int]] = set()

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        return tuple(self._plane.shape)

    def is_blank(self, box: Box) -> bool:
        """Whether nothing but 0 was written to any chunk that a box meets, flushed or not."""
        return self._plane.is_blank(box) and not any(place in self._held for place in _places(box))

    def __getitem__(self, key: _Key) -> UInt8:
        """A copy of the pixels of two slices of step 1."""
        box = box_of(key, self.shape)
        result = np.zeros((box.height, box.width), np.uint8)
        for place in _places(box):
            here, there = _shared(place, box)
            if place in self._held or not self._plane.is_blank(_chunk_box(place)):
                result[there] = self._chunk(place)[here]
        return result

    def __setitem__(self, key: _Key, value: UInt8) -> None:
        box = box_of(key, self.shape)
        for place in _places(box):
            here, there = _shared(place, box)
            self._chunk(place)[here] = value[there]
            self._changed.add(place)

    def flush(self) -> None:
        """Write what was changed."""
        for place in sorted(self._changed):
            self._write(place)

    def _chunk(self, place: tuple[int, int]) -> UInt8:
        if place in self._held:
            self._held.move_to_end(place)
            return self._held[place]
        chunk = self._plane[_slices(_chunk_box(place))]
        self._held[place] = chunk
        if len(self._held) > self._most:
            oldest = next(iter(self._held))
            if oldest in self._changed:
                self._write(oldest)
            del self._held[oldest]
        return chunk

    def _write(self, place: tuple[int, int]) -> None:
        self._plane[_slices(_chunk_box(place))] = self._held[place]
        self._changed.discard(place)


def crop(plane: Any, box: Box) -> UInt8:
    """The pixels of `box` of a plane, an array in memory or on disk."""
    return np.asarray(plane[box.top : box.bottom, box.left : box.right], np.uint8)


def box_of(key: _Key, shape: tuple[int, ...]) -> Box:
    """The pixels that slices of step 1 mean in a plane of that shape; one slice means rows.

    Raises
    ------
    ArgumentError
        It is anything else that an array would take: a number, a mask, another step.
    """
    parts = key if isinstance(key, tuple) else (key, slice(None))
    if len(parts) != 2 or not all(isinstance(part, slice) and part.step in (None, 1) for part in parts):
        raise ArgumentError("key", "slices of step 1 of a plane on disk, [top:bottom, left:right]", key,
                            "take more of its array: plane[:, :][key]")  # fmt: skip
    rows, columns = parts
    (top, bottom, _), (left, right, _) = rows.indices(shape[0]), columns.indices(shape[1])
    return Box(top, left, max(bottom, top), max(right, left))


def _chunks_in(folder: Path) -> Iterator[tuple[int, int]]:
    """Row and column of every chunk of a Zarr v3 array: they lie at ``c/<row>/<column>``."""
    for path in (folder / "c").glob("*/*"):
        if path.parent.name.isdigit() and path.name.isdigit():
            yield int(path.parent.name), int(path.name)


def _places(box: Box) -> Iterator[tuple[int, int]]:
    """Row and column of the chunks that a box meets, in reading order."""
    for row in range(box.top // CHUNK_PX, -(-box.bottom // CHUNK_PX)):
        for column in range(box.left // CHUNK_PX, -(-box.right // CHUNK_PX)):
            yield row, column


def _shared(place: tuple[int, int], box: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a chunk and a box share: where it lies in the chunk, and where in the box."""
    high, wide = place[0] * CHUNK_PX, place[1] * CHUNK_PX
    top, bottom = max(box.top, high), min(box.bottom, high + CHUNK_PX)
    left, right = max(box.left, wide), min(box.right, wide + CHUNK_PX)
    return (
        (slice(top - high, bottom - high), slice(left - wide, right - wide)),
        (slice(top - box.top, bottom - box.top), slice(left - box.left, right - box.left)),
    )


def _rows_columns(place: tuple[int, int], here: tuple[slice, slice]) -> tuple[slice, slice]:
    """Slices in a chunk as slices of the plane."""
    (high, wide), (rows, columns) = (n * CHUNK_PX for n in place), here
    return slice(high + rows.start, high + rows.stop), slice(wide + columns.start, wide + columns.stop)


def _chunk_box(place: tuple[int, int]) -> Box:
    top, left = place[0] * CHUNK_PX, place[1] * CHUNK_PX
    return Box(top, left, top + CHUNK_PX, left + CHUNK_PX)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)
