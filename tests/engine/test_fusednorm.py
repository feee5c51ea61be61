"""The fused forward pass of training gives what Keras' own gives, and the files are the same."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from glomtile.engine.fusednorm import fuse_norms

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow has the fused kernel"
)


def small_network() -> keras.Model:
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(5, 3, padding="same", kernel_initializer=keras.initializers.HeNormal(1))(image)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.Conv2D(2, 1, kernel_initializer=keras.initializers.HeNormal(2), activation="relu")(x)
    return keras.Model(image, keras.layers.BatchNormalization(momentum=0.8, name="last")(x))


def steps(model: keras.Model, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(count):
        image = rng.normal(2, 3, (2, 7, 9, 3)).astype("float32")
        model.train_on_batch(image, rng.normal(0, 1, (2, 7, 9, 2)).astype("float32"))
    return [np.array(w) for w in model.get_weights()]


def test_training_by_the_kernel_equals_training_by_keras() -> None:
    plain, fused = small_network(), small_network()
    assert fuse_norms(fused) == 2
    before = [np.array(w) for w in fused.get_weights()]
    for ours, theirs, first in zip(steps(fused, 4), steps(plain, 4), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
        assert not np.array_equal(ours, first)


def test_what_is_saved_is_a_plain_network(tmp_path: Path) -> None:
    fused = small_network()
    fuse_norms(fused)
    steps(fused, 1)
    fused.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    image = np.random.default_rng(1).normal(0, 1, (1, 8, 8, 3)).astype("float32")
    assert type(loaded.get_layer("norm")) is keras.layers.BatchNormalization
    np.testing.assert_array_equal(loaded(image), fused(image))


def test_frozen_layers_keep_their_averages() -> None:
    fused = small_network()
    fuse_norms(fused)
    layer = fused.get_layer("norm")
    layer.trainable = False
    before = np.array(layer.moving_mean)
    steps(fused, 2)
    np.testing.assert_array_equal(np.array(layer.moving_mean), before)


def test_other_axes_are_left_alone() -> None:
    image = keras.Input((6, 5, 3))
    assert fuse_norms(keras.Model(image, keras.layers.BatchNormalization(axis=1)(image))) == 0
