"""Static plots drawn with Matplotlib: PNG files, and SVG for the report page."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile.errors import InputError
from glomtile.io.atomic import atomic_write
from glomtile.io.tables import read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
SPLIT_COLOURS = {"train": "#0072b2", "valid": "#e69f00", "test": "#009e73"}
_MARKERS = {"train": "o", "valid": "s", "test": "^"}
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK, _QUIET, _GRID = "#212529", "#60676e", "#e3e6e9"
_ACCENT, _TRUTH, _PREDICTION = "#0b5fae", "#0068d6", "#e07000"
_CSS = {
    _INK: "currentColor",
    _QUIET: "var(--quiet)",
    _GRID: "var(--line)",
    _ACCENT: "var(--accent)",
    _TRUTH: "var(--only-true)",
    _PREDICTION: "var(--only-predicted)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(_SERIES)},
}
"""Colours of the report's style sheet, which differ in dark mode and in print."""

_DPI = 110
_MOSTLY_GLASS = 0.95
_STYLE: Any = {
    "font.size": 10,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
}
_SVG_STYLE: Any = {**_STYLE, "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "glomtile"}
_WIDE_INCH, _SQUARE_INCH = (5.4, 2.7), (3.6, 3.6)


@dataclass(frozen=True)
class Curves:
    """Columns of numbers over the first column.

    Attributes
    ----------
    x_name : str
        Name of the first column, for example ``epoch``.
    x : tuple of float
    series : dict of str to tuple of float
        Name to values, NaN where a cell is empty.
    """

    x_name: str
    x: tuple[float, ...]
    series: dict[str, tuple[float, ...]]


def read_curves(path: Path) -> Curves:
    """Read a CSV of numbers such as ``train_losses.csv``.

    The first column is the epoch, each further one a curve; a table may have a header only.

    Raises
    ------
    InputError
        The file is not a table, has fewer than two columns, or a cell is not a number.
    """
    rows = read_csv(path)
    if rows:
        header = list(rows[0])
    else:  # a header only
        with path.open(encoding="utf-8-sig") as stream:
            header = [name.strip() for name in stream.readline().split(",") if name.strip()]
    if len(header) < 2:
        raise InputError(path, f"expected at least two columns, got {', '.join(header)}")
    columns = {name: tuple(_number(path, name, row[name]) for row in rows) for name in header}
    x_name, *names = header
    return Curves(x_name, columns[x_name], {name: columns[name] for name in names})


def plot_curves(csv_path: Path, png_path: Path, title: str) -> Path:
    """Draw every column of a CSV over its first one.

    Parameters
    ----------
    csv_path : Path
        See `read_curves`; may contain no epoch yet.
    """
    curves = read_curves(csv_path)
    with _png(png_path, (7.2, 4.0)) as figure:
        axes = figure.add_subplot()
        _draw_curves(axes, curves, dict.fromkeys(curves.series, ""))
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend()
    return png_path


def draw_counts(path: Path, name: str, counts: Mapping[str, int], cut_from: Mapping[str, int] | None) -> Path:
    """Draw the number of images of each split.

    Parameters
    ----------
    name : str
        Name of the dataset.
    counts : mapping
        Split to number of files.
    cut_from : mapping, optional
        Split to number of whole images, if the files are tiles.
    """
    unit = "images" if cut_from is None else "tiles"
    with _png(path, (6.4, 4.2)) as figure:
        axes = figure.add_subplot()
        colours = [SPLIT_COLOURS.get(split, _QUIET) for split in counts]
        bars = axes.bar(list(counts), list(counts.values()), color=colours, width=0.6)
        total = max(1, sum(counts.values()))
        texts = []
        for split, count in counts.items():
            source = ""
            if cut_from is not None:
                source = f"\nof {cut_from[split]:,} image" + ("" if cut_from[split] == 1 else "s")
            texts.append(f"{count:,}  ({100 * count / total:.0f} %){source}")
        axes.bar_label(bars, texts, padding=4, fontsize=10)
        axes.margins(y=0.2)
        axes.set_ylabel(unit)
        _whole_numbers(axes.yaxis)
        axes.grid(visible=True, axis="y")
        axes.tick_params(axis="x", length=0, labelsize=11)
        _title(axes, f"{name}: {unit} of each split", f"{sum(counts.values()):,} {unit} with their masks")
    return path


def draw_class_shares(
    path: Path,
    name: str,
    pixels: Mapping[str, Mapping[str, float]],
    files: Mapping[str, Mapping[str, float]],
    unit: str,
) -> Path:
    """Draw the share of the area and of the files with each class.

    Parameters
    ----------
    name : str
        Name of the dataset.
    pixels, files : mapping
        Class name to split to share, 0 to 1, without background.
    unit : str
        ``"images"`` or ``"tiles"``.
    """
    with _png(path, (9.6, 1.9 + 0.8 * len(pixels))) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _share_bars(left, pixels)
        _share_bars(right, files)
        left.set_yticks(range(len(pixels)), [_shortened(text) for text in pixels])
        left.invert_yaxis()
        _title(left, f"{name}: class shares", "share of all pixels")
        _title(right, "", f"share of the {unit} with the class")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return path


def draw_sizes(
    path: Path, name: str, sizes: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str
) -> Path:
    """Draw the distribution of object areas of each class on a logarithmic axis.

    Parameters
    ----------
    name : str
        Name of the dataset.
    sizes : mapping
        Class name to the areas of whole objects, and of objects cut by the image border.
    unit : str
        Of the areas: ``"px"`` or ``"µm²"``.
    """
    rows = max(1, len(sizes))
    every = [area for whole, cut in sizes.values() for area in (*whole, *cut)]
    with _png(path, (7.6, 1.5 + 2.1 * rows)) as figure:
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        edges = _ratio_edges(every)
        for axes, (class_name, (whole, cut)) in zip(panels, sizes.items(), strict=False):
            label = [f"whole ({len(whole)})", f"cut by the image border ({len(cut)})"]
            axes.hist([whole, cut], edges, stacked=True, color=[_SERIES[0], "#a9cce3"], label=label)
            axes.set_xscale("log")
            axes.set_ylabel("objects")
            _whole_numbers(axes.yaxis)
            axes.grid(visible=True)
            if whole:
                median = float(np.median(whole))
                axes.axvline(
                    median, color=_SERIES[1], linewidth=1.6, label=f"median of whole objects: {median:,.0f}"
                )
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
            _title(axes, "", _shortened(class_name))
        panels[-1].set_xlabel(f"area of an object, {unit}")
        _label_ratios(panels[-1], edges)
        _title(panels[0], f"{name}: object areas", _shortened(next(iter(sizes), "")))
    return path


def draw_stains(path: Path, name: str, stains: Mapping[str, Sequence[Any]], unit: str) -> Path:
    """Draw every image as a point at its tissue's brightness and saturation, in the tissue's mean colour.

    Images that are almost entirely glass are left out.

    Parameters
    ----------
    name : str
        Name of the dataset.
    stains : mapping
        Split to a `glomtile.datasets.statistics.Stain` of each of its images.
    unit : str
        ``"images"`` or ``"tiles"``.
    """
    from matplotlib.lines import Line2D

    most = max((len(found) for found in stains.values()), default=0)
    area = 70 if most < 100 else 34 if most < 1000 else 16
    with _png(path, (7.6, 5.0)) as figure:
        axes = figure.add_subplot()
        handles = []
        for split, every in stains.items():
            found = [stain for stain in every if stain.glass <= _MOSTLY_GLASS]
            colour, marker = SPLIT_COLOURS.get(split, _QUIET), _MARKERS.get(split, "D")
            axes.scatter(
                [stain.brightness for stain in found],
                [100 * stain.saturation for stain in found],
                s=area,
                marker=marker,
                c=[tuple(part / 255 for part in stain.rgb) for stain in found] or None,
                edgecolors=colour,
                linewidths=1.4 if most < 1000 else 0.8,
                alpha=0.9,
            )
            handles.append(
                Line2D(
                    [], [], marker=marker, linestyle="", markersize=8, markerfacecolor="white",
                    markeredgecolor=colour, markeredgewidth=1.6, label=f"{split} ({len(found):,})",
                )
            )  # fmt: skip
        axes.set_xlabel("mean brightness of the tissue, 0 to 255")
        axes.set_ylabel("mean saturation of the tissue, %")
        axes.grid(visible=True)
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        bare = sum(stain.glass > _MOSTLY_GLASS for found in stains.values() for stain in found)
        left_out = f"; {bare:,} of glass only left out" if bare else ""
        below = "points in the mean colour of the tissue" + left_out
        _title(axes, f"{name}: stain of the {unit}", below)
    return path


def curves_svg(curves: Curves) -> str | None:
    """Draw curves over their first column; None without a finite value.

    Returns
    -------
    str or None
        An ``<svg>`` element. Text stays text; colours follow the style sheet of the report.
    """
    values = [value for series in curves.series.values() for value in series if math.isfinite(value)]
    if not values or not any(map(math.isfinite, curves.x)):
        return None
    last = {
        name: next((f" (last {value:.4f})" for value in reversed(series) if math.isfinite(value)), "")
        for name, series in curves.series.items()
    }
    with _figure(_WIDE_INCH, _SVG_STYLE) as figure:
        axes = figure.add_subplot()
        _draw_curves(axes, curves, last)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _as_svg(figure)


def area_histogram_svg(truth: Sequence[float], prediction: Sequence[float], unit: str) -> str:
    """Draw the areas of true and predicted objects on a logarithmic axis.

    Parameters
    ----------
    truth, prediction : sequence of float
        Areas above 0; at least one of either.
    unit : str
        Of the areas.
    """
    with _figure(_WIDE_INCH, _SVG_STYLE) as figure:
        axes = figure.add_subplot()
        edges = _ratio_edges([*truth, *prediction])
        if truth:
            colours, labels = [_TRUTH, _PREDICTION], ["truth", "prediction"]
            axes.hist([truth, prediction], edges, color=colours, label=labels)
            figure.legend(loc="outside lower center", ncols=2)
        else:
            axes.hist(prediction, edges, color=_PREDICTION, rwidth=0.85)
        axes.set_xscale("log")
        _label_ratios(axes, edges)
        _whole_numbers(axes.yaxis)
        axes.set_xlabel(f"area, {unit}")
        axes.set_ylabel("objects")
        axes.grid(visible=True, axis="y")
        return _as_svg(figure)


def count_scatter_svg(counts: Sequence[tuple[int, int]]) -> str:
    """Draw predicted over true numbers of objects.

    Parameters
    ----------
    counts : sequence of (int, int)
        True and predicted number of each image, at least one; images of equal numbers share a larger circle.
    """
    images = {pair: counts.count(pair) for pair in dict.fromkeys(counts)}
    most = max(images.values())
    areas = [12 + 140 * number / most for number in images.values()]
    with _figure(_SQUARE_INCH, _SVG_STYLE) as figure:
        axes = _square_axes(figure, max(1, *(max(pair) for pair in images)))
        axes.scatter([pair[0] for pair in images], [pair[1] for pair in images], areas, _ACCENT, alpha=0.65)
        _whole_numbers(axes.xaxis)
        _whole_numbers(axes.yaxis)
        axes.set_xlabel("true objects")
        axes.set_ylabel("predicted objects")
        return _as_svg(figure)


def calibration_svg(bins: Sequence[tuple[float, float, int]]) -> str:
    """Draw how often a class is true over the probability that the network predicts.

    Parameters
    ----------
    bins : sequence of (float, float, int)
        Mean predicted probability, share that is true, and number of pixels; at least one.
    """
    predicted, true, pixels = zip(*bins, strict=True)
    areas = [20 + 100 * (number / max(pixels)) ** 0.5 for number in pixels]
    with _figure(_SQUARE_INCH, _SVG_STYLE) as figure:
        axes = _square_axes(figure, 1.0)
        axes.plot(predicted, true, color=_ACCENT, alpha=0.5)
        axes.scatter(predicted, true, areas, _ACCENT, alpha=0.65)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share that is true")
        return _as_svg(figure)


@contextmanager
def _figure(size_inch: tuple[float, float], style: Any) -> Iterator[Figure]:
    """Yield a figure to draw on, without the global state of pyplot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(style), warnings.catch_warnings():
        # A browser has fonts for what the one that ships with Matplotlib lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield Figure(figsize=size_inch, dpi=_DPI, layout="constrained")


@contextmanager
def _png(path: Path, size_inch: tuple[float, float]) -> Iterator[Figure]:
    """Yield a figure and write it, whole or not at all."""
    with _figure(size_inch, _STYLE) as figure:
        yield figure
        with atomic_write(path) as partial:
            figure.savefig(str(partial), format="png")


def _as_svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element that takes fonts and colours from the page around it."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", svg)
    # Ids count up in each figure, and the style sheet and the fonts would apply to the whole page.
    svg = re.sub(r'<g id="[a-z0-9.]+_\d+">', "<g>", svg)
    svg = re.sub(r"\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=style=")font: ([\d.]+px)[^;"]*', r"font-size: \1", svg)  # Matplotlib 3.10 and older
    svg = re.sub(r'font-family: [^;"]*; ', "", svg)
    for colour, variable in _CSS.items():
        svg = re.sub(f'(?<=: ){colour}(?=[;"])', variable, svg)
    return svg


def _square_axes(figure: Figure, most: float) -> Axes:
    """Add square axes from 0 to `most` with their diagonal."""
    axes = figure.add_subplot()
    limits = (-0.04 * most, 1.04 * most)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.axline((0, 0), slope=1, color=_QUIET, linewidth=1, linestyle="--")
    axes.grid(visible=True)
    return axes


def _draw_curves(axes: Axes, curves: Curves, behind: Mapping[str, str]) -> None:
    """Draw a line for each series, dashed for validation; points without neighbours become dots."""
    from matplotlib.ticker import MaxNLocator

    x = np.array(curves.x, np.float64)
    for number, (name, series) in enumerate(curves.series.items()):
        values = np.array(series, np.float64)
        finite = np.isfinite(values)
        joined = np.zeros(len(values) + 1, bool)
        joined[1:-1] = finite[1:] & finite[:-1]
        alone = np.flatnonzero(finite & ~joined[1:] & ~joined[:-1]).tolist()
        axes.plot(
            x,
            np.where(finite, values, np.nan),
            "--" if name.startswith("val_") else "-",
            color=_SERIES[number % len(_SERIES)],
            marker="o" if alone else None,
            markevery=alone,
            linewidth=1.6,
            # Matplotlib leaves names that start with an underscore out of a legend.
            label=(" " if name.startswith("_") else "") + name + behind[name],
        )
    axes.set_xlabel(curves.x_name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True)


def _share_bars(axes: Axes, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a group of bars for each class, a bar for each split, in per cent."""
    splits = list(dict.fromkeys(split for by_split in shares.values() for split in by_split))
    thick = 0.8 / max(1, len(splits))
    for number, split in enumerate(splits):
        at = [row + (number - (len(splits) - 1) / 2) * thick for row in range(len(shares))]
        values = [100 * by_split.get(split, 0.0) for by_split in shares.values()]
        bars = axes.barh(at, values, thick * 0.9, color=SPLIT_COLOURS.get(split, _QUIET), label=split)
        axes.bar_label(bars, [f"{value:.3g} %" for value in values], padding=3, fontsize=9)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)


def _ratio_edges(areas: Sequence[float]) -> list[float]:
    """Return bin edges of equal ratio around all areas."""
    low, high = (min(areas), max(areas)) if areas else (1.0, 10.0)
    low, high = max(low, 1e-3) / 1.1, max(high, 1e-3) * 1.1
    bins = int(np.clip(2 * len(areas) ** 0.5, 6, 24))
    edges: list[float] = np.geomspace(low, high, bins + 1).tolist()
    return edges


def _label_ratios(axes: Axes, edges: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, fewer of them on a long axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ratio = edges[-1] / edges[0]
    steps = (1.0, 2.0, 5.0) if ratio < 100 else (1.0, 3.0) if ratio < 10_000 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter("{x:,.12g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _title(axes: Axes, title: str, below: str) -> None:
    """Write a bold title and a grey line below it."""
    axes.set_title(below, loc="left", fontsize=10, color=_QUIET, pad=8)
    if title:
        axes.annotate(
            title, (0, 1), (0, 26), xycoords="axes fraction", textcoords="offset points",
            fontsize=12, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _shortened(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(path: Path, column: str, cell: str) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise InputError(path, f"expected numbers under {column}, got {cell!r}") from None
