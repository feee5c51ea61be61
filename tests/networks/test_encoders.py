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


def two_layers() -> tuple[keras.Model, list[keras.Variable]]:
    """One layer of an encoder and one behind it, of one weight each."""
    image = keras.Input((1,))
    x = keras.layers.Dense(1, use_bias=False, name="encoder_block0_expand")(image)
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False, name="decoder0_conv1")(x))
    return model, model.trainable_variables


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_an_encoder_is_trained_later_and_more_slowly(optimizer):
    _, variables = two_layers()
    settings = ModelSettings(
        model="UNet", optimizer=optimizer, learning_rate=0.1, clipvalue=None, weight_decay=0.5
    )
    train = TrainSettings(encoder_learning_rate_factor=0.5, freeze_encoder_epochs=1)
    made = build_optimizer(settings, train, steps_per_epoch=2)
    made.build(variables)
    values = [np.array([keras.ops.convert_to_numpy(v)[0, 0] for v in variables])]
    for _ in range(3):
        made.apply([keras.ops.ones((1, 1))] * 2, variables)
        values.append(np.array([keras.ops.convert_to_numpy(v)[0, 0] for v in variables]))
    encoder, decoder = np.diff(values, axis=0).T
    np.testing.assert_array_equal(encoder[:2], 0)
    assert encoder[2] < 0
    if optimizer == "SGD":
        assert encoder[2] == pytest.approx(0.5 * decoder[0], rel=1e-4)
    assert (decoder < 0).all()


def test_an_optimizer_of_another_network_has_one_learning_rate():
    _, variables = two_layers()
    train = TrainSettings(encoder_learning_rate_factor=0.5, freeze_encoder_epochs=1)
    made = build_optimizer(ModelSettings(optimizer="SGD", clipvalue=None), train, 2)
    before = [keras.ops.convert_to_numpy(v).copy() for v in variables]
    made.apply([keras.ops.ones((1, 1))] * 2, variables)
    after = [keras.ops.convert_to_numpy(v) for v in variables]
    steps = [float((b - a)[0, 0]) for a, b in zip(before, after, strict=True)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)
