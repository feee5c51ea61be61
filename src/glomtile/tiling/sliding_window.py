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
    """What a run did and where its time went.

    Attributes
    ----------
    windows, skipped : int
        Windows of the plan, and how many of them were taken for background unseen.
    batches : int
        Calls of the network.
    network_s, wall_s : float
        Seconds inside the network, and from start to end.
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
    """Predict a picture window by window and hand on its rows, once each, top to bottom.

    Parameters
    ----------
    reader : Reader
        Must allow `read` from several threads.
    predictor : Predictor
        Always called with arrays of one shape, ``(min(batch_size, windows), h, w, 3)``; the last batch is
        filled up with repeats whose answers are dropped. A run that begins further down shows the network
        the same batches as the whole run does there.
    plan : Plan
        Of the reader's size, aligned to a multiple of the predictor's stride.
    sink : callable
        ``sink(top, probs)`` with probs ``(h, W, K) float32``, W the panel's width, called in the caller's
        thread; the array is the sink's to keep.
    blend : {"hann", "linear", "none"}
        How windows fade into each other, see `glomtile.tiling.blending.window_profile`.
    batch_size, read_threads : int
        Windows for each call of the network, and threads that read them; at least 1.
    skip : callable, optional
        Asked once for each window, before the first is read: where true, the window is not read and counts as
        background with probability 1.
    panel : Span, optional
        Only these columns of pixels are wanted; all by default. Panels side by side give, to the bit, what
        one over all of them gives, and each takes only its own width of memory; windows on the border of
        two are predicted in both.
    from_row_px : int
        Only rows from this one on are wanted: a run that was stopped goes on where its rows ended.
    progress : Progress

    Returns
    -------
    TiledRun

    Raises
    ------
    UsageError
        When plan, reader and predictor do not fit each other.
    GlomtileError
        When the reader or the predictor returns another shape than it must.

    Notes
    -----
    What the reader, the predictor, the sink or `skip` raises comes out of this function; reading that has not
    begun is cancelled, reading under way is waited for, and no further rows are handed on.

    Memory is one strip of rows as high as a window, and at most ``2 * batch_size + read_threads`` windows
    read ahead; it grows with the width of the panel times the window, never with the height.
    """
    _check_fit(reader, predictor, plan, batch_size, read_threads)
    started = perf_counter()
    strip = RowAccumulator(plan, predictor.num_classes, predictor.context_px, blend, panel, from_row_px)
    wanted = _wanted(plan, strip.columns, skip)
    batch_size = min(batch_size, max(int(wanted.sum()), 1))
    before = int(wanted[: strip.rows.start].sum())
    begin = before - before % batch_size
    asked = (plan.window(*at) for at in _places(wanted, strip.columns, begin))
    clock, windows = _Clock(), len(strip.rows) * len(strip.columns)
    seen = int(wanted[strip.rows.start :].sum())
    skipped = windows - seen
    told = {"glass": f"{skipped:,} skipped"} if skipped else {}
    progress.start("windows", seen)
    with ExitStack() as stack:
        readers = _pool(stack, read_threads, "glomtile-read")
        network = _pool(stack, 1, "glomtile-network")
        read = _read_ahead(readers, reader, asked, 2 * batch_size + read_threads)
        answers = _predict_ahead(network, predictor, _batches(read, batch_size, plan), clock)
        for _ in range(before - begin):
            next(answers)
        for row in strip.rows:
            for column, is_seen in zip(strip.columns, wanted[row], strict=True):
                if is_seen:
                    strip.add(row, column, next(answers))
                    progress.advance(1, **told)
                else:
                    strip.add_background(row, column)
            top, rows = strip.finish(row)
            if rows.shape[0]:
                sink(top, rows)
            del rows
    return TiledRun(windows, skipped, clock.calls, clock.seconds, perf_counter() - started)


def _wanted(plan: Plan, columns: range, skip: Callable[[Window], bool] | None) -> NDArray[np.bool_]:
    """Which windows of a panel the network is asked about, ``(rows, columns)``."""
    wanted = np.ones((len(plan.rows), len(columns)), np.bool_)
    if skip is not None:
        for row in range(len(plan.rows)):
            wanted[row] = [not skip(plan.window(row, column)) for column in columns]
    return wanted


def _places(wanted: NDArray[np.bool_], columns: range, begin: int) -> Iterator[tuple[int, int]]:
    """``(row, column)`` of the wanted windows in the order of the grid, the first `begin` left out."""
    for flat in np.flatnonzero(wanted)[begin:]:
        row, place = divmod(int(flat), len(columns))
        yield row, columns[place]


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
    """The windows' pixels in order, never more than `depth` of them read or being read."""
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
    """``(how many are real, batch)``; all batches have one shape, for networks that compile by shape."""
    batch = np.empty((size, *plan.window_px, 3), np.uint8)
    filled = 0
    for window in pixels:
        batch[filled] = window
        filled += 1
        if filled == size:
            yield filled, batch
            # A new array: the network may still be busy with the old one.
            batch, filled = np.empty_like(batch), 0
    if filled:
        batch[filled:] = batch[filled - 1]
        yield filled, batch


def _predict_ahead(
    pool: ThreadPoolExecutor, predictor: Predictor, batches: Iterator[tuple[int, UInt8]], clock: _Clock
) -> Iterator[Float32]:
    """Answers for one window each, in order; the next batch is in the network while one is blended."""
    busy: deque[tuple[int, tuple[int, ...], Future[Float32]]] = deque()
    for filled, batch in batches:
        busy.append((filled, batch.shape, pool.submit(clock.timed, predictor, batch)))
        if len(busy) == 2:
            yield from _answers(*busy.popleft(), predictor.num_classes)
    while busy:
        yield from _answers(*busy.popleft(), predictor.num_classes)


def _answers(
    filled: int, shape: tuple[int, ...], future: Future[Float32], num_classes: int
) -> Iterator[Float32]:
    probs = future.result()
    expected = (*shape[:3], num_classes)
    if probs.shape != expected:
        raise GlomtileError("predictor", f"expected probabilities of shape {expected}, got {probs.shape}")
    yield from probs[:filled]
