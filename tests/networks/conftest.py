"""A small network's settings, and gradients on whichever backend runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from glomtile.config.schema import ModelSettings


@pytest.fixture
def small() -> Callable[..., ModelSettings]:
    """Settings of a network of three narrow levels, changed as asked."""

    def make(**changes: Any) -> ModelSettings:
        return ModelSettings(**{"base_filters": 4, "num_layers": 3, "dropout_rate": 0.0, **changes})

    return make


@pytest.fixture(scope="session")
def gradient() -> Callable[[Callable[[Any], Any], np.ndarray], np.ndarray]:
    """The backend's gradient of a scalar function of one array."""
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]


def _tensorflow(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    value = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(value)
        loss = function(value)
    return np.asarray(tape.gradient(loss, value))


def _jax(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    import jax

    return np.asarray(jax.grad(function)(x))


def _torch(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    import torch

    value = torch.tensor(x, requires_grad=True)
    function(value).backward()
    return value.grad.numpy()
