"""The two switches that every command knows, wherever they stand on the line."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple


class Flags(NamedTuple):
    """How much this run tells."""

    quiet: bool = False
    debug: bool = False


NO_FLAGS = Flags()
FLAGS: ContextVar[Flags] = ContextVar("flags", default=NO_FLAGS)

QUIET_NAMES = ("--quiet", "-q")
DEBUG_NAMES = ("--debug",)


def take_flags(argv: Sequence[str]) -> tuple[list[str], Flags]:
    """Take the switches out of a command line, before or behind the command's name.

    Examples
    --------
    >>> take_flags(["train", "a.toml", "--quiet"])
    (['train', 'a.toml'], Flags(quiet=True, debug=False))
    """
    end = argv.index("--") if "--" in argv else len(argv)
    head, tail = argv[:end], argv[end:]
    flags = Flags(
        quiet=any(word in QUIET_NAMES for word in head),
        debug=any(word in DEBUG_NAMES for word in head),
    )
    rest = [word for word in head if word not in QUIET_NAMES and word not in DEBUG_NAMES]
    return [*rest, *tail], flags
