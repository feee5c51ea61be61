"""Drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from glomtile.config.schema import ModelSettings
from glomtile.io.atomic import atomic_write
from glomtile.networks.flexunet import Level, levels

_INK, _QUIET, _BAND = "#212529", "#60676e", "#f4f6f8"
_DOWN, _UP, _BRIDGE, _END = "#0072B2", "#009E73", "#D55E00", "#8a9299"
_WIDE, _HIGH = 2.75, 0.62
_STEP_IN = 0.5
_INCH = 0.8
_LEGEND_GAP = 0.3
_LEAST_EDGE = 3.0


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    colour: str

    @property
    def left(self) -> float:
        return self.x - _WIDE / 2

    @property
    def right(self) -> float:
        return self.x + _WIDE / 2

    @property
    def top(self) -> float:
        return self.y + _HIGH / 2

    @property
    def bottom(self) -> float:
        return self.y - _HIGH / 2


def draw_network(
    path: Path, settings: ModelSettings, parameters: Mapping[str, int], title: str, size_px: tuple[int, int]
) -> Path:
    """Draw the U: what each block does, what joins them, how large the picture is at each level.

    Parameters
    ----------
    path : Path
        The PNG.
    settings : ModelSettings
        Of a FlexUNet.
    parameters : mapping
        Layer name to number of parameters; a layer belongs to the block its name begins with.
    title : str
        One line above the drawing.
    size_px : tuple of int
        ``(H, W)`` of the input.

    Raises
    ------
    MissingExtraError
        Matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = levels(settings)
    down, up = _places(len(plan))
    edge = max(_LEAST_EDGE, _WIDE / 2 - down[0].x) + 0.25
    left, right = -edge - 1.75, edge + 2.0
    low, high = down[-1].bottom - 1.0, 2.15
    with rc_context({"font.size": 9, "text.parse_math": False, "text.color": _INK}):
        figure = Figure(figsize=(_INCH * (right - left), _INCH * (high - low) * 1.08), dpi=110)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        axes.axis("off")
        axes.text(left + 0.3, high - 0.28, title, fontsize=13, fontweight="bold", va="center")
        axes.text(left + 0.3, high - 0.66, _style_line(settings), color=_QUIET, va="center")
        _rows(axes, plan, down, parameters, size_px, left, right)
        _joints(axes, down, up)
        for level, box in zip(plan, down, strict=True):
            _block(axes, box, level)
        for level, box in zip(plan[:-1], up, strict=True):
            _block(axes, box, level)
        _ends(axes, settings, down, up, size_px)
        _legend(axes, settings, low + _LEGEND_GAP, has_joints=len(plan) > 1)
        with atomic_write(path) as partial:
            canvas: Any = FigureCanvasAgg(figure)
            canvas.print_png(str(partial))
    return path


def _places(depth: int) -> tuple[list[_Box], list[_Box]]:
    """Boxes on the way down, the bridge last, and on the way up from full resolution."""
    inner = _WIDE / 2 + 0.4
    down = [_Box(-inner - _STEP_IN * (depth - 2 - i), -float(i), _DOWN) for i in range(depth - 1)]
    up = [_Box(-box.x, box.y, _UP) for box in down]
    return [*down, _Box(0.0, -float(depth - 1), _BRIDGE)], up


def _style_line(settings: ModelSettings) -> str:
    norms = {"none": "no normalisation", "batch": "batch normalisation", "group": "group normalisation"}
    parts = ["two convolutions a block", settings.activation.lower(), norms[settings.norm]]
    if max(settings.dilation) == 1:
        parts.append("no dilation")
    if settings.residual:
        parts.append("residual blocks")
    if settings.input_normalize:
        parts.append("input divided by 255")
    return " · ".join(parts)


def _rows(
    axes: Any,
    plan: Sequence[Level],
    boxes: Sequence[_Box],
    parameters: Mapping[str, int],
    size_px: tuple[int, int],
    left: float,
    right: float,
) -> None:
    """Bands with the picture's size on the left and the level's parameters on the right."""
    from matplotlib.patches import Rectangle

    total = max(1, sum(parameters.values()))
    for level, box in zip(plan, boxes, strict=True):
        if level.index % 2 == 0:
            axes.add_patch(
                Rectangle((left, box.y - 0.5), right - left, 1, color=_BAND, zorder=0, linewidth=0)
            )
        height, width = (side >> level.index for side in size_px)
        axes.text(left + 0.3, box.y + 0.12, f"{height} × {width} px", va="center", fontweight="bold")
        axes.text(left + 0.3, box.y - 0.14, f"level {level.index}", va="center", color=_QUIET, fontsize=8)
        last = level.index == len(plan) - 1
        names = ("bridge_",) if last else (f"down{level.index}_", f"up{level.index}_")
        own = sum(count for name, count in parameters.items() if name.startswith(names))
        axes.text(right - 0.3, box.y + 0.12, _short(own), va="center", ha="right", fontweight="bold")
        share = f"{100 * own / total:.1f} % of parameters"
        axes.text(right - 0.3, box.y - 0.14, share, va="center", ha="right", color=_QUIET, fontsize=8)


