"""Registry of network architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import keras

from glomtile.config.schema import NETWORK_NAMES, ModelSettings
from glomtile.errors import ConfigError
from glomtile.networks import flexunet
from glomtile.networks.decoders import DECODERS, build_encoder_decoder
from glomtile.networks.profiling import context_px, stride_px
from glomtile.validation import typed_argument


@dataclass(frozen=True)
class Geometry:
    """Stride and context of a network.

    Parameters
    ----------
    stride_px : int
        Shifting the input by a multiple of this shifts the answer and changes nothing else.
    context_px : int
        How far from a pixel the network can see, per side.
    local : bool
        False where every pixel of the window matters beyond `context_px` (group normalisation):
        such a network gives each window size its own answer.
    """

    stride_px: int
    context_px: int
    local: bool = True


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "FlexUNet": flexunet.build_flexunet,
    "TensorFlowFlexUNet": flexunet.build_flexunet,
    **dict.fromkeys(DECODERS, build_encoder_decoder),
}
"""Builders of networks by the name `[model] model` gives."""

NOT_BUILT_HERE = tuple(name for name in NETWORK_NAMES if name not in NETWORKS)
"""The reference's other networks, known by name only."""


def network(name: str) -> Callable[..., keras.Model]:
    """Return the builder of the network of that name.

    Raises
    ------
    ConfigError
        When the name is the reference's but not built here, or nobody's.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    hint = f"networks built here: {', '.join(NETWORKS)}"
    if name in NOT_BUILT_HERE:
        raise ConfigError("[model] model", f"expected a network built here, got {name!r}, which is not", hint)
    raise ConfigError("[model] model", f"expected the name of a network, got {name!r}", hint)


def build_model(
    settings: ModelSettings, *, precision: str = "float32", seed: int | None = None
) -> keras.Model:
    """Build the network that a config describes.

    Parameters
    ----------
    settings : ModelSettings
        The ``[model]`` section.
    precision : {"float32", "mixed_float16", "mixed_bfloat16"}
        Keras dtype policy of the inner layers. The output is float32 under each.
    seed : int, optional
        Makes initial weights and dropout the same on every call; ``None`` draws from Keras' global seed.

    Returns
    -------
    keras.Model
        ``(N, H, W, C)`` uint8 or float in 0 to 255, H and W any multiple of the stride, to
        probabilities ``(N, H, W, K) float32``: softmax over K classes, or `final_activation` when K = 1.

    Raises
    ------
    ArgumentError
        When the settings are none of a model.
    ConfigError
        When the network is not built here or the settings contradict each other.
    """
    typed_argument("settings", settings, ModelSettings, "[model] of a config, as load_config(…).model")
    return network(settings.model)(settings, precision=precision, seed=seed)


def geometry(settings: ModelSettings) -> Geometry:
    """Compute stride and context of a config's network."""
    return _geometry(settings.model_copy(update=_NARROW))


_NARROW = {"base_filters": 1, "decoder_width": 8, "decoder_filters": (8,) * 5}
"""Neither stride nor context depends on widths."""


@cache
def _geometry(settings: ModelSettings) -> Geometry:
    built = build_model(settings)
    return Geometry(stride_px(built), context_px(built), local=settings.local)
