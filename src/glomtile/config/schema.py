"""Config schema: every section and setting with type, range and default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from glomtile.config.fields import (
    About,
    Byte,
    Count,
    Finding,
    PathSetting,
    Positive,
    QualityRange,
    ScaleRange,
    Section,
    Share,
    expectation,
    setting,
)
from glomtile.errors import ConfigError
from glomtile.palette import Palette

BUILT_NETWORKS = ("FlexUNet",)
"""Networks this package builds; the reference's names carry ``TensorFlow`` in front."""

REFERENCE_NETWORKS = (
    "FlexUNet",
    "AttentionUNet",
    "DeepLabV3Plus",
    "SwinUNet",
    "EfficientNetB7UNet",
    "EfficientUNet",
    "MultiResUNet",
    "SharpUNet",
    "U2Net",
    "UNet3Plus",
    "TransUNet",
)
NETWORK_NAMES = tuple(f"TensorFlow{name}" for name in REFERENCE_NETWORKS) + BUILT_NETWORKS

LOSSES = (
    "categorical_crossentropy",
    "focal",
    "dice_crossentropy",
    "tversky",
    "binary_crossentropy",
    "bce_dice_loss",
    "bce_iou_loss",
    "basnet_hybrid_loss",
    "dice_loss",
    "iou_loss",
)
_SMOOTHED = ("categorical_crossentropy", "focal", "dice_crossentropy")
_WEIGHTED = tuple(loss for loss in LOSSES if loss not in ("dice_loss", "iou_loss"))
METRICS = (
    "dice_coef_multiclass",
    "dice_coef",
    "iou_coef",
    "sensitivity",
    "specificity",
    "binary_accuracy",
    "categorical_accuracy",
    "accuracy",
    "foreground_dice",
    "foreground_iou",
    "pixel_accuracy",
    "class_dice_<k>",
    "class_iou_<k>",
)
"""``<k>`` stands for a class number."""

ACTIVATIONS = (
    "celu", "elu", "gelu", "hard_swish", "leaky_relu", "linear", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "softplus", "softsign", "swish", "tanh",
)  # fmt: skip

NORMS_OF_THE_WINDOW = ("group",)
"""Values of `norm` with which every pixel of a window matters to every other."""

_SWIN = About(networks=("SwinUNet",))
_SWIN_U2 = About(networks=("SwinUNet", "U2Net"))
_TRANS = About(networks=("TransUNet",))
_SWIN_TRANS = About(networks=("SwinUNet", "TransUNet"))
_SHARP = About(networks=("SharpUNet",))
_FOCAL = About(ours=True, losses=("focal",))
_TVERSKY = About(ours=True, losses=("tversky",))


def network_name(name: str) -> str:
    """The name of a network without the reference's ``TensorFlow``."""
    return name.removeprefix("TensorFlow")


def is_metric(name: str, num_classes: int) -> bool:
    """Whether a metric of this name can be had of a network with so many classes."""
    of_class = re.fullmatch(r"class_(?:dice|iou)_(\d+)", name)
    return int(of_class[1]) < max(2, num_classes) if of_class else name in METRICS and "<k>" not in name


