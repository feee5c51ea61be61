"""From a file and the command line to a checked config: which finding refuses it, and where paths start."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glomtile.config.card import BUNDLED
from glomtile.config.contradictions import contradictions
from glomtile.config.findings import Finding, describe, refusal
from glomtile.config.ini import Entry, Parsed, parse
from glomtile.config.literals import NotALiteralError, control_character, read_literal, read_path
from glomtile.config.names import ALIASES, Place, place
from glomtile.config.schema import SECTIONS, Config
from glomtile.config.schema_fields import Section, expectation, is_path, is_scalar
from glomtile.config.toml import parse_toml, template, to_toml
from glomtile.core.arguments import path_argument
from glomtile.errors import ArgumentError

__all__ = ["Config", "Finding", "check_config", "load_config", "make_config", "template", "to_toml"]

_INI_SUFFIXES = frozenset({".config", ".ini", ".cfg", ".conf"})
_LARGEST_BYTES = 100_000
_PATHS = frozenset(
    key
    for name, settings in SECTIONS.items()
    for key, field in settings.model_fields.items()
    if is_path(field.annotation)
)
_PATHS |= {written for (_, written), ((_, key), _) in ALIASES.items() if key in _PATHS}
"""Keys of files and folders, by all their names."""

COMMAND_LINE = "--set"
"""The file that a finding names where the value came from the command line."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config.

    Parameters
    ----------
    path : str or Path
        INI (``.config``, ``.ini``, ``.cfg``, ``.conf``) or TOML (``.toml``); any other name is
        read as TOML where it is TOML.
    overrides : sequence of str
        ``"section.key=value"``; their paths are relative to the current folder, those of the
        file to the file's folder.

    Returns
    -------
    Config
        Its warnings are in ``findings``.

    Raises
    ------
    ArgumentError
        `path` is none, or `overrides` are no texts.
    ConfigError
        The file cannot be read; a value is code, of the wrong type or out of range; an override
        names no setting. All of them are told at once.
    """
    path = path_argument("path", path)
    if isinstance(overrides, str) or not all(isinstance(one, str) for one in overrides):
        raise ArgumentError("overrides", "texts section.key=value in a list or tuple", overrides)
    config, findings = _examine(path, overrides)
    if config is None:
        raise refusal(findings)
    return config


def check_config(path: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """Every finding of a config, errors and warnings, in the order of its lines."""
    return list(_examine(Path(path), overrides)[1])


def make_config(settings: Mapping[str, Mapping[str, object]], base_dir: str | Path = ".") -> Config:
    """A config from Python values: ``make_config({"train": {"epochs": 2}})``.

    Raises
    ------
    ConfigError
        A value is of the wrong type or out of range, or a name is unknown.
    """
    entries = [
        Entry(section, key, value, repr(value), 0)
        for section, table in settings.items()
        for key, value in table.items()
    ]
    placed, odd = place(entries, "", "refused")
    config, findings = _settle(placed, "", Path(base_dir))
    findings += [Finding("error", *_rest(finding)) for finding in odd]
    if any(finding.severity == "error" for finding in findings):
        raise refusal(findings)
    return config.placed(config.base_dir, None, tuple(findings))


def _rest(finding: Finding) -> tuple[str, int, str, str, str, str | None]:
    return finding.file, finding.line, finding.section, finding.key, finding.message, finding.value


def _examine(path: Path, overrides: Sequence[str]) -> tuple[Config | None, tuple[Finding, ...]]:
    file = str(path)
    text, findings = _text(path)
    if text is None:
        return None, tuple(findings)
    parsed = _parse(text, path)
    placed, odd = place(parsed.entries, file)
    findings += [*parsed.findings, *odd]
    ordered, told = _overrides(overrides)
    findings += told
    placed |= ordered
    config, told = _settle(placed, file, path.parent, frozenset(ordered))
    findings += told
    findings.sort(key=lambda finding: (finding.file != file, finding.line))
    if any(finding.severity == "error" for finding in findings):
        return None, tuple(findings)
    return config.placed(config.base_dir, path, tuple(findings)), tuple(findings)


def _text(path: Path) -> tuple[str | None, list[Finding]]:
    """The file's text, or why there is none."""

    def refuse(message: str) -> tuple[None, list[Finding]]:
        return None, [Finding("error", str(path), 0, "", "", message)]

    try:
        if path.is_dir():
            return refuse("expected a config file, got a folder")
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return refuse("expected a config file, got no such file")
    except (OSError, ValueError) as problem:
        return refuse(f"expected a readable file, got: {getattr(problem, 'strerror', None) or problem}")
    if len(data) > _LARGEST_BYTES:
        return refuse(f"expected a config of at most {_LARGEST_BYTES} bytes, got more")
    if b"\0" in data:
        return refuse("expected text, got a binary file")
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        warning = Finding("warning", str(path), line, "", "", "not UTF-8; read as Windows text")
        return data.decode("cp1252", errors="replace"), [warning]


