"""Where a plane crosses a level: closed lines by marching squares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TOP, _LEFT, _BOTTOM, _RIGHT = range(4)

_THROUGH: dict[int, list[tuple[int, int]]] = {
    1: [(_TOP, _LEFT)],
    2: [(_RIGHT, _TOP)],
    3: [(_RIGHT, _LEFT)],
    4: [(_LEFT, _BOTTOM)],
    5: [(_TOP, _BOTTOM)],
    6: [(_RIGHT, _TOP), (_LEFT, _BOTTOM)],
    7: [(_RIGHT, _BOTTOM)],
    8: [(_BOTTOM, _RIGHT)],
    9: [(_TOP, _LEFT), (_BOTTOM, _RIGHT)],
    10: [(_BOTTOM, _TOP)],
    11: [(_BOTTOM, _LEFT)],
    12: [(_LEFT, _RIGHT)],
    13: [(_TOP, _RIGHT)],
    14: [(_LEFT, _TOP)],
}
"""From which side of a cell to which a line runs, by the corners above the level: 1, 2, 4 and 8 in reading
order. Where two opposite corners are, they are kept apart."""

_STEPS = np.array([(*steps, steps[-1])[:2] for steps in ([(0, 0)], *_THROUGH.values(), [(0, 0)])])
_STEPS_COUNT = np.array([0, *map(len, _THROUGH.values()), 0])


def level_rings(field: NDArray[np.floating], level: float) -> list[NDArray[np.float64]]:
    """Follow a level through a plane.

    Parameters
    ----------
    field : (h, w) ndarray of float32 or float64
        Its rim must not lie above the level.
    level : float

    Returns
    -------
    list of (n, 2) float64 ndarray
        Rows and columns where the lines cross the cells' sides, linear between pixels' centres; the last
        point is the first. What is high lies to one side all along, so a line around a hole winds the other
        way. In the order of their first cells; empty where nothing is above the level.

    Notes
    -----
    Marching squares (Lorensen and Cline 1987, doi 10.1145/37402.37422). The same to the last bit as
    scikit-image's ``find_contours``, unless the lines meet in a pixel that has the level's very value: there
    they are kept apart here.
    """
    plane = field.astype(np.float64)  # NumPy would round the level to float32 before it compares
    width = plane.shape[1]
    high = (plane > level).view(np.uint8)
    corners = high[:-1, :-1] + 2 * high[:-1, 1:] + 4 * high[1:, :-1] + 8 * high[1:, 1:]
    cells = np.flatnonzero(_STEPS_COUNT[corners].ravel())
    if not len(cells):
        return []
    kinds = corners.ravel()[cells]
    # A line's steps in reading order of their cells; a cell between two hills has two.
    counts = _STEPS_COUNT[kinds]
    of_cell = np.repeat(np.arange(len(cells)), counts)
    second = np.concatenate([[False], of_cell[1:] == of_cell[:-1]]).astype(np.intp)
    rows, columns = np.divmod(cells[of_cell], width - 1)
    steps = _STEPS[kinds[of_cell], second]
    corner_numbers = 2 * (rows * width + columns)
    side_numbers = corner_numbers[:, None] + np.array([0, 1, 2 * width, 3])[steps]
    starts, ends = side_numbers[:, 0], side_numbers[:, 1]
    by_start = np.argsort(starts)
    following = by_start[np.searchsorted(starts, ends, sorter=by_start)]
    points = _crossings(plane, level, ends)
    before = np.empty_like(points)
    before[following] = points
    moves = (points != before).any(axis=1)
    rings = [ring[moves[ring]] for ring in _cycles(following.tolist())]
    whole = sorted((ring for ring in rings if len(ring)), key=lambda ring: int(ring.min()))
    return [points[_closed(np.roll(ring, -int(ring.argmax())))] for ring in whole]


def _crossings(plane: NDArray[np.float64], level: float, sides: NDArray[np.intp]) -> NDArray[np.float64]:
    """Where the level lies on sides of cells: even numbers lead right from a pixel, odd ones down."""
    pixels, downwards = sides >> 1, sides & 1
    values, width = plane.ravel(), plane.shape[1]
    here, there = values[pixels], values[pixels + np.where(downwards, width, 1)]
    share = (level - here) / (there - here)
    rows, columns = np.divmod(pixels, width)
    return np.stack([rows + downwards * share, columns + (1 - downwards) * share], axis=1)


def _cycles(following: list[int]) -> list[NDArray[np.intp]]:
    """Fall apart a permutation."""
    cycles = []
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        cycle = [first]
        at = following[first]
        while at != first:
            seen[at] = 1
            cycle.append(at)
            at = following[at]
        cycles.append(np.array(cycle))
    return cycles


def _closed(ring: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.append(ring, ring[0])
