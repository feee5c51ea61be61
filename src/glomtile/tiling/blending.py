"""Blending weights of overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import UsageError
from glomtile.tiling.grid import Axis, Plan, Span
from glomtile.types import Float32

Blend = Literal["hann", "linear", "none"]
"""Shape of the transition between windows; "none" cuts where ownership changes."""


@dataclass(frozen=True)
class AxisWeights:
    """Weights of one window on the pixels of an axis.

    Attributes
    ----------
    span : Span
        The pixels of the image with a weight above 0.
    inside : slice
        The same pixels counted from the window's start.
    weights : (span.length,) float32 ndarray
        In (0, 1]; over all windows they sum to 1 at every pixel.
    """

    span: Span
    inside: slice
    weights: Float32


def window_profile(
    window_px: int, overlap_px: int, context_px: int, blend: Blend = "hann"
) -> NDArray[np.float64]:
    """Compute the weights along one window, which fall at both ends.

    Parameters
    ----------
    window_px, overlap_px : int
        Length of the window and its margin per side, ``window_px > 2 * overlap_px``.
    context_px : int
        Context of the network. Where the overlap is at least that, pixels nearer to the window's end get
        exactly 0, because their context was cut. Where it is less, cut context cannot be avoided, and the
        weights fall over the whole shared stretch of ``2 * overlap_px``.
    blend : {"hann", "linear", "none"}
        Shape of the fall. "none" is 1 on the window's own pixels and 0 elsewhere.

    Returns
    -------
    (window_px,) float64 ndarray
        In [0, 1]; above 0 on all pixels that the window owns.

    Raises
    ------
    UsageError
        `blend` is none of the three.
    """
    if blend not in get_args(Blend):
        raise UsageError("blend", f"expected one of {', '.join(get_args(Blend))}, got {blend!r}")
    cut = context_px if context_px <= overlap_px else 0
    if blend == "none":
        cut = overlap_px
    distance = np.arange(window_px) + 0.5
    fall = 2 * (overlap_px - cut)
    if fall:
        rise = np.clip((distance - cut) / fall, 0.0, 1.0)
        if blend == "hann":
            rise = np.sin(rise * (np.pi / 2)) ** 2
    else:
        rise = (distance > cut).astype(np.float64)
    return np.asarray(np.minimum(rise, rise[::-1]))


def axis_weights(axis: Axis, context_px: int, blend: Blend = "hann") -> list[AxisWeights]:
    """Compute the normalised weights of all windows of an axis.

    Windows fill a whole grid, so the total at a pixel is the product of the totals of its row and of its
    column: they are divided here, axis by axis, and need no second accumulator.

    Parameters
    ----------
    axis : Axis
    context_px : int
        See `window_profile`.
    blend : {"hann", "linear", "none"}

    Returns
    -------
    list of Share
        One for each window, in order.
    """
    profile = window_profile(axis.window_px, axis.overlap_px, context_px, blend)
    used = np.flatnonzero(profile > 0)
    first, last = int(used[0]), int(used[-1]) + 1
    spans = []
    total = np.zeros(axis.length_px)
    for k in range(len(axis)):
        start = axis.read(k).start
        span = Span(max(start + first, 0), min(start + last, axis.length_px))
        total[span.start : span.stop] += profile[span.start - start : span.stop - start]
        spans.append((span, start))
    result = []
    for span, start in spans:
        inside = slice(span.start - start, span.stop - start)
        weights = profile[inside] / total[span.start : span.stop]
        result.append(AxisWeights(span, inside, weights.astype(np.float32)))
    return result


def overlapping(windows: list[AxisWeights], wanted: Span) -> range:
    """Return the numbers of the windows of an axis with a weight on the pixels of `wanted`."""
    touched = [
        k for k, one in enumerate(windows) if one.span.start < wanted.stop > wanted.start < one.span.stop
    ]
    return range(touched[0], touched[-1] + 1) if touched else range(0)


def crop_weights(window: AxisWeights, wanted: Span) -> AxisWeights:
    """Crop weights to the pixels of `wanted`, counted from its start."""
    start, stop = max(window.span.start, wanted.start), min(window.span.stop, wanted.stop)
    before, length = start - window.span.start, stop - start
    inside = slice(window.inside.start + before, window.inside.start + before + length)
    span = Span(start - wanted.start, stop - wanted.start)
    return AxisWeights(span, inside, window.weights[before : before + length])


class RowAccumulator:
    """Sum of blended probabilities in the rows that later windows may still touch.

    Memory is (rows of one window) x (width of the panel) x classes, whatever the image's height.

    Parameters
    ----------
    plan : Plan
    num_classes : int
    context_px : int
        See `window_profile`.
    blend : {"hann", "linear", "none"}
    panel : Span, optional
        The columns of pixels to compute; all by default.
    from_row_px : int
        The first row of pixels to compute.

    Attributes
    ----------
    rows, columns : range
        Numbers of the windows to add, row by row.

    Notes
    -----
    A pixel's sum does not depend, to the bit, on the panel and the first row: it has the same terms in the
    same order.
    """

    def __init__(
        self,
        plan: Plan,
        num_classes: int,
        context_px: int,
        blend: Blend = "hann",
        panel: Span | None = None,
        from_row_px: int = 0,
    ) -> None:
        columns = axis_weights(plan.columns, context_px, blend)
        self._height = plan.rows.length_px
        panel = panel or Span(0, plan.columns.length_px)
        self._rows = axis_weights(plan.rows, context_px, blend)
        self.rows = overlapping(self._rows, Span(from_row_px, self._height))
        self.columns = overlapping(columns, panel)
        self._columns = {k: crop_weights(columns[k], panel) for k in self.columns}
        self._across = {k: np.repeat(one.weights, num_classes) for k, one in self._columns.items()}
        self._width = panel.length
        self._classes = num_classes
        self._window_px = plan.window_px
        self._row = -1
        self._wanted = from_row_px
        self._top = self._rows[self.rows.start].span.start
        self._sums = np.zeros((0, self._width * num_classes), np.float32)

    def add(self, row: int, column: int, probs: Float32) -> None:
        """Blend in the probabilities ``(h, w, K)`` of the window at ``(row, column)``."""
        k = self._classes
        down, across = self._rows[row], self._columns[column]
        # One long line of interleaved classes a row: NumPy's inner loop then runs over w * K values.
        lines = probs.reshape(self._window_px[0], self._window_px[1] * k)
        part = lines[down.inside, across.inside.start * k : across.inside.stop * k] * self._across[column]
        part *= down.weights[:, None]
        target = self._target(row, down.span)
        target[:, across.span.start * k : across.span.stop * k] += part

    def add_background(self, row: int, column: int) -> None:
        """Blend in a window that is background with probability 1."""
        down, across = self._rows[row], self._columns[column]
        target = self._target(row, down.span).reshape(down.span.length, self._width, self._classes)
        target[:, across.span.start : across.span.stop, 0] += down.weights[:, None] * across.weights

    def finish(self, row: int) -> tuple[int, Float32]:
        """Return the rows that are final after all windows of `row` have been added.

        Returns
        -------
        top : int
            Their first row in the image.
        probs : (h, W, K) float32 ndarray
            W is the panel's width; the array is not changed later. h can be 0 where the next window reaches
            back to the same row.
        """
        self._target(row, self._rows[row].span)
        last = row == len(self._rows) - 1
        until = self._height if last else self._rows[row + 1].span.start
        done = self._sums[: until - self._top]
        self._sums = self._sums[done.shape[0] :]
        unwanted = min(max(self._wanted - self._top, 0), done.shape[0])
        top, self._top = self._top + unwanted, until
        done = done[unwanted:]
        return top, done.reshape(done.shape[0], self._width, self._classes)

    def _target(self, row: int, span: Span) -> Float32:
        """Return the lines for `span`, in a new array for each row of windows: `finish` returns the old."""
        if row != self._row:
            kept = self._sums
            self._sums = np.zeros((span.stop - self._top, self._width * self._classes), np.float32)
            self._sums[: kept.shape[0]] = kept
            self._row = row
        return self._sums[span.start - self._top : span.stop - self._top]
