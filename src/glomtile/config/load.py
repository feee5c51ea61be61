"""Loading and checking of config files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from glomtile.config.findings import Finding, config_error, describe, expectation, is_scalar
from glomtile.config.ini import (
    ALIASES,
    Entry,
    NotALiteralError,
    SettingName,
    control_character,
    nearest,
    parse,
    read_literal,
    read_path,
    resolve_names,
)
from glomtile.config.model_card import BUNDLED
from glomtile.config.schema import (
    BUILT_NETWORKS,
    ENCODER_NETWORKS,
    LOSSES,
    METRICS,
    NETWORK_NAMES,
    SECTIONS,
    Config,
    KeyInfo,
    Section,
    is_metric,
    is_path,
    key_info,
    network_name,
)
from glomtile.config.toml import parse_toml
from glomtile.errors import ArgumentError, GlomtileError
from glomtile.validation import path_argument

RUN_FOLDERS = ("model_dir", "eval_dir", "epoch_change_infer_dir", "epoch_change_tiled_infer_dir")
"""Keys of ``[train]`` whose folders are moved aside before a new run."""


def overwritten_input(config: Config, section: Literal["infer", "tiledinfer"]) -> str | None:
    """Describe the input folder that the output of `section` would overwrite, if any."""
    settings = config.section(section)
    images, written = (_resolved(config, getattr(settings, key)) for key in ("images_dir", "output_dir"))
    if written is None:
        return None
    given = {"the images": images, "the masks beside the images": images and images.parent / "masks"}
    for split in ("train", "valid", "test"):
        for key in ("images_dir", "masks_dir"):
            given[f"[{split}] {key}"] = _resolved(config, getattr(config.section(split), key))
    return next((what for what, folder in given.items() if folder == written), None)


def evaluated_on_training(config: Config) -> list[str]:
    """Return those of ``valid`` and ``test`` whose images are also trained on."""
    trained = _resolved(config, config.train.images_dir)
    evaluated = {"valid": config.valid.images_dir, "test": config.test.images_dir}
    return [split for split, images in evaluated.items() if trained and _resolved(config, images) == trained]


def run_folders(config: Config) -> list[Path]:
    """Return the folders that a training writes, each once."""
    return list(dict.fromkeys(config.resolve(getattr(config.train, key)) for key in RUN_FOLDERS))


def inside_run_folders(config: Config) -> list[tuple[str, Path, Path]]:
    """List run folders that contain the config, its data or its pretrained model.

    Returns
    -------
    list of (str, Path, Path)
        Key of ``[train]``, its folder, and a path inside it.
    """
    pairs = [(name, key) for name in ("train", "valid", "test") for key in ("images_dir", "masks_dir")]
    pairs += [("infer", "images_dir"), ("tiledinfer", "images_dir"), ("train", "pretrained")]
    given = [getattr(config.section(name), key) for name, key in pairs]
    kept = [config.base_dir, *(config.resolve(path) for path in given if path is not None)]
    held = []
    for key in RUN_FOLDERS:
        folder = config.resolve(getattr(config.train, key))
        held += [(key, folder, path) for path in kept if path.is_relative_to(folder)][:1]
    return held


def _resolved(config: Config, folder: Path | None) -> Path | None:
    return None if folder is None else config.resolve(folder).resolve()


Contradiction = tuple[SettingName, str]

_OF_CROPS = ("samples_per_epoch", "foreground_share", "edge_share", "image_weights")
"""Keys of ``[dataset]`` without effect on whole tiles."""


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Yield warnings about a config whose values are all of the right type and range."""
    yield from _without_effect(config)
    yield from _unknown_names(config)
    yield from _classes(config)
    yield from _geometry(config)
    yield from _training(config)
    yield from _folders(config)


def _set_keys(config: Config) -> Iterator[tuple[str, str, KeyInfo, Any, Any]]:
    """Yield section, key, facts, value and default of each setting that is in the config."""
    for name, settings in SECTIONS.items():
        section = config.section(name)
        for key, field in settings.model_fields.items():
            if section.is_set(key):
                yield name, key, key_info(field), getattr(section, key), field.default


def _without_effect(config: Config) -> Iterator[Contradiction]:
    network, loss = network_name(config.model.model), config.model.loss
    for name, key, known, value, default in _set_keys(config):
        if known.inert:
            yield (name, key), f"has no effect: {known.inert}"
        if name == "model" and not config.model.reads(key):
            readers = " and ".join(known.networks) or "FlexUNet"
            yield (name, key), f"a key of {readers}; {network} does not read it"
        if known.losses and loss in LOSSES and loss not in known.losses and value != default:
            yield (name, key), f'has no effect with loss = "{loss}"'


