"""Label rows on disk while a slide is being segmented, and how far it got."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import PlaceError, StorageError
from glomtile.files import workspace
from glomtile.files.planes import CHUNK_PX, SparsePlane
from glomtile.types import UInt8

_STATE, _ROWS, _ARRAYS = "state.json", "rows-{}.txt", "planes.zarr"
_LABELS, _CONFIDENCE = "labels", "confidence"
# All that may lie in the folder, what a killed process was writing and what macOS puts beside files included.
_OURS = re.compile(
    r"(\._)?(state\.json|rows-\d+\.txt|planes\.zarr|\.(state|rows-\d+)\.[0-9a-f-]+\.(json|txt))"
    r"|\.glomtile-unfinished"
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
        with workspace.storage_errors(self._folder):
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
        with workspace.storage_errors(self._folder):
            self.labels[top:bottom, left:right] = labels
            self.confidence[top:bottom, left:right] = confidence
        self._rows[panel] = bottom
        workspace.write_text(self._rows_path(panel), str(bottom))

    def fresh_planes(self, sizes_px: Sequence[tuple[int, int]], name: str = "shaped") -> list[SparsePlane]:
        """Empty planes ``uint8`` of the sizes wanted, for what is derived from the labels; older ones go."""
        with workspace.storage_errors(self._folder):
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
            workspace.empty_folder(self._folder, _STATE)
        # First of all, so that a stop in the next lines leaves a folder that says whose it is; without
        # panels, as planes may be missing.
        self._tell(None)
        group = _group(self._folder / _ARRAYS, "w")
        for name in (_LABELS, _CONFIDENCE):
            _plane(group, name, self._size_px)
        self._tell(self.panels)

    def _tell(self, panels: list[tuple[int, int]] | None) -> None:
        workspace.write_json(self._folder / _STATE, {"identity": self._identity, "panels": panels})


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
        with workspace.storage_errors(folder):
            _require_ours(folder)
            workspace.remove_folder(folder, _STATE)


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
