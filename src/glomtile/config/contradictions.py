"""Settings that are each right and do not go together, or that do nothing here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from glomtile.config.folders import held_by_runs, judged_on_training, written_over
from glomtile.config.names import Place, nearest
from glomtile.config.schema import SECTIONS, Config
from glomtile.config.schema_fields import about
from glomtile.config.schema_model import BUILT_NETWORKS, LOSSES, METRICS, is_metric, network_name
from glomtile.errors import GlomtileError

Remark = tuple[Place, str]

_OF_CROPS = ("samples_per_epoch", "foreground_share", "edge_share", "image_weights")
"""Keys of ``[dataset]`` that whole tiles leave without effect."""


def contradictions(config: Config) -> Iterator[Remark]:
    """What to warn of in a config whose values are all of the right type and range."""
    yield from _without_effect(config)
    yield from _unknown_names(config)
    yield from _classes(config)
    yield from _geometry(config)
    yield from _training(config)
    yield from _folders(config)
    yield from _augmentation(config)


def _without_effect(config: Config) -> Iterator[Remark]:
    network = network_name(config.model.model)
    for name, settings in SECTIONS.items():
        for key, info in settings.model_fields.items():
            if not config.section(name).given(key):
                continue
            known = about(info)
            if known.inert:
                yield (name, key), f"has no effect: {known.inert}"
            if known.networks and network not in known.networks:
                yield (name, key), f"a key of {' and '.join(known.networks)}; {network} does not read it"
            unread = known.losses and config.model.loss in LOSSES and config.model.loss not in known.losses
            if unread and getattr(config.section(name), key) != info.default:
                yield (name, key), f'has no effect beside loss = "{config.model.loss}"'


def _unknown_names(config: Config) -> Iterator[Remark]:
    network = network_name(config.model.model)
    fields = SECTIONS["model"].model_fields
    if config.model.model in about(fields["model"]).known and network not in BUILT_NETWORKS:
        built = ", ".join(BUILT_NETWORKS)
        yield ("model", "model"), f"a network of the reference that is not built here (built: {built})"
    for name, settings in SECTIONS.items():
        for key, info in settings.model_fields.items():
            names = about(info).known
            if not names or not config.section(name).given(key):
                continue
            value = getattr(config.section(name), key)
            for word in value if isinstance(value, tuple) else (value,):
                general = re.sub(r"_\d+\Z", "_<k>", word)
                if not {word, word.lower(), general} & set(names):
                    yield (name, key), _unknown(word, names)
    classes = max(2, config.model.num_classes)
    asked = [(("model", "metrics"), name) for name in config.model.metrics]
    asked += [(("train", "metrics"), name) for name in config.train.metrics]
    asked += [(("train", "monitor"), config.train.monitor)]
    for place, figure in asked:
        name = figure.removeprefix("val_")
        if name == "loss" or is_metric(name, classes):
            continue
        if re.fullmatch(r"class_(?:dice|iou)_\d+", name):
            yield place, f"{figure}: there are the classes 0 to {classes - 1}"
        elif place[0] == "train":  # those of [model] are among the names above
            yield place, _unknown(name, ("loss", *METRICS), figure.removesuffix(name))


def _unknown(word: str, names: Sequence[str], began: str = "") -> str:
    """That nobody knows a name, and the nearest one or all that are known; each began with `began`."""
    near = nearest(word, names)
    known = (
        f"did you mean {began}{near}?" if near else f"known are {', '.join(began + name for name in names)}"
    )
    return f"unknown name {began}{word}; {known}"


def _classes(config: Config) -> Iterator[Remark]:
    if config.mask.given("rgb_map") or config.mask.given("class_names"):
        try:
            config.palette()
        except GlomtileError as problem:
            yield ("mask", "rgb_map"), problem.message
    written, trains = config.mask.given("rgb_map"), config.train.images_dir is not None
    colours, classes = len(config.mask.rgb_map), max(config.model.num_classes, 2)
    if config.model.given("num_classes") and (written or trains) and colours != classes:
        has = "has" if written else "is left out and has"
        yield (
            ("model", "num_classes"),
            f"expected one class a colour of [mask] rgb_map, which {has} {colours}",
        )
    weights = config.model.class_weights
    if weights is not None and len(weights) != max(config.model.num_classes, 2):
        yield (
            ("model", "class_weights"),
            f"expected one weight a class, of {config.model.num_classes} classes",
        )


def _geometry(config: Config) -> Iterator[Remark]:
    step = 2 ** (config.model.num_layers - 1)
    for key in ("image_width", "image_height"):
        side = getattr(config.model, key)
        if side % step:
            yield (
                ("model", key),
                f"expected a multiple of {step}, which {config.model.num_layers} levels need",
            )
    deepest = config.model.dropout_rate * (config.model.num_layers - 1)
    if deepest >= 1:
        yield (
            ("model", "dropout_rate"),
            f"the lowest level would drop a share of {deepest:g}, expected below 1",
        )
    tiled = config.tiledinfer
    if isinstance(tiled.window, int) and 2 * tiled.overlapping >= tiled.window:
        yield (
            ("tiledinfer", "overlapping"),
            f"expected less than half of window, which is {tiled.window}",
        )


def _training(config: Config) -> Iterator[Remark]:
    model, train = config.model, config.train
    if model.clipvalue is not None and model.clipnorm is not None:
        yield ("model", "clipnorm"), "only one of clipvalue and clipnorm can clip"
    if train.schedule != "constant" and train.learning_rate_reducer:
        yield ("train", "learning_rate_reducer"), f'train refuses it beside schedule = "{train.schedule}"'
    if train.schedule == "constant" and train.warmup_epochs:
        yield ("train", "warmup_epochs"), 'has no effect beside schedule = "constant"'
    if train.images_dir is not None and config.valid.images_dir is None and train.use == "best":
        yield (
            ("valid", "images_dir"),
            'train refuses to choose the best epoch without validation images: name them, or use = "last"',
        )
    if train.schedule != "constant" and train.warmup_epochs > train.epochs:
        yield ("train", "warmup_epochs"), f"expected at most the {train.epochs} epochs of the schedule"
    plain = Config().dataset
    for key in _OF_CROPS:
        if config.dataset.sampling == "tiles" and getattr(config.dataset, key) != getattr(plain, key):
            yield ("dataset", key), 'has no effect beside sampling = "tiles"'
    if config.dataset.worker_kind == "processes" and config.dataset.workers == 0:
        yield ("dataset", "worker_kind"), "has no effect beside workers = 0"
    if model.given("normalization") and model.normalization is False and model.norm != "none":
        yield ("model", "normalization"), f'norm = "{model.norm}" counts'


def _folders(config: Config) -> Iterator[Remark]:
    for split in judged_on_training(config):
        yield (split, "images_dir"), "the images that are trained on: figures on them prove nothing"
    sections: tuple[Literal["infer", "tiledinfer"], ...] = ("infer", "tiledinfer")
    for section in sections:
        if what := written_over(config, section):
            yield (section, "output_dir"), f"the folder of {what}, which no masks are written into"
    for key, _, kept in held_by_runs(config):
        yield (
            ("train", key),
            f"train refuses it: an earlier run is moved aside as a whole, and it holds {kept}",
        )


def _augmentation(config: Config) -> Iterator[Remark]:
    nobody_said = config.augmentor.enabled is None and not config.augments
    if nobody_said and (idle := _changed(config, "augmentor")):
        others = f", nor has {' or '.join(idle[1:])}" if len(idle) > 1 else ""
        yield (
            ("augmentor", idle[0]),
            f"has no effect{others}: augmentation is off, enabled = true turns it on",
        )


def _changed(config: Config, section: str) -> list[str]:
    """The keys of a section that were written, to another value than the default."""
    given, plain = config.section(section), Config().section(section)
    return [
        key
        for key in type(given).model_fields
        if given.given(key) and getattr(given, key) != getattr(plain, key)
    ]
