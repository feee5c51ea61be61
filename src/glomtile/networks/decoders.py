"""Decoders: from the features of an encoder to class probabilities at full size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from glomtile.config.schema import ModelSettings
from glomtile.networks.encoders import encoder
from glomtile.networks.layers import HEAD, LAYOUT, BilinearUpsample, Parts, activation_name

ATROUS_RATES = (6, 12, 18)
"""Dilations of DeepLabV3+ at stride 16."""

POOLED = 7
"""Side of the windows that DeepLabV3+ averages, at stride 16.

The paper averages the whole image; a fixed side keeps the network local, so that tiles equal the whole.
"""

LOW_LEVEL_FILTERS = 48
"""Channels that DeepLabV3+ reduces the features at stride 4 to."""


class _Builder:
    """Makes the layers of one decoder."""

    def __init__(self, settings: ModelSettings, parts: Parts) -> None:
        self.settings, self.parts = settings, parts

    def conv(self, x: Any, filters: int, kernel: int, name: str, dilation: int = 1) -> Any:
        """Convolve, normalise over the batch, activate."""
        x = self.parts.conv(x, filters, (kernel, kernel), name, dilation=(dilation, dilation), use_bias=False)
        return self._finish(x, name)

    def separable(self, x: Any, filters: int, name: str, dilation: int = 1) -> Any:
        """Convolve each channel alone, then all of them by 1x1; normalise, activate."""
        x = self.parts.depthwise(x, 3, f"{name}_depthwise", dilation=dilation)
        return self.conv(x, filters, 1, name)

    def transposed(self, x: Any, filters: int, name: str) -> Any:
        """Double the size by a learned 2x2 convolution; normalise, activate."""
        return self._finish(self.parts.upsample(x, filters, "transpose", name), name)

    def double(self, x: Any, name: str, times: int = 1) -> Any:
        """Double the size, `times` over."""
        for i in range(times):
            if self.settings.decoder_upsampling == "nearest":
                layer = keras.layers.UpSampling2D(
                    2, data_format=LAYOUT, dtype=self.parts.precision, name=f"{name}{i}"
                )
            else:
                layer = BilinearUpsample(dtype=self.parts.precision, name=f"{name}{i}")
            x = layer(x)
        return x

    def join(self, tensors: list[Any], name: str) -> Any:
        """Concatenate channels."""
        return keras.layers.Concatenate(dtype=self.parts.precision, name=name)(tensors)

    def add(self, tensors: list[Any], name: str) -> Any:
        """Sum tensors of one shape."""
        return keras.layers.Add(dtype=self.parts.precision, name=name)(tensors)

    def dropout(self, x: Any, name: str) -> Any:
        """Drop values at the rate of the settings."""
        return self.parts.dropout(x, self.settings.dropout_rate, name)

    def _finish(self, x: Any, name: str) -> Any:
        x = keras.layers.BatchNormalization(momentum=0.9, dtype=self.parts.precision, name=f"{name}_norm")(x)
        return keras.layers.Activation(self.parts.activation, dtype=self.parts.precision, name=f"{name}_out")(
            x
        )


def decode_unet(features: list[Any], settings: ModelSettings, parts: Parts) -> Any:
    """Double the size five times, each time with the skip of that size and two convolutions.

    Notes
    -----
    Ronneberger et al., MICCAI 2015, arXiv:1505.04597; the encoder takes the place of the way down.
    """
    make = _Builder(settings, parts)
    *skips, x = features
    for i, filters in zip(range(len(skips), -1, -1), settings.decoder_filters, strict=True):
        name, skip = f"decoder{i}", skips[i - 1] if i else None
        x = make.double(x, f"{name}_upsample")
        if skip is not None:
            x = make.join([x, skip], f"{name}_join")
        x = make.conv(make.conv(x, filters, 3, f"{name}_conv1"), filters, 3, f"{name}_conv2")
    return make.dropout(x, "decoder_dropout")


def decode_fpn(features: list[Any], settings: ModelSettings, parts: Parts) -> Any:
    """Sum a pyramid from coarse to fine, bring its levels to stride 4 and sum them.

    Notes
    -----
    Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, arXiv:1901.02446; over batches,
    as a normalisation over groups depends on the window.
    """
    make, width = _Builder(settings, parts), settings.decoder_width
    pyramid: Any = None
    levels = []
    for stride_log2, feature in reversed(list(enumerate(features, 1))):
        if stride_log2 == 1:
            break
        lateral = parts.conv(feature, 2 * width, (1, 1), f"decoder{stride_log2}_lateral")
        if pyramid is not None:
            lateral = make.add(
                [make.double(pyramid, f"decoder{stride_log2}_upsample"), lateral], f"decoder{stride_log2}_add"
            )
        pyramid = level = lateral
        for i in range(max(1, stride_log2 - 2)):
            level = make.conv(level, width, 3, f"decoder{stride_log2}_conv{i}")
            if stride_log2 > 2:
                level = make.double(level, f"decoder{stride_log2}_level{i}_")
        levels.append(level)
    return make.dropout(make.add(levels, "decoder_sum"), "decoder_dropout")


def decode_deeplab(features: list[Any], settings: ModelSettings, parts: Parts) -> Any:
    """See the deepest features at several dilations and join them with those of stride 4.

    Notes
    -----
    Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, arXiv:1802.02611.
    """
    make, width = _Builder(settings, parts), settings.decoder_width
    deep = features[-1]
    branches = [make.conv(deep, width, 1, "decoder_atrous0")]
    for i, rate in enumerate(ATROUS_RATES, 1):
        branches.append(make.separable(deep, width, f"decoder_atrous{i}", dilation=rate))
    pooled = keras.layers.AveragePooling2D(
        POOLED, strides=1, padding="same", data_format=LAYOUT, dtype=parts.precision, name="decoder_pool"
    )(deep)
    branches.append(make.conv(pooled, width, 1, "decoder_pooled"))
    x = make.conv(make.join(branches, "decoder_join"), width, 1, "decoder_project")
    x = make.double(make.dropout(x, "decoder_dropout"), "decoder_upsample", times=2)
    low = make.conv(features[1], LOW_LEVEL_FILTERS, 1, "decoder_low")
    return make.separable(make.join([x, low], "decoder_merge"), width, "decoder_conv")


def decode_linknet(features: list[Any], settings: ModelSettings, parts: Parts) -> Any:
    """Double the size by transposed convolutions of a quarter of the channels and add the skip.

    Notes
    -----
    Chaurasia and Culurciello, VCIP 2017, arXiv:1707.03718.
    """
    make = _Builder(settings, parts)
    *skips, x = features
    for i, skip in reversed(list(enumerate([None, *skips]))):
        filters = settings.decoder_width if skip is None else skip.shape[-1]
        quarter = max(8, x.shape[-1] // 4)
        x = make.conv(x, quarter, 1, f"decoder{i}_reduce")
        x = make.transposed(x, quarter, f"decoder{i}_upsample")
        x = make.conv(x, filters, 1, f"decoder{i}_expand")
        if skip is not None:
            x = make.add([x, skip], f"decoder{i}_add")
    return make.dropout(x, "decoder_dropout")


DECODERS: dict[str, tuple[Callable[[list[Any], ModelSettings, Parts], Any], int, int]] = {
    "UNet": (decode_unet, 32, 0),
    "FPN": (decode_fpn, 32, 2),
    "DeepLabV3Plus": (decode_deeplab, 16, 2),
    "Linknet": (decode_linknet, 32, 0),
}
"""Decoder, output stride of its encoder, and number of doublings behind it, by the network's name."""


