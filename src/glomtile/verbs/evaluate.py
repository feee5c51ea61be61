"""What the trained model is worth on the test images: the reference's two lines, and the honest figures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glomtile.config.schema import Config
from glomtile.core.arguments import typed_argument
from glomtile.core.scores import ImageScore, Scores, score_image
from glomtile.core.seams import SeamCount, count_seams
from glomtile.files import workspace
from glomtile.files.groups import prepared_groups
from glomtile.files.images import read_image
from glomtile.files.masks import read_mask, write_mask
from glomtile.files.picturelist import Film, PictureList, Trio, preview_films, write_picture_list
from glomtile.types import SILENT, Progress, UInt8
from glomtile.verbs.judgedimages import Judged, doubted_below, doubts_of_picture
from glomtile.verbs.report import report
from glomtile.verbs.score import read_groups
from glomtile.verbs.scorefiles import PerImage, worst_first, write_run, write_scores, write_sheets
from glomtile.verbs.trainable import tell_of_changed_sources

if TYPE_CHECKING:
    from glomtile.core.palette import Palette
    from glomtile.engine.modelfolder import LoadedModel
    from glomtile.engine.pictures import Segmented
    from glomtile.files.pairs import Pair

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
    paths : tuple of Path
        Files written.
    """

    loss: float
    metric: float
    scores: Scores
    per_image: PerImage
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
    from glomtile.engine import modelfolder

    palette = config.palette()
    folder = config.resolve(config.train.model_dir) / config.train.use
    loaded = modelfolder.load_model_folder(folder)
    modelfolder.require_classes(loaded.card, config.model, palette.num_classes, folder)
    for difference in modelfolder.differences(loaded.card, config.model):
        progress.warn(f"{folder}: {difference}; the trained network counts")
    pairs = _whole_or_tiles(config)
    tell_of_changed_sources(config, "test", progress)
    groups = _groups(config, [pair.stem for pair in pairs])
    loss, metric = _on_network_inputs(config, loaded, progress)
    out = config.resolve(FOLDER)
    judged = Judged(palette)
    per_image, seams = _on_images(config, loaded, pairs, judged, out / "predictions", progress)
    table = config.resolve(TABLE)
    workspace.write_text(table, f"{config.model.loss},{loss:.4f}\n{config.model.metrics[0]},{metric:.4f}\n")
    scores, paths = write_scores(
        out, per_image, palette, groups=groups, draws=config.eval.draws, seams=_seam_facts(seams)
    )
    by_stem = {pair.stem: pair for pair in pairs}

    def triple(stem: str) -> tuple[UInt8, UInt8, UInt8]:
        predicted = read_mask(out / "predictions" / f"{stem}.png", palette)
        return read_image(by_stem[stem].image), _truth(by_stem[stem], config, palette), predicted

    paths += write_sheets(out, per_image, palette, triple, progress=progress)
    paths += (*judged.write(out), _list_pictures(config, palette, pairs, out))
    modelfolder.add_scores(folder, {"test": scores.to_dict()})
    _copy_curves(config, out)
    settings = _settings(config, loaded, pairs) | {config.model.loss: loss, config.model.metrics[0]: metric}
    paths += (write_run(out, "evaluate", settings, time.perf_counter() - began),)
    return EvaluateResult(loss, metric, scores, worst_first(per_image), (table, *paths, report(out)))


def _groups(config: Config, stems: list[str]) -> dict[str, str] | None:
    """Which images come from one patient, as the config's table says, else as `prepare` was told."""
    if config.eval.groups is not None:
        return read_groups(config.resolve(config.eval.groups), stems)
    return prepared_groups(config.folder("test", "images_dir"), stems)


def _whole_or_tiles(config: Config) -> list[Pair]:
    from glomtile.engine.sources import mask_suffix_of
    from glomtile.files.pairs import pair, whole_pairs

    images, masks = config.folder("test", "images_dir"), config.folder("test", "masks_dir")
    return whole_pairs(images, masks) or pair(images, masks, mask_suffix_of(config))


def _on_network_inputs(config: Config, loaded: LoadedModel, progress: Progress) -> tuple[float, float]:
    """Loss and first metric over the test samples, as validation computes them."""
    import keras

    from glomtile.engine.dataset import batches
    from glomtile.engine.sources import judging_source
    from glomtile.engine.training import judge
    from glomtile.nets.losses import build_loss
    from glomtile.nets.metrics import build_metrics

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
    judged: Judged,
    folder: Path,
    progress: Progress,
) -> tuple[PerImage, SeamCount]:
    """Segment every image as tiled inference does; keep the masks, the counts and the seams."""
    from glomtile.engine.answers import as_confidence
    from glomtile.engine.asking import with_asking
    from glomtile.engine.pictures import resized_probs

    palette = judged.palette
    per_image: list[tuple[str, ImageScore]] = []
    seams = SeamCount(0, 0, 0, 0)
    progress.start("test images", len(pairs))
    with workspace.replace_folder(folder) as partial:
        card = with_asking(loaded.card, None, None, None, doubted_below(config))
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
            doubts = doubts_of_picture(pair.image, mpp, card, labels, confidence)
            if doubts is not None:
                judged.doubts[pair.stem] = doubts
            progress.advance(1, image=pair.stem)
    return per_image, seams


def _segmented(
    config: Config, loaded: LoadedModel, pairs: list[Pair]
) -> Iterator[tuple[Pair, Segmented, float | None, int]]:
    """Each pair, what the network says of it, its scale, how far apart window borders lie (0: one window)."""
    from glomtile.engine.asking import Asking
    from glomtile.engine.pictures import segment_image
    from glomtile.engine.predictor import KerasPredictor
    from glomtile.engine.sources import scale_of_picture, working_scale

    settings = config.tiledinfer
    predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, Asking.of_config(config))
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
    trios = tuple(Trio(pair.stem, pair.image, pair.mask, predictions / f"{pair.stem}.png") for pair in pairs)
    mask = config.mask
    return write_picture_list(
        out, PictureList(palette, trios, _films(config), mask.mask_datatype, mask.tolerance)
    )


def _films(config: Config) -> tuple[Film, ...]:
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
            workspace.write_bytes(out / name, curve.read_bytes())


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
