"""Reading and writing of TOML configs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from pydantic.fields import FieldInfo
from tomlkit.items import InlineTable, KeyType, SingleKey

from glomtile.config.fields import Finding, expectation, is_scalar, key_info
from glomtile.config.ini import MAX_DEPTH, Entry, ParsedConfig
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import BUILT_NETWORKS, SECTIONS, Config

_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w-]+)\"?\s*)?\]")
_ASSIGNMENT = re.compile(r"\s*\"?([\w-]+)\"?\s*=\s*(.*)")
_DUPLICATE_SECTION = re.compile(r"Cannot declare \('([\w-]+)',\) twice")
_INI_SIGNS = re.compile(r"(?m)^[ \t]*(?:;|\w+[ \t]*[=:][ \t]*(?:True\b|False\b|None\b|\(|\{[ \t]*\())")

KeyLines = dict[tuple[str, str], tuple[int, str]]


def _key_lines(text: str) -> KeyLines:
    """Return line, counted from 1, and text of the value of each ``(section, key)``."""
    found: KeyLines = {}
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        header = _HEADER.match(line)
        assignment = _ASSIGNMENT.match(line)
        if header:
            section = header[1]
            if header[2]:
                found.setdefault((section, header[2]), (number, ""))
        elif assignment:
            value = assignment[2].split(" #")[0].strip()
            found.setdefault((section, assignment[1]), (number, value))
    return found


def _locate_error(text: str, problem: Exception) -> tuple[int, str]:
    """Return line, or 0, and message for an error of tomllib."""
    error = str(problem)
    found = re.search(r"at line (\d+)", error)
    number = int(found[1]) if found else 0
    lines = text.split("\n")
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    message = _duplicate(lines, number, error)
    if message is None:
        where = re.sub(r" \(at line \d+, (column \d+)\)", r" at \1", error)
        message = f"expected TOML, got: {where}"
        message += _ini_hint(text) or _value_hint(line)
    return number, message


def _duplicate(lines: list[str], number: int, error: str) -> str | None:
    """Return a message if a key or section is a duplicate."""
    table = _DUPLICATE_SECTION.match(error)
    if table:
        headers = ((at, _HEADER.match(line)) for at, line in enumerate(lines[: number - 1], start=1))
        first = next((at for at, header in headers if header and header.groups() == (table[1], None)), 0)
        return f"duplicate section [{table[1]}]{_too(first)}; keep one of them"
    if not error.startswith("Cannot overwrite a value"):
        return None
    section, key = "", ""
    seen: dict[tuple[str, str], int] = {}
    for at, line in enumerate(lines[:number], start=1):
        if header := _HEADER.match(line):
            section, key = header[1], ""
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment[1]
            seen.setdefault((section, key), at)
    if not key:
        return None
    first = seen[section, key]
    too = _too(first if first < number else 0)
    return f"duplicate key [{section}] {key}{too}; keep one of them"


def _too(first: int) -> str:
    return f", also in line {first}" if first else ""


def _ini_hint(text: str) -> str:
    signs = _INI_SIGNS.findall(text)
    if len(signs) < 2 and not any(sign.strip() == ";" for sign in signs):
        return ""
    return "; this may be the INI dialect: rename the file to .config"


def _value_hint(line: str) -> str:
    assignment = _ASSIGNMENT.match(line)
    value = assignment[2].split("#")[0].strip() if assignment else ""
    if value.lower() in ("none", "null"):
        return '; write "none" in quotes'
    if value.lower() in ("true", "false"):
        return f"; write {value.lower()} in lower case"
    if value.startswith("("):
        return "; write lists in square brackets"
    if re.match(r"[A-Za-z./~\\]", value):
        return "; write texts in quotes"
    return ""


def parse_toml(text: str, file: str = "") -> ParsedConfig:
    """Read TOML; the counterpart of `glomtile.config.ini.parse`."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        line, message = _locate_error(text, problem)
        return ParsedConfig((), (Finding("error", file, line, "", "", message),))
    lines = _key_lines(text)
    entries: list[Entry] = []
    findings: list[Finding] = []
    for section, table in tables.items():
        if not isinstance(table, dict):
            line = lines.get(("", section), (0, ""))[0]
            findings.append(
                Finding(
                    "warning",
                    file,
                    line,
                    "",
                    section,
                    "expected [section]; keys outside one are left out",
                )
            )
            continue
        for key, value in table.items():
            line, written = lines.get((section, key), (0, ""))
            if _too_deep(value):
                message = f"expected at most {MAX_DEPTH} nested tables or lists, got more"
                findings.append(Finding("error", file, line, section, key, message))
                continue
            entries.append(Entry(section, key, value, written or repr(value), line))
    return ParsedConfig(tuple(entries), tuple(findings))


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def to_toml(config: Config) -> str:
    """Write the keys that a config sets as TOML; reading it gives the same settings."""
    document = tomlkit.document()
    for name, settings in SECTIONS.items():
        section = config.section(name)
        given = [key for key in settings.model_fields if section.is_set(key)]
        if not given:
            continue
        table = tomlkit.table()
        for key in given:
            table.add(key, _item(getattr(section, key)))
        document.add(name, table)
    return tomlkit.dumps(document)


