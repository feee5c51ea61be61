"""How a table of curves, one row an epoch, is read and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from glomtile.errors import InputError, MissingExtraError
from glomtile.files.tables import read_csv
from glomtile.files.workspace import atomic_write

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_SIZE_INCH = (7.2, 4.0)
_DPI = 110


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
    figure = Figure(figsize=_SIZE_INCH, dpi=_DPI, layout="constrained")
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