class ModelSettings(Section):
    """[model]: what is built, and how its loss falls."""

    model: str = setting("TensorFlowFlexUNet", "network to build", about=About(known=NETWORK_NAMES))
    image_width: int = setting(512, "width of the network's input in training", unit="px", ge=1, le=65536)
    image_height: int = setting(512, "height of the network's input in training", unit="px", ge=1, le=65536)
    image_channels: int = setting(3, "channels of the input", ge=1, le=4)
    mpp: float | None = setting(
        None,
        'scale the network sees; "none" = the images as they are',
        unit="µm/px",
        ours=True,
        ge=0.05,
        le=20,
    )
    input_normalize: bool = setting(True, "divide the input by 255")
    num_classes: int = setting(2, "classes, background included; 1 = binary, one sigmoid", ge=1, le=254)
    base_filters: int = setting(16, "filters of the first level, doubled at each level below", ge=1, le=4096)
    base_kernels: tuple[Count, Count] = setting(
        (3, 3), "kernel of the first level, 2 less a level, never below 3"
    )
    num_layers: int = setting(6, "levels, the bridge included", ge=1, le=12)
    dilation: tuple[Count, Count] = setting(
        (1, 1), "dilation of the first level, 1 less a level, never below 1"
    )
    dropout_rate: float = setting(0.1, "dropout, times the level's number", ge=0, lt=1)
    dropout_seed_fixing: bool = setting(False, "dropout with the fixed seed 137")
    activation: str = setting("relu", "activation of the convolutions", about=About(known=ACTIVATIONS))
    final_activation: str = setting(
        "sigmoid", "activation of the output of a binary network", about=About(known=ACTIVATIONS)
    )
    normalization: bool = setting(False, 'batch normalisation; on, it is norm = "batch"')
    norm: Literal["none", "batch", "group"] = setting("none", "normalisation between convolutions", ours=True)
    norm_groups: int = setting(8, 'groups of norm = "group"', ours=True, ge=1, le=1024)
    residual: bool = setting(False, "each level adds its input to its output", ours=True)
    upsampling: Literal["transpose", "bilinear"] = setting("transpose", "how the decoder enlarges", ours=True)

    optimizer: Literal["Adam", "AdamW", "SGD"] = setting("Adam", "optimizer")
    learning_rate: float = setting(0.0001, "learning rate, the highest where a schedule is set", gt=0, le=10)
    weight_decay: float = setting(0.004, "decoupled weight decay of AdamW", ours=True, ge=0, le=1)
    clipvalue: float | None = setting(0.2, 'gradients clipped to ± this; 0 or "none" = not', ge=0)
    clipnorm: float | None = setting(
        None, "gradients scaled to at most this norm; replaces clipvalue", ours=True, gt=0
    )
    loss: str = setting("categorical_crossentropy", "loss", about=About(known=LOSSES))
    metrics: tuple[str, ...] = setting(
        ("dice_coef_multiclass",),
        "metrics of an epoch; the first goes to evaluation.csv",
        about=About(known=METRICS, expects="a list of one name or more"),
        min_length=1,
    )
    class_weights: tuple[float, ...] | None = setting(
        None,
        "weight of each class in the loss, by class number",
        about=About(ours=True, losses=_WEIGHTED, expects="a list of numbers ≥ 0, one a class, or None"),
    )
    focal_gamma: float = setting(2.0, "focusing exponent of the focal loss", about=_FOCAL, ge=0, le=10)
    tversky_alpha: float = setting(
        0.3, "weight of false positives in the Tversky loss", about=_TVERSKY, ge=0, le=1
    )
    tversky_beta: float = setting(
        0.7, "weight of false negatives in the Tversky loss", about=_TVERSKY, ge=0, le=1
    )
    label_smoothing: float = setting(
        0.0,
        "share of a label spread over all classes",
        about=About(ours=True, losses=_SMOOTHED),
        ge=0,
        lt=1,
    )
    show_summary: bool = setting(False, "print the network's layers before training")
    generator: bool = setting(False, "augment online, where [augmentor] enabled does not say")

    backbone: str | None = setting(None, "pretrained encoder", about=_TRANS)
    base_ksize: tuple[Count, Count] = setting((3, 3), "kernel", about=_SHARP)
    batch_norm: bool = setting(False, "batch normalisation", about=_TRANS)
    depth: int = setting(4, "levels", about=_SWIN_U2, ge=1, le=12)
    efficientnet: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"] = setting(
        "B0", "size of the encoder", about=About(networks=("EfficientUNet",))
    )
    embed_dim: int = setting(768, "width of a token", about=_TRANS, ge=1)
    filter_num: tuple[Count, ...] = setting((64, 128, 256, 512), "filters of the levels", about=_TRANS)
    filter_num_begin: int = setting(128, "filters of the first level", about=_SWIN_U2, ge=1)
    filters: tuple[Count, ...] = setting((32, 64, 128, 256), "filters of the levels", about=_SHARP)
    freeze_backbone: bool = setting(True, "train the decoder only", about=_TRANS)
    freeze_batch_norm: bool = setting(True, "keep the encoder's batch statistics", about=_TRANS)
    max_filter: int = setting(512, "filters at most", about=_SHARP, ge=1)
    mlp_activation: str = setting("GELU", "activation in the transformer", about=_TRANS)
    num_heads: tuple[Count, ...] | Count = setting(
        (4, 8, 8, 8),
        "attention heads",
        about=About(networks=("SwinUNet", "TransUNet"), expects="a whole number ≥ 1 or a list of them"),
    )
    num_mlp: int = setting(512, "width of the transformer's dense layers", about=_SWIN_TRANS, ge=1)
    num_transformer: int = setting(12, "transformer blocks", about=_TRANS, ge=1)
    patch_size: tuple[Count, Count] = setting((4, 4), "patch of a token", about=_SWIN_U2)
    pool: bool | str = setting(True, "how the encoder shrinks", about=_TRANS)
    shift_window: bool = setting(True, "shift every other window", about=_SWIN)
    stack_num_down: int = setting(2, "convolutions a level, encoder", about=_SWIN_TRANS, ge=1)
    stack_num_up: int = setting(2, "convolutions a level, decoder", about=_SWIN_TRANS, ge=1)
    weights: str | None = setting("imagenet", "pretrained weights to fetch", about=_TRANS)
    window_size: tuple[Count, ...] = setting((4, 2, 2, 2), "attention windows", about=_SWIN)

    @classmethod
    def imply(cls, data: dict[str, Any]) -> dict[str, Any]:
        """`normalization` is an older way to say `norm`; of two ways to clip, Keras allows one."""
        if data.get("normalization") is True:
            data.setdefault("norm", "batch")
        clip = data.get("clipvalue")
        if isinstance(clip, int | float) and not isinstance(clip, bool) and clip == 0:
            data["clipvalue"] = None
        if data.get("clipnorm") is not None and "clipvalue" not in data:
            data["clipvalue"] = None
        return data


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
    workers: int = setting(2, "threads that make samples; 0 = none beside training", ours=True, ge=0, le=256)


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
    min_expected_dice: float = setting(
        0.8, "Results with a lower expected Dice are flagged", ours=True, ge=0, le=1
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


_CENTERS = About(expects="a list of pairs (x, y), each from 0 to 1")
_DUMP = About(inert="glomtile stats --augmented shows what the network sees")


class AugmentorSettings(Section):
    """[augmentor]: which changes a training sample may go through."""

    enabled: bool | None = setting(
        None, 'augment at all; "none" = as [model] generator and [generator] augmentation say', ours=True
    )
    hflip: bool = setting(True, "mirror left and right")
    vflip: bool = setting(True, "mirror top and bottom")
    rotation: bool = setting(True, "turn by one of angles")
    angles: tuple[float, ...] = setting((90, 180, 270), "angles of rotation", unit="deg")
    free_rotation: bool = setting(False, "turn by any angle", ours=True)
    shrinks: tuple[Positive, ...] = setting((0.8,), "factors to shrink by, one is drawn; empty = off")
    scales: ScaleRange | None = setting(
        None,
        "shrink or enlarge by any factor between two",
        about=About(ours=True, expects="a pair of numbers > 0, the lower first, or None"),
    )
    shears: tuple[float, ...] = setting((), "factors to shear by, one is drawn; empty = off")
    deformation: bool = setting(False, "elastic deformation, see [deformation]")
    distortion: bool = setting(False, "random distortion, see [distortion]")
    barrdistortion: bool = setting(False, "barrel distortion, see [barrdistortion]")
    pincdistortion: bool = setting(False, "pincushion distortion, see [pincdistortion]")
    sharpening: bool = setting(False, "sharpen the image, see [sharpening]")
    brightening: bool = setting(False, "brighten the image, see [brightening]")
    tears: float = setting(
        0.0, "share of samples that lose a part of their tissue, up to glass", ours=True, ge=0, le=1
    )
    stain: float = setting(0.0, "strength of stain variation; 0 = off", ours=True, ge=0, le=1)
    other_dyes: float = setting(
        0.0, "share of samples stained with dyes of any colour instead", ours=True, ge=0, le=1
    )
    blur: float = setting(0.0, "strongest blur's sigma; 0 = off", unit="px", ours=True, ge=0, le=20)
    jpeg: QualityRange | None = setting(
        None,
        "JPEG artefacts of a quality between two",
        about=About(ours=True, expects="a pair of whole numbers from 1 to 100, the lower first, or None"),
    )
    noise: float = setting(0.0, "sigma of the noise in grey values; 0 = off", ours=True, ge=0, le=128)


class DeformationSettings(Section):
    """[deformation]: elastic."""

    alpha: float = setting(1300, "strength", ge=0)
    sigmoids: tuple[Positive, ...] = setting((8,), "smoothness, one is drawn", unit="px")
    sigmoid: float = setting(8, "smoothness where sigmoids is empty", unit="px", gt=0)


class DistortionSettings(Section):
    """[distortion]: random."""

    distortions: tuple[Share, ...] = setting((0.02,), "strengths as shares of the image's size, one is drawn")
    gaussian_filter_sigma: float = setting(0.5, "sigma along the fine axis of the field", unit="px", ge=0)
    gaussian_filter_rsigma: float = setting(40, "sigma of the field", unit="px", gt=0)


class BarrDistortionSettings(Section):
    """[barrdistortion]: barrel."""

    radius: float = setting(0.5, "radius as a share of the image", ge=0, le=1)
    amount: float = setting(0.5, "strength", gt=0)
    centers: tuple[tuple[Share, Share], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", about=_CENTERS
    )


class PincDistortionSettings(Section):
    """[pincdistortion]: pincushion."""

    radius: float = setting(0.5, "radius as a share of the image", ge=0, le=1)
    amount: float = setting(-0.5, "strength", lt=0)
    centers: tuple[tuple[Share, Share], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", about=_CENTERS
    )


class BrighteningSettings(Section):
    """[brightening]."""

    alpha: float = setting(1.2, "gain", ge=0)
    beta: float = setting(10, "offset in grey values", ge=-255, le=255)


class SharpeningSettings(Section):
    """[sharpening]."""

    k: float = setting(1.0, "strength", ge=0)


class GeneratorSettings(Section):
    """[generator]: the reference's online augmentation."""

    augmentation: bool = setting(True, "augment, where [model] generator is on")
    debug: bool = setting(True, "keep what was generated", about=_DUMP)
    generated_images_dir: PathSetting = setting(Path("generated_images_dir"), "folder for it", about=_DUMP)
    generated_masks_dir: PathSetting = setting(Path("generated_masks_dir"), "folder for it", about=_DUMP)
    verbose: bool = setting(False, "talk", about=_DUMP)


class Config(BaseModel):
    """Every setting of a run.

    Sections are attributes under the INI's own names. ``Config()`` holds the defaults;
    `glomtile.load_config` reads a file, ``glomtile.config.load.make_config`` a mapping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    train: TrainSettings = TrainSettings()
    valid: PairSettings = PairSettings()
    test: PairSettings = PairSettings()
    eval: EvalSettings = EvalSettings()
    infer: InferSettings = InferSettings()
    tiledinfer: TiledInferSettings = TiledInferSettings()
    image: ImageSettings = ImageSettings()
    mask: MaskSettings = MaskSettings()
    augmentor: AugmentorSettings = AugmentorSettings()
    deformation: DeformationSettings = DeformationSettings()
    distortion: DistortionSettings = DistortionSettings()
    barrdistortion: BarrDistortionSettings = BarrDistortionSettings()
    pincdistortion: PincDistortionSettings = PincDistortionSettings()
    brightening: BrighteningSettings = BrighteningSettings()
    sharpening: SharpeningSettings = SharpeningSettings()
    generator: GeneratorSettings = GeneratorSettings()
    debug: DebugSettings = DebugSettings()
    segmentation: SegmentationSettings = SegmentationSettings()

    _base_dir: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)
    _findings: tuple[Finding, ...] = PrivateAttr(default=())

    @property
    def base_dir(self) -> Path:
        """Absolute folder that the config's relative paths start from."""
        return self._base_dir

    @property
    def source(self) -> Path | None:
        """The file that was read, as it was named."""
        return self._source

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The warnings of reading it."""
        return self._findings

    def placed(
        self, base_dir: Path, source: Path | None = None, findings: tuple[Finding, ...] = ()
    ) -> Config:
        """The same settings, read from elsewhere."""
        copy = self.model_copy()
        copy._base_dir = base_dir.resolve()
        copy._source = source
        copy._findings = findings
        return copy

    def section(self, name: str) -> Section:
        """A section by its name."""
        found: Section = getattr(self, name)
        return found

    def need(self, section: str, key: str) -> Any:
        """A setting that a command cannot do without.

        Raises
        ------
        ConfigError
            The config does not say it, or says None.
        """
        settings = self.section(section)
        value = getattr(settings, key)
        if value is None or not settings.given(key):
            info = type(settings).model_fields[key]
            wanted = expectation(info).removesuffix(" or None")
            raise ConfigError(
                f"{self._source or 'config'} [{section}] {key}",
                f"expected {wanted} ({info.description}), got nothing",
                hint=f"write {key} = … under [{section}], or give --set {section}.{key}=…",
            )
        return value

    def folder(self, section: str, key: str) -> Path:
        """A path that a command cannot do without, absolute; see `need`."""
        return self.resolve(self.need(section, key))

    def resolve(self, path: str | Path) -> Path:
        """A path of this config, made absolute from the config's folder."""
        return Path(os.path.normpath(self._base_dir / path))

    def palette(self) -> Palette:
        """Classes, names and colours of [mask].

        Raises
        ------
        ConfigError
            `rgb_map` does not give each class 0, 1, … one colour, or `class_names` does not fit it.
        """
        return Palette.from_rgb_map(self.mask.rgb_map, self.mask.class_names)

    @property
    def augments(self) -> bool:
        """Whether training samples are augmented: [augmentor] enabled, else the reference's two switches."""
        if self.augmentor.enabled is not None:
            return self.augmentor.enabled
        return self.model.generator and self.generator.augmentation


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Config.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
"""Section name to its settings' class."""
