"""Options and arguments that several commands share, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomtile.errors import ArgumentError, ConfigError, UsageError

if TYPE_CHECKING:
    from glomtile.cluster import Cluster
    from glomtile.palette import Palette


def in_range(low: float, high: float, unit: str = "") -> Callable[[Any], Any]:
    """Return a check that numbers are within `low` to `high`; NaN is not."""

    def check(value: Any) -> Any:
        from glomtile.validation import number_argument

        if value is None:
            return None
        try:
            if isinstance(value, tuple):
                return tuple(number_argument("", one, low, high, unit) for one in value)
            return number_argument("", value, low, high, unit)
        except ArgumentError as problem:
            raise typer.BadParameter(problem.message) from problem

    return check


def probability(value: float | None) -> float | None:
    """Check that a number is between 0 and 1, both excluded."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"expected a number between 0 and 1, got {value}")
    return value


plausible_mpp = in_range(0.05, 20, "µm per pixel")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="INI or TOML file of settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")]
OptionalMpp = Annotated[
    float | None,
    typer.Option(
        metavar="UM", callback=plausible_mpp, help="Micrometres per pixel of the images, 0.05 to 20."
    ),
]
RgbMap = Annotated[
    str | None,
    typer.Option(metavar="MAP", help='Colours of the classes in masks [default: "{(0,0,0):0,(255,0,0):1}"].'),
]
Tolerance = Annotated[
    int,
    typer.Option(
        min=0, max=255, metavar="N", help="Largest difference of a mask's colour, for JPEG masks for example."
    ),
]
Against = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Other predictions, for paired differences.")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="URL", help="Run on the workers of a Dask scheduler, tcp://host:8786.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Run in N local processes side by side.")
]


def cluster_of(scheduler: str | None, workers: int | None) -> Cluster | None:
    """Return the cluster of ``--scheduler`` or ``--workers``, None without either."""
    if scheduler is None and workers is None:
        return None
    from glomtile.cluster import Cluster

    if scheduler is not None and workers is not None:
        raise UsageError("--workers", "expected a scheduler or a number of workers, got both")
    return Cluster(scheduler, workers)


def palette_of(rgb_map: str | None) -> Palette:
    """Return the palette of ``--rgb-map``."""
    from glomtile.config.ini import read_literal
    from glomtile.palette import GLOMERULI, Palette

    if rgb_map is None:
        return GLOMERULI
    try:
        return Palette.from_rgb_map(dict(read_literal(rgb_map).value))  # type: ignore[call-overload]
    except ConfigError as error:
        raise UsageError("--rgb-map", error.message, error.hint) from error
    except (ValueError, TypeError) as error:
        expected = 'colours and class numbers like "{(0,0,0):0,(255,0,0):1}"'
        raise ArgumentError("rgb_map", expected, rgb_map) from error
