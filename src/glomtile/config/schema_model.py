"""The settings of [model]: network, loss and optimizer, and which keys belong to other networks."""

from __future__ import annotations

import re
from typing import Any, Literal

from glomtile.config.schema_fields import About, Count, Section, setting

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