def _short(count: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def _block(axes: Any, box: _Box, level: Level) -> None:
    _plate(axes, box, box.colour)
    rows, columns = level.kernel
    text = f"{rows}×{columns}"
    if level.dilation != (1, 1):
        text += f", dilation {level.dilation[0]}×{level.dilation[1]}"
    lines = [text] if level.dropout_rate <= 0 else [text, f"dropout {100 * level.dropout_rate:.3g} %"]
    axes.text(box.x, box.y + 0.13, f"{level.filters} filters", ha="center", va="center", fontweight="bold")
    axes.text(box.x, box.y - 0.13, ", ".join(lines), ha="center", va="center", fontsize=8)


def _plate(axes: Any, box: _Box, colour: str, high: float = _HIGH) -> None:
    from matplotlib.patches import FancyBboxPatch

    for fill, alpha, line in (("white", 1.0, 0.0), (colour, 0.16, 0.0), ("none", 1.0, 1.6)):
        axes.add_patch(
            FancyBboxPatch(
                (box.left, box.y - high / 2),
                _WIDE,
                high,
                boxstyle="round,pad=0,rounding_size=0.09",
                facecolor=fill,
                edgecolor=colour,
                alpha=alpha,
                linewidth=line,
                zorder=3,
            )
        )


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = "-"
) -> None:
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        zorder=2,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1.8 if style == "-" else 1.3,
            "linestyle": style,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 13,
        },
    )


def _joints(axes: Any, down: Sequence[_Box], up: Sequence[_Box]) -> None:
    for here, below in pairwise(down):
        x = (max(here.left, below.left) + min(here.right, below.right)) / 2
        _arrow(axes, (x, here.bottom), (x, below.top), _DOWN)
        _arrow(axes, (-x, below.top), (-x, here.bottom), _UP)
    for here, there in zip(down[:-1], up, strict=True):
        _arrow(axes, (here.right, here.y), (there.left, there.y), _QUIET, "--")


def _ends(
    axes: Any, settings: ModelSettings, down: Sequence[_Box], up: Sequence[_Box], size_px: tuple[int, int]
) -> None:
    """The image above the first block, the probabilities above the last."""
    high = 0.44
    first, last = down[0], (up or down)[0]
    if first is last:
        first, last = (_Box(x, first.y, first.colour) for x in (-_WIDE / 2 - 0.2, _WIDE / 2 + 0.2))
    size = f"{size_px[0]} × {size_px[1]} × "
    final = "softmax" if settings.num_classes > 1 else settings.final_activation.lower()
    channels = settings.image_channels
    ends = (
        (first, f"image  {size}{channels}", "", -1),
        (last, f"probabilities  {size}{settings.num_classes}", f"1×1, {final}", 1),
    )
    for box, text, beside, sign in ends:
        plate = _Box(box.x, 0.92, _END)
        _plate(axes, plate, _END, high)
        axes.text(plate.x, plate.y, text, ha="center", va="center", fontweight="bold", fontsize=8.5)
        x = box.x if up else box.x - sign * _WIDE / 4
        above, below = (x, plate.y - high / 2), (x, box.top)
        start, end = (above, below) if sign < 0 else (below, above)
        _arrow(axes, start, end, _END)
        axes.text(x + 0.12, (above[1] + below[1]) / 2, beside, va="center", fontsize=8, color=_QUIET)


def _legend(axes: Any, settings: ModelSettings, y: float, *, has_joints: bool) -> None:
    if not has_joints:
        return
    enlarge = {"transpose": "2×2 transposed convolution, stride 2", "bilinear": "1×1, bilinear ×2"}
    entries = (
        ("2×2 max pooling", _DOWN, "-"),
        (enlarge[settings.upsampling], _UP, "-"),
        ("concatenate", _QUIET, "--"),
    )
    widths = [1.0 + 0.072 * len(text) for text, _, _ in entries]
    x = -sum(widths) / 2
    for (text, colour, style), width in zip(entries, widths, strict=True):
        _arrow(axes, (x, y), (x + 0.45, y), colour, style)
        axes.text(x + 0.55, y, text, va="center", fontsize=8.5)
        x += width
