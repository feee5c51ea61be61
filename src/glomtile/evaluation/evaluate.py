"""Evaluation of a trained model on its test images, and masks of folders of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from glomtile.config.load import overwritten_input
from glomtile.config.schema import Config
from glomtile.datasets.loading import input_error, mask_suffix_of, read_labels, scale_of_image, working_scale
from glomtile.datasets.pairing import Pair, pair, prepared_from, prepared_groups, whole_pairs
from glomtile.errors import ConfigError, ModelError
from glomtile.evaluation.calibration import CalibrationAccumulator, min_expected_dice, quality_of_image
from glomtile.evaluation.metrics import ImageScore, Scores, SeamCount, count_seams, score_image
from glomtile.evaluation.score import (
    ImageAndMasks,
    PerImage,
    read_groups,
    worst_first,
    write_run,
    write_scores,
    write_sheets,
)
from glomtile.inference.image import (
    TilingSettings,
    as_confidence,
    resized_probs,
    segment_image,
    segment_whole,
)
from glomtile.inference.predictor import KerasPredictor, PredictionSettings, Tta, override_settings
from glomtile.io import atomic
from glomtile.io.image_list import ImageList, ImageRecord, PreviewSeries, find_previews, write_image_list
from glomtile.io.images import image_mpp, list_images, read_image
from glomtile.io.masks import read_mask, write_mask
from glomtile.models import folder as model_folder
from glomtile.palette import Palette
from glomtile.training.train import warn_of_changed_sources
from glomtile.types import SILENT, Progress, UInt8
from glomtile.validation import typed_argument

if TYPE_CHECKING:
    from glomtile.models.folder import LoadedModel

FOLDER, TABLE = "evaluation", "evaluation.csv"

LabelFunction = Callable[[UInt8, float | None], UInt8]
"""Maps an image and its mpp, where known, to class numbers of the same size."""


@dataclass(frozen=True)
class InferResult:
    """Masks written and images that failed.

    Attributes
    ----------
    done : tuple of Path
        The masks, in the order of the images.
    failed : tuple of (Path, str)
        Images without a mask, each with the reason.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


def infer(config: Config, progress: Progress = SILENT) -> InferResult:
    """Label the images of ``[infer] images_dir``, each resized to the network's input and back.

    Parameters
    ----------
    config : Config
    progress : Progress

    Returns
    -------
    InferResult

    Raises
    ------
    ConfigError
        A folder is not given, or masks would replace images or other masks.
    InputError
        The folder of images cannot be read or holds none.
    ModelError
        The model folder is damaged, or its network has other classes than the config.
    StorageError
        A mask cannot be written; those before it are kept.

    Notes
    -----
    Reference §6.5: there the output folder is deleted first. Here a mask replaces the file of its own name,
    whole or not at all, and other files of the folder are kept.
    """
    folders = _folders(config, "infer")
    palette = config.palette()
    predictor = _predictor(config, palette, progress)
    input_px = config.model.image_height, config.model.image_width
    return _label_folder(
        folders, lambda image, _: segment_whole(image, predictor, input_px), config, palette, progress
    )


def tiled_infer(config: Config, progress: Progress = SILENT) -> InferResult:
    """Label the images of ``[tiledinfer] images_dir`` window by window at the network's scale.

    The scale of an image is the one in its file, else ``[dataset] image_mpp``; where it and the model's are
    known, the image is resized to the model's scale. Masks have their image's size.

    Parameters
    ----------
    config : Config
    progress : Progress

    Returns
    -------
    InferResult

    Raises
    ------
    ConfigError, InputError, ModelError, StorageError
        See `infer`.
    UsageError
        The windows of ``[tiledinfer]`` are not possible, see `glomtile.inference.image.tile_plan`.

    Notes
    -----
    Reference §6.2 and §6.6: there tiles of changing scale are predicted one by one and pasted. Reference
    §6.11: there ``color_order = "BGR"`` is forgotten; here the predictor turns every window.
    """
    folders = _folders(config, "tiledinfer")
    palette = config.palette()
    predictor = _predictor(config, palette, progress, config.tiledinfer.tta)
    tiling = TilingSettings.of_config(config)
    without_scale = 0

    def label(image: UInt8, mpp: float | None) -> UInt8:
        nonlocal without_scale
        without_scale += mpp is None
        return segment_image(image, predictor, tiling, mpp).labels

    result = _label_folder(folders, label, config, palette, progress)
    if without_scale and predictor.mpp is not None:
        progress.warn(
            f"{folders[0]}: images without a scale: {without_scale}; the network was trained at "
            f"{predictor.mpp:g} µm per pixel and got them unscaled; set [dataset] image_mpp"
        )
    return result


def _folders(config: Config, section: Literal["infer", "tiledinfer"]) -> tuple[Path, Path]:
    images, masks = config.folder(section, "images_dir"), config.folder(section, "output_dir")
    replaced = overwritten_input(config, section)
    for split, section_of in (("train", config.train), ("valid", config.valid), ("test", config.test)):
        folder = section_of.images_dir
        originals = () if folder is None else prepared_from(config.resolve(folder))
        if masks.resolve() in [original.resolve() for original in originals]:
            replaced = f"what [{split}] was prepared from"
    if replaced is not None:
        raise ConfigError(
            f"[{section}] output_dir",
            f"expected another folder than that of {replaced}, got {masks}",
            hint="a mask would replace the file of the same name there",
        )
    return images, masks


