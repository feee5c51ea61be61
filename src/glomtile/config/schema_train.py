"""The settings of data, training, evaluation and inference: all but [model] and augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from glomtile.config.schema_fields import About, Byte, Count, PathSetting, Section, setting

ImageWeight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""How often crops are drawn from an image, as a multiple of what others give."""

_OLDER = About(inert="only the older family's pre-processing reads it")


class DatasetSettings(Section):
    """[dataset]: how training samples are drawn."""

    class_name: str = setting(
        "ImageCategorizedMaskDataset",
        "the reference's reader",
        about=About(
            known=("ImageCategorizedMaskDataset",),
            inert="one reader reads either kind of mask, see [mask] mask_datatype",
        ),
    )
    sampling: Literal["tiles", "crops"] = setting(
        "tiles", "whole prepared tiles, or random crops of the large images", ours=True
    )
    samples_per_epoch: int | None = setting(
        None, 'crops an epoch; "none" = as many as cover the images once', ours=True, ge=1
    )
    foreground_share: float = setting(0.5, "share of crops that hold an object", ours=True, ge=0, le=1)
    edge_share: float = setting(
        0.0, "share of crops that see an edge of the picture where it had none", ours=True, ge=0, le=1
    )
    image_weights: dict[str, ImageWeight] = setting(
        {},
        "crops from an image, by the pattern of its name, against the others; 1 where no pattern fits",
        about=About(ours=True, expects='a map of patterns to numbers from 0 to 1000: {"painted*" = 0.25}'),
    )
    image_mpp: float | None = setting(
        None, "scale of images whose files carry none", unit="µm/px", ours=True, ge=0.05, le=20
    )
    name: str = setting("", "what the images are, for the model's card", ours=True)
    licence: str = setting("", "their licence, for the model's card", ours=True)
    source: str = setting("", "where they come from, for the model's card", ours=True)
    cache_mb: int = setting(1024, "memory for decoded images", unit="MiB", ours=True, ge=0)
    workers: int = setting(
        2, "threads or processes that make samples; 0 = none beside training", ours=True, ge=0, le=256
    )
    worker_kind: Literal["threads", "processes"] = setting(
        "threads", "what the workers of training are; processes share out cache_mb", ours=True
    )

    @property
    def uses_processes(self) -> bool:
        """Whether samples of a training are made in processes."""
        return self.worker_kind == "processes" and self.workers > 0


