"""Where a key belongs: aliases, misspellings, the older family, keys in a wrong section, nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from glomtile.config.findings import Finding
from glomtile.config.ini import Entry
from glomtile.config.schema import SECTIONS

Place = tuple[str, str]

_OLDER = "an older name of"
_MISSPELT = "misspelt; read as"
_MISPLACED = "belongs elsewhere; read as"

ALIASES: dict[Place, tuple[Place, str]] = {
    ("train", "image_datapath"): (("train", "images_dir"), _OLDER),
    ("train", "mask_datapath"): (("train", "masks_dir"), _OLDER),
    ("eval", "image_datapath"): (("valid", "images_dir"), _OLDER),
    ("eval", "mask_datapath"): (("valid", "masks_dir"), _OLDER),
    ("test", "image_datapath"): (("test", "images_dir"), _OLDER),
    ("test", "mask_datapath"): (("test", "masks_dir"), _OLDER),
    ("train", "epoch_change_tiledinfer"): (("train", "epoch_change_tiled_infer"), _OLDER),
    ("train", "epoch_change_tiledinfer_dir"): (("train", "epoch_change_tiled_infer_dir"), _OLDER),
    ("train", "poch_change_infer"): (("train", "epoch_change_infer"), _MISSPELT),
    ("deformation", "alpah"): (("deformation", "alpha"), _MISSPELT),
    ("model", "color_order"): (("image", "color_order"), _MISPLACED),
    ("eval", "eval_dir"): (("train", "eval_dir"), _MISPLACED),
}
"""Keys we read under another name, and why."""

UNSUPPORTED_SECTIONS = {"infer3d": "3-D segmentation is not supported"}

_SECTIONS_OF: dict[str, tuple[str, ...]] = {}
for _name, _settings in SECTIONS.items():
    for _key in _settings.model_fields:
        _SECTIONS_OF[_key] = (*_SECTIONS_OF.get(_key, ()), _name)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, ``None`` when none is near."""
    written = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(written), n=1, cutoff=0.7)
    return written[close[0]] if close else None


def place(
    entries: Sequence[Entry], file: str, fate: str = "left out"
) -> tuple[dict[Place, Entry], list[Finding]]:
    """Bring each entry to the section and key of the schema.

    Parameters
    ----------
    entries : sequence of Entry
        As they were written.
    file : str
        For the findings.
    fate : str, optional
        What the caller does with a name that is no setting, in words.

    Returns
    -------
    placed : dict
        ``(section, key)`` of the schema to the entry that fills it, as written.
    findings : list of Finding
        A warning for each entry that was renamed, moved or left out.
    """
    placed: dict[Place, Entry] = {}
    written = {(entry.section.strip().lower(), entry.key) for entry in entries}
    findings: list[Finding] = []
    told: set[str] = set()
    for entry in entries:
        section = _section(entry, file, told, findings, fate)
        if section is None:
            continue
        target, why = _target(section, entry.key, fate)
        if target is None:
            findings.append(_warn(entry, file, why))
            continue
        if target != (section, entry.key):
            name = f"[{target[0]}] {target[1]}"
            ignored = target in written
            note = f"{why} {name}" + (", which is written too and counts" if ignored else "")
            findings.append(_warn(entry, file, note))
            if ignored:
                continue
        placed[target] = replace(entry, section=section)
    return placed, findings


def _section(entry: Entry, file: str, told: set[str], findings: list[Finding], fate: str) -> str | None:
    """The schema's section of an entry; what is odd about its name is told once."""
    name = entry.section
    if name in SECTIONS:
        return name
    lower = name.strip().lower()
    known = lower in SECTIONS
    if name not in told:
        told.add(name)
        if known:
            message = f"section names are small letters; read as [{lower}]"
        elif lower in UNSUPPORTED_SECTIONS:
            message = f"{UNSUPPORTED_SECTIONS[lower]}; the section is {fate}"
        else:
            message = f"unknown section, {fate}" + _section_meant(name, entry.key)
        findings.append(Finding("warning", file, entry.line, name, "", message))
    return lower if known else None


def _section_meant(name: str, key: str) -> str:
    """The section that was meant: the one named most alike, else those that have the key."""
    near = nearest(name, SECTIONS)
    if near:
        return f"; did you mean [{near}]?"
    known = nearest(key, _SECTIONS_OF)
    if known:
        return f"; did you mean {known} of {' or '.join(f'[{home}]' for home in _SECTIONS_OF[known])}?"
    return ""


def _target(section: str, key: str, fate: str) -> tuple[Place | None, str]:
    """Where ``[section] key`` goes, and why there or why nowhere."""
    if key in SECTIONS[section].model_fields:
        return (section, key), ""
    if (section, key) in ALIASES:
        return ALIASES[section, key]
    homes = _SECTIONS_OF.get(key, ())
    if len(homes) == 1:
        return (homes[0], key), _MISPLACED
    if homes:
        return None, f"not a key of this section, {fate}; it is one of " + ", ".join(
            f"[{home}]" for home in homes
        )
    near = nearest(key, SECTIONS[section].model_fields)
    if near:
        return None, f"unknown key, {fate}; did you mean {near}?"
    near = nearest(key, _SECTIONS_OF)
    if near:
        homes_text = " or ".join(f"[{home}]" for home in _SECTIONS_OF[near])
        return None, f"unknown key, {fate}; did you mean {near} of {homes_text}?"
    return None, f"unknown key, {fate}"


def _warn(entry: Entry, file: str, message: str) -> Finding:
    return Finding("warning", file, entry.line, entry.section, entry.key, message)
