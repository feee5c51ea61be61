"""Static plots drawn with Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile.datasets.image_statistics import Stain
from glomtile.errors import InputError, MissingExtraError
from glomtile.io.atomic import atomic_write
from glomtile.io.tables import read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers.
SPLIT_COLOURS = {"train": "#0072B2", "valid": "#E69F00", "test": "#009E73"}
_MARKERS = {"train": "o", "valid": "s", "test": "^"}
_INK, _QUIET, _GRID = "#212529", "#60676e", "#e3e6e9"
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
    "legend.frameon": False,
}


def draw_counts(path: Path, name: str, counts: Mapping[str, int], cut_from: Mapping[str, int] | None) -> Path:
    """Draw the reference's chart: how many images each split has.

    Parameters
    ----------
    path : Path
        The PNG.
    name : str
        The dataset's.
    counts : mapping
        Split to number of files.
    cut_from : mapping, optional
        Split to number of whole images that the files are tiles of.
    """
    unit = "images" if cut_from is None else "tiles"
    with _drawing(path, (6.4, 4.2)) as figure:
        axes = figure.add_subplot()
        colours = [SPLIT_COLOURS.get(split, _QUIET) for split in counts]
        bars = axes.bar(list(counts), list(counts.values()), color=colours, width=0.6)
        total = max(1, sum(counts.values()))
        texts = []
        for split, count in counts.items():
            source = "" if cut_from is None else f"\nof {_counted(cut_from[split], 'image')}"
            texts.append(f"{count:,}  ({100 * count / total:.0f} %){source}")
        axes.bar_label(bars, texts, padding=4, fontsize=10)
        axes.margins(y=0.2)
        axes.set_ylabel(unit)
        _whole_numbers(axes.yaxis)
        axes.grid(visible=True, axis="y", color=_GRID)
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
    """Draw how much of the area, and how many of the files, hold each class.

    Parameters
    ----------
    path : Path
    name : str
        The dataset's.
    pixels, files : mapping
        Class name to split to share, 0 to 1; background left out.
    unit : str
        What a file is: ``"images"`` or ``"tiles"``.
    """
    with _drawing(path, (9.6, 1.9 + 0.8 * len(pixels))) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _share_bars(left, pixels)
        _share_bars(right, files)
        left.set_yticks(range(len(pixels)), [_shortened(text) for text in pixels])
        left.invert_yaxis()
        _title(left, f"{name}: how much there is of each class", "share of all pixels")
        _title(right, "", f"share of the {unit} in which it occurs")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return path


def draw_sizes(
    path: Path, name: str, sizes: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str
) -> Path:
    """Draw how large the objects of each class are, on a scale of equal ratios.

    Parameters
    ----------
    path : Path
    name : str
        The dataset's.
    sizes : mapping
        Class name to areas of the objects that lie whole in their picture, and of those that its
        border cuts.
    unit : str
        Of the areas: ``"px"`` or ``"µm²"``.
    """
    rows = max(1, len(sizes))
    every = [area for whole, cut in sizes.values() for area in (*whole, *cut)]
    with _drawing(path, (7.6, 1.5 + 2.1 * rows)) as figure:
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        edges = _ratio_edges(every)
        for axes, (class_name, (whole, cut)) in zip(panels, sizes.items(), strict=False):
            label = [f"whole ({len(whole)})", f"cut by the picture's border ({len(cut)})"]
            axes.hist([whole, cut], edges, stacked=True, color=["#0072B2", "#A9CCE3"], label=label)
            axes.set_xscale("log")
            axes.set_ylabel("objects")
            _whole_numbers(axes.yaxis)
            axes.grid(visible=True, color=_GRID)
            if whole:
                median = float(np.median(whole))
                axes.axvline(
                    median, color="#D55E00", linewidth=1.6, label=f"median of the whole: {median:,.0f}"
                )
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
            _title(axes, "", _shortened(class_name))
        panels[-1].set_xlabel(f"area of an object, {unit}")
        _label_ratios(panels[-1], edges)
        first = _shortened(next(iter(sizes), ""))
        _title(panels[0], f"{name}: how large the objects are", first)
    return path


def draw_stains(path: Path, name: str, stains: Mapping[str, Sequence[Stain]], unit: str) -> Path:
    """Draw every picture as a point by its tissue's brightness and saturation, in the tissue's own colour.

    Pictures that are next to all glass are left out: what little is on them is no stain.

    Parameters
    ----------
    path : Path
    name : str
        The dataset's.
    stains : mapping
        Split to the tissue colour of each of its pictures.
    unit : str
        What a picture is: ``"images"`` or ``"tiles"``.
    """
    from matplotlib.lines import Line2D

    most = max((len(found) for found in stains.values()), default=0)
    area = 70 if most < 100 else 34 if most < 1000 else 16
    with _drawing(path, (7.6, 5.0)) as figure:
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
        axes.grid(visible=True, color=_GRID)
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        bare = sum(stain.glass > _MOSTLY_GLASS for found in stains.values() for stain in found)
        left_out = f"; {bare:,} of glass alone left out" if bare else ""
        below = "each point filled with its tissue's mean colour" + left_out
        _title(axes, f"{name}: how the {unit} are stained", below)
    return path


@contextmanager
def _drawing(path: Path, size_inch: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw on, written whole or not at all; pyplot's global state is not touched."""
    require_charts()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size_inch, dpi=_DPI, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        yield figure
        with atomic_write(path) as partial:
            canvas.print_png(str(partial))