def _predictor(config: Config, palette: Palette, progress: Progress, tta: Tta = "none") -> KerasPredictor:
    folder = config.resolve(config.train.model_dir) / config.train.use
    loaded = model_folder.load_model_folder(folder)
    order = config.image.color_order
    if order != loaded.card.color_order:
        progress.warn(
            f"{folder}: the network was trained with color_order {loaded.card.color_order}, "
            f"[image] color_order is {order} and is used"
        )
    settings = PredictionSettings.of_config(config, tta)
    predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, settings)
    if predictor.num_classes != palette.num_classes:
        raise ModelError(
            folder,
            f"expected a network of the {palette.num_classes} classes of rgb_map, "
            f"got one of {predictor.num_classes}",
        )
    return predictor


def _label_folder(
    folders: tuple[Path, Path], label: LabelFunction, config: Config, palette: Palette, progress: Progress
) -> InferResult:
    images, masks = list_images(folders[0]), folders[1]
    done: list[Path] = []
    failed: list[tuple[Path, str]] = []
    source_of: dict[Path, Path] = {}
    progress.start("images", len(images))
    for path in images:
        target = masks / f"{path.stem}.png"
        first = source_of.setdefault(target, path)
        if first != path:
            failed.append((path, f"expected an unused mask name, got the mask's name of {first.name}"))
        elif reason := _label_file(path, target, label, config, palette, progress):
            failed.append((path, reason))
        else:
            done.append(target)
        progress.advance(1, image=path.name)
    return InferResult(tuple(done), tuple(failed))


