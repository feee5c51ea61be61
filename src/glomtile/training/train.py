"""Training of a model from a config."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from glomtile.config.load import inside_run_folders, run_folders
from glomtile.config.model_card import ModelCard, ObjectSettings, ReferenceStatistics, TrainingData
from glomtile.config.schema import ENCODER_NETWORKS, Config
from glomtile.config.toml import to_toml
from glomtile.datasets.loading import mpp_range, read_labels, require_every_class, split_pairs, working_scale
from glomtile.datasets.pairing import Pair, changed_since_prepared, prepared_from
from glomtile.errors import ConfigError, InputError, LockedError, ModelError
from glomtile.formatting import listed
from glomtile.inference.quality_control import (
    FEATURE_VERSION,
    appearance_features,
    fit_reference,
    fit_scale_estimator,
    sampled_boxes,
)
from glomtile.io import atomic
from glomtile.io.images import read_image, resize_to_mpp, size_at_mpp
from glomtile.objects.labelling import find_objects
from glomtile.objects.postprocessing import convex_hull
from glomtile.palette import Palette
from glomtile.slides.tissue import TissueMap
from glomtile.training.augmentation import Augmentation, augment, augmentation_of
from glomtile.types import IGNORE, SILENT, Box, Progress, UInt8, crop
from glomtile.validation import typed_argument

if TYPE_CHECKING:
    import keras

    from glomtile.models.encoder_weights import EncoderWeights
    from glomtile.models.pretrained import PretrainedWeights
    from glomtile.training.callbacks import History, Listener
    from glomtile.training.trainer import Devices

SETTINGS_FILE = "settings.toml"
"""The settings in force, ``--set`` included, beside the copy of the config as it was written."""

RESUME_CHECKS = (
    "model", "train", "dataset", "image", "mask", "augmentor", "deformation", "distortion",
    "barrdistortion", "pincdistortion", "brightening", "sharpening", "generator",
)  # fmt: skip
"""Sections whose settings a resumed run must share with the run that it continues."""

RESUME_IGNORES = {
    "train": {
        "epochs", "patience", "model_dir", "eval_dir", "images_dir", "masks_dir", "checkpoint_steps",
        "tensorboard", "break_file", "epoch_change_infer", "epoch_change_infer_dir",
        "epoch_change_tiled_infer", "epoch_change_tiled_infer_dir", "num_infer_images",
        "save_weights_only", "create_backup", "metrics", "validation_steps", "use",
        "devices",  # their number is compared, which "all" does not give
        "pretrained",  # the digest of its network is compared
    },
    "model": {"show_summary", "encoder_weights"},  # the digest of the latter is compared
    "dataset": {"cache_mb", "workers", "class_name", "name", "licence", "source"},
}  # fmt: skip
"""Settings that a resumed run may change: none of them changes a number of the epochs to come."""

_PRETRAINED, _ENCODER = "train.pretrained", "model.encoder_weights"
_NAMED = 3


@dataclass(frozen=True)
class TrainResult:
    """Models and figures of a training.

    Attributes
    ----------
    best, last : Path
        Model folders; the same one without validation images.
    history : list of dict
        Figures of each epoch.
    best_epoch : int
        From 1.
    reason : str
        Why training ended.
    paths : tuple of Path
        The results to open first.
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
        Continue from ``<model_dir>/last``; the result equals that of an uninterrupted run.
    progress : Progress

    Returns
    -------
    TrainResult

    Raises
    ------
    ArgumentError
        `config` is no config.
    ConfigError
        Settings contradict each other or name more devices than there are; or, resuming, settings, images or
        masks differ from those of the run.
    InputError
        Images and masks do not fit together, or a class has no pixel in any training mask.
    LockedError
        Another training runs in this ``model_dir``.
    ModelError
        The training loss is no number, or the monitored figure of no epoch is: what was saved before is kept,
        ``last/`` too. Resuming: there is no state of a run, or a damaged one. The pretrained model is missing
        or damaged.
    StorageError
        A file cannot be written.
    """
    typed_argument("config", config, Config, "a config, as load_config(…) gives")
    require_trainable(config, resume)
    from glomtile.models.pretrained import load_pretrained
    from glomtile.training.trainer import choose_devices, make_deterministic

    start = load_pretrained(config)
    make_deterministic(config.train.seed, progress)
    devices = choose_devices(config.train, config.source or "config")
    with devices.scope():
        return _train_on(devices, config, start, resume, progress)


@contextmanager
def _locked(model_dir: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model folder, in a file beside it: the folder itself may be moved aside."""
    real = model_dir.resolve()
    with ExitStack() as held:
        try:
            lock = atomic.file_lock(real.parent / atomic.PRIVATE_FOLDER / f"{real.name}.lock", progress)
            held.enter_context(lock)
        except LockedError as error:
            raise LockedError(model_dir, error.message, error.hint) from None
        yield


