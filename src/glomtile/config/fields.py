"""Field types of the config schema, and findings about their values."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from glomtile.errors import ConfigError

LARGEST_INT = 2**63
"""Upper limit of whole numbers."""

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


NONE_WORDS = frozenset({"none", "null"})


@dataclass(frozen=True)
class KeyInfo:
    """Facts of a setting beside its type.

    Parameters
    ----------
    unit : str or None
        ``px``, ``µm/px``, ``epochs`` …
    ours : bool
        The reference system does not know the key.
    networks, losses : tuple of str
        The networks or losses that read the key; empty for all.
    inert : str or None
        Why the key has no effect.
    known : tuple of str
        Known names; others are accepted with a warning.
    expects : str or None
        Valid values in words, where the type is not enough.
    """

    unit: str | None = None
    ours: bool = False
    networks: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    inert: str | None = None
    known: tuple[str, ...] = ()
    expects: str | None = None


def setting(
    default: Any,
    text: str,
    *,
    info: KeyInfo | None = None,
    unit: str | None = None,
    ours: bool = False,
    **range_: Any,
) -> Any:
    """Declare a key: default, description, unit and range (``ge``, ``gt``, ``le``, ``lt``)."""
    extra: dict[str, Any] = {"about": asdict(info or KeyInfo(unit=unit, ours=ours))}
    return Field(default, description=text, json_schema_extra=extra, **range_)


def key_info(field_info: FieldInfo) -> KeyInfo:
    """Return the facts of a field that was declared by `setting`."""
    extra: Any = field_info.json_schema_extra
    return KeyInfo(**extra["about"]) if isinstance(extra, dict) else KeyInfo()


def _as_path(value: object) -> object:
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("empty")
        return Path(value.replace("\\", "/"))
    return value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("low above high")
    return pair


PathSetting = Annotated[Path, BeforeValidator(_as_path)]
PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
ScaleRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
QualityRange = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]], AfterValidator(_ordered)
]


def _as_tuples(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(item) for item in value)
    return value


class Section(BaseModel):
    """A section of a config: frozen, known keys only, no silent conversion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        prepared = {}
        for key, value in data.items():
            info = cls.model_fields.get(key)
            none = isinstance(value, str) and value.lower() in NONE_WORDS
            prepared[key] = None if none and info and is_optional(info.annotation) else _as_tuples(value)
        return cls.imply(prepared)

    @field_validator("*", mode="after")
    @classmethod
    def _fits(cls, value: object) -> object:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int) and abs(part) >= LARGEST_INT:
                raise ValueError("too large")
            if isinstance(part, str | Path):
                str(part).encode()  # a lone surrogate cannot be written to a file
        return value

    @classmethod
    def imply(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Derive keys from others; sections override it."""
        return data

    def is_set(self, key: str) -> bool:
        """Return whether `key` is in the config, rather than at its default."""
        return key in self.model_fields_set


# --- types in words ---------------------------------------------------------------------------------------


def is_optional(annotation: Any) -> bool:
    """Return whether None is a value of the type."""
    return type(None) in get_args(_bare(annotation))


def is_path(annotation: Any) -> bool:
    """Return whether the type is a path, optional or not."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return any(is_path(part) for part in get_args(bare))
    return bare is Path


def is_scalar(annotation: Any) -> bool:
    """Return whether the type is a single value, for which a trailing comma is a typo."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return all(is_scalar(part) for part in get_args(bare))
    return get_origin(bare) not in (tuple, dict)


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


@dataclass
class _Range:
    low: str = ""
    high: str = ""
    ends: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Any) -> _Range:
        found = cls()
        for item in metadata:
            if isinstance(item, FieldInfo):
                found.take(item.metadata)
        found.take(metadata)
        return found

    def take(self, metadata: Any) -> None:
        for item in metadata:
            for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
                if isinstance(item, kind):
                    self.ends[name] = getattr(item, name)

    def __str__(self) -> str:
        ends = {name: f"{end:g}" if isinstance(end, float) else str(end) for name, end in self.ends.items()}
        if "ge" in ends and "le" in ends:
            return f" from {ends['ge']} to {ends['le']}"
        signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        parts = [f"{sign} {ends[name]}" for name, sign in signs if name in ends]
        return " " + " and ".join(parts) if parts else ""


_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path as text",
    type(None): "None",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}


_TOML_WORDS = {"True": "true", "False": "false", "None": '"none"'}


def expectation(info: FieldInfo, *, toml: bool = False) -> str:
    """Describe the valid values of a field: ``a whole number ≥ 1``, with TOML's ``true`` if `toml`."""
    words = key_info(info).expects or _words(info.annotation, info.metadata)
    return re.sub(r"\b(True|False|None)\b", lambda word: _TOML_WORDS[word[1]], words) if toml else words


def _words(annotation: Any, metadata: Any = ()) -> str:
    if get_origin(annotation) is Annotated:
        bare, *inner = get_args(annotation)
        return _words(bare, (*inner, *metadata))
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part, metadata if part is not type(None) else ()) for part in parts)
    if origin is tuple:
        return _collection(parts)
    if annotation in _NAMES:
        return _NAMES[annotation] + str(_Range.of(metadata))
    return "a value"


def _collection(parts: tuple[Any, ...]) -> str:
    count = "a list of" if parts[-1] is Ellipsis else {2: "a pair of", 3: "three"}.get(len(parts), "some")
    first = parts[0]
    metadata = get_args(first)[1:] if get_origin(first) is Annotated else ()
    bare = _bare(first)
    if get_origin(bare) is tuple:
        return f"{count} pairs of {_plural(get_args(bare)[0])}"
    return f"{count} {_PLURALS.get(bare, 'values')}{_Range.of(metadata)}"


def _plural(annotation: Any) -> str:
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return _PLURALS.get(_bare(annotation), "values") + str(_Range.of(metadata))
