"""What the network says of every pixel: of a picture in memory, of a slide row by row on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from glomtile.core.grid import Plan, Span, Window
from glomtile.core.tissuemap import TissueMap
from glomtile.engine.pictures import Tiling, choose_class, resized_probs, segment_image
from glomtile.engine.segmentation import Effort
from glomtile.engine.slidelook import Look, SlideLike, look_at
from glomtile.engine.tiled import predict_tiled
from glomtile.engine.windows import Settings
from glomtile.files.labelstore import LabelStore
from glomtile.types import SILENT, Box, Float32, Predictor, Progress, Reader, UInt8

_BLOCK_PX = 512
_SURELY_BACKGROUND = np.float32(1 - 0.4 / 255)
"""From here on no other class is the likelier, and confidence rounds to 0."""


@dataclass(frozen=True, eq=False)
class PictureAnswer:
    """A picture labelled at its own size.

    Attributes
    ----------
    labels, confidence : (H, W) uint8 ndarray
        Class numbers, and how probable the most probable class above 0 is, 0 to 255.
    look : Look
    effort : Effort
    """

    labels: UInt8
    confidence: UInt8
    look: Look
    effort: Effort


def answer_picture(
    slide: SlideLike, scale: float, predictor: Predictor, tiling: Tiling, progress: Progress = SILENT
) -> PictureAnswer:
    """Label a picture that fits the memory.

    Parameters
    ----------
    slide : SlideLike
        Read whole.
    scale : float
        Its micrometres per pixel.
    predictor : Predictor
    tiling : Tiling
    progress : Progress

    Raises
    ------
    InputError
        The picture cannot be read.
    """
    began = perf_counter()
    look = look_at(slide, scale, 1.0)
    tissue_s = perf_counter() - began
    image = slide.at(scale).read(Box(0, 0, *slide.size_px))
    seen = segment_image(image, predictor, tiling, scale, keep_probs=True, progress=progress)
    assert seen.probs is not None
    confidence = np.empty(slide.size_px, np.uint8)
    for top, rows in resized_probs(seen.probs, slide.size_px):
        confidence[top : top + rows.shape[0]] = as_confidence(rows)
    run = seen.run
    effort = Effort(run.windows, run.skipped, run.network_s, run.wall_s, tissue_s)
    return PictureAnswer(seen.labels, confidence, look, effort)


def fill_store(
    store: LabelStore,
    reader: Reader,
    predictor: Predictor,
    plan: Plan,
    tissue: TissueMap,
    settings: Settings,
    rows_whole: Callable[[int], None],
    progress: Progress = SILENT,
    only: int | None = None,
) -> Effort:
    """Label what is missing of a slide, panel by panel, each from where its rows ended.

    Parameters
    ----------
    store : LabelStore
    reader : Reader
        The slide at the predictor's scale.
    predictor : Predictor
    plan : Plan
        The windows.
    tissue : TissueMap
        Windows away from it are not read, unless the settings say otherwise.
    settings : Settings
    rows_whole : callable
        Told, each time there are more, how many rows from the top are on disk over the whole width.
    progress : Progress
    only : int or None
        The panel that is wanted; all of them where ``None``.

    Returns
    -------
    Effort
        Of this run alone.

    Raises
    ------
    InputError
        The slide cannot be read; rows that were finished stay on disk.
    StorageError
        Rows cannot be written.
    """

    def is_glass(window: Window) -> bool:
        return not tissue.near_tissue(window.own)

    total, told = Effort(), store.rows_whole
    rows_whole(told)
    for number, (left, right) in enumerate(store.panels):
        done = store.rows_done(number)
        if done == reader.size_px[0] or only not in (None, number):
            continue
        writer = store.writer(number)

        def take(top: int, probs: Float32, writer: Any = writer) -> None:
            nonlocal told
            writer(top, *classes_and_confidence(probs))
            if store.rows_whole > told:
                told = store.rows_whole
                rows_whole(told)

        run = predict_tiled(
            reader,
            predictor,
            plan,
            take,
            batch_size=settings.batch_size,
            read_threads=settings.read_threads,
            skip=is_glass if settings.tissue_mask else None,
            panel=Span(left, right),
            from_row_px=done,
            progress=progress,
        )
        total = Effort(
            total.windows + run.windows,
            total.skipped + run.skipped,
            total.network_s + run.network_s,
            total.tiled_s + run.wall_s,
        )
    return total


def as_confidence(probs: Float32) -> UInt8:
    """How probable the most probable class above 0 is, 0 to 255.

    Parameters
    ----------
    probs : (h, w, K) float32 ndarray

    Returns
    -------
    (h, w) uint8 ndarray
    """
    best = probs[..., 1]
    for number in range(2, probs.shape[-1]):
        best = np.maximum(best, probs[..., number])
    return np.asarray(np.rint(best * np.float32(255)), np.uint8)


def classes_and_confidence(probs: Float32) -> tuple[UInt8, UInt8]:
    """Class numbers and `as_confidence` of rows that may be wide and mostly glass.

    Parameters
    ----------
    probs : (h, W, K) float32 ndarray

    Returns
    -------
    labels, confidence : (h, W) uint8 ndarray
    """
    labels, confidence = (np.zeros(probs.shape[:2], np.uint8) for _ in range(2))
    for left in range(0, probs.shape[1], _BLOCK_PX):
        part = probs[:, left : left + _BLOCK_PX]
        if part[..., 0].min() < _SURELY_BACKGROUND:
            labels[:, left : left + _BLOCK_PX] = choose_class(part)
            confidence[:, left : left + _BLOCK_PX] = as_confidence(part)
    return labels, confidence