def _share_bars(axes: Axes, shares: Mapping[str, Mapping[str, float]]) -> None:
    """One group of bars a class, one bar a split, in per cent."""
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
    axes.grid(visible=True, axis="x", color=_GRID)
    axes.tick_params(axis="y", length=0)


def _ratio_edges(areas: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Edges of equal ratio around all areas; at most 24 bins, at least one."""
    low, high = (min(areas), max(areas)) if areas else (1.0, 10.0)
    low, high = max(low, 1e-3) / 1.1, max(high, 1e-3) * 1.1
    bins = int(np.clip(2 * len(areas) ** 0.5, 6, 24))
    return np.geomspace(low, high, bins + 1)


def _label_ratios(axes: Axes, edges: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ratio = edges[-1] / edges[0]
    steps = (1.0, 2.0, 5.0) if ratio < 100 else (1.0, 3.0) if ratio < 10_000 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    axes.xaxis.set_minor_formatter(NullFormatter())


def _title(axes: Axes, title: str, below: str) -> None:
    """A bold line, and a quiet one below it that says what is drawn."""
    axes.set_title(below, loc="left", fontsize=10, color=_QUIET, pad=8)
    if title:
        axes.annotate(
            title, (0, 1), (0, 26), xycoords="axes fraction", textcoords="offset points",
            fontsize=12, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def _shortened(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_SIZE_INCH = (7.2, 4.0)
_DPI_figures = 110


@dataclass(frozen=True)
class Curves:
    """Columns of numbers over the first column.

    Attributes
    ----------
    x_name : str
        Name of the first column, ``epoch`` in our tables.
    x : tuple of float
    series : dict of str to tuple of float
        Name to values, NaN where a cell is empty.
    """

    x_name: str
    x: tuple[float, ...]
    series: dict[str, tuple[float, ...]]


def read_curves(path: Path) -> Curves:
    """Read a CSV of numbers such as ``train_losses.csv``.

    Parameters
    ----------
    path : Path
        First column: epoch; each further column is a curve.

    Returns
    -------
    Curves
        Without points when the table has a header only.

    Raises
    ------
    InputError
        When the file is no table, has fewer than two columns, or holds a cell that is no number.
    """
    rows = read_csv(path)
    header = list(rows[0]) if rows else read_header(path)
    if len(header) < 2:
        raise InputError(path, f"expected at least two columns, got {', '.join(header)}")
    columns = {name: tuple(_number(path, name, row[name]) for row in rows) for name in header}
    x_name, *names = header
    return Curves(x_name, columns[x_name], {name: columns[name] for name in names})


def require_charts() -> None:
    """Refuse to begin where charts cannot be drawn.

    Raises
    ------
    MissingExtraError
        Matplotlib, which draws them, is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "charts", "expected Matplotlib, which draws them, got an installation without it",
            "pip install 'glomtile[cpu]', or gpu, jax or torch in place of cpu",
        )  # fmt: skip


def plot_curves(csv_path: Path, png_path: Path, title: str) -> Path:
    """Draw every column of a CSV over its first one.

    Parameters
    ----------
    csv_path : Path
        See `read_curves`; may hold no epoch yet.
    png_path : Path
        The picture, written whole or not at all.
    title : str
        Line above the plot; drawn as it is, dollar signs included.

    Returns
    -------
    Path
        `png_path`.

    Raises
    ------
    MissingExtraError
        See `require_charts`.
    """
    require_charts()
    # Figure and canvas by hand: pyplot keeps global state and asks the machine for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves = read_curves(csv_path)
    figure = Figure(figsize=_SIZE_INCH, dpi=_DPI_figures, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marker = "o" if len(curves.x) < 3 else None
    for i, (name, values) in enumerate(curves.series.items()):
        style = "--" if name.startswith("val_") else "-"
        colour = _COLOURS[i % len(_COLOURS)]
        # a leading underscore would hide the line from the legend, a dollar would start a formula
        axes.plot(curves.x, values, style, color=colour, marker=marker, linewidth=1.6, label=_plain(name))
    axes.set_title(_plain(title), loc="left", fontsize=11)
    axes.set_xlabel(_plain(curves.x_name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, color="#d9dde1", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(png_path) as partial:
        canvas.print_figure(partial, format="png")
    return png_path


def read_header(path: Path) -> list[str]:
    """Column names of a table, for one that has no rows yet."""
    with path.open(encoding="utf-8-sig") as stream:
        names: Sequence[str] = [name.strip() for name in stream.readline().split(",")]
    return [name for name in names if name]


def _plain(text: str) -> str:
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _number(path: Path, column: str, cell: str) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise InputError(path, f"expected numbers under {column}, got {cell!r}") from None
