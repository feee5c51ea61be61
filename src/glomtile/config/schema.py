"""Config schema: every section and setting with type, range and default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from glomtile.errors import ConfigError
from glomtile.palette import Palette

if TYPE_CHECKING:
    from glomtile.config.findings import Finding

LARGEST_INT = 2**63
"""Upper limit of whole numbers."""

ENCODER_NETWORKS = ("UNet", "FPN", "DeepLabV3Plus", "Linknet")
"""Networks of an encoder and a decoder."""

ENCODER_STRIDE_PX = 32
"""Sides of their windows are multiples of it."""

ENCODER_NAMES = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")

BUILT_NETWORKS = ("FlexUNet", *ENCODER_NETWORKS)
"""Networks of this package; in the reference system their names start with ``TensorFlow``."""

REFERENCE_NETWORKS = (
    "FlexUNet", "AttentionUNet", "DeepLabV3Plus", "SwinUNet", "EfficientNetB7UNet", "EfficientUNet",
    "MultiResUNet", "SharpUNet", "U2Net", "UNet3Plus", "TransUNet",
)  # fmt: skip
NETWORK_NAMES = tuple(f"TensorFlow{name}" for name in REFERENCE_NETWORKS) + BUILT_NETWORKS

LOSSES = (
    "categorical_crossentropy", "focal", "dice_crossentropy", "tversky", "binary_crossentropy",
    "bce_dice_loss", "bce_iou_loss", "basnet_hybrid_loss", "dice_loss", "iou_loss",
)  # fmt: skip
_SMOOTHED = ("categorical_crossentropy", "focal", "dice_crossentropy")
_WEIGHTED = tuple(loss for loss in LOSSES if loss not in ("dice_loss", "iou_loss"))
METRICS = (
    "dice_coef_multiclass", "dice_coef", "iou_coef", "sensitivity", "specificity", "binary_accuracy",
    "categorical_accuracy", "accuracy", "foreground_dice", "foreground_iou", "pixel_accuracy",
    "class_dice_<k>", "class_iou_<k>",
)  # fmt: skip
"""``<k>`` is a class number."""

ACTIVATIONS = (
    "celu", "elu", "gelu", "hard_swish", "leaky_relu", "linear", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "softplus", "softsign", "swish", "tanh",
)  # fmt: skip

_FLEXUNET_KEYS = (
    "input_normalize", "base_filters", "base_kernels", "num_layers", "dilation", "dropout_seed_fixing",
    "normalization", "norm", "norm_groups", "residual", "upsampling",
)  # fmt: skip
"""Keys that networks with an encoder do not read."""

NORMS_OF_THE_WINDOW = ("group",)
"""Values of `norm` that depend on the whole window."""


@dataclass(frozen=True)
class KeyInfo:
    """Facts of a setting beside its type.

    Parameters
    ----------
    unit : str or None
        ``px``, ``µm/px``, ``epochs`` …
    ours : bool
        The reference system does not know the key.
    networks, losses : tuple of str
        The networks or losses that read the key; empty for all.
    inert : str or None
        Why the key has no effect.
    known : tuple of str
        Known names; others are accepted with a warning.
    expects : str or None
        Valid values in words, where the type is not enough.
    """

    unit: str | None = None
    ours: bool = False
    networks: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    inert: str | None = None
    known: tuple[str, ...] = ()
    expects: str | None = None


def setting(default: Any, text: str, **facts: Any) -> Any:
    """Declare a key: default, description, and as keywords its `KeyInfo` and range (``ge``, ``lt`` …)."""
    names = KeyInfo.__dataclass_fields__
    extra = {name: value for name, value in facts.items() if name in names}
    limits = {name: value for name, value in facts.items() if name not in names}
    return Field(default, description=text, json_schema_extra=extra, **limits)


added = partial(setting, ours=True)
"""Declare a key that the reference system does not have."""


def key_info(field: FieldInfo) -> KeyInfo:
    """Return the facts of a field that was declared by `setting`."""
    extra: Any = field.json_schema_extra
    return KeyInfo(**extra)


def _as_path(value: object) -> object:
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("empty")
        return Path(value.replace("\\", "/"))
    return value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("low above high")
    return pair


PathSetting = Annotated[Path, BeforeValidator(_as_path)]
PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
ScaleRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
Quality = Annotated[int, Field(ge=1, le=100)]
QualityRange = Annotated[tuple[Quality, Quality], AfterValidator(_ordered)]


def is_path(field: FieldInfo) -> bool:
    """Return whether the values of a field are paths."""
    return field.annotation in (Path, PathSetting | None)


def _as_tuples(value: object) -> object:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


class Section(BaseModel):
    """A section of a config: frozen, known keys only, no silent conversion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        prepared = {}
        for key, value in data.items():
            field = cls.model_fields.get(key)
            none = isinstance(value, str) and value.lower() in ("none", "null")
            optional = none and field and type(None) in get_args(field.annotation)
            prepared[key] = None if optional else _as_tuples(value)
        return cls.imply(prepared)

    @field_validator("*", mode="after")
    @classmethod
    def _fits(cls, value: object) -> object:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int) and abs(part) >= LARGEST_INT:
                raise ValueError("too large")
            if isinstance(part, str | Path):
                str(part).encode()  # a lone surrogate cannot be written to a file
        return value

    @classmethod
    def imply(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Derive keys from others; sections override it."""
        return data

    def is_set(self, key: str) -> bool:
        """Return whether `key` is in the config, rather than at its default."""
        return key in self.model_fields_set


_SWIN = ("SwinUNet",)
_SWIN_U2 = ("SwinUNet", "U2Net")
_TRANS = ("TransUNet",)
_SWIN_TRANS = ("SwinUNet", "TransUNet")
_SHARP = ("SharpUNet",)


def network_name(name: str) -> str:
    """Remove the reference system's ``TensorFlow`` from a network's name."""
    return name.removeprefix("TensorFlow")


def is_metric(name: str, num_classes: int) -> bool:
    """Return whether a network of `num_classes` classes has this metric."""
    of_class = re.fullmatch(r"class_(?:dice|iou)_(\d+)", name)
    return int(of_class[1]) < max(2, num_classes) if of_class else name in METRICS and "<k>" not in name


class ModelSettings(Section):
    """[model]: network, optimiser and loss."""

    model: str = setting("TensorFlowFlexUNet", "network to build", known=NETWORK_NAMES)
    image_width: int = setting(512, "width of the network's input in training", unit="px", ge=1, le=65536)
    image_height: int = setting(512, "height of the network's input in training", unit="px", ge=1, le=65536)
    image_channels: int = setting(3, "channels of the input", ge=1, le=4)
    mpp: float | None = added(
        None, 'scale of the network\'s input; "none" = that of the images', unit="µm/px", ge=0.05, le=20
    )
    input_normalize: bool = setting(True, "divide the input by 255")
    num_classes: int = setting(2, "classes, background included; 1 = binary, one sigmoid", ge=1, le=254)
    base_filters: int = setting(16, "filters of the first level, doubled at each level below", ge=1, le=4096)
    base_kernels: tuple[PositiveInt, PositiveInt] = setting(
        (3, 3), "kernel of the first level; smaller by 2 each level, at least 3"
    )
    num_layers: int = setting(6, "levels, including the bridge", ge=1, le=12)
    dilation: tuple[PositiveInt, PositiveInt] = setting(
        (1, 1), "dilation of the first level; smaller by 1 each level, at least 1"
    )
    dropout_rate: float = setting(
        0.1, "dropout of the first level; times the level's number at the others", ge=0, lt=1
    )
    dropout_seed_fixing: bool = setting(False, "seed dropout with 137")
    activation: str = setting("relu", "activation of the convolutions", known=ACTIVATIONS)
    final_activation: str = setting(
        "sigmoid", "activation of the output of a binary network", known=ACTIVATIONS
    )
    normalization: bool = setting(False, 'batch normalisation; on, it is norm = "batch"')
    norm: Literal["none", "batch", "group"] = added("none", "normalisation between convolutions")
    norm_groups: int = added(8, 'groups of norm = "group"', ge=1, le=1024)
    residual: bool = added(False, "residual connection in each level")
    upsampling: Literal["transpose", "bilinear"] = added("transpose", "upsampling of the decoder")

    encoder: str = added(
        "efficientnet-lite0", "encoder of the network", networks=ENCODER_NETWORKS, known=ENCODER_NAMES
    )
    encoder_weights: str | None = added(
        "imagenet",
        'initial weights of the encoder: "imagenet", a file of them, or "none"',
        networks=ENCODER_NETWORKS,
    )
    decoder_filters: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = added(
        (128, 64, 48, 32, 24),
        "filters of the decoder's levels, from coarse to fine",
        networks=("UNet",),
        expects="a list of five whole numbers ≥ 1",
    )
    decoder_width: int = added(
        64, "filters of the decoder", networks=("FPN", "DeepLabV3Plus", "Linknet"), ge=1, le=4096
    )
    decoder_upsampling: Literal["nearest", "bilinear"] = added(
        "nearest", "upsampling between the decoder's levels", networks=("UNet", "FPN", "DeepLabV3Plus")
    )

    optimizer: Literal["Adam", "AdamW", "SGD"] = setting("Adam", "optimizer")
    learning_rate: float = setting(0.0001, "learning rate; the highest one of a schedule", gt=0, le=10)
    weight_decay: Fraction = added(0.004, "decoupled weight decay of AdamW")
    clipvalue: float | None = setting(0.2, 'clip gradients to ± this value; 0 or "none" = off', ge=0)
    clipnorm: float | None = added(None, "scale gradients to at most this norm; replaces clipvalue", gt=0)
    loss: str = setting("categorical_crossentropy", "loss", known=LOSSES)
    metrics: tuple[str, ...] = setting(
        ("dice_coef_multiclass",),
        "metrics of an epoch; the first is written to evaluation.csv",
        known=METRICS,
        expects="a list of one name or more",
        min_length=1,
    )
    class_weights: tuple[float, ...] | None = added(
        None,
        "weight of each class in the loss, by class number",
        losses=_WEIGHTED,
        expects="a list of numbers ≥ 0, one a class, or None",
    )
    focal_gamma: float = added(2.0, "focusing exponent of the focal loss", losses=("focal",), ge=0, le=10)
    tversky_alpha: Fraction = added(0.3, "weight of false positives in the Tversky loss", losses=("tversky",))
    tversky_beta: Fraction = added(0.7, "weight of false negatives in the Tversky loss", losses=("tversky",))
    label_smoothing: float = added(
        0.0, "share of a label that is spread over all classes", losses=_SMOOTHED, ge=0, lt=1
    )
    show_summary: bool = setting(False, "print the network's layers before training")
    generator: bool = setting(False, "augment online, unless [augmentor] enabled is set")

    backbone: str | None = setting(None, "pretrained encoder", networks=_TRANS)
    base_ksize: tuple[PositiveInt, PositiveInt] = setting((3, 3), "kernel", networks=_SHARP)
    batch_norm: bool = setting(False, "batch normalisation", networks=_TRANS)
    depth: int = setting(4, "levels", networks=_SWIN_U2, ge=1, le=12)
    efficientnet: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"] = setting(
        "B0", "size of the encoder", networks=("EfficientUNet",)
    )
    embed_dim: PositiveInt = setting(768, "width of a token", networks=_TRANS)
    filter_num: tuple[PositiveInt, ...] = setting(
        (64, 128, 256, 512), "filters of the levels", networks=_TRANS
    )
    filter_num_begin: PositiveInt = setting(128, "filters of the first level", networks=_SWIN_U2)
    filters: tuple[PositiveInt, ...] = setting((32, 64, 128, 256), "filters of the levels", networks=_SHARP)
    freeze_backbone: bool = setting(True, "train the decoder only", networks=_TRANS)
    freeze_batch_norm: bool = setting(
        True, "keep the encoder's batch statistics", networks=("TransUNet", *ENCODER_NETWORKS)
    )
    max_filter: PositiveInt = setting(512, "largest number of filters", networks=_SHARP)
    mlp_activation: str = setting("GELU", "activation in the transformer", networks=_TRANS)
    num_heads: tuple[PositiveInt, ...] | PositiveInt = setting(
        (4, 8, 8, 8),
        "attention heads",
        networks=("SwinUNet", "TransUNet"),
        expects="a whole number ≥ 1 or a list of them",
    )
    num_mlp: PositiveInt = setting(512, "width of the transformer's dense layers", networks=_SWIN_TRANS)
    num_transformer: PositiveInt = setting(12, "transformer blocks", networks=_TRANS)
    patch_size: tuple[PositiveInt, PositiveInt] = setting((4, 4), "patch of a token", networks=_SWIN_U2)
    pool: bool | str = setting(True, "downsampling of the encoder", networks=_TRANS)
    shift_window: bool = setting(True, "shift every other window", networks=_SWIN)
    stack_num_down: PositiveInt = setting(2, "convolutions a level, encoder", networks=_SWIN_TRANS)
    stack_num_up: PositiveInt = setting(2, "convolutions a level, decoder", networks=_SWIN_TRANS)
    weights: str | None = setting("imagenet", "pretrained weights to download", networks=_TRANS)
    window_size: tuple[PositiveInt, ...] = setting((4, 2, 2, 2), "attention windows", networks=_SWIN)

    def reads(self, key: str) -> bool:
        """Return whether the network of these settings reads a key."""
        if self.model in ENCODER_NETWORKS and key in _FLEXUNET_KEYS:
            return False
        networks = key_info(type(self).model_fields[key]).networks
        return not networks or network_name(self.model) in networks

    @property
    def side_step(self) -> int:
        """Sides of the network's input are multiples of it, in pixels."""
        return ENCODER_STRIDE_PX if self.model in ENCODER_NETWORKS else 2 ** (self.num_layers - 1)

    @property
    def local(self) -> bool:
        """True if a prediction depends on a pixel's surroundings only, not on the whole window."""
        return not self.reads("norm") or self.norm not in NORMS_OF_THE_WINDOW

    @classmethod
    def imply(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Derive `norm` from the older `normalization`, and keep one of the two ways to clip."""
        if data.get("normalization") is True:
            data.setdefault("norm", "batch")
        clip = data.get("clipvalue")
        off = clip == 0 and clip is not False
        if off or ("clipvalue" not in data and data.get("clipnorm") is not None):
            data["clipvalue"] = None
        return data


ImageWeight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""Relative frequency of crops from an image."""

_OLDER = "only the pre-processing of the older family reads it"


class DatasetSettings(Section):
    """[dataset]: training samples."""

    class_name: str = setting(
        "ImageCategorizedMaskDataset",
        "reader of the reference system",
        known=("ImageCategorizedMaskDataset",),
        inert="there is one reader, see [mask] mask_datatype",
    )
    sampling: Literal["tiles", "crops"] = added(
        "tiles", "whole prepared tiles, or random crops of large images"
    )
    samples_per_epoch: int | None = added(
        None, 'crops per epoch; "none" = as many as cover the images once', ge=1
    )
    foreground_share: Fraction = added(0.5, "share of crops that contain an object")
    edge_share: Fraction = added(0.0, "share of crops with an artificial image border")
    image_weights: dict[str, ImageWeight] = added(
        {},
        "relative frequency of crops by a pattern of the image's name; 1 without a match",
        expects='a map of patterns to numbers from 0 to 1000: {"painted*" = 0.25}',
    )
    image_mpp: float | None = added(
        None, "scale of images whose files state none", unit="µm/px", ge=0.05, le=20
    )
    name: str = added("", "name of the data, for the model card")
    licence: str = added("", "licence of the data, for the model card")
    source: str = added("", "source of the data, for the model card")
    cache_mb: int = added(1024, "memory for decoded images", unit="MiB", ge=0)
    workers: int = added(2, "threads that make samples; 0 = none beside training", ge=0, le=256)


class TrainSettings(Section):
    """[train]: data, folders and schedule of a training."""

    images_dir: PathSetting | None = setting(None, "training images")
    masks_dir: PathSetting | None = setting(None, "training masks of the same names")
    model_dir: PathSetting = setting(Path("models"), "folder of the run's models: best/ and last/")
    eval_dir: PathSetting = setting(Path("eval"), "folder of the learning curves, CSV and PNG")
    pretrained: PathSetting | None = added(
        None, "pretrained weights: a model folder, or glomeruli-pas, the bundled model"
    )
    freeze_encoder_epochs: float = added(
        0, "epochs in which the encoder's weights stay as they are", unit="epochs", ge=0
    )
    frozen_blocks: int = added(
        0, "first blocks of the encoder that are never trained; 0 = none, else its stem too", ge=0, le=1000
    )
    encoder_learning_rate_factor: float = added(
        1.0, "learning rate of the encoder as a share of the others'", gt=0, le=10
    )
    epochs: PositiveInt = setting(100, "maximum number of epochs", unit="epochs")
    batch_size: int = setting(4, "samples per step", ge=1, le=65536)
    steps_per_epoch: PositiveInt = setting(400, "steps per epoch, with [model] generator", unit="steps")
    validation_steps: PositiveInt = setting(
        800, "validation steps", unit="steps", inert="validation reads every image once"
    )
    patience: int = setting(
        10, "epochs without improvement before stopping; 0 or less = never", unit="epochs"
    )
    monitor: str = added("val_loss", "figure monitored by best/, patience and the reducer")
    metrics: tuple[str, ...] = setting(
        ("dice_coef_multiclass", "val_dice_coef_multiclass"),
        "metric and validation metric of the learning curve",
    )
    use: Literal["best", "last"] = added(
        "best", "model that other commands load; prefer last with few validation images"
    )
    learning_rate_reducer: bool = setting(False, "lower the learning rate without improvement")
    reducer_factor: float = setting(0.4, "factor of the reducer", gt=0, lt=1)
    reducer_patience: int = setting(
        4, "epochs without improvement before the reducer acts", unit="epochs", ge=0
    )
    schedule: Literal["constant", "cosine"] = added("constant", "schedule of the learning rate")
    warmup_epochs: float = added(0, "epochs of warm-up", unit="epochs", ge=0)
    ema_decay: float = added(0.0, "decay of the weights' moving average; 0 = off", ge=0, lt=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = added(
        "float32", "floating point precision of training"
    )
    seed: int = added(137, "random seed", ge=0, le=2**32 - 1)
    devices: Literal["all"] | PositiveInt = added(
        1,
        'devices that share each batch, on TensorFlow and JAX; "all" = all of their kind; '
        "`train` refuses more than are there, `config check` cannot",
        unit="devices",
        expects='"all" or a whole number ≥ 1',
    )
    checkpoint_steps: int = added(
        0, "steps between two checkpoints in an epoch; 0 = at its end only", unit="steps", ge=0
    )
    tensorboard: bool = added(False, "also write TensorBoard files")
    break_file: PathSetting = added(
        Path("break_training"), "training stops after the epoch if this file exists"
    )
    epoch_change_infer: bool = setting(True, "preview of resized images after each epoch")
    epoch_change_infer_dir: PathSetting = setting(Path("epoch_change_infer"), "folder of these previews")
    epoch_change_tiled_infer: bool = setting(False, "preview of tiled images after each epoch")
    epoch_change_tiled_infer_dir: PathSetting = setting(
        Path("epoch_change_tiled_infer"), "folder of these previews"
    )
    num_infer_images: PositiveInt = setting(6, "images in a preview")
    save_weights_only: bool = setting(
        False, "save weights only", inert="a model folder with settings and weights is always written"
    )
    create_backup: bool = setting(False, "keep a previous run", inert="a previous run is always moved aside")


class PairSettings(Section):
    """[valid] and [test]: a folder of images and one of masks."""

    images_dir: PathSetting | None = setting(None, "images")
    masks_dir: PathSetting | None = setting(None, "masks of the same names")


class EvalSettings(Section):
    """[eval]: evaluation."""

    batch_size: int = setting(4, "images per step", ge=1, le=65536)
    groups: PathSetting | None = added(
        None, "CSV stem,group of images of one slide or patient, for intervals [default: groups of prepare]"
    )
    draws: int = added(2000, "bootstrap draws of an interval", ge=1, le=1000000)


class InferSettings(Section):
    """[infer]: images resized to the network's input."""

    images_dir: PathSetting | None = setting(None, "images to segment; the previews use them too")
    output_dir: PathSetting | None = setting(None, "output folder of the masks")


class TiledInferSettings(Section):
    """[tiledinfer]: sliding-window inference at the training scale."""

    images_dir: PathSetting | None = setting(None, "images to segment; the tiled previews use them too")
    output_dir: PathSetting | None = setting(None, "output folder of the masks")
    overlapping: int = setting(64, "margin per side of a window", unit="px", ge=0, le=16384)
    split_size: int = setting(512, "side of a window without its margins", unit="px", ge=1, le=65536)
    blend: Literal["hann", "linear", "none"] = added("hann", "weights of overlapping windows")
    batch_size: int = added(1, "windows per step", ge=1, le=4096)
    window: Literal["auto"] | PositiveInt | None = added(
        None,
        'side of a window with margins; "auto" = largest in memory_mb; "none" = split_size + 2 overlapping',
        unit="px",
        expects='"auto", a whole number ≥ 1 or None',
    )
    memory_mb: int = added(2048, 'memory for window = "auto"', unit="MiB", ge=64)
    tta: Literal["none", "flips", "rotations", "all"] = added("none", "test-time augmentation")
    threshold: float = added(0.5, "foreground threshold of the probability", gt=0, lt=1)
    smoothing_px: float = added(
        0.0,
        "sigma of Gaussian smoothing of the input; 0.5 suits training with free rotation",
        unit="px",
        ge=0,
        le=3,
    )
    min_expected_dice: Fraction = added(0.8, "results with a lower expected Dice are flagged")


class ImageSettings(Section):
    """[image]: reading of images."""

    color_order: Literal["RGB", "BGR"] = setting("RGB", "channel order of the network's input")
    color_converter: str | None = setting(None, "colour space", inert=_OLDER)
    gamma: float | None = setting(None, "gamma", inert=_OLDER)


def _colours(rgb_map: object) -> object:
    """Parse colours that are texts, as keys of TOML are: ``"255,0,0"`` or ``"#ff0000"``."""
    return (
        {_colour(key): value for key, value in rgb_map.items()} if isinstance(rgb_map, Mapping) else rgb_map
    )


def _colour(key: object) -> object:
    if not isinstance(key, str):
        return tuple(key) if isinstance(key, list) else key
    if re.fullmatch("#[0-9a-fA-F]{6}", key):
        return tuple(bytes.fromhex(key[1:]))
    parts = key.strip("()[] ").split(",")
    return tuple(int(part) if part.strip().isdecimal() else part for part in parts)


RgbMap = Annotated[dict[tuple[Byte, Byte, Byte], int], BeforeValidator(_colours)]


class MaskSettings(Section):
    """[mask]: reading of masks."""

    rgb_map: RgbMap = setting(
        {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2, (0, 0, 255): 3},
        "colour → class number",
        expects="a map of (r, g, b), each 0 to 255, to class numbers 0 to 254",
    )
    class_names: tuple[str, ...] | None = added(None, "names of the classes, by class number")
    mask_datatype: Literal["categorized", "indexed"] = setting(
        "categorized", "masks contain colours, or class numbers"
    )
    mask_file_format: Literal[".png", ".npz"] = setting(".png", "suffix of the mask files")
    tolerance: int = added(0, "largest difference per channel from a colour of rgb_map", ge=0, le=255)
    binarize: bool | None = setting(None, "binarise masks", inert=_OLDER)
    blur: bool | None = setting(None, "blur masks", inert=_OLDER)
    blur_size: tuple[int, ...] | int | None = setting(
        None, "size of that blur", expects="a whole number or a pair of them", inert=_OLDER
    )
    threshold: int | None = setting(None, "threshold of that binarisation", inert=_OLDER, ge=0, le=255)


class DebugSettings(Section):
    """[debug]: output of the reference system."""

    verbose: bool = setting(False, "verbose output", inert="use the option --verbose")


class SegmentationSettings(Section):
    """[segmentation] of the older family: colours of its masks."""

    colorize: bool | None = setting(None, "colour masks", inert=_OLDER)
    black: str | None = setting(None, "colour for black", inert=_OLDER)
    white: str | None = setting(None, "colour for white", inert=_OLDER)
    blursize: tuple[int, ...] | int | None = setting(
        None, "size of a blur", expects="a whole number or a pair of them", inert=_OLDER
    )


_CENTERS = "a list of pairs (x, y), each from 0 to 1"
_DUMP = "see glomtile stats --augmented"


class AugmentorSettings(Section):
    """[augmentor]: augmentation of training samples."""

    enabled: bool | None = added(
        None, 'augment; "none" = if [model] generator and [generator] augmentation are on'
    )
    hflip: bool = setting(True, "flip horizontally")
    vflip: bool = setting(True, "flip vertically")
    rotation: bool = setting(True, "rotate by one of angles")
    angles: tuple[float, ...] = setting((90, 180, 270), "angles of rotation", unit="deg")
    free_rotation: bool = added(False, "rotate by any angle")
    shrinks: tuple[PositiveFloat, ...] = setting((0.8,), "scale factors, one is drawn; empty = off")
    scales: ScaleRange | None = added(
        None, "range of a random scale factor", expects="a pair of numbers > 0, the lower first, or None"
    )
    shears: tuple[float, ...] = setting((), "shear factors, one is drawn; empty = off")
    deformation: bool = setting(False, "elastic deformation, see [deformation]")
    distortion: bool = setting(False, "random distortion, see [distortion]")
    barrdistortion: bool = setting(False, "barrel distortion, see [barrdistortion]")
    pincdistortion: bool = setting(False, "pincushion distortion, see [pincdistortion]")
    sharpening: bool = setting(False, "sharpen the image, see [sharpening]")
    brightening: bool = setting(False, "brighten the image, see [brightening]")
    tears: Fraction = added(0.0, "share of samples with a tissue tear")
    stain: Fraction = added(0.0, "strength of stain variation; 0 = off")
    other_dyes: Fraction = added(0.0, "share of samples with random dye colours")
    blur: float = added(0.0, "largest sigma of blur; 0 = off", unit="px", ge=0, le=20)
    jpeg: QualityRange | None = added(
        None,
        "range of a random JPEG quality",
        expects="a pair of whole numbers from 1 to 100, the lower first, or None",
    )
    noise: float = added(0.0, "sigma of noise, in grey values; 0 = off", ge=0, le=128)


class DeformationSettings(Section):
    """[deformation]: elastic deformation."""

    alpha: float = setting(1300, "strength", ge=0)
    sigmoids: tuple[PositiveFloat, ...] = setting((8,), "smoothness, one is drawn", unit="px")
    sigmoid: PositiveFloat = setting(8, "smoothness where sigmoids is empty", unit="px")


class DistortionSettings(Section):
    """[distortion]: random distortion."""

    distortions: tuple[Fraction, ...] = setting(
        (0.02,), "strengths as shares of the image's size, one is drawn"
    )
    gaussian_filter_sigma: float = setting(0.5, "sigma along the fine axis of the field", unit="px", ge=0)
    gaussian_filter_rsigma: PositiveFloat = setting(40, "sigma of the field", unit="px")


class BarrDistortionSettings(Section):
    """[barrdistortion]: barrel distortion."""

    radius: Fraction = setting(0.5, "radius as a share of the image")
    amount: PositiveFloat = setting(0.5, "strength")
    centers: tuple[tuple[Fraction, Fraction], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", expects=_CENTERS
    )


class PincDistortionSettings(Section):
    """[pincdistortion]: pincushion distortion."""

    radius: Fraction = setting(0.5, "radius as a share of the image")
    amount: float = setting(-0.5, "strength", lt=0)
    centers: tuple[tuple[Fraction, Fraction], ...] = setting(
        ((0.5, 0.5),), "centres (x, y) as shares", expects=_CENTERS
    )


class BrighteningSettings(Section):
    """[brightening]: gain and offset."""

    alpha: float = setting(1.2, "gain", ge=0)
    beta: float = setting(10, "offset in grey values", ge=-255, le=255)


class SharpeningSettings(Section):
    """[sharpening]: sharpening filter."""

    k: float = setting(1.0, "strength", ge=0)


class GeneratorSettings(Section):
    """[generator]: online augmentation of the reference system."""

    augmentation: bool = setting(True, "augment, with [model] generator")
    debug: bool = setting(True, "keep the generated samples", inert=_DUMP)
    generated_images_dir: PathSetting = setting(Path("generated_images_dir"), "folder for it", inert=_DUMP)
    generated_masks_dir: PathSetting = setting(Path("generated_masks_dir"), "folder for it", inert=_DUMP)
    verbose: bool = setting(False, "verbose output", inert=_DUMP)


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
        """Absolute folder of the config's relative paths."""
        return self._base_dir

    @property
    def source(self) -> Path | None:
        """The config file as it was passed."""
        return self._source

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Warnings of reading the config."""
        return self._findings

    def located_in(
        self, base_dir: Path, source: Path | None = None, findings: tuple[Finding, ...] = ()
    ) -> Config:
        """Return the same settings with another base folder."""
        copy = self.model_copy()
        copy._base_dir = base_dir.resolve()
        copy._source = source
        copy._findings = findings
        return copy

    def section(self, name: str) -> Section:
        """Return a section by its name."""
        found: Section = getattr(self, name)
        return found

    def need(self, section: str, key: str) -> Any:
        """Return a required setting; raise a ConfigError if it is not set or None."""
        settings = self.section(section)
        value = getattr(settings, key)
        if value is None or not settings.is_set(key):
            from glomtile.config.findings import expectation

            info = type(settings).model_fields[key]
            wanted = expectation(type(settings), key).removesuffix(" or None")
            raise ConfigError(
                f"{self._source or 'config'} [{section}] {key}",
                f"expected {wanted} ({info.description}), got nothing",
                hint=f"add {key} = … under [{section}], or pass --set {section}.{key}=…",
            )
        return value

    def folder(self, section: str, key: str) -> Path:
        """Return a required path, absolute; see `need`."""
        return self.resolve(self.need(section, key))

    def resolve(self, path: str | Path) -> Path:
        """Return a path of this config as an absolute path."""
        return Path(os.path.normpath(self._base_dir / path))

    def palette(self) -> Palette:
        """Return the classes, names and colours of [mask].

        Raises
        ------
        ConfigError
            `rgb_map` does not give each class 0, 1, … one colour, or `class_names` does not fit it.
        """
        return Palette.from_rgb_map(self.mask.rgb_map, self.mask.class_names)

    @property
    def augments(self) -> bool:
        """True if training samples are augmented."""
        if self.augmentor.enabled is not None:
            return self.augmentor.enabled
        return self.model.generator and self.generator.augmentation


SECTIONS: dict[str, type[Section]] = {
    name: type(field.default) for name, field in Config.model_fields.items()
}
"""Section name to its settings' class."""