def _label_file(
    path: Path, target: Path, label: LabelFunction, config: Config, palette: Palette, progress: Progress
) -> str | None:
    """Write one mask; return the reason where the image gives none."""
    try:
        in_file = image_mpp(path, progress)
        mpp = in_file if in_file is not None else config.dataset.image_mpp
        labels = label(read_image(path), mpp)
    except MemoryError:
        return "expected an image that fits into memory, got MemoryError"
    except Exception as error:
        failure = input_error(path, error)
        return failure.message + (f" ({failure.hint})" if failure.hint else "")
    write_mask(target, labels, palette, mpp)
    return None


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of the test set.

    Attributes
    ----------
    loss, metric : float
        As in ``evaluation.csv``: over the network's own inputs, as in training.
    scores : Scores
        Figures with intervals, over whole images where they are known, else over the tiles.
    per_image : list of (str, ImageScore)
        The worst first.
    folder : Path
        ``evaluation/`` beside the config.
    paths : tuple of Path
        Files written.
    """

    loss: float
    metric: float
    scores: Scores
    per_image: PerImage
    folder: Path
    paths: tuple[Path, ...]


def evaluate(config: Config, *, progress: Progress = SILENT) -> EvaluateResult:
    """Evaluate ``<model_dir>/<[train] use>`` on the images of ``[test]``.

    The tiles give ``evaluation.csv``. The figures of ``evaluation/scores.json`` come from tiled inference on
    the whole images that the tiles were cut from, where a ``prepare.json`` names them.

    Parameters
    ----------
    config : Config
    progress : Progress

    Returns
    -------
    EvaluateResult

    Raises
    ------
    ArgumentError
        `config` is no Config.
    InputError
        Images and masks do not pair or cannot be read: figures over a part would mislead.
    ModelError
        The model is damaged or has other classes.
    """
    began = time.perf_counter()
    typed_argument("config", config, Config, "a config, as load_config(…) gives")
    palette = config.palette()
    folder = config.resolve(config.train.model_dir) / config.train.use
    loaded = model_folder.load_model_folder(folder)
    model_folder.require_classes(loaded.card, config.model, palette.num_classes, folder)
    for difference in model_folder.differences(loaded.card, config.model):
        progress.warn(f"{folder}: {difference}; the trained network counts")
    images, masks = config.folder("test", "images_dir"), config.folder("test", "masks_dir")
    pairs = whole_pairs(images, masks) or pair(images, masks, mask_suffix_of(config))
    warn_of_changed_sources(config, "test", progress)
    stems = [one.stem for one in pairs]
    if config.eval.groups is not None:
        groups: dict[str, str] | None = read_groups(config.resolve(config.eval.groups), stems)
    else:
        groups = prepared_groups(images, stems)
    loss, metric = _on_network_inputs(config, loaded, progress)
    out = config.resolve(FOLDER)
    calibration = CalibrationAccumulator(palette)
    per_image, seams = _on_images(config, loaded, pairs, calibration, out / "predictions", progress)
    table = config.resolve(TABLE)
    atomic.write_text(table, f"{config.model.loss},{loss:.4f}\n{config.model.metrics[0]},{metric:.4f}\n")
    seam_ratio = {"seam_ratio": seams.ratio} if seams.border_lines else None
    scores, paths = write_scores(
        out, per_image, palette, groups=groups, draws=config.eval.draws, seams=seam_ratio
    )
    by_name = {pair.stem: pair for pair in pairs}

    def load(stem: str) -> ImageAndMasks:
        predicted = read_mask(out / "predictions" / f"{stem}.png", palette)
        return read_image(by_name[stem].image), read_labels(by_name[stem], config, palette), predicted

    paths += write_sheets(out, per_image, palette, load, progress=progress)
    records = tuple(
        ImageRecord(one.stem, one.image, one.mask, out / "predictions" / f"{one.stem}.png") for one in pairs
    )
    listed = ImageList(palette, records, _previews(config), config.mask.mask_datatype, config.mask.tolerance)
    paths += (*calibration.write(out), write_image_list(out, listed))
    model_folder.add_scores(folder, {"test": scores.to_dict()})
    for name in ("train_losses.csv", "train_metrics.csv"):
        curve = config.resolve(config.train.eval_dir) / name
        if curve.is_file():
            atomic.write_bytes(out / name, curve.read_bytes())
    settings = {
        "config": config.source.name if config.source else None,
        "model_sha256": loaded.card.sha256,
        "images": len(pairs),
        "mpp": loaded.card.mpp,
        "tiledinfer": config.tiledinfer.model_dump(mode="json", exclude={"images_dir", "output_dir"}),
        "eval": config.eval.model_dump(mode="json"),
        config.model.loss: loss,
        config.model.metrics[0]: metric,
    }
    paths += (write_run(out, "evaluate", settings, time.perf_counter() - began),)
    return EvaluateResult(loss, metric, scores, worst_first(per_image), out, (table, *paths))


def _on_network_inputs(config: Config, loaded: LoadedModel, progress: Progress) -> tuple[float, float]:
    """Return loss and first metric over the test samples, as validation computes them."""
    import keras

    from glomtile.networks.losses import build_loss
    from glomtile.networks.metrics import build_metrics
    from glomtile.training.samples import batches, judging_source
    from glomtile.training.trainer import judge

    name = config.model.metrics[0]
    model = keras.Model(loaded.model.inputs, loaded.model.outputs)
    model.compile(loss=build_loss(config.model), metrics=build_metrics(config.model, [name]))
    source = judging_source(config, "test")
    progress.start("test samples", -(-len(source) // config.eval.batch_size))
    ready = batches(source, config.eval.batch_size, 0, workers=config.dataset.workers)
    figures = judge(model, ready, progress)
    return figures["loss"], figures[name]


def _on_images(
    config: Config,
    loaded: LoadedModel,
    pairs: list[Pair],
    calibration: CalibrationAccumulator,
    folder: Path,
    progress: Progress,
) -> tuple[PerImage, SeamCount]:
    """Segment every image as tiled inference does; write the masks, return scores and seams."""
    palette = calibration.palette
    per_image: list[tuple[str, ImageScore]] = []
    seams = SeamCount()
    card = override_settings(loaded.card, None, None, None, min_expected_dice(config))
    tiling, settings = TilingSettings.of_config(config), PredictionSettings.of_config(config)
    predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, settings)
    progress.start("test images", len(pairs))
    with atomic.replace_folder(folder) as partial:
        for one in pairs:
            image = read_image(one.image)
            scale = working_scale(config, one.image)
            mpp = scale[0] if scale else scale_of_image(config, one.image)
            result = segment_image(image, predictor, tiling, mpp, keep_probs=True)
            labels = result.labels
            truth = read_labels(one, config, palette)
            per_image.append((one.stem, score_image(labels, truth, palette.num_classes, mpp)))
            # Borders of windows that fall between pixels of the image are no seams.
            border_px = result.plan.core_px[0] * (scale[1] / scale[0] if scale else 1.0)
            if len(result.plan) > 1 and abs(border_px - round(border_px)) < 1e-6:
                seams += count_seams(labels, round(border_px))
            write_mask(partial / f"{one.stem}.png", labels, palette, mpp)
            assert result.probs is not None
            confidence = np.empty(labels.shape, np.uint8)
            for top, rows in resized_probs(result.probs, labels.shape):
                confidence[top : top + rows.shape[0]] = as_confidence(rows)
                calibration.add_probs([(top, rows)], truth)
            quality = quality_of_image(one.image, mpp, card, labels, confidence)
            if quality is not None:
                calibration.quality[one.stem] = quality
            progress.advance(1, image=one.stem)
    return per_image, seams


def _previews(config: Config) -> tuple[PreviewSeries, ...]:
    train = config.train
    for wanted, folder, section in (
        (train.epoch_change_tiled_infer, train.epoch_change_tiled_infer_dir, config.tiledinfer),
        (train.epoch_change_infer, train.epoch_change_infer_dir, config.infer),
    ):
        if wanted and section.images_dir is not None and config.resolve(folder).is_dir():
            return tuple(find_previews(config.resolve(folder), config.resolve(section.images_dir)))
    return ()
