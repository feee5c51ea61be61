from __future__ import annotations

import keras
import numpy as np
import pytest

from glomtile.config.schema import TrainSettings
from glomtile.networks.optimizers import OPTIMIZERS, build_optimizer


def rate(optimizer, step) -> float:
    optimizer.iterations.assign(step)
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_constant_rate_can_be_lowered_by_hand(name, small):
    optimizer = build_optimizer(small(optimizer=name, learning_rate=0.25), TrainSettings(), 10)
    assert rate(optimizer, 500) == 0.25
    optimizer.learning_rate = 0.125
    assert rate(optimizer, 0) == 0.125


def test_a_cosine_falls_from_the_peak_to_one_percent(small):
    train = TrainSettings(schedule="cosine", epochs=4)
    optimizer = build_optimizer(small(learning_rate=0.1), train, 25)
    assert rate(optimizer, 0) == pytest.approx(0.1)
    assert rate(optimizer, 50) == pytest.approx(0.1 * (0.99 * 0.5 + 0.01))
    assert rate(optimizer, 100) == pytest.approx(0.001)
    assert rate(optimizer, 1000) == pytest.approx(0.001)


def test_a_warm_up_rises_in_a_line_and_never_stands_at_nothing(small):
    train = TrainSettings(schedule="cosine", epochs=10, warmup_epochs=2.5)
    optimizer = build_optimizer(small(learning_rate=0.1), train, 4)
    rates = np.array([rate(optimizer, step) for step in range(41)])
    assert rates[0] > 0
    np.testing.assert_allclose(np.diff(rates[:11]), np.diff(rates[:11])[0], rtol=1e-4)
    assert rates.argmax() == 10
    assert rates[10] == pytest.approx(0.1)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1), (2, 5)])
def test_a_warm_up_as_long_as_the_training_still_trains(epochs, warmup, small):
    train = TrainSettings(schedule="cosine", epochs=epochs, warmup_epochs=warmup)
    optimizer = build_optimizer(small(learning_rate=0.1), train, 3)
    assert np.isfinite([rate(optimizer, step) for step in range(3 * epochs + 1)]).all()


def test_a_norm_to_clip_to_takes_the_place_of_a_value(small):
    by_value = build_optimizer(small(clipvalue=0.5), TrainSettings(), 1)
    by_norm = build_optimizer(small(clipvalue=0.5, clipnorm=2.0), TrainSettings(), 1)
    neither = build_optimizer(small(clipvalue=0.0), TrainSettings(), 1)
    assert [(o.clipvalue, o.clipnorm) for o in (by_value, by_norm, neither)] == [
        (0.5, None),
        (None, 2.0),
        (None, None),
    ]


def test_averaging_of_weights_is_on_only_when_asked(small):
    plain = build_optimizer(small(), TrainSettings(), 1)
    averaged = build_optimizer(small(), TrainSettings(ema_decay=0.9), 1)
    assert (plain.use_ema, averaged.use_ema, averaged.ema_momentum) == (False, True, 0.9)
    assert averaged.ema_overwrite_frequency is None


def test_weight_decay_spares_biases_and_norms(small):
    settings = small(optimizer="AdamW", weight_decay=0.5, learning_rate=0.5, norm="batch")
    optimizer = build_optimizer(settings, TrainSettings(), 1)
    layer = keras.layers.Conv2D(2, 3, bias_initializer="ones")
    norm = keras.layers.BatchNormalization()
    layer.build((None, 8, 8, 1))
    norm.build((None, 8, 8, 2))
    weights = [*layer.trainable_variables, *norm.trainable_variables]
    before = [keras.ops.convert_to_numpy(w).copy() for w in weights]
    optimizer.apply([keras.ops.zeros(w.shape) for w in weights], weights)
    after = [keras.ops.convert_to_numpy(w) for w in weights]
    np.testing.assert_allclose(after[0], 0.75 * before[0], rtol=1e-5)
    for was, now in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(now, was)
