"""Label rows of a slide on disk, in Zarr arrays that a stopped run continues."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from glomtile.errors import ArgumentError, PlaceError, StorageError
from glomtile.io import atomic
from glomtile.types import Box, UInt8

CHUNK_PX = 512
"""Side of a chunk."""

_CACHED_CHUNKS = 64
_STATE, _ARRAYS = "state.json", "planes.zarr"
# Also what a killed process was writing, and the files that macOS puts beside others.
_OWN_FILES = re.compile(r"(\._)?(state\.json|planes\.zarr)|\.state\..*")
_Key = slice | tuple[slice, slice]


class Plane:
    """A ``(H, W) uint8`` Zarr array, 0 where nothing was written.

    Chunks of zeros take neither space nor time. The chunks used last stay in memory: objects are near each
    other.

    Parameters
    ----------
    array : zarr.Array
        In chunks of `CHUNK_PX` a side. No other object may write to it.
    folder : Path
        Its folder; existing chunks are listed once.
    keep : object, optional
        Kept alive with this plane, such as a `glomtile.io.atomic.TemporaryFolder`.
    """

    def __init__(self, array: Any, folder: Path, keep: object = None) -> None:
        self._array, self._folder, self._keep = array, folder, keep
        self.shape: tuple[int, int] = tuple(array.shape)
        self._cache: dict[tuple[int, int], UInt8] = {}
        self._written = {
            (int(path.parent.name), int(path.name))
            for path in (folder / "c").glob("*/*")  # Zarr v3 names chunks c/<row>/<column>
            if path.parent.name.isdigit() and path.name.isdigit()
        }

    def is_blank(self, box: Box) -> bool:
        """Return True if nothing but 0 was written to the chunks of a box."""
        return not any(place in self._written for place in _chunks(box))

    def __getitem__(self, key: _Key) -> UInt8:
        """Return a copy of the pixels.

        Raises
        ------
        ArgumentError
            The key is anything but slices of step 1.
        StorageError
            The folder was removed: Zarr would return 0.
        """
        box = _box_of(key, self.shape)
        pixels = np.zeros((box.height, box.width), np.uint8)
        if self._written and not self._folder.exists():
            raise StorageError(self._folder, "expected the plane that was written, it does not exist")
        for place in _chunks(box):
            if place in self._written:
                within, outside = _overlap(place, box)
                pixels[outside] = self._chunk(place)[within]
        return pixels

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        if copy is False:
            raise ValueError("expected copy=True or None: the pixels are on disk")
        return np.asarray(self[:, :], dtype)

    def __setitem__(self, key: _Key, value: UInt8 | int) -> None:
        box = _box_of(key, self.shape)
        value = np.broadcast_to(np.asarray(value, np.uint8), (box.height, box.width))
        for place in _chunks(box):
            within, outside = _overlap(place, box)
            if place in self._written or value[outside].any():
                chunk = self._chunk(place)
                chunk[within] = value[outside]
                self._array[self._slices(place)] = chunk
                self._written.add(place)

    def _chunk(self, place: tuple[int, int]) -> UInt8:
        chunk = self._cache.pop(place, None)
        if chunk is None:
            rows, columns = self._slices(place)
            if place in self._written:
                chunk = np.array(self._array[rows, columns], np.uint8)
            else:
                chunk = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        self._cache[place] = chunk
        if len(self._cache) > _CACHED_CHUNKS:
            del self._cache[next(iter(self._cache))]
        return chunk

    def _slices(self, place: tuple[int, int]) -> tuple[slice, slice]:
        rows, columns = (
            slice(i * CHUNK_PX, min((i + 1) * CHUNK_PX, side))
            for i, side in zip(place, self.shape, strict=True)
        )
        return rows, columns


def _box_of(key: _Key, shape: tuple[int, int]) -> Box:
    parts = key if isinstance(key, tuple) else (key, slice(None))
    if len(parts) != 2 or not all(isinstance(part, slice) and part.step in (None, 1) for part in parts):
        raise ArgumentError("key", "slices of step 1 of a plane on disk, [top:bottom, left:right]", key,
                            "read the whole array first: plane[:, :][key]")  # fmt: skip
    (top, bottom, _), (left, right, _) = (part.indices(n) for part, n in zip(parts, shape, strict=True))
    return Box(top, left, max(bottom, top), max(right, left))


def _chunks(box: Box) -> Iterator[tuple[int, int]]:
    """Yield row and column of the chunks that a box meets, in reading order."""
    for row in range(box.top // CHUNK_PX, -(-box.bottom // CHUNK_PX)):
        for column in range(box.left // CHUNK_PX, -(-box.right // CHUNK_PX)):
            yield row, column


def _overlap(place: tuple[int, int], box: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of a chunk, and of a box, where they overlap."""
    high, wide = place[0] * CHUNK_PX, place[1] * CHUNK_PX
    top, bottom = max(box.top, high), min(box.bottom, high + CHUNK_PX)
    left, right = max(box.left, wide), min(box.right, wide + CHUNK_PX)
    return (
        (slice(top - high, bottom - high), slice(left - wide, right - wide)),
        (slice(top - box.top, bottom - box.top), slice(left - box.left, right - box.left)),
    )


