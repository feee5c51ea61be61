"""Evaluation of a trained model on its test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from glomtile.config.load import written_over
from glomtile.config.schema import Config
from glomtile.datasets.pairing import prepared_from, prepared_groups
from glomtile.errors import ConfigError, InputError, ModelError
from glomtile.evaluation.calibration import CalibrationAccumulator, min_expected_dice, quality_of_image
from glomtile.evaluation.metrics import ImageScore, Scores, score_image
from glomtile.evaluation.score import (
    PerImage,
    read_groups,
    worst_first,
    write_run,
    write_scores,
    write_sheets,
)
from glomtile.evaluation.seams import SeamCount, count_seams
from glomtile.inference.image import segment_image, segment_whole
from glomtile.inference.predictor import KerasPredictor, PredictionSettings, Tta
from glomtile.io import atomic
from glomtile.io.image_list import ImageRecord, PictureList, PreviewSeries, preview_films, write_picture_list
from glomtile.io.images import image_mpp, list_images, read_image
from glomtile.io.masks import read_mask, write_mask
from glomtile.models import folder as model_folder
from glomtile.palette import Palette
from glomtile.training.train import tell_of_changed_sources
from glomtile.types import SILENT, Progress, UInt8
from glomtile.validation import typed_argument

if TYPE_CHECKING:
    from glomtile.datasets.pairing import Pair
    from glomtile.inference.image import Segmented
    from glomtile.models.folder import LoadedModel

Label = Callable[[UInt8, float | None], UInt8]
"""A picture and its scale, where known, to class numbers of the same size."""


@dataclass(frozen=True)
class InferResult:
    """What became of each image.

    Attributes
    ----------
    done : tuple of Path
        The masks written, in the order of the images.
    failed : tuple of (Path, str)
        Images that gave no mask, each with the reason.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]


def infer(config: Config, progress: Progress = SILENT) -> InferResult:
    """Label the images of ``[infer] images_dir``, each shrunk to the network's input and enlarged back.

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
        A folder is not given, or images and masks would lie in one folder.
    InputError
        The folder of images cannot be read or holds none.
    ModelError
        The model folder is damaged, or its network has other classes than the config.
    StorageError
        A mask cannot be written; those before it are kept.

    Notes
    -----
    Reference §6.5: there the output folder is deleted first. Here a mask replaces the file of its own name,
    whole or not at all, and nothing else in the folder is touched.
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
    known, the network sees the image resized to its own. Masks have their image's size.

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
        The windows that ``[tiledinfer]`` describes cannot be had, see `glomtile.inference.image.tile_plan`.

    Notes
    -----
    Reference §6.2 and §6.6: there tiles of changing scale are predicted one by one and pasted. Reference
    §6.11: there ``color_order = "BGR"`` is forgotten; here the predictor turns every window.
    """
    folders = _folders(config, "tiledinfer")
    palette = config.palette()
    predictor = _predictor(config, palette, progress, config.tiledinfer.tta)

    without_scale = 0

    def label(image: UInt8, mpp: float | None) -> UInt8:
        nonlocal without_scale
        without_scale += mpp is None
        return segment_image(image, predictor, config.tiledinfer, mpp).labels

    result = _label_folder(folders, label, config, palette, progress)
    if without_scale and predictor.mpp is not None:
        progress.warn(
            f"{folders[0]}: images without a scale: {without_scale}; the network was trained at "
            f"{predictor.mpp:g} µm per pixel and saw them as they are ([dataset] image_mpp names their scale)"
        )
    return result


def _folders(config: Config, section: Literal["infer", "tiledinfer"]) -> tuple[Path, Path]:
    images, masks = config.folder(section, "images_dir"), config.folder(section, "output_dir")
    what = written_over(config, section)
    learnt = {
        "train": config.train.images_dir, "valid": config.valid.images_dir, "test": config.test.images_dir,
    }  # fmt: skip
    for split, folder in learnt.items():
        originals = () if folder is None else prepared_from(config.resolve(folder))
        if masks.resolve() in [original.resolve() for original in originals]:
            what = f"what [{split}] was prepared from"
    if what is not None:
        raise ConfigError(
            f"[{section}] output_dir",
            f"expected another folder than that of {what}, got {masks}",
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
            f"and is now shown {order}, as [image] color_order says"
        )
    asking = PredictionSettings.of_config(config, tta)
    predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, asking)
    if predictor.num_classes != palette.num_classes:
        raise ModelError(
            folder,
            f"expected a network of the {palette.num_classes} classes of rgb_map, "
            f"got one of {predictor.num_classes}",
        )
    return predictor


