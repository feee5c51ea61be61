"""The switches that every command knows, wherever they stand on the line."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple


class Flags(NamedTuple):
    """How much this run tells, and in which form."""

    quiet: bool = False
    debug: bool = False
    verbose: bool = False
    json: bool = False


NO_FLAGS = Flags()
FLAGS: ContextVar[Flags] = ContextVar("flags", default=NO_FLAGS)

_NAMES = {
    "--quiet": "quiet",
    "-q": "quiet",
    "--debug": "debug",
    "--verbose": "verbose",
    "-v": "verbose",
    "--json": "json",
}


def parse_global_options(argv: Sequence[str]) -> tuple[list[str], Flags]:
    """Take the switches out of a command line, before or behind the command's name.

    Examples
    --------
    >>> take_flags(["train", "a.toml", "--quiet"])
    (['train', 'a.toml'], Flags(quiet=True, debug=False, verbose=False, json=False))
    """
    end = argv.index("--") if "--" in argv else len(argv)
    head, tail = argv[:end], argv[end:]
    flags = Flags(**dict.fromkeys((_NAMES[word] for word in head if word in _NAMES), True))
    return [*(word for word in head if word not in _NAMES), *tail], flags