def build_encoder_decoder(
    settings: ModelSettings, *, precision: str = "float32", seed: int | None = None
) -> keras.Model:
    """Build a network of an encoder and a decoder; see `glomtile.networks.registry.build_network`."""
    decode, output_stride, doublings = DECODERS[settings.model]
    chosen = encoder(settings.encoder)
    parts = Parts(
        activation=activation_name(settings.activation),
        precision=precision,
        weight_seed=seed,
        dropout_seed=seed,
    )
    image = keras.Input((None, None, settings.image_channels), dtype="float32", name="image")
    # In float32 whatever the policy: bfloat16 would round the 255 grey levels to fewer.
    x = keras.layers.Rescaling(chosen.scale, chosen.offset, dtype="float32", name="rescale")(image)
    x = decode(chosen.build(x, parts, output_stride), settings, parts)
    x = parts.conv(x, settings.num_classes, (1, 1), HEAD, initializer=keras.initializers.GlorotUniform)
    for i in range(doublings):
        x = BilinearUpsample(dtype="float32", name=f"logits_upsample{i}")(x)
    final = (
        "softmax"
        if settings.num_classes > 1
        else activation_name(settings.final_activation, "[model] final_activation")
    )
    # Probabilities stay float32: float16 cannot hold 1 - p for the pixels a network is sure about.
    probs = keras.layers.Activation(final, dtype="float32", name="probs")(x)
    return keras.Model(image, probs, name=settings.model)
