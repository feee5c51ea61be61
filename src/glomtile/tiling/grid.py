"""Windows over an image: positions, owned areas and overlaps.

A plan is the product of two axes. On an axis, window `k` reads
``[start + k * core, start + k * core + window)`` and owns the middle ``core = window - 2 * overlap`` of it.
The first window starts `overlap` before the image and the last extends over its end; the reader mirrors
tissue there. So every pixel has at least `overlap` pixels of surroundings in the window that owns it, at the
edge too, however the grid is moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, SupportsIndex

from glomtile.errors import UsageError
from glomtile.types import Box


class Span(NamedTuple):
    """A half-open stretch of one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Axis:
    """One direction of a plan; all lengths in pixels.

    Parameters
    ----------
    length_px : int
        Length of the image, at least 1.
    window_px : int
        Length of a window, more than twice the overlap.
    overlap_px : int
        Margin that a window reads around its own pixels, per side.
    offset_px : int
        Shift of the grid; only its remainder by ``core_px`` matters.
    """

    length_px: int
    window_px: int
    overlap_px: int
    offset_px: int = 0

    @property
    def core_px(self) -> int:
        """Distance between windows, and number of pixels that a window owns."""
        return self.window_px - 2 * self.overlap_px

    def __len__(self) -> int:
        return -(-(self.length_px - self._first_core) // self.core_px)

    def read(self, k: int) -> Span:
        """Return the pixels that window `k` reads, which may extend over both ends of the image."""
        start = self._first_core + k * self.core_px - self.overlap_px
        return Span(start, start + self.window_px)

    def own(self, k: int) -> Span:
        """Return the pixels of the image that window `k` owns; never empty, never shared."""
        start = self._first_core + k * self.core_px
        return Span(max(start, 0), min(start + self.core_px, self.length_px))

    @property
    def _first_core(self) -> int:
        moved = self.offset_px % self.core_px
        return moved - self.core_px if moved else 0


class Window(NamedTuple):
    """One window of a plan: its position on the grid, the box it reads and the box it owns."""

    row: int
    column: int
    read: Box
    own: Box


@dataclass(frozen=True)
class Plan:
    """Windows over ``(H, W)``, without pixels; iterates over them row by row."""

    rows: Axis
    columns: Axis
    align_px: int = 1

    @property
    def size_px(self) -> tuple[int, int]:
        """``(H, W)`` of the image."""
        return self.rows.length_px, self.columns.length_px

    @property
    def window_px(self) -> tuple[int, int]:
        """``(h, w)`` of every window."""
        return self.rows.window_px, self.columns.window_px

    @property
    def core_px(self) -> tuple[int, int]:
        """``(h, w)`` between windows."""
        return self.rows.core_px, self.columns.core_px

    @property
    def overlap_px(self) -> int:
        """Margin per side of a window, in pixels."""
        return self.rows.overlap_px

    @property
    def overhead(self) -> float:
        """Pixels read per pixel of the image, at least 1."""
        read = len(self) * self.rows.window_px * self.columns.window_px
        return read / (self.rows.length_px * self.columns.length_px)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Window]:
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self.window(row, column)

    def window(self, row: int, column: int) -> Window:
        """Return the window at a position of the grid."""
        reads = self.rows.read(row), self.columns.read(column)
        owns = self.rows.own(row), self.columns.own(column)
        return Window(row, column, _box(*reads), _box(*owns))

    def __str__(self) -> str:
        (height, width), (h, w), (core_h, core_w) = self.size_px, self.window_px, self.core_px
        return (
            f"{height} x {width} px in {len(self.rows)} x {len(self.columns)} windows of {h} x {w} px, "
            f"one every {core_h} x {core_w} px, margin {self.overlap_px} px per side, "
            f"aligned to {self.align_px} px; {self.overhead:.2f} px read per px"
        )


def plan_windows(
    size_px: tuple[int, int],
    window_px: int | tuple[int, int],
    overlap_px: int,
    align_px: int = 1,
    offset_px: tuple[int, int] = (0, 0),
) -> Plan:
    """Cover an image with windows.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of the image, each at least 1.
    window_px : int or (int, int)
        Side or ``(h, w)`` of a window, rounded up to a multiple of `align_px`.
    overlap_px : int
        Margin per side, rounded up to a multiple of `align_px`; twice that must be less than the window.
    align_px : int
        Stride of the network: every window starts at a multiple of it.
    offset_px : (int, int)
        Shift of the whole grid down and right; multiples of `align_px`, any sign.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        A length is not positive, the margins leave nothing of the window, or the offset is not aligned.

    Examples
    --------
    >>> plan = plan_windows((100, 40), 64, 16, align_px=16)
    >>> [tuple(window.read) for window in plan][:2]
    [(-16, -16, 48, 48), (-16, 16, 48, 80)]
    >>> tuple(plan.window(3, 1).own)
    (96, 32, 100, 40)
    """
    if min(size_px) < 1 or align_px < 1 or overlap_px < 0:
        raise UsageError(
            "plan_windows",
            f"expected a size and an alignment of at least 1 px and an overlap of at least 0 px, "
            f"got {size_px}, {align_px} and {overlap_px}",
        )
    if any(offset % align_px for offset in offset_px):
        raise UsageError(
            "plan_windows",
            f"expected offset_px to be multiples of the network's stride {align_px}, got {offset_px}",
        )
    overlap = round_up(overlap_px, align_px)
    height, width = (window_px, window_px) if isinstance(window_px, SupportsIndex) else window_px
    window = round_up(int(height), align_px), round_up(int(width), align_px)
    if min(window) <= 2 * overlap:
        raise UsageError(
            "plan_windows",
            f"expected a window larger than twice the overlap, "
            f"got {window[0]} x {window[1]} px and {overlap} px",
            hint="enlarge the window or take a smaller overlap",
        )
    rows, columns = (Axis(size_px[i], window[i], overlap, offset_px[i]) for i in (0, 1))
    return Plan(rows, columns, align_px)


def round_up(length_px: int, multiple_px: int) -> int:
    """Round up to a multiple of `multiple_px`."""
    return -(-length_px // multiple_px) * multiple_px


def _box(rows: Span, columns: Span) -> Box:
    return Box(rows.start, columns.start, rows.stop, columns.stop)
