"""What a check of a config found: where, how bad, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from glomtile.errors import ConfigError

LARGEST_INT = 2**63
"""Whole numbers from here on fit nowhere."""

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Finding:
    """One thing to say about a config.

    Parameters
    ----------
    severity : {"error", "warning"}
        An error refuses the config: code in a value, a wrong type or range, an unreadable file.
    file : str
        The config, as it was named; ``--set`` for a value of the command line.
    line : int
        Counted from 1; 0 where no line is at fault.
    section, key : str
        Empty where the whole file or section is meant.
    message : str
        One sentence without a full stop.
    value : str or None
        The value as it was written.
    """

    severity: Literal["error", "warning"]
    file: str
    line: int
    section: str
    key: str
    message: str
    value: str | None = None

    @property
    def where(self) -> str:
        """``glomeruli.config:31 [train] epochs = "ten"``."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [place] if place else []
        if self.section:
            parts.append(f"[{self.section}]")
        if self.key:
            parts.append(self.key if self.value is None else f"{self.key} = {shorten(self.value)}")
        return " ".join(parts)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def shorten(text: str) -> str:
    """One line of at most 60 printable characters."""
    line = "".join(sign if sign.isprintable() else " " for sign in text.replace("\n", " "))
    return line if len(line) <= _LONGEST_VALUE else line[: _LONGEST_VALUE - 1] + "…"


def describe(value: object) -> str:
    """A value in words: ``the text 'ten'``."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, str):
        return f"the text {shorten(repr(value))}"
    try:
        written = repr(value)
    except ValueError:  # Python refuses to print a whole number of more than 4300 digits
        written = "thousands of digits"
    too_large = isinstance(value, int) and abs(value) >= LARGEST_INT
    return shorten(written) + (", too large a number" if too_large else "")


def refusal(findings: Sequence[Finding]) -> ConfigError:
    """The error that tells all errors among `findings`, one a line."""
    errors = [finding for finding in findings if finding.severity == "error"]
    first, rest = errors[0], errors[1:]
    return ConfigError(first.where, "\n".join([first.message, *map(str, rest)]))