def _label_folder(
    folders: tuple[Path, Path], label: Label, config: Config, palette: Palette, progress: Progress
) -> InferResult:
    images, masks = list_images(folders[0]), folders[1]
    done: list[Path] = []
    failed: list[tuple[Path, str]] = []
    made_from: dict[Path, Path] = {}
    progress.start("images", len(images))
    for path in images:
        target = masks / f"{path.stem}.png"
        first = made_from.setdefault(target, path)
        reason = f"expected a name of its own, got the mask's name of {first.name}" if first != path else None
        reason = reason or _label_file(path, target, label, config, palette, progress)
        if reason is None:
            done.append(target)
        else:
            failed.append((path, reason))
        progress.advance(1, image=path.name)
    return InferResult(tuple(done), tuple(failed))


def _label_file(
    path: Path, target: Path, label: Label, config: Config, palette: Palette, progress: Progress
) -> str | None:
    """Write one mask; the reason where the image gives none."""
    try:
        known_mpp = image_mpp(path, progress)
        mpp = known_mpp if known_mpp is not None else config.dataset.image_mpp
        write_mask(target, label(read_image(path), mpp), palette, mpp)
    except InputError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")
    except MemoryError:
        return "expected a picture that fits the memory, got MemoryError"
    return None


FOLDER, TABLE = "evaluation", "evaluation.csv"


@dataclass(frozen=True)
class EvaluateResult:
    """Figures of the test set.

    Attributes
    ----------
    loss, metric : float
        What ``evaluation.csv`` holds: over the network's own inputs, as in training.
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
    """Measure ``<model_dir>/<[train] use>`` on the images of ``[test]``.

    The tiles give ``evaluation.csv``. The figures of ``evaluation/scores.json`` come from tiled inference on
    the whole images that the tiles were cut from, where a ``prepare.json`` tells which they are.

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
        When `config` is none.
    InputError
        When images and masks do not pair or cannot be read: figures over a part would mislead.
    ModelError
        When the model is damaged or of other classes.
    """
    began = time.perf_counter()
    typed_argument("config", config, Config, "a config, as load_config(…) gives")
    from glomtile.models import folder as model_folder

    palette = config.palette()
    folder = config.resolve(config.train.model_dir) / config.train.use
    loaded = model_folder.load_model_folder(folder)
    model_folder.require_classes(loaded.card, config.model, palette.num_classes, folder)
    for difference in model_folder.differences(loaded.card, config.model):
        progress.warn(f"{folder}: {difference}; the trained network counts")
    pairs = _whole_or_tiles(config)
    tell_of_changed_sources(config, "test", progress)
    groups = _groups(config, [pair.stem for pair in pairs])
    loss, metric = _on_network_inputs(config, loaded, progress)
    out = config.resolve(FOLDER)
    judged = CalibrationAccumulator(palette)
    per_image, seams = _on_images(config, loaded, pairs, judged, out / "predictions", progress)
    table = config.resolve(TABLE)
    atomic.write_text(table, f"{config.model.loss},{loss:.4f}\n{config.model.metrics[0]},{metric:.4f}\n")
    scores, paths = write_scores(
        out, per_image, palette, groups=groups, draws=config.eval.draws, seams=_seam_facts(seams)
    )
    by_stem = {pair.stem: pair for pair in pairs}

    def triple(stem: str) -> tuple[UInt8, UInt8, UInt8]:
        predicted = read_mask(out / "predictions" / f"{stem}.png", palette)
        return read_image(by_stem[stem].image), _truth(by_stem[stem], config, palette), predicted

    paths += write_sheets(out, per_image, palette, triple, progress=progress)
    paths += (*judged.write(out), _list_pictures(config, palette, pairs, out))
    model_folder.add_scores(folder, {"test": scores.to_dict()})
    _copy_curves(config, out)
    settings = _settings(config, loaded, pairs) | {config.model.loss: loss, config.model.metrics[0]: metric}
    paths += (write_run(out, "evaluate", settings, time.perf_counter() - began),)
    return EvaluateResult(loss, metric, scores, worst_first(per_image), out, (table, *paths))


def _groups(config: Config, stems: list[str]) -> dict[str, str] | None:
    """Which images come from one patient, as the config's table says, else as `prepare` was told."""
    if config.eval.groups is not None:
        return read_groups(config.resolve(config.eval.groups), stems)
    return prepared_groups(config.folder("test", "images_dir"), stems)


def _whole_or_tiles(config: Config) -> list[Pair]:
    from glomtile.datasets.loading import mask_suffix_of
    from glomtile.datasets.pairing import pair, whole_pairs

    images, masks = config.folder("test", "images_dir"), config.folder("test", "masks_dir")
    return whole_pairs(images, masks) or pair(images, masks, mask_suffix_of(config))


