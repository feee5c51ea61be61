"""Where the lines, ticks and labels of a report's charts lie, as numbers an SVG template can draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glomtile.files.figures import Curves

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34


@dataclass(frozen=True)
class Line:
    """One curve: `parts` are runs of defined points as SVG ``points``, `dots` the runs of one point."""

    name: str
    last: str
    parts: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LineChart:
    """A chart laid out on a `WIDTH` x `HEIGHT` canvas."""

    title: str
    x_name: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, curves: Curves) -> LineChart | None:
    """Lay out curves over their first column.

    Parameters
    ----------
    title : str
    curves : Curves

    Returns
    -------
    LineChart or None
        None when no value is finite: there is nothing to draw.
    """
    values = [v for series in curves.series.values() for v in series if math.isfinite(v)]
    xs = [x for x in curves.x if math.isfinite(x)]
    if not values or not xs:
        return None
    x_ticks = ticks(min(xs), max(xs), 8, whole=True)
    y_ticks = ticks(min(values), max(values), 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], min(values)), max(y_ticks[-1], max(values))

    def across(x: float) -> float:
        return _place(x, x_low, x_high, LEFT, WIDTH - RIGHT)

    def down(y: float) -> float:
        return _place(y, y_low, y_high, HEIGHT - BOTTOM, TOP)

    lines = tuple(
        _line(name, [(across(x), down(y)) for x, y in zip(curves.x, series, strict=True)], series)
        for name, series in curves.series.items()
    )
    return LineChart(
        title,
        curves.x_name,
        tuple((across(t), f"{t:g}") for t in x_ticks if x_low <= t <= x_high),
        tuple((down(t), f"{t:g}") for t in y_ticks),
        lines,
    )


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers that cover a range.

    Parameters
    ----------
    low, high : float
        Ends of the range; when equal, it is widened.
    most : int
        About how many steps at most.
    whole : bool
        Only whole numbers.

    Returns
    -------
    list of float
        At least two, ascending; the first is at or below `low`, the last at or above `high`.
    """
    if high <= low:
        spread = 1.0 if whole else (abs(low) * 0.1 or 1.0)
        low, high = low - spread / 2, high + spread / 2
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _line(name: str, points: Sequence[tuple[float, float]], series: Sequence[float]) -> Line:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if all(math.isfinite(part) for part in point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    defined = [value for value in series if math.isfinite(value)]
    return Line(
        name,
        f"{defined[-1]:.4f}" if defined else "",
        tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in run) for run in runs if len(run) > 1),
        tuple(run[0] for run in runs if len(run) == 1),
    )


def _place(value: float, low: float, high: float, start: float, end: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(start + share * (end - start), 2)
