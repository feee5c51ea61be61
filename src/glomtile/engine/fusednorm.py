"""Batch normalisation in one kernel while training on TensorFlow.

Keras composes it of many passes over the activations, forward and back; TensorFlow's own kernel takes a few.
In a small network at full resolution the difference is a quarter of a step (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def fuse_norms(model: keras.Model) -> int:
    """Let the batch normalisations of a model learn by TensorFlow's kernel; elsewhere nothing changes.

    Parameters
    ----------
    model : keras.Model
        Not called in training yet. Layers stay what they are, in a saved file too: only the forward pass of
        training is another, equal up to rounding. Layers over another axis than the last are left alone.

    Returns
    -------
    int
        How many layers were changed.
    """
    if keras.backend.backend() != "tensorflow":
        return 0
    norms = [
        layer
        for layer in model.layers
        if type(layer) is keras.layers.BatchNormalization
        and layer.axis in (-1, 3)
        and layer.center
        and layer.scale
        and not layer.synchronized
    ]
    for layer in norms:
        layer.call = _fused(layer, layer.call)
    return len(norms)


def _fused(layer: keras.layers.BatchNormalization, plain: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training or not layer.trainable or mask is not None or len(inputs.shape) != 4:
            return plain(inputs, training=training, mask=mask)
        answer, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(layer.gamma, tf.float32),
            offset=tf.cast(layer.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=layer.epsilon,
            is_training=True,
        )
        # The kernel divides its variance by n - 1, Keras by n.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        biased = variance * (count - 1.0) / count
        for average, value in ((layer.moving_mean, mean), (layer.moving_variance, biased)):
            average.assign(average * layer.momentum + value * (1.0 - layer.momentum))
        return answer

    return call
