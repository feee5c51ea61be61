"""Encoders: widths, frozen layers, and a learning rate of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from glomtile.config.schema import ENCODER_NAMES, ENCODER_STRIDE_PX, ModelSettings, TrainSettings
from glomtile.networks.decoders import DECODERS
from glomtile.networks.encoders import ENCODERS, block_widths, freeze_encoder
from glomtile.networks.optimizers import build_optimizer
from glomtile.networks.registry import build_model, geometry


def test_the_config_names_the_encoders_that_there_are():
    assert tuple(ENCODERS) == ENCODER_NAMES


def test_the_stages_of_lite2_are_those_of_the_paper():
    assert [(stage.blocks, stage.channels) for stage in block_widths(2)] == [
        (1, 16), (3, 24), (3, 48), (4, 88), (4, 120), (5, 208), (1, 352),
    ]  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
def test_every_side_of_the_configs_stride_fits(name):
    assert ENCODER_STRIDE_PX % geometry(ModelSettings(model=name)).stride_px == 0


def test_frozen_blocks_and_batch_norm_have_no_trainable_weights():
    model = build_model(ModelSettings(model="Linknet", decoder_width=8), seed=1)
    freeze_encoder(model, 2, batch_norm=True)
    trained = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert not {
        name for name in trained if name.startswith(("encoder_stem", "encoder_block0", "encoder_block1_"))
    }
    assert not {name for name in trained if name.startswith("encoder_") and name.endswith("_norm")}
    assert {"encoder_block2_project", "encoder_block10_expand", "decoder0_reduce_norm", "logits"} <= trained


def test_nothing_is_frozen_unless_it_is_set():
    model = build_model(ModelSettings(model="Linknet", decoder_width=8), seed=1)
    before = len(model.trainable_variables)
    freeze_encoder(model, 0, batch_norm=False)
    assert len(model.trainable_variables) == before


def two_layers() -> list[keras.Variable]:
    """The weights of one layer of an encoder and one behind it."""
    image = keras.Input((1,))
    x = keras.layers.Dense(1, use_bias=False, name="encoder_block0_expand")(image)
    return keras.Model(
        image, keras.layers.Dense(1, use_bias=False, name="decoder0_conv1")(x)
    ).trainable_variables


def changes(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], steps: int) -> np.ndarray:
    """Changes of both weights in each step with gradients of 1."""
    optimizer.build(variables)
    values = [[float(keras.ops.convert_to_numpy(v)[0, 0]) for v in variables]]
    for _ in range(steps):
        optimizer.apply([keras.ops.ones((1, 1))] * 2, variables)
        values.append([float(keras.ops.convert_to_numpy(v)[0, 0]) for v in variables])
    return np.diff(values, axis=0).T


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_an_encoder_is_trained_later_and_more_slowly(optimizer):
    variables = two_layers()
    settings = ModelSettings(
        model="UNet", optimizer=optimizer, learning_rate=0.1, clipvalue=None, weight_decay=0.5
    )
    train = TrainSettings(encoder_learning_rate_factor=0.5, freeze_encoder_epochs=1)
    encoder, decoder = changes(build_optimizer(settings, train, 2, variables[:1]), variables, 3)
    np.testing.assert_array_equal(encoder[:2], 0)
    assert encoder[2] < 0
    if optimizer == "SGD":
        assert encoder[2] == pytest.approx(0.5 * decoder[0], rel=1e-4)
    assert (decoder != 0).all()


def test_random_weights_have_one_learning_rate():
    train = TrainSettings(encoder_learning_rate_factor=0.5, freeze_encoder_epochs=1)
    settings = ModelSettings(model="UNet", optimizer="SGD", learning_rate=0.1, clipvalue=None)
    encoder, decoder = changes(build_optimizer(settings, train, 2), two_layers(), 1)
    assert encoder[0] == pytest.approx(decoder[0], rel=1e-4)


def test_dilation_in_place_of_a_stride_keeps_the_features():
    """At stride 16 every second feature is the one of stride 32, away from the border."""
    images = np.random.default_rng(3).integers(0, 256, (1, 512, 512, 3)).astype("float32")
    last = f"encoder_block{ENCODERS['efficientnet-lite0'].blocks - 1}_project_norm"
    features = []
    for name in ("Linknet", "DeepLabV3Plus"):
        model = build_model(ModelSettings(model=name), seed=5)
        found = keras.Model(model.input, model.get_layer(last).output)(images, training=False)
        features.append(keras.ops.convert_to_numpy(found))
    coarse, fine = features
    inner = slice(6, -6)
    np.testing.assert_allclose(fine[:, 1::2, 1::2][:, inner, inner], coarse[:, inner, inner], atol=1e-4)