def _unknown_names(config: Config) -> Iterator[Contradiction]:
    model, train = config.model, config.train
    built = model.model in BUILT_NETWORKS or network_name(model.model) == "FlexUNet"
    if model.model in NETWORK_NAMES and not built:
        yield ("model", "model"), f"not implemented; available: {', '.join(BUILT_NETWORKS)}"
    for name, key, known, value, _ in _set_keys(config):
        for word in value if isinstance(value, tuple) else (value,):
            if known.known and not {word, word.lower(), re.sub(r"_\d+\Z", "_<k>", word)} & set(known.known):
                yield (name, key), _unknown(word, known.known)
    classes = max(2, model.num_classes)
    figures = [("model", "metrics", name) for name in model.metrics]
    figures += [("train", "metrics", name) for name in train.metrics]
    for section, key, figure in [*figures, ("train", "monitor", train.monitor)]:
        name = figure.removeprefix("val_")
        if name == "loss" or is_metric(name, classes):
            continue
        if re.fullmatch(r"class_(?:dice|iou)_\d+", name):
            yield (section, key), f"{figure}: the classes are 0 to {classes - 1}"
        elif section == "train":  # those of [model] are among the names above
            yield (section, key), _unknown(name, ("loss", *METRICS), figure.removesuffix(name))


def _unknown(word: str, names: Sequence[str], prefix: str = "") -> str:
    """Return a message about an unknown name, with the most similar one or all known ones."""
    near = nearest(word, names)
    known = ", ".join(prefix + name for name in names)
    return f"unknown name {prefix}{word}; " + (
        f"did you mean {prefix}{near}?" if near else f"known are {known}"
    )


def _classes(config: Config) -> Iterator[Contradiction]:
    model, mask = config.model, config.mask
    written = mask.is_set("rgb_map")
    if written or mask.is_set("class_names"):
        try:
            config.palette()
        except GlomtileError as problem:
            yield ("mask", "rgb_map"), problem.message
    colours, classes = len(mask.rgb_map), max(model.num_classes, 2)
    compared = model.is_set("num_classes") and (written or config.train.images_dir is not None)
    if compared and colours != classes:
        has = "has" if written else "is not set and has"
        message = f"expected one class per colour of [mask] rgb_map, which {has} {colours}"
        yield ("model", "num_classes"), message
    if model.class_weights is not None and len(model.class_weights) != classes:
        yield ("model", "class_weights"), f"expected one weight per class, of {model.num_classes} classes"


def _geometry(config: Config) -> Iterator[Contradiction]:
    model, tiled = config.model, config.tiledinfer
    network = f"{model.num_layers} levels" if model.reads("num_layers") else model.model
    for key in ("image_width", "image_height"):
        if getattr(model, key) % model.side_step:
            yield ("model", key), f"expected a multiple of {model.side_step} for {network}"
    deepest = model.dropout_rate * (model.num_layers - 1)
    if model.reads("num_layers") and deepest >= 1:
        message = f"expected a dropout below 1 at the lowest level, got {deepest:g}"
        yield ("model", "dropout_rate"), message
    if isinstance(tiled.window, int) and 2 * tiled.overlapping >= tiled.window:
        yield ("tiledinfer", "overlapping"), f"expected less than half of window, {tiled.window}"


