"""Reading and writing of TOML configs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit
from tomlkit.items import KeyType, SingleKey

from glomtile.config.findings import Finding, expectation, is_scalar
from glomtile.config.ini import MAX_DEPTH, Entry, ParsedConfig
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import BUILT_NETWORKS, SECTIONS, Config, ModelSettings, key_info

_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w-]+)\"?\s*)?\]")
_ASSIGNMENT = re.compile(r"\s*\"?([\w-]+)\"?\s*=\s*(.*)")
_DUPLICATE_SECTION = re.compile(r"Cannot declare \('([\w-]+)',\) twice")
_INI_SIGNS = re.compile(r"(?m)^[ \t]*(?:;|\w+[ \t]*[=:][ \t]*(?:True\b|False\b|None\b|\(|\{[ \t]*\())")


class _Line(NamedTuple):
    """A section header, whose key is empty unless it is of ``[section.key]``, or an assignment."""

    number: int
    section: str
    key: str
    value: str | None


def _lines(text: str) -> Iterator[_Line]:
    """Yield headers and assignments, also those within a text of several lines."""
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            section = header[1]
            yield _Line(number, section, header[2] or "", None)
        elif assignment := _ASSIGNMENT.match(line):
            yield _Line(number, section, assignment[1], assignment[2].split(" #")[0].strip())


def _locate_error(text: str, problem: Exception) -> tuple[int, str]:
    """Return line, or 0, and message for an error of tomllib."""
    error = str(problem)
    found = re.search(r"at line (\d+)", error)
    number = int(found[1]) if found else 0
    if duplicate := _duplicate(text, number, error):
        return number, f"duplicate {duplicate}; keep one of them"
    where = re.sub(r" \(at line \d+, (column \d+)\)", r" at \1", error)
    hint = _ini_hint(text) or (_value_hint(text.split("\n")[number - 1]) if number else "")
    return number, f"expected TOML, got: {where}{hint}"


def _duplicate(text: str, number: int, error: str) -> str | None:
    """Return the name of the section or key that `number` sets again, and the line that sets it first."""
    lines = [line for line in _lines(text) if line.number <= number]
    if table := _DUPLICATE_SECTION.match(error):
        name = f"section [{table[1]}]"
        same = [line for line in lines if line[1:] == (table[1], "", None)]
    elif error.startswith("Cannot overwrite a value") and lines and lines[-1].value is not None:
        name = f"key [{lines[-1].section}] {lines[-1].key}"
        same = [line for line in lines if line[1:3] == lines[-1][1:3] and line.value is not None]
    else:
        return None
    return name + (f", also in line {same[0].number}" if same and same[0].number < number else "")


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
    lines: dict[tuple[str, str], _Line] = {}
    for written in _lines(text):
        lines.setdefault((written.section, written.key), written)
    entries: list[Entry] = []
    findings: list[Finding] = []
    for section, table in tables.items():
        if not isinstance(table, dict):
            number = lines[place].number if (place := ("", section)) in lines else 0
            message = "expected [section]; keys outside one are left out"
            findings.append(Finding("warning", file, number, "", section, message))
            continue
        for key, value in table.items():
            found = lines.get((section, key), _Line(0, section, key, None))
            if _too_deep(value):
                message = f"expected at most {MAX_DEPTH} nested tables or lists, got more"
                findings.append(Finding("error", file, found.number, section, key, message))
            else:
                entries.append(Entry(section, key, value, found.value or repr(value), found.number))
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
        given = {key: _item(getattr(section, key)) for key in settings.model_fields if section.is_set(key)}
        if given:
            document.add(name, tomlkit.item(given))
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
    network = ModelSettings(model=starter.get(("model", "model"), "FlexUNet"))
    parts = [
        "# glomtile: every setting with its default. Remove the # to set another value.",
        "# Paths are relative to this file's folder.",
    ]
    for name, settings in SECTIONS.items():
        lines: list[str] = []
        for key, field in settings.model_fields.items():
            known = key_info(field)
            if known.inert or (name == "model" and not network.reads(key)):
                continue
            unit = f" [{known.unit}]" if known.unit else ""
            mark = "" if (name, key) in starter else "# "
            value = toml_value(starter.get((name, key), field.default))
            lines.append(f"\n# {field.description}{unit}: {valid_values(name, key)}\n{mark}{key} = {value}")
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


def valid_values(section: str, key: str) -> str:
    """Describe the valid values of a setting in TOML."""
    settings = SECTIONS[section]
    known = key_info(settings.model_fields[key]).known
    names = BUILT_NETWORKS if (section, key) == ("model", "model") else known
    if not names:
        return expectation(settings, key, toml=True)
    several = "" if is_scalar(settings, key) else "a list of "
    return several + " or ".join(f'"{name}"' for name in names)


_STARTER: dict[tuple[str, str], Any] = {
    ("model", "model"): "FlexUNet",
    ("model", "num_classes"): 2,
    **{
        (split, f"{kind}_dir"): f"dataset/{split}/{kind}"
        for split in ("train", "valid", "test")
        for kind in ("images", "masks")
    },
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
        table = tomlkit.inline_table()
        for key, inner in value.items():
            name = ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
            table.add(SingleKey(name, t=KeyType.Basic), _item(inner))
        return table
    return value