class TrainSettings(Section):
    """[train]: how long, where from and where to."""

    images_dir: PathSetting | None = setting(None, "training images")
    masks_dir: PathSetting | None = setting(None, "training masks, paired with the images by name")
    model_dir: PathSetting = setting(Path("models"), "folder of the run's models: best/ and last/")
    eval_dir: PathSetting = setting(Path("eval"), "folder of the curves, as CSV and picture")
    pretrained: PathSetting | None = setting(
        None,
        "model whose weights training begins with: a model folder, or glomeruli-pas, which comes along",
        ours=True,
    )
    epochs: int = setting(100, "epochs at most", unit="epochs", ge=1)
    batch_size: int = setting(4, "samples a step", ge=1, le=65536)
    steps_per_epoch: int = setting(400, "steps an epoch, where [model] generator is on", unit="steps", ge=1)
    validation_steps: int = setting(
        800,
        "validation steps",
        about=About(unit="steps", inert="validation always reads every image once"),
        ge=1,
    )
    patience: int = setting(10, "epochs without progress before stopping; 0 or less = never", unit="epochs")
    monitor: str = setting("val_loss", "figure that best/, patience and the reducer watch", ours=True)
    metrics: tuple[str, ...] = setting(
        ("dice_coef_multiclass", "val_dice_coef_multiclass"), "metric and validation metric of the curve"
    )
    use: Literal["best", "last"] = setting(
        "best", "which of the two models the other commands load; last suits few validation images", ours=True
    )
    learning_rate_reducer: bool = setting(False, "lower the learning rate when progress stops")
    reducer_factor: float = setting(0.4, "factor of the reducer", gt=0, lt=1)
    reducer_patience: int = setting(4, "epochs without progress before the reducer acts", unit="epochs", ge=0)
    schedule: Literal["constant", "cosine"] = setting("constant", "course of the learning rate", ours=True)
    warmup_epochs: float = setting(
        0, "epochs in which the learning rate rises", unit="epochs", ours=True, ge=0
    )
    ema_decay: float = setting(0.0, "decay of the weights' moving average; 0 = off", ours=True, ge=0, lt=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = setting(
        "float32", "numbers the network calculates in", ours=True
    )
    seed: int = setting(137, "seed of everything that is drawn", ours=True, ge=0, le=2**32 - 1)
    devices: Literal["all"] | Count = setting(
        1,
        'devices that share each batch, on TensorFlow and JAX; "all" = all of their kind; '
        "`train` refuses more than are there, `config check` cannot",
        about=About(unit="devices", ours=True, expects='"all" or a whole number ≥ 1'),
    )
    checkpoint_steps: int = setting(
        0, "steps between two saves inside an epoch; 0 = at its end only", unit="steps", ours=True, ge=0
    )
    tensorboard: bool = setting(False, "write TensorBoard files too", ours=True)
    break_file: PathSetting = setting(
        Path("break_training"), "a file of this name stops training after the epoch", ours=True
    )
    epoch_change_infer: bool = setting(True, "preview of shrunken images after each epoch")
    epoch_change_infer_dir: PathSetting = setting(Path("epoch_change_infer"), "folder of these previews")
    epoch_change_tiled_infer: bool = setting(False, "preview of tiled images after each epoch")
    epoch_change_tiled_infer_dir: PathSetting = setting(
        Path("epoch_change_tiled_infer"), "folder of these previews"
    )
    num_infer_images: int = setting(6, "images in a preview", ge=1)
    save_weights_only: bool = setting(
        False,
        "save weights alone",
        about=About(inert="a model folder, settings and weights, is always written"),
    )
    create_backup: bool = setting(
        False, "keep an earlier run", about=About(inert="an earlier run is always moved aside and kept")
    )


class PairSettings(Section):
    """[valid] and [test]: a folder of images and one of masks."""

    images_dir: PathSetting | None = setting(None, "images")
    masks_dir: PathSetting | None = setting(None, "masks, paired with the images by name")


class EvalSettings(Section):
    """[eval]: how evaluate works."""

    batch_size: int = setting(4, "images a step of the evaluation", ge=1, le=65536)
    groups: PathSetting | None = setting(
        None,
        "CSV stem,group: images of one slide or patient, for intervals; else as told to prepare",
        ours=True,
    )
    draws: int = setting(2000, "bootstrap draws behind an interval", ours=True, ge=1, le=1_000_000)


class InferSettings(Section):
    """[infer]: whole images shrunk to the network's input."""

    images_dir: PathSetting | None = setting(None, "images to segment; also those of the previews")
    output_dir: PathSetting | None = setting(None, "folder of the masks")


class TiledInferSettings(Section):
    """[tiledinfer]: images window by window at the training scale."""

    images_dir: PathSetting | None = setting(None, "images to segment; also those of the tiled previews")
    output_dir: PathSetting | None = setting(None, "folder of the masks")
    overlapping: int = setting(
        64, "margin per side that a window reads beyond its own pixels", unit="px", ge=0, le=16384
    )
    split_size: int = setting(
        512, "side of a window's own pixels, margins not counted", unit="px", ge=1, le=65536
    )
    blend: Literal["hann", "linear", "none"] = setting("hann", "weights of overlapping windows", ours=True)
    batch_size: int = setting(1, "windows a step", ours=True, ge=1, le=4096)
    window: Literal["auto"] | Count | None = setting(
        None,
        'side with margins; "auto" = the largest in memory_mb; "none" = split_size + 2 overlapping',
        about=About(unit="px", ours=True, expects='"auto", a whole number ≥ 1 or None'),
    )
    memory_mb: int = setting(2048, 'memory for window = "auto"', unit="MiB", ours=True, ge=64)
    tta: Literal["none", "flips", "rotations", "all"] = setting(
        "none", "average over turned copies of each window", ours=True
    )
    threshold: float = setting(
        0.5, "probability of not being background from which a pixel is not", ours=True, gt=0, lt=1
    )
    smoothing_px: float = setting(
        0.0,
        "standard deviation of a Gaussian over the network's input; 0.5 where training turned its samples",
        unit="px",
        ours=True,
        ge=0,
        le=3,
    )
    least_expected_dice: float = setting(
        0.8, "Dice promised by the probabilities below which a result is doubted", ours=True, ge=0, le=1
    )


class ImageSettings(Section):
    """[image]: how images are read."""

    color_order: Literal["RGB", "BGR"] = setting("RGB", "order of the channels the network sees")
    color_converter: str | None = setting(None, "colour space", about=_OLDER)
    gamma: float | None = setting(None, "gamma", about=_OLDER)


RgbMap = dict[tuple[Byte, Byte, Byte], int]


class MaskSettings(Section):
    """[mask]: how masks are read."""

    rgb_map: RgbMap = setting(
        {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2, (0, 0, 255): 3},
        "colour → class number",
        about=About(expects="a map of (r, g, b), each 0 to 255, to class numbers 0 to 254"),
    )
    class_names: tuple[str, ...] | None = setting(None, "names of the classes, by class number", ours=True)
    mask_datatype: Literal["categorized", "indexed"] = setting(
        "categorized", "masks hold colours, or class numbers"
    )
    mask_file_format: Literal[".png", ".npz"] = setting(".png", "suffix of the mask files")
    tolerance: int = setting(
        0, "how far, in each channel, a colour may lie from one of rgb_map", ours=True, ge=0, le=255
    )
    binarize: bool | None = setting(None, "make masks two-valued", about=_OLDER)
    blur: bool | None = setting(None, "blur masks", about=_OLDER)
    blur_size: tuple[int, ...] | int | None = setting(
        None, "size of that blur", about=About(inert=_OLDER.inert, expects="a whole number or a pair of them")
    )
    threshold: int | None = setting(None, "threshold of that two-valued mask", about=_OLDER, ge=0, le=255)

    @classmethod
    def imply(cls, data: dict[str, Any]) -> dict[str, Any]:
        """TOML and JSON have texts for keys: ``"255,0,0"`` or ``"#ff0000"``."""
        if isinstance(data.get("rgb_map"), Mapping):
            data["rgb_map"] = {_colour(key): value for key, value in data["rgb_map"].items()}
        return data


def _colour(key: object) -> object:
    if not isinstance(key, str):
        return tuple(key) if isinstance(key, list) else key
    if key.startswith("#") and len(key) == 7:
        try:
            return tuple(bytes.fromhex(key[1:]))
        except ValueError:
            return key
    parts = key.strip("()[] ").split(",")
    return tuple(int(part) if part.strip().isdecimal() else part for part in parts)


class DebugSettings(Section):
    """[debug]."""

    verbose: bool = setting(False, "talk", about=About(inert="progress is always shown"))


class SegmentationSettings(Section):
    """[segmentation] of the older family: how it painted its masks."""

    colorize: bool | None = setting(None, "paint masks", about=_OLDER)
    black: str | None = setting(None, "colour for black", about=_OLDER)
    white: str | None = setting(None, "colour for white", about=_OLDER)
    blursize: tuple[int, ...] | int | None = setting(
        None, "size of a blur", about=About(inert=_OLDER.inert, expects="a whole number or a pair of them")
    )