class LabelStore:
    """Class numbers and confidence of one slide, written band by band in panels side by side.

    Parameters
    ----------
    folder : Path
        Its own. Rows of another identity are removed; a folder with anything else is refused.
    size_px : (int, int)
        ``(H, W)``.
    panels : sequence of (int, int)
        Half-open columns of the panels, side by side, each starting at a multiple of `CHUNK_PX`. Existing
        rows keep their panels: pixels do not depend on them.
    identity : mapping
        Whatever determines the pixels, as JSON: only rows of the same identity are continued.
    keep : object, optional
        Kept alive with the planes.

    Attributes
    ----------
    panels : list of (int, int)
    rows_done : list of int
        Rows of each panel on disk, from the top.
    labels, confidence : Plane
        Class numbers, and the probability of the most probable class above 0, 0 to 255.

    Raises
    ------
    StorageError
        The folder cannot be written.
    PlaceError
        It contains other files, and rows of another identity or none.
    """

    def __init__(
        self,
        folder: Path,
        size_px: tuple[int, int],
        panels: Sequence[tuple[int, int]],
        identity: Mapping[str, Any],
        keep: object = None,
    ) -> None:
        self._folder, self._keep = Path(folder), keep
        self._height = size_px[0]
        self._identity = json.loads(json.dumps({**identity, "size_px": size_px}))
        self.panels, self.rows_done = list(panels), [0] * len(panels)
        self._pending: list[tuple[UInt8, UInt8]] = []
        with atomic.storage_errors(self._folder):
            state = _read_state(self._folder)
            if state is not None and state["identity"] == self._identity and state["rows"] is not None:
                self.panels, self.rows_done = (
                    [(left, right) for left, right in state["panels"]],
                    state["rows"],
                )
            else:
                self._create(size_px)
            self._group = _open_group(self._folder / _ARRAYS, "r+")
            self.labels, self.confidence = self._plane("labels"), self._plane("confidence")

    def append(self, panel: int, labels: UInt8, confidence: UInt8) -> None:
        """Append rows ``(h, W)`` to a panel; each row of chunks is written when it is complete.

        Raises
        ------
        StorageError
            The disk is full or refuses; rows written before stay.
        """
        self._pending.append((labels, confidence))
        top = self.rows_done[panel]
        count = sum(len(rows) for rows, _ in self._pending)
        if count < CHUNK_PX and top + count < self._height:
            return
        joined = [np.concatenate(rows) for rows in zip(*self._pending, strict=True)]
        ready = count if top + count == self._height else count - count % CHUNK_PX
        left, right = self.panels[panel]
        with atomic.storage_errors(self._folder):
            for plane, rows in zip((self.labels, self.confidence), joined, strict=True):
                plane[top : top + ready, left:right] = rows[:ready]
        self._pending = [(joined[0][ready:], joined[1][ready:])] if ready < count else []
        self.rows_done[panel] = top + ready
        self._write_state(self.rows_done)

    def fresh_planes(self, sizes_px: Sequence[tuple[int, int]]) -> list[Plane]:
        """Return empty planes for what is derived from the labels; older ones are removed."""
        with atomic.storage_errors(self._folder):
            for number, size in enumerate(sizes_px):
                _create_array(self._group, f"shaped{number}", size)
            return [self._plane(f"shaped{number}") for number in range(len(sizes_px))]

    def _plane(self, name: str) -> Plane:
        return Plane(self._group[name], self._folder / _ARRAYS / name, self._keep)

    def _create(self, size_px: tuple[int, int]) -> None:
        remove_work(self._folder)
        self._folder.mkdir(parents=True)
        # Written first, so that a stop in the next lines leaves a folder known as ours.
        self._write_state(None)
        group = _open_group(self._folder / _ARRAYS, "w")
        for name in ("labels", "confidence"):
            _create_array(group, name, size_px)
        self._write_state(self.rows_done)

    def _write_state(self, rows: list[int] | None) -> None:
        state = {"identity": self._identity, "panels": self.panels, "rows": rows}
        atomic.write_json(self._folder / _STATE, state)


def remove_work(folder: Path) -> None:
    """Remove the folder of a `LabelStore`, if it exists.

    A stop on the way leaves a folder that the next store removes, and nothing that it would continue.

    Raises
    ------
    StorageError
        Something in it cannot be removed, or is not ours.
    """
    if not folder.exists():
        return
    with atomic.storage_errors(folder):
        foreign = sorted(path.name for path in folder.iterdir() if not _OWN_FILES.fullmatch(path.name))
        state_alone = (folder / _STATE).exists() and not (folder / _ARRAYS).is_dir()
        if (
            not foreign and state_alone and _read_state(folder) is None
        ):  # damaged ones have arrays beside them
            foreign = [f"a {_STATE} of another program"]
        if foreign:
            raise PlaceError(
                folder,
                f"expected an empty folder or one of unfinished rows, got one with {foreign[0]}",
                "nothing was changed; name another folder",
            )
        with suppress(FileNotFoundError):
            (folder / _STATE).replace(folder / f".state.removed{Path(_STATE).suffix}")
        shutil.rmtree(folder)


def panels_of(width_px: int, panel_px: int) -> list[tuple[int, int]]:
    """Return the columns of panels of at most `panel_px`, a multiple of `CHUNK_PX`, that cover `width_px`."""
    step = max(panel_px // CHUNK_PX, 1) * CHUNK_PX
    return [(left, min(left + step, width_px)) for left in range(0, width_px, step)]


def _read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a store, None if it is missing or damaged."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text("utf-8"))
        if set(state) == {"identity", "panels", "rows"} and "size_px" in state["identity"]:
            return state
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        pass
    return None


def _open_group(path: Path, mode: str) -> Any:
    import zarr

    return zarr.open_group(path, mode=mode, zarr_format=3)  # type: ignore[arg-type]


def _create_array(group: Any, name: str, size_px: tuple[int, int]) -> None:
    from zarr.codecs import ZstdCodec

    group.create_array(
        name,
        shape=size_px,
        dtype="uint8",
        chunks=(CHUNK_PX, CHUNK_PX),
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        overwrite=True,
    )
