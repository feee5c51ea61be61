"""Label rows on disk, resumable."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from glomtile.errors import ArgumentError, PlaceError, StorageError
from glomtile.io import atomic
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
        """Keep alive with this plane what its folder goes with: a `glomtile.io.atomic.TemporaryFolder`."""
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


_STATE, _ROWS, _ARRAYS = "state.json", "rows-{}.txt", "planes.zarr"
_LABELS, _CONFIDENCE = "labels", "confidence"
# All that may lie in the folder, what a killed process was writing and what macOS puts beside files included.
_OURS = re.compile(
    r"(\._)?(state\.json|rows-\d+\.txt|planes\.zarr|\.(state|rows-\d+)\.[0-9a-f-]+\.partial\.(json|txt))"
)
_OUR_ARRAYS = re.compile(r"(\._)?(labels|confidence|shaped\d+|zarr\.(json|[0-9a-f]{32}\.partial))")


class LabelStore:
    """Class numbers and confidence of one picture, written band by band in panels side by side.

    Parameters
    ----------
    folder : Path
        Its own; whatever of ours lies there with another identity is removed, and nothing else is.
    size_px : (int, int)
        ``(H, W)``.
    panels : sequence of (int, int)
        Half-open columns of the panels, side by side, each beginning at a multiple of `CHUNK_PX`. Rows found
        on disk keep the panels they were written in: pixels do not depend on them.
    identity : mapping
        What decides the pixels, as JSON has it: rows found on disk are taken up only when it is the same.

    Attributes
    ----------
    panels : list of (int, int)
    labels : SparsePlane
        ``(H, W) uint8``; 0 where nothing was written.
    confidence : SparsePlane
        ``(H, W) uint8``, 0 to 255: how probable the most probable class above 0 is.

    Raises
    ------
    StorageError
        The folder cannot be written.
    PlaceError
        It holds something that is not ours, and rows of another identity or none.

    Notes
    -----
    Zarr, not a memory-mapped TIFF: a chunk without a label takes no space, so a slide's store is as small
    as its tissue; a chunk is written whole or not at all; and several processes can write side by side,
    a panel each, once one of them has begun the folder.
    """

    def __init__(
        self,
        folder: Path,
        size_px: tuple[int, int],
        panels: Sequence[tuple[int, int]],
        identity: Mapping[str, Any],
    ) -> None:
        self._folder = Path(folder)
        self._size_px = size_px
        self.panels = list(panels)
        self._identity = json.loads(json.dumps({**identity, "size_px": size_px}))
        self._rows = [0] * len(self.panels)
        with atomic.storage_errors(self._folder):
            found = self._found()
            if found is None:
                self._begin()
            else:
                self.panels = found
                self._rows = [self._rows_told(panel) for panel in range(len(found))]
            group = _group(self._folder / _ARRAYS, "r+")
            self.labels = self._opened(group, _LABELS)
            self.confidence = self._opened(group, _CONFIDENCE)
        self._group = group

    @property
    def complete(self) -> bool:
        """Whether every row of every panel is written."""
        return all(rows == self._size_px[0] for rows in self._rows)

    @property
    def rows_whole(self) -> int:
        """Rows that are on disk in every panel, from the top."""
        return min(self._rows)

    def rows_done(self, panel: int) -> int:
        """Rows of a panel that are on disk, from the top."""
        return self._rows[panel]

    def writer(self, panel: int) -> PanelWriter:
        """Takes the rows of a panel from the first that is not yet done."""
        return PanelWriter(self, panel)

    def write_band(self, panel: int, top: int, labels: UInt8, confidence: UInt8) -> None:
        """Put whole rows of chunks on disk and say so.

        Raises
        ------
        StorageError
            The disk refuses; what was done before stays done.
        """
        left, right = self.panels[panel]
        bottom = top + labels.shape[0]
        with atomic.storage_errors(self._folder):
            self.labels[top:bottom, left:right] = labels
            self.confidence[top:bottom, left:right] = confidence
        self._rows[panel] = bottom
        atomic.write_text(self._rows_path(panel), str(bottom))

    def fresh_planes(self, sizes_px: Sequence[tuple[int, int]], name: str = "shaped") -> list[SparsePlane]:
        """Empty planes ``uint8`` of the sizes wanted, for what is derived from the labels; older ones go."""
        with atomic.storage_errors(self._folder):
            for number, size in enumerate(sizes_px):
                _plane(self._group, f"{name}{number}", size, overwrite=True)
            return [self._opened(self._group, f"{name}{number}") for number in range(len(sizes_px))]

    def _opened(self, group: Any, name: str) -> SparsePlane:
        return SparsePlane(group[name], self._folder / _ARRAYS / name)

    def _found(self) -> list[tuple[int, int]] | None:
        """The panels, if an earlier run of the same identity, or another process, began the folder."""
        try:
            state = json.loads((self._folder / _STATE).read_text("utf-8"))
            same = state["identity"] == self._identity
            panels = [(int(left), int(right)) for left, right in state["panels"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return panels if same else None

    def _rows_path(self, panel: int) -> Path:
        return self._folder / _ROWS.format(panel)

    def _rows_told(self, panel: int) -> int:
        """Rows of a panel that are on disk; none where nothing readable says so."""
        try:
            rows = int(self._rows_path(panel).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return 0
        return rows if 0 <= rows <= self._size_px[0] else 0

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if any(self._folder.iterdir()):
            _require_ours(self._folder)
            _clear(self._folder)
            self._folder.mkdir()
        # First of all, so that a stop in the next lines leaves a folder that says whose it is; without
        # panels, as planes may be missing.
        self._tell(None)
        group = _group(self._folder / _ARRAYS, "w")
        for name in (_LABELS, _CONFIDENCE):
            _plane(group, name, self._size_px)
        self._tell(self.panels)

    def _tell(self, panels: list[tuple[int, int]] | None) -> None:
        atomic.write_json(self._folder / _STATE, {"identity": self._identity, "panels": panels})


class PanelWriter:
    """Gathers rows of any height into bands of whole chunks.

    Call it with rows from top to bottom, then `finish`.
    """

    def __init__(self, store: LabelStore, panel: int) -> None:
        left, right = store.panels[panel]
        self._store, self._panel = store, panel
        self._height = store._size_px[0]
        self._top = store.rows_done(panel)
        self._filled = 0
        self._labels, self._confidence = (np.zeros((CHUNK_PX, right - left), np.uint8) for _ in range(2))

    def __call__(self, top: int, labels: UInt8, confidence: UInt8) -> None:
        """Take rows ``(h, W)`` that begin at `top`, where the last ended."""
        if top != self._top + self._filled:
            raise StorageError(self._store._folder, f"expected row {self._top + self._filled}, got row {top}")
        at = 0
        while at < labels.shape[0]:
            count = min(CHUNK_PX - self._filled, labels.shape[0] - at)
            place = slice(self._filled, self._filled + count)
            self._labels[place], self._confidence[place] = (
                labels[at : at + count],
                confidence[at : at + count],
            )
            self._filled += count
            at += count
            if self._filled == CHUNK_PX or self._top + self._filled == self._height:
                self._flush()

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        self._store.write_band(self._panel, self._top, self._labels[:filled], self._confidence[:filled])
        self._top += filled


def _require_ours(folder: Path) -> None:
    """Raise where anything in a folder was not made by a store."""
    foreign = sorted(path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name))
    arrays = folder / _ARRAYS
    if not foreign and arrays.is_dir():
        foreign = sorted(p.name for p in arrays.iterdir() if not _OUR_ARRAYS.fullmatch(p.name))
    # A state that was damaged is known by the planes beside it: they are named as no other program would.
    if not foreign and (folder / _STATE).exists() and not (arrays.is_dir() or _is_state(folder / _STATE)):
        foreign = [f"a {_STATE} of another program"]
    if foreign:
        raise PlaceError(
            folder,
            f"expected an empty folder or one of unfinished work, got one of something else: {foreign[0]}",
            "nothing in it was changed; name another folder",
        )


def _is_state(path: Path) -> bool:
    """Whether `LabelStore` wrote it, for whatever identity."""
    try:
        state = json.loads(path.read_text("utf-8"))
        return set(state) == {"identity", "panels"} and "size_px" in state["identity"]
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def remove_work(folder: Path) -> None:
    """Remove the folder of a `LabelStore`, if there is one: nothing in it is wanted any more.

    A stop on the way leaves what the next store there clears away, and nothing that it would take up.

    Raises
    ------
    StorageError
        Something in it cannot be removed, or is not ours.
    """
    if folder.exists():
        with atomic.storage_errors(folder):
            _require_ours(folder)
            _clear(folder)


def _clear(folder: Path) -> None:
    """Remove a folder of ours; its state goes first, so that a stop on the way leaves nothing to continue."""
    with suppress(FileNotFoundError):
        (folder / _STATE).replace(folder / ".state.0.partial.json")
    shutil.rmtree(folder)


def panels_of(width_px: int, panel_px: int) -> list[tuple[int, int]]:
    """Columns of panels of at most `panel_px`, a multiple of `CHUNK_PX`, that cover `width_px`."""
    step = max(panel_px // CHUNK_PX, 1) * CHUNK_PX
    return [(left, min(left + step, width_px)) for left in range(0, width_px, step)]


def _group(path: Path, mode: str) -> Any:
    import zarr

    return zarr.open_group(path, mode=mode, zarr_format=3)  # type: ignore[arg-type]


def _plane(group: Any, name: str, size_px: tuple[int, int], overwrite: bool = False) -> Any:
    from zarr.codecs import ZstdCodec

    return group.create_array(
        name,
        shape=size_px,
        dtype="uint8",
        chunks=(CHUNK_PX, CHUNK_PX),
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        overwrite=overwrite,
    )
