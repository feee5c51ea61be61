"""An equivariant network turns its answer with its image, before, during and after training."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from glomtile.errors import ConfigError
from glomtile.nets.blocks import JointBatchNormalization
from glomtile.nets.equivariance import Tied, TiedInitializer, orbits, pooled
from glomtile.nets.registry import build_model

IMAGES = np.random.default_rng(5).integers(0, 256, (2, 32, 24, 3)).astype("uint8")


def turned(images: np.ndarray, quarters: int) -> np.ndarray:
    return np.rot90(images, quarters, axes=(1, 2))


def array(tensor: object) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def shake(model: keras.Model) -> None:
    """Weights and statistics as if trained, tied as constraints tie them."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        value = array(variable) + rng.normal(0, 0.1, variable.shape)
        variable.assign(value)
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


OPTIONS = {
    "plain": {},
    "batch": {"norm": "batch"},
    "residual-bilinear": {"norm": "batch", "residual": True, "upsampling": "bilinear"},
    "wide-kernels": {"base_kernels": (7, 7), "dilation": (2, 2), "num_classes": 1},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_answer_turns_with_the_image(option, small):
    settings = small(equivariance="rotations", dropout_rate=0.0, **OPTIONS[option])
    model = build_model(settings, seed=1, to_train=True)
    shake(model)
    model(IMAGES, training=True)  # statistics of their own
    saved = build_model(settings, seed=2)
    saved.set_weights(model.get_weights())
    for network in (model, saved):
        straight = array(network(IMAGES))
        assert straight.std() > 0.01
        for quarters in (1, 2, 3):
            np.testing.assert_allclose(
                array(network(turned(IMAGES, quarters))), turned(straight, quarters), atol=2e-5
            )


def test_a_plain_network_does_not_turn(small):
    model = build_model(small(), seed=1)
    straight = array(model(IMAGES))
    assert np.abs(array(model(turned(IMAGES, 1))) - turned(straight, 1)).max() > 0.01


def test_statistics_in_training_turn_too(small):
    model = build_model(small(equivariance="rotations", norm="batch"), seed=1, to_train=True)
    shake(model)
    straight = array(model(IMAGES, training=True))
    np.testing.assert_allclose(array(model(turned(IMAGES, 1), training=True)), turned(straight, 1), atol=2e-5)


def test_what_is_saved_is_made_of_keras_own_layers(small):
    settings = small(equivariance="rotations", norm="batch")
    saved = build_model(settings)
    assert not any(variable.constraint for variable in saved.trainable_variables)
    assert not any(isinstance(layer, JointBatchNormalization) for layer in saved.layers)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 3, 8, 12), (True, True)), ((5, 5, 3, 8), (False, True)), ((1, 1, 8, 2), (True, False)),
     ((2, 2, 4, 8), (True, True)), ((8,), (True,))],
)  # fmt: skip
def test_orbits_part_a_weight_into_fours(shape, axes):
    members, owner = orbits(shape, axes)
    assert sorted(members.ravel()) == list(range(int(np.prod(shape))))
    assert members.shape == (np.prod(shape) // 4, 4)
    for row, places in enumerate(members):
        assert (owner.ravel()[places] == row).all()


def test_tying_is_a_projection():
    weight = np.random.default_rng(0).normal(size=(3, 3, 8, 4)).astype("float32")
    tie = Tied(True, True)
    once = array(tie(weight))
    np.testing.assert_allclose(array(tie(once)), once, atol=1e-7)
    # what is taken away is at right angles to all that may stay
    other = array(tie(np.random.default_rng(1).normal(size=weight.shape).astype("float32")))
    assert abs(float(((weight - once) * other).sum())) < 1e-4


def test_weights_begin_with_the_spread_they_would_have():
    draw = TiedInitializer(keras.initializers.RandomNormal(0, 0.5, seed=4), True, True)
    weight = array(draw((3, 3, 64, 64), "float32"))
    assert weight.std() == pytest.approx(0.5, rel=0.03)
    assert weight.mean() == pytest.approx(0, abs=0.02)


def test_the_statistics_of_a_field_are_those_of_its_channels_together():
    x = np.random.default_rng(2).normal(size=(50, 8)).astype("float32") * np.arange(1, 9) + np.arange(8)
    mean, variance = pooled(x.mean(0), x.var(0))
    for field in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(array(mean)[field], x[:, field].mean(), rtol=1e-5)
        np.testing.assert_allclose(array(variance)[field], x[:, field].var(), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_filters": 6}, "base_filters to be a multiple of 4, got 6"),
        ({"base_kernels": (5, 3)}, r"base_kernels to give an odd square, got \(5, 3\) at level 0"),
        ({"base_kernels": (4, 4)}, r"base_kernels to give an odd square, got \(4, 4\) at level 0"),
        ({"dilation": (2, 1)}, r"dilation to give equal steps, got \(2, 1\) at level 0"),
        ({"norm": "group"}, 'norm = "batch" or "none", got "group"'),
    ],
)
def test_what_cannot_turn_is_refused(changes, message, small):
    with pytest.raises(ConfigError, match=message):
        build_model(small(equivariance="rotations", **changes))
