"""Checks of function arguments."""

from __future__ import annotations

import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from glomtile.errors import ArgumentError

T = TypeVar("T")


def path_argument(name: str, value: object) -> Path:
    """Return a path that is given as text or path.

    Raises
    ------
    ArgumentError
        It is neither.
    """
    if not isinstance(value, str | os.PathLike):
        raise ArgumentError(name, "a path", value)
    return Path(value)


def whole_argument(name: str, value: object, least: int, most: int | None = None) -> int:
    """Check a whole number of a range, both ends included.

    Raises
    ------
    ArgumentError
        It is none, or outside.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ArgumentError(name, f"a whole number {bounds}", value)


def number_argument(name: str, value: object, low: float, high: float, unit: str = "") -> float:
    """Check a number of a range, both ends included; NaN is none.

    Raises
    ------
    ArgumentError
        It is none, or outside.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high:
        return float(value)
    raise ArgumentError(name, f"{low:g} to {high:g}{unit and ' '}{unit}", value)


def choice_argument(name: str, value: object, choices: Collection[str]) -> str:
    """Check a word of several.

    Raises
    ------
    ArgumentError
        It is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(name, f"one of {', '.join(choices)}", value)
    return value


def typed_argument(name: str, value: object, kind: type[T], words: str) -> T:
    """Check the class of a value.

    Raises
    ------
    ArgumentError
        It is of another; `words` are what is expected.
    """
    if not isinstance(value, kind):
        raise ArgumentError(name, words, value)
    return value