def _training(config: Config) -> Iterator[Contradiction]:
    model, train = config.model, config.train
    if model.clipvalue is not None and model.clipnorm is not None:
        yield ("model", "clipnorm"), "expected one of clipvalue and clipnorm, got both"
    if train.schedule != "constant" and train.learning_rate_reducer:
        yield ("train", "learning_rate_reducer"), f'train refuses it with schedule = "{train.schedule}"'
    if train.schedule == "constant" and train.warmup_epochs:
        yield ("train", "warmup_epochs"), 'has no effect with schedule = "constant"'
    if train.images_dir is not None and config.valid.images_dir is None and train.use == "best":
        message = 'train needs validation images to choose the best epoch: add them, or use = "last"'
        yield ("valid", "images_dir"), message
    if train.schedule != "constant" and train.warmup_epochs > train.epochs:
        yield ("train", "warmup_epochs"), f"expected at most the {train.epochs} epochs of the schedule"
    has_encoder = model.model in ENCODER_NETWORKS
    pretrained = has_encoder and (model.encoder_weights is not None or train.pretrained is not None)
    if not pretrained:
        lacks = "no pretrained weights" if has_encoder else "no encoder"
        for key in ("freeze_encoder_epochs", "frozen_blocks", "encoder_learning_rate_factor"):
            if key in _changed(config, "train"):
                yield ("train", key), f"has no effect: {model.model} has {lacks}"
    if pretrained and config.image.color_order != "RGB":
        yield ("image", "color_order"), "the ImageNet weights were trained on RGB"
    if config.dataset.sampling == "tiles":
        for key in _changed(config, "dataset"):
            if key in _OF_CROPS:
                yield ("dataset", key), 'has no effect with sampling = "tiles"'
    if model.is_set("normalization") and model.normalization is False and model.norm != "none":
        yield ("model", "normalization"), f'norm = "{model.norm}" takes precedence'
    idle = _changed(config, "augmentor")
    if idle and config.augmentor.enabled is None and not config.augments:
        others = f", nor has {' or '.join(idle[1:])}" if len(idle) > 1 else ""
        message = f"has no effect{others}: augmentation is off, set enabled = true"
        yield ("augmentor", idle[0]), message


def _folders(config: Config) -> Iterator[Contradiction]:
    for split in evaluated_on_training(config):
        yield (split, "images_dir"), "also the training images: scores on them are not valid"
    sections: tuple[Literal["infer", "tiledinfer"], ...] = ("infer", "tiledinfer")
    for section in sections:
        if what := overwritten_input(config, section):
            yield (section, "output_dir"), f"expected another folder than that of {what}"
    for key, _, kept in inside_run_folders(config):
        reason = f"a previous run is moved aside as a whole, and the folder contains {kept}"
        yield ("train", key), f"train refuses it: {reason}"


def _changed(config: Config, section: str) -> list[str]:
    """Return the keys of a section that are set to another value than the default."""
    found = _set_keys(config)
    return [key for name, key, _, value, default in found if name == section and value != default]


_INI_SUFFIXES = frozenset({".config", ".ini", ".cfg", ".conf"})
_MAX_BYTES = 100_000
_PATHS = frozenset(
    key
    for name, settings in SECTIONS.items()
    for key, field in settings.model_fields.items()
    if is_path(field)
)
_PATHS |= {written for (_, written), ((_, key), _) in ALIASES.items() if key in _PATHS}
"""Keys of paths, by all their names."""

COMMAND_LINE = "--set"
"""Name of the file in findings about the command line."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config.

    Parameters
    ----------
    path : str or Path
        INI (``.config``, ``.ini``, ``.cfg``, ``.conf``) or TOML (``.toml``); other names by their content.
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
        `path` is not a path, or `overrides` are not texts.
    ConfigError
        The file cannot be read; a value is code, of the wrong type or out of range; an override is not a
        setting. The error lists all of them.
    """
    path = path_argument("path", path)
    if isinstance(overrides, str) or not all(isinstance(one, str) for one in overrides):
        raise ArgumentError("overrides", "texts section.key=value in a list or tuple", overrides)
    config, findings = _examine(path, overrides)
    if config is None:
        raise config_error(findings)
    return config