def template(pretrained: tuple[str, ModelCard] | None = None) -> str:
    """Return a commented TOML config: required keys, and every other key commented out at its default.

    Parameters
    ----------
    pretrained : tuple of (str, ModelCard), optional
        Value of ``[train] pretrained`` and its card, for fine-tuning: sets its network, classes and inference
        settings, and a tenth of its learning rate.
    """
    starter = _STARTER
    if pretrained is not None:
        name, card = pretrained
        starter = _STARTER | _settings_of(card) | {("train", "pretrained"): name}
    parts = [
        "# glomtile: every setting with its default. Remove the # to set another value.",
        "# Paths are relative to this file's folder.",
    ]
    for name, settings in SECTIONS.items():
        lines: list[str] = []
        for key, info in settings.model_fields.items():
            known = key_info(info)
            if known.networks or known.inert:
                continue
            unit = f" [{known.unit}]" if known.unit else ""
            value, mark = info.default, "# "
            if (name, key) in starter:
                value, mark = starter[name, key], ""
            lines.append(f"\n# {info.description}{unit}: {valid_values(name, key, info)}")
            lines.append(f"{mark}{key} = {toml_value(value)}")
        if lines:
            parts += [f"\n[{name}]", *lines]
    return "\n".join(parts) + "\n"


def _settings_of(card: ModelCard) -> dict[tuple[str, str], Any]:
    """Return the settings of a model's training and inference that are not the defaults."""
    palette, network = card.palette(), card.network
    settings: dict[tuple[str, str], Any] = {
        ("model", key): getattr(network, key) for key in type(network).model_fields
    }
    settings["image", "color_order"] = card.color_order
    settings["tiledinfer", "overlapping"] = card.overlap_px
    for key in ("tta", "threshold", "smoothing_px"):  # min_expected_dice depends on the network
        settings["tiledinfer", key] = getattr(card, key)
    defaults = {name: settings.model_fields for name, settings in SECTIONS.items()}
    settings = {
        (name, key): value for (name, key), value in settings.items() if value != defaults[name][key].default
    }
    settings["model", "learning_rate"] = float(f"{network.learning_rate / 10:.3g}")
    settings["mask", "rgb_map"] = {entry.rgb: entry.number for entry in palette.classes}
    settings["mask", "class_names"] = tuple(entry.name for entry in palette.classes)
    return settings


def toml_value(value: Any) -> str:
    """Write a setting's value as TOML."""
    return str(tomlkit.item(_item(value)).as_string())


def valid_values(section: str, key: str, info: FieldInfo) -> str:
    """Describe the valid values of a setting in TOML."""
    names = BUILT_NETWORKS if (section, key) == ("model", "model") else key_info(info).known
    if not names:
        return expectation(info, toml=True)
    several = "" if is_scalar(info.annotation) else "a list of "
    return several + " or ".join(f'"{name}"' for name in names)


_STARTER: dict[tuple[str, str], Any] = {
    ("model", "model"): "FlexUNet",
    ("model", "num_classes"): 2,
    ("train", "images_dir"): "dataset/train/images",
    ("train", "masks_dir"): "dataset/train/masks",
    ("valid", "images_dir"): "dataset/valid/images",
    ("valid", "masks_dir"): "dataset/valid/masks",
    ("test", "images_dir"): "dataset/test/images",
    ("test", "masks_dir"): "dataset/test/masks",
    ("infer", "images_dir"): "mini_test/images",
    ("infer", "output_dir"): "mini_test_output",
    ("tiledinfer", "images_dir"): "mini_test/images",
    ("tiledinfer", "output_dir"): "mini_test_output_tiled",
    ("mask", "rgb_map"): {(0, 0, 0): 0, (255, 0, 0): 1},
    ("mask", "class_names"): ("background", "glomerulus"),
}


def _item(value: Any) -> Any:
    """Convert a value to TOML: paths to text, colours to ``"r,g,b"``, None to ``"none"``."""
    if value is None:
        return "none"
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, tuple):
        return [_item(part) for part in value]
    if isinstance(value, Mapping):
        return _table(value)
    return value


def _table(mapping: Mapping[Any, Any]) -> InlineTable:
    table = tomlkit.inline_table()
    for key, value in mapping.items():
        name = ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
        table.add(SingleKey(name, t=KeyType.Basic), _item(value))
    return table