def _parse(text: str, path: Path) -> Parsed:
    suffix = path.suffix.lower()
    if suffix == ".toml" or (suffix not in _INI_SUFFIXES and _is_toml(text)):
        return parse_toml(text, str(path))
    return parse(text, str(path), _PATHS)


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _overrides(overrides: Sequence[str]) -> tuple[dict[Place, Entry], list[Finding]]:
    """The command line's settings; a name that is no setting is an error there."""
    placed: dict[Place, Entry] = {}
    findings: list[Finding] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            message = f"expected section.key=value, got {describe(override)}"
            findings.append(Finding("error", COMMAND_LINE, 0, "", "", message))
            continue
        entry = Entry(section, key.lower(), None, text.strip(), 0)
        found, odd = place([entry], COMMAND_LINE, "refused")
        if not found:
            findings += [Finding("error", *_rest(finding)) for finding in odd]
            continue
        findings += odd
        target = next(iter(found))
        value, problem = _override_value(target, text.strip())
        if problem:
            findings.append(Finding("error", COMMAND_LINE, 0, *target, problem, text.strip() or None))
            continue
        placed[target] = Entry(*target, value, text.strip(), 0)
    return placed, findings


def _override_value(target: Place, text: str) -> tuple[object, str | None]:
    path = is_path(SECTIONS[target[0]].model_fields[target[1]].annotation)
    try:
        value = (read_path if path else read_literal)(text).value
    except NotALiteralError as problem:
        if not path or not text:
            return None, str(problem)
        value = text
    if not path or value is None:
        return value, None
    if target == ("train", "pretrained") and value == BUNDLED and not Path(BUNDLED).exists():
        return value, None  # the model's name, no path
    return str(Path.cwd() / (value if isinstance(value, str) else text)), None


def _settle(
    placed: Mapping[Place, Entry], file: str, base_dir: Path, ordered: frozenset[Place] = frozenset()
) -> tuple[Config, list[Finding]]:
    """Check values section by section; what is wrong is left out and told as an error.

    The config is placed in its folder: whether two paths are the same is seen from there.
    """
    findings: list[Finding] = []
    sections: dict[str, Section] = {}
    for name, settings in SECTIONS.items():
        entries = {key: entry for (section, key), entry in placed.items() if section == name}
        files = {key: COMMAND_LINE if (name, key) in ordered else file for key in entries}
        section, wrong = _section(settings, name, entries, files)
        findings += wrong
        if entries:
            sections[name] = section
    config = Config(**sections).placed(base_dir)  # type: ignore[arg-type]
    for target, message in contradictions(config):
        entry = placed.get(target)
        where = COMMAND_LINE if target in ordered else file
        findings.append(
            Finding(
                "warning", where, entry.line if entry else 0, *target, message, entry.text if entry else None
            )
        )
    return config, findings


def _section(
    settings: type[Section], name: str, entries: Mapping[str, Entry], files: Mapping[str, str]
) -> tuple[Section, list[Finding]]:
    """One section, and its wrong values, which are left out of it."""
    findings: list[Finding] = []
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        values[key] = entry.value
        if _trailing_comma(settings, key, entry):
            values[key] = entry.value[0]  # type: ignore[index]
            findings.append(
                Finding(
                    "warning", files[key], entry.line, name, key, "the trailing comma is left out", entry.text
                )
            )
        if files[key] and (odd := control_character(entry.value, entry.text)):
            findings.append(Finding("warning", files[key], entry.line, name, key, odd, entry.text))
    section, problem = _validated(settings, values)
    while problem is not None:
        for key in _wrong_keys(settings, values, problem):
            entry = entries[key]
            wanted = expectation(settings.model_fields[key], toml=files[key].lower().endswith(".toml"))
            message = f"expected {wanted}, got {describe(values[key])}"
            findings.append(Finding("error", files[key], entry.line, name, key, message, entry.text))
            del values[key]
        section, problem = _validated(settings, values)
    return section, findings


def _validated(
    settings: type[Section], values: Mapping[str, Any]
) -> tuple[Section, None] | tuple[Section, ValidationError]:
    """The section that the values make, or one of defaults and why they make none."""
    try:
        return settings.model_validate(values), None
    except ValidationError as problem:
        return settings(), problem


def _wrong_keys(settings: type[Section], values: Mapping[str, Any], problem: ValidationError) -> list[str]:
    """The keys whose values were refused; where the whole section was, those refused each by itself."""
    named = [str(error["loc"][0]) for error in problem.errors(include_url=False) if error["loc"]]
    alone = named or [key for key, value in values.items() if _validated(settings, {key: value})[1]]
    return list(dict.fromkeys(alone)) or list(values)


def _trailing_comma(settings: type[Section], key: str, entry: Entry) -> bool:
    return (
        isinstance(entry.value, tuple)
        and len(entry.value) == 1
        and entry.text.endswith(",")
        and is_scalar(settings.model_fields[key].annotation)
    )
