"""Average of several networks as one network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

from glomtile.networks.layers import HEAD

_MEMBER = "member{number}_{layer}"


def mean_network(networks: Sequence[keras.Model]) -> keras.Model:
    """One functional network of the layers of several, with copies of their weights.

    Parameters
    ----------
    networks : sequence of keras.Model
        Two or more, of the same input and output shapes, as `nets.registry.build_model` makes them.

    Returns
    -------
    keras.Model
        ``(N, H, W, C)`` to the mean of their probabilities, ``(N, H, W, K) float32``. Its layers are not
        nested, so that whatever goes through a network's layers can go through these.

    Notes
    -----
    Networks that were trained apart err apart: the mean of their probabilities is better than they are on
    average (Lakshminarayanan et al. 2017, arXiv 1612.01474).
    """
    first = networks[0]
    image = keras.Input(first.input_shape[1:], dtype=first.input.dtype, name=first.input.name)
    answers = []
    for number, network in enumerate(networks, 1):
        member = keras.models.clone_model(network, image, _renaming(number))
        member.set_weights(network.get_weights())
        answers.append(member.output)
    probs = keras.layers.Average(dtype="float32", name="mean")(answers)
    return keras.Model(image, probs, name=first.name)


def is_head(layer: str) -> bool:
    """Whether a layer of that name is the head of a network, or of a member of an ensemble."""
    return re.fullmatch(_MEMBER.format(number=r"\d+", layer=HEAD) + f"|{HEAD}", layer) is not None


def _renaming(number: int) -> Any:
    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        facts = layer.get_config() | {"name": _MEMBER.format(number=number, layer=layer.name)}
        return type(layer).from_config(facts)

    return copied
