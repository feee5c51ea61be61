"""Findings about a config, and the valid values of its settings in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from glomtile.config.schema import LARGEST_INT, Section
from glomtile.errors import ConfigError

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Finding:
    """One error or warning about a config.

    Parameters
    ----------
    severity : {"error", "warning"}
        An error refuses the config: code in a value, a wrong type or range, an unreadable file.
    file : str
        The config, as it was named; ``--set`` for a value of the command line.
    line : int
        Counted from 1; 0 for none.
    section, key : str
        Empty for the whole file or section.
    message : str
    value : str or None
        The text of the value.
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
        """Place of the finding: ``glomeruli.config:31 [train] epochs = "ten"``."""
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
    """Return one line of at most 60 printable characters."""
    line = "".join(sign if sign.isprintable() else " " for sign in text.replace("\n", " "))
    return line if len(line) <= _LONGEST_VALUE else line[: _LONGEST_VALUE - 1] + "…"


def describe(value: object) -> str:
    """Describe a value: ``the text 'ten'``."""
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


def config_error(findings: Sequence[Finding]) -> ConfigError:
    """Return an error that lists all errors among `findings`, one a line."""
    errors = [finding for finding in findings if finding.severity == "error"]
    first, rest = errors[0], errors[1:]
    return ConfigError(first.where, "\n".join([first.message, *map(str, rest)]))


# --- valid values in words --------------------------------------------------------------------------------

_NAMES = {
    "boolean": ("True or False", ""),
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
    "path": ("a path as text", "paths"),
    "null": ("None", ""),
}
"""Types of JSON schemas in words: one value, several values."""

_TOML_WORDS = {"True": "true", "False": "false", "None": '"none"'}


def expectation(settings: type[Section], key: str, *, toml: bool = False) -> str:
    """Describe the valid values of a setting: ``a whole number ≥ 1``, with TOML's ``true`` if `toml`."""
    schema = _properties(settings)[key]
    words = schema.get("expects") or _words(schema)
    return re.sub(r"\b(True|False|None)\b", lambda word: _TOML_WORDS[word[1]], words) if toml else words


def is_scalar(settings: type[Section], key: str) -> bool:
    """Return whether a setting is a single value, for which a trailing comma is a typo."""
    schema = _properties(settings)[key]
    return not {"array", "object"} & {part.get("type") for part in schema.get("anyOf", [schema])}


@cache
def _properties(settings: type[Section]) -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = settings.model_json_schema()["properties"]
    return properties


def _words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    if schema["type"] == "array":
        first = schema["items"] if "items" in schema else schema["prefixItems"][0]
        count = "a list of" if "items" in schema else "a pair of"
        return f"{count} {_NAMES[first['type']][1]}{_range(first)}"
    return _NAMES[schema.get("format", schema["type"])][0] + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:.10g} to {schema['maximum']:.10g}"
    parts = [f" {sign} {schema[name]:.10g}" for name, sign in limits.items() if name in schema]
    return " and".join(parts)
