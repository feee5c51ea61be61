"""FlexUNet, a U-Net of configurable depth and width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError
from glomtile.networks.layers import HEAD, Parts, activation_name

DROPOUT_SEED = 137
"""Seed of dropout when `dropout_seed_fixing` asks for one, as in the reference."""


@dataclass(frozen=True)
class Level:
    """One level of the U, the same on the way down and up; the last is the bridge.

    Parameters
    ----------
    index : int
        0 at full resolution.
    filters : int
        Channels of both convolutions.
    kernel, dilation : tuple of int
        Rows, columns.
    dropout_rate : float
        Between the two convolutions.
    """

    index: int
    filters: int
    kernel: tuple[int, int]
    dilation: tuple[int, int]
    dropout_rate: float


def levels(settings: ModelSettings) -> list[Level]:
    """Describe each level of the U, from full resolution to the bridge.

    Notes
    -----
    Kernel sizes fall by 2 a level, never below 3; dilations by 1, never below 1; dropout grows with
    the level's index (reference §2). A kernel that starts at 1 stays 1.

    Raises
    ------
    ConfigError
        When there is no level, or dropout reaches 1 at the deepest.
    """
    depth = settings.num_layers
    if depth < 1:
        raise ConfigError("[model] num_layers", f"expected a whole number >= 1, got {depth}")
    steepest = settings.dropout_rate * (depth - 1)
    if not 0 <= steepest < 1:
        raise ConfigError(
            "[model] dropout_rate",
            f"expected dropout_rate * (num_layers - 1) in [0, 1), got {settings.dropout_rate} * {depth - 1}",
            hint="the rate is multiplied by the level's index",
        )
    return [
        Level(
            index=i,
            filters=settings.base_filters * 2**i,
            kernel=_falling(settings.base_kernels, i, step=2, least=3),
            dilation=_falling(settings.dilation, i, step=1, least=1),
            dropout_rate=settings.dropout_rate * i,
        )
        for i in range(depth)
    ]


def _falling(start: Any, i: int, *, step: int, least: int) -> tuple[int, int]:
    rows, cols = ([start] * 2 if isinstance(start, int) else start)[:2]
    return (max(rows - step * i, min(rows, least)), max(cols - step * i, min(cols, least)))


def build_flexunet(
    settings: ModelSettings, *, precision: str = "float32", seed: int | None = None
) -> keras.Model:
    """Build the network; see `glomtile.networks.registry.build_model`."""
    image = keras.Input((None, None, settings.image_channels), dtype="float32", name="image")
    parts = Parts(
        activation=activation_name(settings.activation),
        norm=settings.norm,
        norm_groups=settings.norm_groups,
        residual=settings.residual,
        precision=precision,
        weight_seed=seed,
        dropout_seed=DROPOUT_SEED if settings.dropout_seed_fixing else seed,
    )
    x: Any = image
    if settings.input_normalize:
        # In float32 whatever the policy: bfloat16 would round the 255 grey levels to fewer.
        x = keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale")(x)
    x = _body(x, levels(settings), parts, settings.upsampling)
    x = parts.conv(x, settings.num_classes, (1, 1), HEAD, initializer=keras.initializers.GlorotUniform)
    if settings.num_classes > 1:
        final = "softmax"
    else:
        final = activation_name(settings.final_activation, "[model] final_activation")
    # Probabilities stay float32: float16 cannot hold 1 - p for the pixels a network is sure about.
    probs = keras.layers.Activation(final, dtype="float32", name="probs")(x)
    return keras.Model(image, probs, name="FlexUNet")


def _body(x: Any, plan: list[Level], parts: Parts, upsampling: str) -> Any:
    def block(x: Any, level: Level, name: str) -> Any:
        return parts.double_conv(x, level.filters, level.kernel, level.dilation, level.dropout_rate, name)

    *outer, bridge = plan
    skips = []
    for level in outer:
        x = block(x, level, f"down{level.index}")
        skips.append(x)
        x = keras.layers.MaxPooling2D((2, 2), dtype=parts.precision, name=f"down{level.index}_pool")(x)
    x = block(x, bridge, "bridge")
    for level, skip in zip(reversed(outer), reversed(skips), strict=True):
        name = f"up{level.index}"
        x = parts.upsample(x, level.filters, upsampling, f"{name}_upsample")
        x = keras.layers.Concatenate(dtype=parts.precision, name=f"{name}_join")([x, skip])
        x = block(x, level, name)
    return x
