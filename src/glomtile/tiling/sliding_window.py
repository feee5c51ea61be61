"""Sliding-window prediction with blended overlaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import GlomtileError, UsageError
from glomtile.tiling.blending import Blend, RowAccumulator
from glomtile.tiling.grid import Plan, Span, Window
from glomtile.types import SILENT, Float32, Predictor, Progress, Reader, RowSink, UInt8


@dataclass(frozen=True)
class TiledRun:
    """Counts and times of a prediction.

    Attributes
    ----------
    windows, skipped : int
        Windows of the plan, and those taken for background without prediction.
    batches : int
        Calls of the network.
    network_s, wall_s : float
        Seconds in the network, and in total.
    """

    windows: int
    skipped: int
    batches: int
    network_s: float
    wall_s: float


def predict_tiled(
    reader: Reader,
    predictor: Predictor,
    plan: Plan,
    sink: RowSink,
    *,
    blend: Blend = "hann",
    batch_size: int = 1,
    read_threads: int = 2,
    skip: Callable[[Window], bool] | None = None,
    panel: Span | None = None,
    from_row_px: int = 0,
    progress: Progress = SILENT,
) -> TiledRun:
    """Predict an image window by window and pass its rows to `sink`, once each, top to bottom.

    Parameters
    ----------
    reader : Reader
        Its `read` must be safe from several threads.
    predictor : Predictor
        Called with arrays of one shape, ``(min(batch_size, windows), h, w, 3)``; the last batch is padded
        with repeats. A run that starts further down has the same batches as the whole run has there.
    plan : Plan
        Of the reader's size, aligned to a multiple of the predictor's stride.
    sink : callable
        ``sink(top, probs)`` with probs ``(h, W, K) float32``, W the panel's width, called in the caller's
        thread; the array may be kept.
    blend : {"hann", "linear", "none"}
        See `glomtile.tiling.blending.window_profile`.
    batch_size, read_threads : int
        Windows for each call of the network, and threads that read them; at least 1.
    skip : callable, optional
        Called once for each window, before the first is read: where true, the window is not read and counts
        as background with probability 1.
    panel : Span, optional
        The columns of pixels to predict; all by default. Panels side by side give the same result to the bit,
        with less memory each; windows on their border are predicted in both.
    from_row_px : int
        The first row of pixels to predict: a stopped run continues where its rows ended.
    progress : Progress

    Returns
    -------
    TiledRun

    Raises
    ------
    UsageError
        Plan, reader and predictor do not fit each other.
    GlomtileError
        The reader or the predictor returns a wrong shape.

    Notes
    -----
    Errors of the reader, the predictor, the sink or `skip` are raised; reads that have not started are
    cancelled, reads in progress are waited for, and no further rows are passed on.

    Memory is one strip of rows as high as a window, and at most ``2 * batch_size + read_threads`` windows
    read ahead; it grows with the width of the panel times the window, never with the height.
    """
    _check_fit(reader, predictor, plan, batch_size, read_threads)
    started = perf_counter()
    strip = RowAccumulator(plan, predictor.num_classes, predictor.context_px, blend, panel, from_row_px)
    wanted = _wanted(plan, strip.columns, skip)
    batch_size = min(batch_size, max(int(wanted.sum()), 1))
    before = int(wanted[: strip.rows.start].sum())
    first = before - before % batch_size
    queue = (plan.window(*at) for at in _positions(wanted, strip.columns, first))
    clock, windows = _Clock(), len(strip.rows) * len(strip.columns)
    predicted = int(wanted[strip.rows.start :].sum())
    skipped = windows - predicted
    figures = {"glass": f"{skipped:,} skipped"} if skipped else {}
    progress.start("windows", predicted)
    with ExitStack() as stack:
        readers = _pool(stack, read_threads, "glomtile-read")
        network = _pool(stack, 1, "glomtile-network")
        read = _read_ahead(readers, reader, queue, 2 * batch_size + read_threads)
        results = _predict_ahead(network, predictor, _batches(read, batch_size, plan), clock)
        for _ in range(before - first):
            next(results)
        for row in strip.rows:
            for column, is_wanted in zip(strip.columns, wanted[row], strict=True):
                if is_wanted:
                    strip.add(row, column, next(results))
                    progress.advance(1, **figures)
                else:
                    strip.add_background(row, column)
            top, rows = strip.finish(row)
            if rows.shape[0]:
                sink(top, rows)
            del rows
    return TiledRun(windows, skipped, clock.calls, clock.seconds, perf_counter() - started)


def _wanted(plan: Plan, columns: range, skip: Callable[[Window], bool] | None) -> NDArray[np.bool_]:
    """Return the windows of a panel to predict, ``(rows, columns) bool``."""
    wanted = np.ones((len(plan.rows), len(columns)), np.bool_)
    if skip is not None:
        for row in range(len(plan.rows)):
            wanted[row] = [not skip(plan.window(row, column)) for column in columns]
    return wanted


def _positions(wanted: NDArray[np.bool_], columns: range, first: int) -> Iterator[tuple[int, int]]:
    """Yield ``(row, column)`` of the wanted windows in the order of the grid, from number `first` on."""
    for flat in np.flatnonzero(wanted)[first:]:
        row, column = divmod(int(flat), len(columns))
        yield row, columns[column]


@dataclass
class _Clock:
    calls: int = 0
    seconds: float = 0.0

    def timed(self, predictor: Predictor, batch: UInt8) -> Float32:
        started = perf_counter()
        probs = predictor(batch)
        self.seconds += perf_counter() - started
        self.calls += 1
        return probs


def _check_fit(reader: Reader, predictor: Predictor, plan: Plan, batch_size: int, read_threads: int) -> None:
    if plan.size_px != tuple(reader.size_px):
        raise UsageError(
            "predict_tiled", f"expected a plan of {reader.size_px} px, got one of {plan.size_px} px"
        )
    if plan.align_px % predictor.stride_px:
        raise UsageError(
            "predict_tiled",
            f"expected a plan aligned to the network's stride of {predictor.stride_px} px, "
            f"got one aligned to {plan.align_px} px",
            hint="plan_windows(..., align_px=predictor.stride_px)",
        )
    if batch_size < 1 or read_threads < 1:
        raise UsageError(
            "predict_tiled",
            f"expected at least 1 window a batch and 1 thread, got {batch_size} and {read_threads}",
        )


def _pool(stack: ExitStack, threads: int, name: str) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    return pool


def _read_ahead(
    pool: ThreadPoolExecutor, reader: Reader, windows: Iterable[Window], depth: int
) -> Iterator[UInt8]:
    """Yield the windows' pixels in order, with at most `depth` of them read ahead."""
    waiting: deque[Future[UInt8]] = deque()
    for window in windows:
        waiting.append(pool.submit(_read, reader, window))
        if len(waiting) == depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(reader: Reader, window: Window) -> UInt8:
    pixels = reader.read(window.read)
    expected = (window.read.height, window.read.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise GlomtileError(
            f"reader, box {tuple(window.read)}",
            f"expected {expected} uint8, got {pixels.shape} {pixels.dtype}",
        )
    return pixels


def _batches(pixels: Iterator[UInt8], size: int, plan: Plan) -> Iterator[tuple[int, UInt8]]:
    """Yield ``(number of windows, batch)``; all batches have one shape, for networks compiled by shape."""
    batch = np.empty((size, *plan.window_px, 3), np.uint8)
    filled = 0
    for window in pixels:
        batch[filled] = window
        filled += 1
        if filled == size:
            yield filled, batch
            # The network may still use the old array.
            batch, filled = np.empty_like(batch), 0
    if filled:
        batch[filled:] = batch[filled - 1]
        yield filled, batch


def _predict_ahead(
    pool: ThreadPoolExecutor, predictor: Predictor, batches: Iterator[tuple[int, UInt8]], clock: _Clock
) -> Iterator[Float32]:
    """Yield the probabilities of each window in order; one batch is predicted while another is blended."""
    busy: deque[tuple[int, tuple[int, ...], Future[Float32]]] = deque()
    for filled, batch in batches:
        busy.append((filled, batch.shape, pool.submit(clock.timed, predictor, batch)))
        if len(busy) == 2:
            yield from _split_batch(*busy.popleft(), predictor.num_classes)
    while busy:
        yield from _split_batch(*busy.popleft(), predictor.num_classes)


def _split_batch(
    filled: int, shape: tuple[int, ...], future: Future[Float32], num_classes: int
) -> Iterator[Float32]:
    probs = future.result()
    expected = (*shape[:3], num_classes)
    if probs.shape != expected:
        raise GlomtileError("predictor", f"expected probabilities of shape {expected}, got {probs.shape}")
    yield from probs[:filled]
