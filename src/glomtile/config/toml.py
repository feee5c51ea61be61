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

from glomtile.config.fields import Finding, about, expectation, is_scalar
from glomtile.config.ini import DEEPEST, Entry, Parsed
from glomtile.config.model_card import ModelCard
from glomtile.config.schema import BUILT_NETWORKS, SECTIONS, Config

_HEADER = re.compile(r"\s*\[\s*\"?([\w-]+)\"?\s*(?:\.\s*\"?([\w-]+)\"?\s*)?\]")
_ASSIGNMENT = re.compile(r"\s*\"?([\w-]+)\"?\s*=\s*(.*)")
_DOUBLED_SECTION = re.compile(r"Cannot declare \('([\w-]+)',\) twice")
_INI_SIGNS = re.compile(r"(?m)^[ \t]*(?:;|\w+[ \t]*[=:][ \t]*(?:True\b|False\b|None\b|\(|\{[ \t]*\())")

Places = dict[tuple[str, str], tuple[int, str]]


def places(text: str) -> Places:
    """Line, counted from 1, and written value of each ``(section, key)``, where it stands first."""
    found: Places = {}
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


def fault(text: str, problem: Exception) -> tuple[int, str]:
    """Line and message for what tomllib refused; line 0 where none is at fault."""
    said = str(problem)
    found = re.search(r"at line (\d+)", said)
    number = int(found[1]) if found else 0
    lines = text.split("\n")
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    message = _doubled(lines, number, said)
    if message is None:
        where = re.sub(r" \(at line \d+, (column \d+)\)", r" at \1", said)
        message = f"expected TOML, got something else: {where}"
        message += _ini_hint(text) or _value_hint(line)
    return number, message


def _doubled(lines: list[str], number: int, said: str) -> str | None:
    """A key or section that is written twice, by its name."""
    table = _DOUBLED_SECTION.match(said)
    if table:
        headers = ((at, _HEADER.match(line)) for at, line in enumerate(lines[: number - 1], start=1))
        first = next((at for at, header in headers if header and header.groups() == (table[1], None)), 0)
        return f"the section [{table[1]}] is written twice{_too(first)}; keep one of them"
    if not said.startswith("Cannot overwrite a value"):
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
    return f"[{section}] {key} is written twice{too}; keep one of them"


def _too(first: int) -> str:
    return f", line {first} too" if first else ""


def _ini_hint(text: str) -> str:
    signs = _INI_SIGNS.findall(text)
    if len(signs) < 2 and not any(sign.strip() == ";" for sign in signs):
        return ""
    return "; this looks like the INI dialect: give the file a name that ends in .config"


def _value_hint(line: str) -> str:
    assignment = _ASSIGNMENT.match(line)
    value = assignment[2].split("#")[0].strip() if assignment else ""
    if value.lower() in ("none", "null"):
        return '; write "none" in quotes'
    if value.lower() in ("true", "false"):
        return f"; write {value.lower()} in small letters"
    if value.startswith("("):
        return "; write lists in square brackets"
    if re.match(r"[A-Za-z./~\\]", value):
        return "; write texts in quotes"
    return ""


def parse_toml(text: str, file: str = "") -> Parsed:
    """Read TOML; the counterpart of :func:`glomtile.config.ini.parse`."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        line, message = fault(text, problem)
        return Parsed((), (Finding("error", file, line, "", "", message),))
    lines = places(text)
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
                    "expected [section]; what stands outside one is left out",
                )
            )
            continue
        for key, value in table.items():
            line, written = lines.get((section, key), (0, ""))
            if _too_deep(value):
                message = f"expected at most {DEEPEST} tables or lists within each other, got more"
                findings.append(Finding("error", file, line, section, key, message))
                continue
            entries.append(Entry(section, key, value, written or repr(value), line))
    return Parsed(tuple(entries), tuple(findings))


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def to_toml(config: Config) -> str:
    """A config as TOML: every key that was written, with its line of help.

    Reading the text gives the same settings; keys left to their defaults stay left out.
    """
    document = tomlkit.document()
    for name, settings in SECTIONS.items():
        section = config.section(name)
        given = [key for key in settings.model_fields if section.given(key)]
        if not given:
            continue
        table = tomlkit.table()
        for key in given:
            table.add(key, _item(getattr(section, key)))
        document.add(name, table)
    return tomlkit.dumps(document)


def template(pretrained: tuple[str, ModelCard] | None = None) -> str:
    """A TOML config to start from: every key of the built networks, commented out at its default.

    What a run cannot do without stands uncommented, to be filled in. Each commented key is valid
    TOML without its mark, and changes nothing then.

    Parameters
    ----------
    pretrained : tuple of (str, ModelCard), optional
        The model that training is to begin with, as ``[train] pretrained`` names it, and what it says of
        itself: its network, classes and ways of inference stand uncommented too, and a tenth of the learning
        rate it was trained with.
    """
    starter = _STARTER
    if pretrained is not None:
        name, card = pretrained
        starter = _STARTER | _settings_of(card) | {("train", "pretrained"): name}
    parts = [
        "# glomtile: every setting with its default. Take the # away where you want another value.",
        "# Paths are relative to this file's folder.",
    ]
    for name, settings in SECTIONS.items():
        lines: list[str] = []
        for key, info in settings.model_fields.items():
            known = about(info)
            if known.networks or known.inert:
                continue
            unit = f" [{known.unit}]" if known.unit else ""
            value, mark = info.default, "# "
            if (name, key) in starter:
                value, mark = starter[name, key], ""
            lines.append(f"\n# {info.description}{unit}: {wanted(name, key, info)}")
            lines.append(f"{mark}{key} = {spelt(value)}")
        if lines:
            parts += [f"\n[{name}]", *lines]
    return "\n".join(parts) + "\n"


def _settings_of(card: ModelCard) -> dict[tuple[str, str], Any]:
    """The settings that a model was trained with and is used with, as far as they are not the defaults."""
    palette, network = card.palette(), card.network
    told: dict[tuple[str, str], Any] = {
        ("model", key): getattr(network, key) for key in type(network).model_fields
    }
    told["image", "color_order"] = card.color_order
    told["tiledinfer", "overlapping"] = card.overlap_px
    for key in ("tta", "threshold", "smoothing_px"):  # min_expected_dice was measured of that network
        told["tiledinfer", key] = getattr(card, key)
    defaults = {name: settings.model_fields for name, settings in SECTIONS.items()}
    told = {(name, key): value for (name, key), value in told.items() if value != defaults[name][key].default}
    told["model", "learning_rate"] = float(f"{network.learning_rate / 10:.3g}")
    told["mask", "rgb_map"] = {entry.rgb: entry.number for entry in palette.classes}
    told["mask", "class_names"] = tuple(entry.name for entry in palette.classes)
    return told


def spelt(value: Any) -> str:
    """A setting's value as it is written in TOML."""
    return str(tomlkit.item(_item(value)).as_string())


def wanted(section: str, key: str, info: FieldInfo) -> str:
    """What a setting may be, as TOML has it; of networks, those that are built."""
    names = BUILT_NETWORKS if (section, key) == ("model", "model") else about(info).known
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
    """A value as TOML has it: paths as text, colours as ``"r,g,b"``, None as ``"none"``."""
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