def check_config(path: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """List all findings of a config, errors and warnings, in the order of its lines."""
    return list(_examine(Path(path), overrides)[1])


def make_config(settings: Mapping[str, Mapping[str, object]], base_dir: str | Path = ".") -> Config:
    """Make a config from Python values: ``make_config({"train": {"epochs": 2}})``.

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
    resolved, odd = resolve_names(entries, "", "refused")
    config, findings = _validate(resolved, "", Path(base_dir))
    findings += [replace(finding, severity="error") for finding in odd]
    if any(finding.severity == "error" for finding in findings):
        raise config_error(findings)
    return config.located_in(config.base_dir, None, tuple(findings))


def _examine(path: Path, overrides: Sequence[str]) -> tuple[Config | None, tuple[Finding, ...]]:
    file = str(path)
    text, findings = _text(path)
    if text is None:
        return None, tuple(findings)
    suffix = path.suffix.lower()
    if suffix == ".toml" or (suffix not in _INI_SUFFIXES and _is_toml(text)):
        parsed = parse_toml(text, file)
    else:
        parsed = parse(text, file, _PATHS)
    resolved, odd = resolve_names(parsed.entries, file)
    findings += [*parsed.findings, *odd]
    overridden, more = _overrides(overrides)
    findings += more
    resolved |= overridden
    config, more = _validate(resolved, file, path.parent, frozenset(overridden))
    findings += more
    findings.sort(key=lambda finding: (finding.file != file, finding.line))
    if any(finding.severity == "error" for finding in findings):
        return None, tuple(findings)
    return config.located_in(config.base_dir, path, tuple(findings)), tuple(findings)


def _text(path: Path) -> tuple[str | None, list[Finding]]:
    """Read the file's text, or return the reason why not."""

    def refuse(message: str) -> tuple[None, list[Finding]]:
        return None, [Finding("error", str(path), 0, "", "", message)]

    try:
        if path.is_dir():
            return refuse("expected a config file, got a folder")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return refuse("expected a config file, the file does not exist")
    except (OSError, ValueError) as problem:
        return refuse(f"expected a readable file, got: {getattr(problem, 'strerror', None) or problem}")
    if len(data) > _MAX_BYTES:
        return refuse(f"expected a config of at most {_MAX_BYTES} bytes, got more")
    if b"\0" in data:
        return refuse("expected text, got a binary file")
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        warning = Finding("warning", str(path), line, "", "", "not UTF-8; read as Windows-1252")
        return data.decode("cp1252", errors="replace"), [warning]


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _overrides(overrides: Sequence[str]) -> tuple[dict[SettingName, Entry], list[Finding]]:
    """Read the settings of the command line, where an unknown name is an error."""
    resolved: dict[SettingName, Entry] = {}
    findings: list[Finding] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            message = f"expected section.key=value, got {describe(override)}"
            findings.append(Finding("error", COMMAND_LINE, 0, "", "", message))
            continue
        entry = Entry(section, key.lower(), None, text.strip(), 0)
        found, odd = resolve_names([entry], COMMAND_LINE, "refused")
        if not found:
            findings += [replace(finding, severity="error") for finding in odd]
            continue
        findings += odd
        ((target, entry),) = found.items()
        try:
            resolved[target] = replace(entry, value=_override_value(target, entry.text))
        except NotALiteralError as problem:
            findings.append(entry.finding("error", COMMAND_LINE, str(problem)))
    return resolved, findings


def _override_value(target: SettingName, text: str) -> object:
    """Read a value of the command line, where a path is relative to the current folder."""
    section, key = target
    if not is_path(SECTIONS[section].model_fields[key]):
        return read_literal(text).value
    try:
        value = read_path(text).value
    except NotALiteralError:
        if not text:
            raise
        value = text
    bundled = target == ("train", "pretrained") and value == BUNDLED and not Path(BUNDLED).exists()
    if value is None or bundled:  # `bundled` is the name of the model, not a path
        return value
    return str(Path.cwd() / (value if isinstance(value, str) else text))


def _validate(
    resolved: Mapping[SettingName, Entry], file: str, base_dir: Path, overridden: Container[SettingName] = ()
) -> tuple[Config, list[Finding]]:
    """Validate values section by section; a wrong value is left out and becomes an error."""
    findings: list[Finding] = []
    sections: dict[str, Section] = {}

    def file_of(target: SettingName) -> str:
        return COMMAND_LINE if target in overridden else file

    for name, settings in SECTIONS.items():
        entries = {key: entry for (section, key), entry in resolved.items() if section == name}
        values: dict[str, Any] = {}
        for key, entry in entries.items():
            value, where = entry.value, file_of((name, key))
            if (
                isinstance(value, tuple)
                and len(value) == 1
                and entry.text.endswith(",")
                and is_scalar(settings, key)
            ):
                value = value[0]
                findings.append(entry.finding("warning", where, "the trailing comma is ignored"))
            if where and (odd := control_character(entry.value, entry.text)):
                findings.append(entry.finding("warning", where, odd))
            values[key] = value
        try:
            section = settings.model_validate(values)
        except ValidationError as problem:
            for key in dict.fromkeys(str(error["loc"][0]) for error in problem.errors(include_url=False)):
                where = file_of((name, key))
                wanted = expectation(settings, key, toml=where.lower().endswith(".toml"))
                message = f"expected {wanted}, got {describe(values.pop(key))}"
                findings.append(entries[key].finding("error", where, message))
            section = settings.model_validate(values)
        if entries:
            sections[name] = section
    config = Config(**sections).located_in(base_dir)  # type: ignore[arg-type]
    for target, message in contradictions(config):
        entry = resolved.get(target, Entry(*target, None, "", 0))
        findings.append(entry.finding("warning", file_of(target), message))
    return config, findings