def _on_network_inputs(config: Config, loaded: LoadedModel, progress: Progress) -> tuple[float, float]:
    """Loss and first metric over the test samples, as validation computes them."""
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
    judged: CalibrationAccumulator,
    folder: Path,
    progress: Progress,
) -> tuple[PerImage, SeamCount]:
    """Segment every image as tiled inference does; keep the masks, the counts and the seams."""
    from glomtile.inference.image import resized_probs
    from glomtile.inference.predictor import override_settings
    from glomtile.inference.segmenter import as_confidence

    palette = judged.palette
    per_image: list[tuple[str, ImageScore]] = []
    seams = SeamCount(0, 0, 0, 0)
    progress.start("test images", len(pairs))
    with atomic.replace_folder(folder) as partial:
        card = override_settings(loaded.card, None, None, None, min_expected_dice(config))
        for pair, result, mpp, tile_px in _segmented(config, loaded, pairs):
            labels = result.labels
            truth = _truth(pair, config, palette)
            per_image.append((pair.stem, score_image(labels, truth, palette.num_classes, mpp)))
            if tile_px:
                seams += count_seams(labels, tile_px)
            write_mask(partial / f"{pair.stem}.png", labels, palette, mpp)
            assert result.probs is not None
            confidence = np.empty(labels.shape, np.uint8)
            for top, rows in resized_probs(result.probs, labels.shape):
                confidence[top : top + rows.shape[0]] = as_confidence(rows)
                judged.add_probs([(top, rows)], truth)
            quality = quality_of_image(pair.image, mpp, card, labels, confidence)
            if quality is not None:
                judged.doubts[pair.stem] = quality
            progress.advance(1, image=pair.stem)
    return per_image, seams


def _segmented(
    config: Config, loaded: LoadedModel, pairs: list[Pair]
) -> Iterator[tuple[Pair, Segmented, float | None, int]]:
    """Each pair, what the network says of it, its scale, how far apart window borders lie (0: one window)."""
    from glomtile.datasets.loading import scale_of_picture, working_scale
    from glomtile.inference.image import segment_image
    from glomtile.inference.predictor import KerasPredictor, PredictionSettings

    settings = config.tiledinfer
    predictor = KerasPredictor(
        loaded.model, loaded.geometry, loaded.card.mpp, PredictionSettings.of_config(config)
    )
    for pair in pairs:
        image = read_image(pair.image)
        scale = working_scale(config, pair.image)
        mpp = scale[0] if scale else scale_of_picture(config, pair.image)
        result = segment_image(image, predictor, settings, mpp, keep_probs=True)
        stride = result.plan.core_px[0] if len(result.plan) > 1 else 0
        yield pair, result, mpp, _border_distance(stride, scale)


def _border_distance(stride_px: int, scale: tuple[float, float] | None) -> int:
    """Image pixels between window borders; 0 where there is none or it falls between pixels."""
    distance = stride_px * (scale[1] / scale[0] if scale else 1.0)
    return round(distance) if abs(distance - round(distance)) < 1e-6 else 0


def _truth(pair: Pair, config: Config, palette: Palette) -> UInt8:
    return read_mask(pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance)


def _list_pictures(config: Config, palette: Palette, pairs: list[Pair], out: Path) -> Path:
    """Note where everything lies that the report shows."""
    predictions = out / "predictions"
    trios = tuple(
        ImageRecord(pair.stem, pair.image, pair.mask, predictions / f"{pair.stem}.png") for pair in pairs
    )
    mask = config.mask
    return write_picture_list(
        out, PictureList(palette, trios, _films(config), mask.mask_datatype, mask.tolerance)
    )


def _films(config: Config) -> tuple[PreviewSeries, ...]:
    """The previews that training left of its first images: of the first, middle and last epoch."""
    train = config.train
    for wanted, folder, section in (
        (train.epoch_change_tiled_infer, train.epoch_change_tiled_infer_dir, config.tiledinfer),
        (train.epoch_change_infer, train.epoch_change_infer_dir, config.infer),
    ):
        if wanted and section.images_dir is not None and config.resolve(folder).is_dir():
            return tuple(preview_films(config.resolve(folder), config.resolve(section.images_dir)))
    return ()


def _copy_curves(config: Config, out: Path) -> None:
    """The curves of training beside the figures, so that the report stands on one folder."""
    for name in ("train_losses.csv", "train_metrics.csv"):
        curve = config.resolve(config.train.eval_dir) / name
        if curve.is_file():
            atomic.write_bytes(out / name, curve.read_bytes())


def _seam_facts(seams: SeamCount) -> dict[str, float | int | None] | None:
    """The seam ratio, where any image had a window border at all."""
    return {"seam_ratio": seams.ratio} if seams.border_lines else None


def _settings(config: Config, loaded: LoadedModel, pairs: list[Pair]) -> dict[str, object]:
    return {
        "config": config.source.name if config.source else None,
        "model_sha256": loaded.card.sha256,
        "images": len(pairs),
        "mpp": loaded.card.mpp,
        "tiledinfer": config.tiledinfer.model_dump(mode="json", exclude={"images_dir", "output_dir"}),
        "eval": config.eval.model_dump(mode="json"),
    }
