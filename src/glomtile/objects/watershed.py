"""Watershed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.types import Float32

_AROUND = np.ones((3, 3), np.uint8)
_HIGHEST, _PIXEL = 2**31 - 1, 2**32 - 1
_EXACT_FLOAT32 = 2**24


def watershed(
    height: Float32, mask: NDArray[np.bool_], summits: Sequence[tuple[int, int]]
) -> NDArray[np.int32]:
    """Part a hill among its summits.

    Parameters
    ----------
    height : (h, w) float32 ndarray
        At least 0.
    mask : (h, w) bool ndarray
        The hill; a piece without a summit belongs to none.
    summits : sequence of (int, int)
        Different pixels of the mask, row and column. They count as higher than all others, the first as the
        highest. Without any, all is 0.

    Returns
    -------
    (h, w) int32 ndarray
        0 outside, ``1 + i`` in the part of ``summits[i]``.

    Notes
    -----
    The water sinks: a pixel goes to the part of whichever of its eight neighbours came up first (Beucher and
    Meyer 1993). Of equal heights the first in reading order is the higher, so that no two pixels are equal
    and there is one answer: the one of scikit-image's priority queue, without a loop over pixels. A pixel
    comes up at its own height, or with the pass into its valley where no summit is: passes are found on the
    graph of the slopes, each all pixels from which the steepest way leads to one top (the maximum spanning
    forest of Cousty et al. 2009, doi 10.1109/TPAMI.2008.173).
    """
    if not len(summits):
        return np.zeros(mask.shape, np.int32)
    ranks, places = _ranked(height, mask, summits)
    count = len(places) - 1
    lowest_summit = count + 1 - len(summits)
    every = np.arange(count + 1)
    stays = (every == 0) | (every >= lowest_summit)
    tops = _ends(np.where(stays, every, _highest_around(ranks)[places]))
    comes_up = np.minimum(every, _passes(ranks, tops, lowest_summit)[tops])
    from_beside = _highest_around(comes_up[ranks])[places]
    from_pass = np.where(comes_up < every, comes_up, from_beside)
    summit_of = _ends(np.where(stays, every, from_pass))
    parts = np.where(summit_of > 0, count + 1 - summit_of, 0).astype(np.int32)
    return np.asarray(parts[ranks])


def _ranked(
    height: Float32, mask: NDArray[np.bool_], summits: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Every pixel's rank, from 1 for the lowest, 0 outside; and the pixel of each rank."""
    first = [row * mask.shape[1] + column for row, column in summits]
    others = mask.ravel().copy()
    others[first] = False
    pixels = np.flatnonzero(others)
    # Floats of one sign are ordered as their bits are: height and place in one number sort faster than apart.
    falling = _HIGHEST - height.ravel()[pixels].view(np.int32).astype(np.int64)
    places = np.concatenate([first, np.sort(falling << 32 | pixels) & _PIXEL, [0]])[::-1]
    ranks = np.zeros(mask.size, np.intp)
    ranks[places[1:]] = np.arange(1, len(places))
    return ranks.reshape(mask.shape), places


def _passes(ranks: NDArray[np.intp], tops: NDArray[np.intp], lowest_summit: int) -> NDArray[np.intp]:
    """For each top, the rank with which the water lets go of its slopes: a pass, or its own at a summit."""
    passes = np.where(np.arange(len(tops)) < lowest_summit, 0, np.arange(len(tops)))
    dry: dict[int, list[int] | None] = {
        top: [top] if top < lowest_summit else None for top in np.unique(tops[1:]).tolist()
    }
    if all(slopes is None for slopes in dry.values()):
        return passes
    for rank, one, other in _meetings(ranks, tops):
        here, there = dry[one], dry[other]
        if here is there:
            continue
        if here is None or there is None:
            for top in here or there or ():
                passes[top], dry[top] = rank, None
        else:
            few, many = sorted((here, there), key=len)
            many += few
            dry.update(dict.fromkeys(few, many))
    return passes


def _meetings(ranks: NDArray[np.intp], tops: NDArray[np.intp]) -> list[tuple[int, int, int]]:
    """The highest rank with which the slopes of two tops touch, and the two; from high to low."""
    top_of = tops[ranks]
    found = []
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        here, there = top_of[one], top_of[other]
        meet = (here != there) & (here > 0) & (there > 0)
        rank = np.minimum(ranks[one][meet], ranks[other][meet])
        pair = np.sort(np.stack([here[meet], there[meet]]), axis=0)
        found.append(np.concatenate([rank[None], pair]))
    rank, low, high = np.concatenate(found, axis=1)
    falling = np.argsort(-rank, kind="stable")
    _, firsts = np.unique((low * len(tops) + high)[falling], return_index=True)
    kept = falling[np.sort(firsts)]
    return list(zip(rank[kept].tolist(), low[kept].tolist(), high[kept].tolist(), strict=True))


def _highest_around(ranks: NDArray[np.intp]) -> NDArray[np.intp]:
    """The highest of each pixel and its eight neighbours, in one line."""
    number = np.float32 if ranks.size < _EXACT_FLOAT32 else np.float64
    around = cv2.dilate(ranks.astype(number), _AROUND, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(around).astype(np.intp).ravel()


def _ends(onward: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where each way ends that goes on and on until it stays."""
    while True:
        further = onward[onward]
        if np.array_equal(further, onward):
            return onward
        onward = further
