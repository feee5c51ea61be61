"""Charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glomtile.evaluation.calibration import Bin
from glomtile.plotting import Curves

WIDTH, HEIGHT = 640, 280
SQUARE = 340
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 44
SQUARE_TOP = LEFT + RIGHT - BOTTOM


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


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: place and size on the canvas, and what it says."""

    left: float
    top: float
    width: float
    height: float
    said: str


@dataclass(frozen=True)
class Histogram:
    """Two distributions over the same bins, side by side on a `WIDTH` x `HEIGHT` canvas."""

    title: str
    x_name: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    truth: tuple[Bar, ...]
    prediction: tuple[Bar, ...]
    sentence: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Scatter:
    """Circles on a square canvas with its diagonal; `circles` are x, y, radius and what each says."""

    title: str
    x_name: str
    y_name: str
    ticks: tuple[tuple[float, float, str], ...]
    circles: tuple[tuple[float, float, float, str], ...]
    sentence: str
    joined: str = ""
    side: int = SQUARE
    left: int = LEFT
    right: int = SQUARE - RIGHT
    top: int = SQUARE_TOP
    bottom: int = SQUARE - BOTTOM


def area_histogram(
    title: str, truth: Sequence[float], prediction: Sequence[float], unit: str, bins: int = 16
) -> Histogram | None:
    """How large true and predicted objects are, on a scale of equal ratios.

    Parameters
    ----------
    title : str
    truth, prediction : sequence of float
        Areas above 0.
    unit : str
        Of the areas.
    bins : int

    Returns
    -------
    Histogram or None
        None without any object.
    """
    both = [*truth, *prediction]
    if not both:
        return None
    low, high = math.log10(min(both)), math.log10(max(both))
    low, high = math.floor(low * 5) / 5, math.ceil(high * 5 + 1e-9) / 5
    high = max(high, low + 0.2)
    counts = [_binned(values, low, high, bins) for values in (truth, prediction)]
    y_ticks = ticks(0, max(map(max, counts)), 4, whole=True)
    drawn = []
    for side, values in enumerate(counts):
        bars = []
        for number, count in enumerate(values):
            left = _place(number + (0.08, 0.5)[side], 0, bins, LEFT, WIDTH - RIGHT)
            right = _place(number + (0.5, 0.92)[side], 0, bins, LEFT, WIDTH - RIGHT)
            top = _place(count, 0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
            edges = [10 ** (low + (high - low) * (number + step) / bins) for step in (0, 1)]
            said = f"{count} of {edges[0]:,.0f} to {edges[1]:,.0f} {unit}"
            bars.append(Bar(left, top, round(right - left, 2), round(HEIGHT - BOTTOM - top, 2), said))
        drawn.append(tuple(bar for bar in bars if bar.height > 0))
    x_ticks = tuple(
        (_place(math.log10(value), low, high, LEFT, WIDTH - RIGHT), f"{value:,.0f}")
        for value in _ratios(low, high)
    )
    middle = [f"{_median(values):,.0f} {unit}" if values else "none" for values in (truth, prediction)]
    sentence = f"Half of the true objects are above {middle[0]}, half of the predicted above {middle[1]}."
    if not truth:
        sentence = f"Half of the objects are above {middle[1]}."
    down = tuple((_place(t, 0, y_ticks[-1], HEIGHT - BOTTOM, TOP), f"{t:g}") for t in y_ticks)
    return Histogram(title, f"area, {unit}", x_ticks, down, drawn[0], drawn[1], sentence)


def count_scatter(title: str, counts: Sequence[tuple[int, int]]) -> Scatter | None:
    """True against predicted numbers of objects, a circle for all images of the same two.

    Parameters
    ----------
    title : str
    counts : sequence of (int, int)
        True and predicted number of every image.

    Returns
    -------
    Scatter or None
        None without any image.
    """
    if not counts:
        return None
    images = {pair: counts.count(pair) for pair in dict.fromkeys(counts)}
    steps = ticks(0, max(1, *(max(pair) for pair in images)), 6, whole=True)
    most = max(images.values())
    circles = tuple(
        (
            *_square(truth, predicted, steps[-1]),
            round(4 + 8 * math.sqrt(number / most), 1),
            f"{number} with {truth} true and {predicted} predicted",
        )
        for (truth, predicted), number in images.items()
    )
    right = sum(number for (truth, predicted), number in images.items() if truth == predicted)
    sentence = (
        f"In {right} of {len(counts)} images the number is right. Above the diagonal too many were "
        "predicted, below it too few; a larger circle stands for more images."
    )
    return Scatter(title, "true objects", "predicted objects", _both_ways(steps), circles, sentence)


def calibration_chart(title: str, name: str, bins: Sequence[Bin], error: float) -> Scatter:
    """What probability the network said against how often it was right.

    Parameters
    ----------
    title : str
    name : str
        The class.
    bins : sequence of Bin
        At least one.
    error : float
        Expected calibration error, 0 to 1.
    """
    most = max(one.pixels for one in bins)
    circles = tuple(
        (
            *_square(one.said, one.true, 1.0),
            round(3 + 7 * (one.pixels / most) ** 0.25, 1),
            f"said {one.said:.2f}, true {one.true:.2f}, {one.pixels:,} pixels",
        )
        for one in bins
    )
    sure = bins[-1]
    sentence = (
        f"Where the network says {sure.said:.2f}, {100 * sure.true:.0f} % of the pixels are {name}. On the "
        f"diagonal it keeps its word; below it is too sure. Mean distance over all pixels: {error:.3f}."
    )
    steps = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    joined = " ".join(f"{x},{y}" for x, y, _, _ in circles)
    return Scatter(
        title, "probability said", "share that is true", _both_ways(steps), circles, sentence, joined
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


def _binned(values: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((math.log10(value) - low) / (high - low) * bins))] += 1
    return counts


def _ratios(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic scale: all of 1, 2 and 5, or only the tens where those are many."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _square(x: float, y: float, most: float) -> tuple[float, float]:
    return _place(x, 0, most, LEFT, SQUARE - RIGHT), _place(y, 0, most, SQUARE - BOTTOM, SQUARE_TOP)


def _both_ways(steps: Sequence[float]) -> tuple[tuple[float, float, str], ...]:
    return tuple((*_square(step, step, steps[-1]), f"{step:g}") for step in steps)
