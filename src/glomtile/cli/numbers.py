"""Which numbers options take, in the package's own words; NaN is none of them."""

from __future__ import annotations

import typer

from glomtile.errors import ArgumentError

_LEAST_MPP, _MOST_MPP = 0.05, 20.0


def plausible_mpp(value: float | None) -> float | None:
    """Micrometres per pixel, where they were given and are plausible.

    Raises
    ------
    typer.BadParameter
        They are not.
    """
    return None if value is None else _within(value, _LEAST_MPP, _MOST_MPP, "µm per pixel")


def probability(value: float | None) -> float | None:
    """A number between 0 and 1, neither of them, where it was given.

    Raises
    ------
    typer.BadParameter
        It is none.
    """
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"expected a number between 0 and 1, got {value}")
    return value


def share(value: float) -> float:
    """A number from 0 to 1.

    Raises
    ------
    typer.BadParameter
        It is none.
    """
    return _within(value, 0, 1)


def shares(values: tuple[float, ...]) -> tuple[float, ...]:
    """Several numbers from 0 to 1.

    Raises
    ------
    typer.BadParameter
        One is none.
    """
    return tuple(share(value) for value in values)


def _within(value: float, low: float, high: float, unit: str = "") -> float:
    from glomtile.validation import number_argument

    try:
        return number_argument("", value, low, high, unit)
    except ArgumentError as problem:
        raise typer.BadParameter(problem.message) from problem