def _train_on(
    devices: Devices, config: Config, start: PretrainedWeights | None, resume: bool, progress: Progress
) -> TrainResult:
    from glomtile.models.encoder_weights import find_encoder_weights
    from glomtile.models.pretrained import apply_pretrained
    from glomtile.networks.registry import geometry
    from glomtile.training.callbacks import CurveFiles, TensorBoardFiles, make_previews
    from glomtile.training.samples import judging_source, training_source
    from glomtile.training.trainer import Training

    splits = ("train", "valid") if _validates(config) else ("train",)
    pairs = {split: split_pairs(config, split) for split in splits}
    for split in splits:
        warn_of_changed_sources(config, split, progress)
    require_every_class(pairs["train"], config, config.palette())
    training = training_source(config)
    validation = judging_source(config, "valid") if _validates(config) else None
    weights = find_encoder_weights(config.model, config.base_dir) if start is None else None
    pretrained = start is not None or weights is not None
    network, model = _compiled(config, -(-len(training) // config.train.batch_size), weights, pretrained)
    card = _card(config, pairs["train"], len(pairs.get("valid", ())), devices.count)
    if start is not None:
        card = card.model_copy(update={"pretrained": start.record})
    elif weights is not None:
        card = card.model_copy(update={"encoder_weights": weights.source})
    # What a resumed run must share beside settings; folders may move.
    data = {
        f"data.{name}": f"{len(files)} images, their names and sizes {_names_digest(files)[:12]}"
        for name, files in (("training", pairs["train"]), ("validation", pairs.get("valid", [])))
    }
    settings = _resume_settings(config, len(training), devices.count) | data
    defaults = _resume_settings(Config(), len(training), 1) | data
    settings[_PRETRAINED], defaults[_PRETRAINED] = start and start.digest, None
    settings[_ENCODER], defaults[_ENCODER] = card.encoder_weights and card.encoder_weights.sha256, None
    run = Training(config, network, model, card, settings, defaults)
    folder, eval_dir = config.resolve(config.train.model_dir), config.resolve(config.train.eval_dir)
    # The checks above write nothing; from here on the folder is this run's.
    with _locked(folder, progress):
        done = run.resume() if resume else 0
        if start is not None and not resume:
            apply_pretrained(network, start, config, progress)
            model.set_weights(network.get_weights())
        if config.model.show_summary:
            network.summary(print_fn=progress.note)
        progress.note(
            f"{len(pairs['train'])} training images, {len(training)} samples an epoch, "
            f"{network.count_params():,} parameters"
            + (f", each batch shared by {', '.join(devices.names)}" if devices.count > 1 else "")
            + (f", resuming after epoch {done}" if resume else "")
        )
        if done >= config.train.epochs:
            progress.note(f"nothing left to do: {done} of {config.train.epochs} epochs are done")
        previews = make_previews(config, geometry(config.model), config.palette(), progress)
        listeners: list[Listener] = [
            CurveFiles(eval_dir, config.resolve("history.json"), config.train.metrics)
        ]
        if config.train.tensorboard:
            listeners.append(TensorBoardFiles(eval_dir / "tensorboard"))
        listeners += previews

        def before_first_write() -> None:
            if resume:
                return
            for earlier in run_folders(config):  # reference §6.5: there they are deleted
                if aside := atomic.move_aside(earlier):
                    progress.note(f"previous {earlier.name}/ moved to {aside.name}")
            if config.source is None:
                atomic.write_text(folder / "config.toml", to_toml(config))
            else:
                atomic.write_text(folder / config.source.name, config.source.read_text("utf-8"))
            atomic.write_text(folder / SETTINGS_FILE, to_toml(config))

        reason = run.run(training, validation, listeners, before_first_write, progress)
        if validation is not None and run.history and not run.best_epoch:
            raise ModelError(
                folder / "best",
                f"expected a {run.monitor} that is a number, got none in {len(run.history)} epochs",
                f"{folder / 'last'} holds the last epoch; lower [model] learning_rate or clip the gradients",
            )
        best, last = folder / ("last" if validation is None else "best"), folder / "last"
        paths = (*dict.fromkeys((best, last)), eval_dir, *(one.folder for one in previews))
        return TrainResult(best, last, run.history, run.best_epoch, reason, paths)


def _validates(config: Config) -> bool:
    return config.valid.images_dir is not None


def _compiled(
    config: Config, steps: int, weights: EncoderWeights | None, pretrained: bool
) -> tuple[keras.Model, keras.Model]:
    """Build the float32 network that is saved, and the compiled model; in 16 bits it has its own layers."""
    import keras

    from glomtile.models.encoder_weights import apply_encoder_weights
    from glomtile.networks.encoders import PREFIX, encoder, freeze_encoder
    from glomtile.networks.losses import build_loss
    from glomtile.networks.metrics import build_metrics
    from glomtile.networks.optimizers import build_optimizer
    from glomtile.networks.registry import build_model

    precision, seed = config.train.precision, config.train.seed
    network = trained = build_model(config.model, seed=seed)
    if weights is not None:
        apply_encoder_weights(network, encoder(config.model.encoder), weights)
    if precision != "float32":
        trained = build_model(config.model, precision=precision, seed=seed)
        trained.set_weights(network.get_weights())
    spared = []
    if pretrained and config.model.model in ENCODER_NETWORKS:
        freeze_encoder(trained, config.train.frozen_blocks, batch_norm=config.model.freeze_batch_norm)
        spared = [one for one in trained.trainable_variables if one.path.startswith(PREFIX)]
    model = keras.Model(trained.input, trained.output, name="training")
    # Each metric that the config names, with the key that names it first.
    places: dict[str, str] = {}
    for key, names in (
        ("[model] metrics", config.model.metrics),
        ("[train] metrics", config.train.metrics),
        ("[train] monitor", [config.train.monitor]),
        ("", ["foreground_dice"] if config.model.num_classes > 1 else []),
    ):
        for name in names:
            places.setdefault(name.removeprefix("val_"), key)
    places.pop("loss", None)
    model.compile(
        optimizer=build_optimizer(config.model, config.train, steps, spared),
        loss=build_loss(config.model),
        metrics=build_metrics(config.model, places, places),
    )
    return network, model


def _resume_settings(config: Config, samples: int, devices: int) -> dict[str, Any]:
    """Return every setting that changes a number, by section and key."""
    flat: dict[str, Any] = {"samples": samples}
    if devices > 1:
        flat["train.devices"] = devices
    for section in RESUME_CHECKS:
        ignored = RESUME_IGNORES.get(section, set())
        dumped = config.section(section).model_dump_json(exclude=ignored)
        flat |= {f"{section}.{key}": value for key, value in json.loads(dumped).items()}
    if config.train.schedule != "constant":
        flat["train.epochs"] = config.train.epochs
    return flat


def _card(config: Config, training: Sequence[Pair], validation: int, devices: int) -> ModelCard:
    """Describe the model, but for digests and epoch."""
    from glomtile.networks.registry import geometry

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
        min_expected_dice=config.tiledinfer.min_expected_dice,
        objects=fit_object_settings(config, training, config.palette()),
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
        reference_statistics=reference_statistics(config, training),
        seed=config.train.seed,
        devices=devices,
    )


def _names_digest(pairs: Sequence[Pair]) -> str:
    """Return a digest of the names and sizes of files."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.stem} {pair.image.stat().st_size} {pair.mask.stat().st_size}\n".encode())
    return digest.hexdigest()


def require_trainable(config: Config, resume: bool) -> None:
    """Check that a config can be trained, before anything heavy is loaded.

    Parameters
    ----------
    config : Config
    resume : bool
        A file that stopped the earlier run may still exist.

    Raises
    ------
    ConfigError
        Settings contradict each other, or writing would replace what was given.
    """
    train, where = config.train, config.source or "config"
    if train.learning_rate_reducer and train.schedule != "constant":
        raise ConfigError(
            f"{where} [train] learning_rate_reducer",
            f"expected schedule = 'constant' beside the reducer, got {train.schedule!r}",
            "a rate follows either its schedule or the plateaus",
        )
    if not _validates(config) and train.use == "best":
        raise ConfigError(
            f"{where} [valid] images_dir",
            "expected validation images, by which the best epoch is chosen, got none",
            'name them, or train to the end of the schedule and use that: [train] use = "last"',
        )
    require_buildable(config)
    held = [(folder, kept) for _, folder, kept in inside_run_folders(config)]
    sources = prepared_from(config.resolve(train.images_dir)) if train.images_dir else ()
    held += [(run, path) for run in run_folders(config) for path in sources if path.is_relative_to(run)]
    for folder, kept in held:
        raise ConfigError(
            folder,
            f"expected a folder of its own for what training writes, got one that holds {kept}",
            "an earlier run is moved aside as a whole folder",
        )
    stop = config.resolve(train.break_file)
    if stop.exists() and not resume:
        raise ConfigError(
            stop, "expected no stop file before training starts, got one", "remove it and start again"
        )


def require_buildable(config: Config) -> None:
    """Check that the network has a class for each colour, and an input that its levels can halve.

    Raises
    ------
    ConfigError
        It has not.
    """
    model, where = config.model, config.source or "config"
    classes = config.palette().num_classes
    if max(2, model.num_classes) != classes:
        raise ConfigError(
            f"{where} [model] num_classes",
            f"expected the {classes} classes of [mask] rgb_map, got {model.num_classes}",
            "give every class one colour in rgb_map; a binary network has num_classes 1 or 2",
        )
    network = f"{model.num_layers} levels" if model.reads("num_layers") else model.model
    for key in ("image_width", "image_height"):
        side = getattr(model, key)
        if side % model.side_step:
            raise ConfigError(
                f"{where} [model] {key}",
                f"expected a multiple of {model.side_step}, as {network} reduces its input, got {side}",
            )


def warn_of_split(config: Config, progress: Progress) -> None:
    """Warn of a cross-validation over a part of the data: ``[train]`` of what `prepare` split and cut."""
    if not prepared_from(config.folder("train", "images_dir")):
        return
    tiles = config.dataset.sampling == "tiles"
    progress.warn(
        "[train] images_dir is one split of a prepared dataset: the images of the others are left out"
        + (", and tiles of one image may fall into several folds" if tiles else "")
        + "; give the folders of the whole images, --set train.images_dir=… --set train.masks_dir=…"
    )


def warn_of_changed_sources(config: Config, split: str, progress: Progress) -> None:
    """Warn of whole images, masks and annotations that differ from those a split's tiles were made from.

    Parameters
    ----------
    config : Config
    split : {"train", "valid", "test"}
    progress : Progress
        Receives a warning, too, of what cannot be compared: nothing here ends a run.
    """
    folders = config.folder(split, "images_dir"), config.folder(split, "masks_dir")
    try:
        changed = changed_since_prepared(*folders)
    except (InputError, OSError) as problem:
        progress.warn(f"[{split}]: cannot compare with the sources that prepare used: {problem}")
        return
    if changed:
        read = "whole images are read as they are now, the tiles are older"
        if config.dataset.sampling == "tiles" and split != "test":
            read = "the tiles are older"
        progress.warn(
            f"[{split}]: {listed(changed, _NAMED)} changed since prepare; {read}: run prepare again"
        )


_MAX_MASKS = 200
_MIN_OBJECTS = 5
_SMALL_QUANTILE, _SMALL_FACTOR = 0.05, 0.25
_CONVEX_FROM = 0.95


def fit_object_settings(config: Config, pairs: Sequence[Pair], palette: Palette) -> ObjectSettings:
    """Fit the object settings to the training masks: the smallest area, and whether outlines are convex.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 200 only every n-th is measured.
    palette : Palette

    Returns
    -------
    ObjectSettings
        Of the true objects that no border cuts. Smallest area: a quarter of the area that 5 % of them stay
        below, at most the default, which suits glomeruli cut by a border. Convex: half of them fill at least
        0.95 of their convex hulls. The defaults where the model has no scale, or of fewer than five objects.
    """
    if config.model.mpp is None:
        return ObjectSettings()
    step = -(-len(pairs) // _MAX_MASKS)
    whole = [true for pair in pairs[::step] for true in _whole_objects(config, pair, palette)]
    if len(whole) < _MIN_OBJECTS:
        return ObjectSettings()
    areas, fullness = zip(*whole, strict=True)
    smallest = _SMALL_FACTOR * float(np.quantile(areas, _SMALL_QUANTILE))
    return ObjectSettings(
        min_area_um2=round(min(smallest, ObjectSettings().min_area_um2), 2),
        convex=float(np.median(fullness)) >= _CONVEX_FROM,
    )


def _whole_objects(config: Config, pair: Pair, palette: Palette) -> Iterator[tuple[float, float]]:
    """Yield area (µm²) and share of the convex hull of each true object that no border cuts."""
    scale = working_scale(config, pair.image)
    assert scale is not None
    labels = read_labels(pair, config, palette)
    height, width = labels.shape
    for number in np.unique(labels):
        if number in (0, IGNORE):
            continue
        found = find_objects(labels == number)
        for i, (area_px, box) in enumerate(zip(found.areas_px, found.boxes, strict=True), start=1):
            if box.top > 0 and box.left > 0 and box.bottom < height and box.right < width:
                hull = convex_hull(found.ids[box.top : box.bottom, box.left : box.right] == i)
                yield float(area_px) * scale[0] ** 2, float(area_px) / int(np.count_nonzero(hull))


_MAX_IMAGES, _MAX_SAMPLES, _MAX_DRAWS = 48, 128, 6
_ENLARGEMENTS = (0.5, 0.7, 1.0, 1.4, 2.0)
_BLURS_PX = (0.0, 0.75)
_SEED = 4


def reference_statistics(config: Config, pairs: Sequence[Pair]) -> ReferenceStatistics | None:
    """Measure the appearance of the training images and of their augmented copies.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 48 only every n-th is measured.

    Returns
    -------
    ReferenceStatistics or None
        ``None`` where fewer than 4 images have tissue.

    Notes
    -----
    Augmented copies belong to the training range: a stain that the network was trained on is not flagged.
    Enlarged tissue is measured only in files finer than the model's scale: enlarging coarse ones would show
    blur, not detail.
    """
    chosen = pairs[:: -(-len(pairs) // _MAX_IMAGES)]
    copies = min(_MAX_DRAWS, max(1, _MAX_SAMPLES // len(chosen) - 1)) if config.augments else 0
    settings = augmentation_of(config) if copies else Augmentation()
    seen, seen_in, scaled, scaled_in, octaves = [], [], [], [], []
    for number, pair in enumerate(chosen):
        image, (known, wanted) = read_image(pair.image), working_scale(config, pair.image) or (1.0, 1.0)
        windows = list(_windows(image, known, wanted))
        for draw in range(copies + 1):
            # As it is, then augmented: windows of one image share a seed and are changed alike.
            changed: Iterable[UInt8] = windows
            if draw:
                seed = (config.train.seed, _SEED, number, draw - 1)
                changed = (
                    augment(
                        window,
                        np.zeros(window.shape[:2], np.uint8),
                        rng=np.random.default_rng(seed),
                        settings=settings,
                    )[0]
                    for window in windows
                )
            found = appearance_features(changed)
            if found is not None:
                seen.append(found)
                seen_in.append(number)
        for factor in _ENLARGEMENTS:
            if factor > 1 and wanted / factor < known:
                continue
            windows = list(_windows(image, known, wanted / factor))
            for blur in _BLURS_PX:
                found = appearance_features(
                    np.asarray(cv2.GaussianBlur(window, (0, 0), blur), np.uint8) if blur else window
                    for window in windows
                )
                if found is not None:
                    scaled.append(found)
                    scaled_in.append(number)
                    octaves.append(math.log2(factor))
    aspects = fit_reference(seen, seen_in)
    trained = (0.0, 0.0)
    if (mpp := config.model.mpp) is not None and (scales := mpp_range(config)) is not None:
        trained = math.log2(mpp / scales[1]), math.log2(mpp / scales[0])
    estimator = fit_scale_estimator(scaled, scaled_in, octaves, trained)
    if aspects is None or estimator is None:
        return None
    return ReferenceStatistics(
        feature_version=FEATURE_VERSION, images=len(set(seen_in)), scale=estimator, **aspects
    )


def _windows(image: UInt8, known_mpp: float, wanted_mpp: float) -> Iterator[UInt8]:
    """Yield the windows of a training image that quality control would measure, were it all tissue."""
    size = size_at_mpp((image.shape[0], image.shape[1]), known_mpp, wanted_mpp)
    everything = np.ones((1, 1), np.bool_)
    zoom = wanted_mpp / known_mpp
    for box in sampled_boxes(size, TissueMap(everything, everything, max(size), 1.0)):
        part = crop(image, Box(*(round(at * zoom) for at in box)))
        yield resize_to_mpp(part, known_mpp, wanted_mpp)
