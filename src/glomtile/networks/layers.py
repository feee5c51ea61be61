"""Layers shared by the networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import keras
import numpy as np
from keras import ops

from glomtile.errors import ConfigError

PACKAGE = "glomtile"
LAYOUT = "channels_last"
HEAD = "logits"
"""Name of the layer whose sums probabilities are made of, which alone knows the number of classes."""

ACTIVATIONS = (
    "celu", "elu", "gelu", "hard_swish", "leaky_relu", "linear", "mish", "relu", "relu6",
    "selu", "sigmoid", "silu", "softplus", "softsign", "swish", "tanh",
)  # fmt: skip
"""Activations a setting may name, in Keras' spelling."""


def activation_name(name: str, where: str = "[model] activation") -> str:
    """Keras' spelling of an activation written in any case, with or without underscores.

    Parameters
    ----------
    name : str
        ``"relu"``, ``"ReLU"``, ``"LeakyReLU"`` and ``"leaky_relu"`` are all understood.
    where : str
        The setting named in the error.

    Raises
    ------
    ConfigError
        When `name` is none of `ACTIVATIONS`.
    """
    known = {spelling.replace("_", ""): spelling for spelling in ACTIVATIONS}
    found = known.get(str(name).lower().replace("_", ""))
    if found is None:
        raise ConfigError(where, f"expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return found


@dataclass
class Parts:
    """Makes the layers of one network, all of one style.

    Parameters
    ----------
    activation : str
        Name of the activation behind every convolution.
    norm : {"none", "batch", "group"}
        Normalisation behind every activation.
    norm_groups : int
        Most channel groups of a group normalisation; fewer where the channels do not divide.
    residual : bool
        Add a block's input to its output.
    precision : str
        Keras dtype policy of all inner layers.
    weight_seed, dropout_seed : int or None
        First seed of the weights and of dropout; ``None`` draws from Keras' global seed.
    """

    activation: str = "relu"
    norm: str = "none"
    norm_groups: int = 8
    residual: bool = False
    precision: str = "float32"
    weight_seed: int | None = None
    dropout_seed: int | None = None
    _made: count[int] = field(default_factory=count)

    def initializer(
        self, kind: Callable[..., keras.initializers.Initializer]
    ) -> keras.initializers.Initializer:
        """Return an initializer with the next seed."""
        return kind(seed=None if self.weight_seed is None else self.weight_seed + next(self._made))

    def conv(
        self,
        x: Any,
        filters: int,
        kernel: tuple[int, int],
        name: str,
        *,
        strides: int = 1,
        dilation: tuple[int, int] = (1, 1),
        activation: str | None = None,
        use_bias: bool = True,
        initializer: type[keras.initializers.Initializer] = keras.initializers.HeNormal,
    ) -> Any:
        """Convolve, padded with zeros to the same size divided by the strides."""
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides=strides,
            padding="same",
            dilation_rate=dilation,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=self.initializer(initializer),
            data_format=LAYOUT,
            dtype=self.precision,
            name=name,
        )(x)

    def depthwise(self, x: Any, kernel: int, name: str, *, strides: int = 1, dilation: int = 1) -> Any:
        """Convolve each channel with a kernel of its own, without bias."""
        # Keras counts all channels as the inputs of a kernel that sees one.
        scale = 2.0 * x.shape[-1]
        return keras.layers.DepthwiseConv2D(
            kernel,
            strides=strides,
            dilation_rate=dilation,
            padding="same",
            use_bias=False,
            depthwise_initializer=self.initializer(partial(keras.initializers.VarianceScaling, scale)),
            data_format=LAYOUT,
            dtype=self.precision,
            name=name,
        )(x)

    def normalise(self, x: Any, name: str) -> Any:
        """Normalise over the batch, over channel groups, or not at all."""
        if self.norm == "batch":
            # Keras' own momentum of 0.99 judges a run of a few hundred steps by averages of its beginning.
            return keras.layers.BatchNormalization(momentum=0.9, dtype=self.precision, name=name)(x)
        if self.norm == "group":
            groups = math.gcd(self.norm_groups, x.shape[-1])
            return keras.layers.GroupNormalization(groups, dtype=self.precision, name=name)(x)
        return x

    def dropout(self, x: Any, rate: float, name: str) -> Any:
        """Drop values; a rate of 0 builds nothing."""
        if rate <= 0:
            return x
        seed = None if self.dropout_seed is None else self.dropout_seed + next(self._made)
        return keras.layers.Dropout(rate, seed=seed, dtype=self.precision, name=name)(x)

    def double_conv(
        self,
        x: Any,
        filters: int,
        kernel: tuple[int, int],
        dilation: tuple[int, int],
        dropout_rate: float,
        name: str,
    ) -> Any:
        """Conv, norm, dropout, conv, norm; as a residual block the last activation follows the sum."""
        entry = x
        last = None if self.residual else self.activation
        x = self.conv(x, filters, kernel, f"{name}_conv1", dilation=dilation, activation=self.activation)
        x = self.normalise(x, f"{name}_norm1")
        x = self.dropout(x, dropout_rate, f"{name}_dropout")
        x = self.conv(x, filters, kernel, f"{name}_conv2", dilation=dilation, activation=last)
        x = self.normalise(x, f"{name}_norm2")
        if not self.residual:
            return x
        if entry.shape[-1] != filters:
            entry = self.conv(
                entry, filters, (1, 1), f"{name}_shortcut", initializer=keras.initializers.LecunNormal
            )
        x = keras.layers.Add(dtype=self.precision, name=f"{name}_add")([x, entry])
        return keras.layers.Activation(self.activation, dtype=self.precision, name=f"{name}_out")(x)

    def upsample(self, x: Any, filters: int, method: str, name: str) -> Any:
        """Twice the size with `filters` channels: learned 2x2 transposed convolution or bilinear."""
        if method == "transpose":
            return keras.layers.Conv2DTranspose(
                filters,
                (2, 2),
                strides=(2, 2),
                padding="same",
                kernel_initializer=self.initializer(keras.initializers.HeNormal),
                data_format=LAYOUT,
                dtype=self.precision,
                name=name,
            )(x)
        # A 1x1 convolution and bilinear enlargement commute; fewer channels first is the cheaper order.
        x = self.conv(x, filters, (1, 1), f"{name}_reduce", initializer=keras.initializers.LecunNormal)
        return BilinearUpsample(dtype=self.precision, name=name)(x)


@keras.saving.register_keras_serializable(package=PACKAGE)
class BilinearUpsample(keras.layers.Layer):  # type: ignore[misc]
    """Twice the height and width by bilinear interpolation, the edge held constant.

    Notes
    -----
    Keras' ``UpSampling2D(interpolation="bilinear")`` fixes height and width when a model is exported
    on TensorFlow. Repeating every pixel and smoothing with ``[1, 2, 1] / 4`` per axis is the same
    interpolation (half-pixel centres) for every size.
    """

    def call(self, inputs: Any) -> Any:
        channels = inputs.shape[-1]
        row = np.array([0.25, 0.5, 0.25], "float32")
        kernel = np.tile(np.outer(row, row)[:, :, None, None], (1, 1, channels, 1))
        x = ops.repeat(ops.repeat(inputs, 2, axis=1), 2, axis=2)
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
        kernel = ops.convert_to_tensor(kernel, dtype=x.dtype)
        return ops.depthwise_conv(x, kernel, strides=1, padding="valid", data_format=LAYOUT)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)
