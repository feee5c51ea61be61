"""From a config to a trained model: data, network, protocol and files brought together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.config.folders import run_folders
from glomtile.config.schema import Config
from glomtile.config.toml import to_toml
from glomtile.core.arguments import typed_argument
from glomtile.errors import ModelError
from glomtile.files import workspace
from glomtile.files.room import require_space
from glomtile.types import SILENT, Progress
from glomtile.verbs.trainable import require_trainable, tell_of_changed_sources, validates

if TYPE_CHECKING:
    import keras

    from glomtile.config.card import ModelCard
    from glomtile.engine.callbacks import History, Listener
    from glomtile.engine.devices import Devices
    from glomtile.engine.pretrained import Beginning
    from glomtile.engine.training import Protocol
    from glomtile.files.pairs import Pair

FREE_TO_CHANGE = {
    "train": {
        "epochs", "patience", "model_dir", "eval_dir", "images_dir", "masks_dir", "checkpoint_steps",
        "tensorboard", "break_file", "epoch_change_infer", "epoch_change_infer_dir",
        "epoch_change_tiled_infer", "epoch_change_tiled_infer_dir", "num_infer_images",
        "save_weights_only", "create_backup", "metrics", "validation_steps", "use",
        "devices",  # their number is compared, which "all" does not tell
        "pretrained",  # the digest of its network is compared
    },
    "model": {"show_summary"},
    "dataset": {"cache_mb", "workers", "worker_kind", "class_name", "name", "licence", "source"},
}  # fmt: skip
"""Settings that a resumed run may have changed: none of them moves a number of the epochs to come."""


DECIDING = (
    "model", "train", "dataset", "image", "mask", "augmentor", "deformation", "distortion",
    "barrdistortion", "pincdistortion", "brightening", "sharpening", "generator",
)  # fmt: skip
"""Sections whose other settings a resumed run must share with the one it goes on from."""


_PRETRAINED = "train.pretrained"
"""Among the deciding settings it is the digest of the network that training began with."""


SETTINGS = "settings.toml"
"""The settings in force, ``--set`` included, beside the copy of the config as it was written."""


@dataclass(frozen=True)
class TrainResult:
    """What a training made.

    Attributes
    ----------
    best, last : Path
        Model folders; the same one where ``[valid]`` names no images.
    history : list of dict
        Figures of each epoch.
    best_epoch : int
        From 1.
    reason : str
        Why training ended.
    paths : tuple of Path
        Everything written that someone may want to look at.
    """

    best: Path
    last: Path
    history: History
    best_epoch: int
    reason: str
    paths: tuple[Path, ...]


def train(config: Config, *, resume: bool = False, progress: Progress = SILENT) -> TrainResult:
    """Train the network of a config on its data.

    Parameters
    ----------
    config : Config
    resume : bool
        Go on from ``<model_dir>/last``; the result equals that of an uninterrupted run.
    progress : Progress

    Returns
    -------
    TrainResult

    Raises
    ------
    ArgumentError
        When `config` is none.
    ConfigError
        When the settings contradict each other, ask for more devices than there are or, resuming, they or the
        images and masks are not those the run began with.
    InputError
        When images and masks do not fit together, or a class has no pixel in any training mask.
    ModelError
        When the training loss is no number, or the monitored figure of no epoch is: what came before is kept,
        ``last/`` too. Resuming, when there is no state of a run, or a damaged one. When the model that
        training is to begin with is none, or damaged.
    StorageError
        When there is no space for the models.
    """
    typed_argument("config", config, Config, "a config, as load_config(…) gives")
    require_trainable(config, resume)
    from glomtile.engine.devices import choose_devices
    from glomtile.engine.pretrained import beginning
    from glomtile.engine.training import deterministic

    start = beginning(config)
    deterministic(config.train.seed)
    devices = choose_devices(config.train, config.source or "config")
    with devices.scope():
        return _train_on(devices, config, start, resume, progress)


def _train_on(
    devices: Devices, config: Config, start: Beginning | None, resume: bool, progress: Progress
) -> TrainResult:
    from glomtile.engine.pretrained import begin_with
    from glomtile.engine.previews import asked_previews
    from glomtile.engine.sources import (
        judging_source,
        prepared,
        require_every_class,
        split_pairs,
        training_source,
    )
    from glomtile.engine.training import Training
    from glomtile.nets.registry import geometry

    palette = config.palette()
    pairs = split_pairs(config, "train")
    for split in ("train", "valid") if validates(config) else ("train",):
        tell_of_changed_sources(config, split, progress)
    require_every_class(pairs, config, palette)
    training = training_source(config)
    judged = [judging_source(config, "valid")] if validates(config) else []
    steps = -(-len(training) // config.train.batch_size)
    network, model = _compiled(config, steps, devices)
    folder = config.resolve(config.train.model_dir)
    _require_room(folder, network, model)
    judging = split_pairs(config, "valid") if validates(config) else []
    card = _card(config, pairs, len(judging), devices.count)
    if start is not None:
        card = card.model_copy(update={"pretrained": start.record})
    protocol = _protocol(config, len(training), devices.count, _data(pairs, judging), start)
    run = Training(network, model, card, folder, protocol, devices)
    done = run.resume() if resume else 0
    if start is not None and not resume:
        begin_with(network, start, config, progress)
        model.set_weights(network.get_weights())
    if config.model.show_summary:
        network.summary(print_fn=progress.note)
    progress.note(
        f"{len(pairs)} training images, {len(training)} samples an epoch, "
        f"{network.count_params():,} parameters"
        + (f", each batch shared by {', '.join(devices.names)}" if devices.count > 1 else "")
        + (f", resuming after epoch {done}" if resume else "")
    )
    previews = asked_previews(config, geometry(config.model), palette, progress)
    if done >= config.train.epochs:
        progress.note(f"nothing left to do: {done} of {config.train.epochs} epochs are done")

    def make_way() -> None:
        if not resume:
            _move_aside(config, progress)
            workspace.write_text(folder / _config_name(config), _config_text(config))
            workspace.write_text(folder / SETTINGS, to_toml(config))

    listeners: list[Listener] = [*_curves(config), *previews]
    # Under the old names: what those sources have decoded is let go where processes decode for themselves.
    with prepared(config, [training, *judged]) as (training, *judged):
        outcome = run.run(training, judged[0] if judged else None, listeners, make_way, progress)
    if validates(config) and outcome.history and not outcome.best_epoch:
        raise ModelError(
            folder / "best",
            f"expected a {protocol.monitor} that is a number, got none in {len(outcome.history)} epochs",
            f"{folder / 'last'} holds the last epoch; lower [model] learning_rate or clip the gradients",
        )
    eval_dir = config.resolve(config.train.eval_dir)
    best = folder / ("best" if validates(config) else "last")
    return TrainResult(
        best=best,
        last=folder / "last",
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        reason=outcome.reason,
        paths=(*dict.fromkeys((best, folder / "last")), eval_dir, *(p.folder for p in previews)),
    )


def _compiled(config: Config, steps: int, devices: Devices | None = None) -> tuple[keras.Model, keras.Model]:
    """The bare float32 network, which is saved, and what is trained: its layers, or their like.

    Layers of their own train in 16 bits, and where several devices share the statistics of a batch.
    """
    import keras

    from glomtile.nets.losses import build_loss
    from glomtile.nets.metrics import build_metrics
    from glomtile.nets.optimizers import build_optimizer
    from glomtile.nets.registry import build_model

    precision, seed = config.train.precision, config.train.seed
    total, copies = (devices.total, devices.copies) if devices else (None, 1)
    network = build_model(config.model, seed=seed)
    trained = network
    if precision != "float32" or (total is not None and config.model.norm == "batch"):
        trained = build_model(config.model, precision=precision, seed=seed, total=total)
    model = keras.Model(trained.input, trained.output, name="training")
    places = _metric_places(config)
    model.compile(
        optimizer=build_optimizer(config.model, config.train, steps, total, copies),
        loss=build_loss(config.model, total),
        metrics=build_metrics(config.model, places, places),
    )
    return network, model


def _metric_places(config: Config) -> dict[str, str]:
    """The metrics asked for in any of three places, each once, and where it is asked for."""
    asked = [(name, "[model] metrics") for name in config.model.metrics]
    asked += [(name, "[train] metrics") for name in config.train.metrics]
    asked += [(config.train.monitor, "[train] monitor")]
    if config.model.num_classes > 1:
        asked.append(("foreground_dice", ""))
    places: dict[str, str] = {}
    for name, place in asked:
        places.setdefault(name.removeprefix("val_"), place)
    places.pop("loss", None)
    return places


def _data(training: Sequence[Pair], validation: Sequence[Pair]) -> dict[str, str]:
    """What a resumed run must share with the one it goes on from beside settings; folders may move."""
    from glomtile.engine.runstate import TRAINING_DATA, VALIDATION_DATA, files_told

    told = {TRAINING_DATA: training, VALIDATION_DATA: validation}
    return {name: files_told(len(pairs), _names_digest(pairs)) for name, pairs in told.items()}


def _protocol(
    config: Config, samples: int, devices: int, data: dict[str, str], start: Beginning | None
) -> Protocol:
    from glomtile.engine.training import Protocol

    train = config.train
    stop = config.resolve(train.break_file)
    return Protocol(
        epochs=train.epochs,
        batch_size=train.batch_size,
        monitor=train.monitor if validates(config) else train.monitor.removeprefix("val_"),
        patience=train.patience,
        reducer_patience=train.reducer_patience if train.learning_rate_reducer else 0,
        reducer_factor=train.reducer_factor,
        learning_rate=config.model.learning_rate,
        checkpoint_steps=train.checkpoint_steps,
        workers=config.dataset.workers,
        break_file=stop,
        settings=_deciding(config, samples, devices) | data | {_PRETRAINED: start and start.digest},
        defaults=_deciding(Config(), samples, 1) | data | {_PRETRAINED: None},
    )


def _deciding(config: Config, samples: int, devices: int) -> dict[str, Any]:
    """Every setting that moves a number, flat, as JSON has it."""
    flat: dict[str, Any] = {"samples": samples}
    if devices > 1:  # one is not told: runs begun before there was a choice go on
        flat["train.devices"] = devices
    for section in DECIDING:
        spare = FREE_TO_CHANGE.get(section, set())
        dumped = config.section(section).model_dump_json(exclude=spare)
        flat |= {f"{section}.{key}": value for key, value in json.loads(dumped).items()}
    if config.train.schedule != "constant":
        flat["train.epochs"] = config.train.epochs
    return flat


def _card(config: Config, training: Sequence[Pair], validation: int, devices: int) -> ModelCard:
    """What both model folders say of themselves, digests and epoch apart."""
    from glomtile.config.card import ModelCard, TrainingData
    from glomtile.engine.familiar import familiar_tissue
    from glomtile.engine.objectrules import rules_of_truth
    from glomtile.engine.sources import mpp_range
    from glomtile.nets.registry import geometry

    seen = geometry(config.model)
    return ModelCard(
        network=config.model,
        classes=ModelCard.classes_of(config.palette()),
        color_order=config.image.color_order,
        mpp=config.model.mpp,
        mpp_range=mpp_range(config),
        tile_px=(config.model.image_height, config.model.image_width),
        overlap_px=config.tiledinfer.overlapping,
        tta=config.tiledinfer.tta,
        threshold=config.tiledinfer.threshold,
        smoothing_px=config.tiledinfer.smoothing_px,
        least_expected_dice=config.tiledinfer.least_expected_dice,
        objects=rules_of_truth(config, training, config.palette()),
        stride_px=seen.stride_px,
        context_px=seen.context_px,
        data=TrainingData(
            name=config.dataset.name,
            licence=config.dataset.licence,
            source=config.dataset.source,
            images=len(training),
            valid_images=validation,
            digest=_names_digest(training),
        ),
        familiar=familiar_tissue(config, training),
        seed=config.train.seed,
        devices=devices,
    )


def _require_room(folder: Path, network: keras.Model, model: keras.Model) -> None:
    """Best and last model, each replaced only when its successor is whole, and the optimizer's state."""
    weights = 4 * network.count_params()
    model.optimizer.build(model.trainable_variables)
    state = weights + sum(4 * math.prod(v.shape) for v in model.optimizer.variables)
    require_space(folder, 2 * (2 * weights + state))


def _move_aside(config: Config, progress: Progress) -> None:
    """An earlier run keeps its files under another name (reference §6.5)."""
    for folder in run_folders(config):
        aside = workspace.move_aside(folder)
        if aside is not None:
            progress.note(f"an earlier {folder.name} is now {aside.name}")


def _curves(config: Config) -> Sequence[Listener]:
    from glomtile.engine.callbacks import CurveFiles, TensorBoardFiles

    eval_dir = config.resolve(config.train.eval_dir)
    names = config.train.metrics
    files: list[Listener] = [CurveFiles(eval_dir, config.resolve("history.json"), names)]
    if config.train.tensorboard:
        files.append(TensorBoardFiles(eval_dir / "tensorboard"))
    return files


def _config_name(config: Config) -> str:
    return config.source.name if config.source is not None else "config.toml"


def _config_text(config: Config) -> str:
    """The config as it was written, or, made in Python, as TOML."""
    return config.source.read_text("utf-8") if config.source is not None else to_toml(config)


def _names_digest(pairs: Sequence[Pair]) -> str:
    """One digest over the names and sizes of the files trained on."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.stem} {pair.image.stat().st_size} {pair.mask.stat().st_size}\n".encode())
    return digest.hexdigest()
