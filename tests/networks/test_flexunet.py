from __future__ import annotations

import keras
import numpy as np
import pytest

from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError
from glomtile.networks.flexunet import levels
from glomtile.networks.profiling import layer_costs, training_bytes
from glomtile.networks.registry import build_model, geometry

REFERENCE = ModelSettings(base_filters=16, base_kernels=(11, 11), num_layers=8, dropout_rate=0.05)


@pytest.fixture(scope="module")
def reference():
    """The reference's network for glomeruli; half a gigabyte, so built once, and of zeros."""
    with pytest.MonkeyPatch.context() as patch:
        zeros = keras.initializers.Zeros()
        patch.setattr(
            keras.initializers.HeNormal, "__call__", lambda _, shape, dtype=None: zeros(shape, dtype)
        )
        return build_model(REFERENCE)


def convolutions(model):
    return {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}


def test_the_reference_network_has_the_references_parameters(reference):
    assert reference.count_params() == 126_809_218


def test_its_kernels_shrink_by_two_and_the_decoder_mirrors_them(reference):
    down, up = ([f"down{i}" for i in range(7)] + ["bridge"], [f"up{i}" for i in range(7)])
    layers = convolutions(reference)
    sides = [11, 9, 7, 5, 3, 3, 3, 3]
    for part in ("conv1", "conv2"):
        assert [layers[f"{name}_{part}"].kernel_size[0] for name in down] == sides
        assert [layers[f"{name}_{part}"].kernel_size[0] for name in up] == sides[:7]
        assert [layers[f"{name}_{part}"].filters for name in down] == [16 * 2**i for i in range(8)]
        assert [layers[f"{name}_{part}"].filters for name in up] == [16 * 2**i for i in range(7)]


def test_its_dropout_grows_with_the_level_and_is_not_built_where_it_is_nothing(reference):
    rates = {layer.name: layer.rate for layer in reference.layers if isinstance(layer, keras.layers.Dropout)}
    expected = {f"{side}{i}_dropout": 0.05 * i for side in ("down", "up") for i in range(1, 7)}
    assert rates == pytest.approx(expected | {"bridge_dropout": 0.35})


def test_its_convolutions_are_activated_and_begin_as_he_normal(reference):
    layers = convolutions(reference)
    inner = [layer for name, layer in layers.items() if name[-5:] in ("conv1", "conv2")]
    assert {layer.activation.__name__ for layer in inner} == {"relu"}
    assert {type(layer.kernel_initializer).__name__ for layer in inner} == {"HeNormal"}


def test_a_convolution_begins_with_the_spread_he_et_al_give_it(small):
    model = build_model(small(base_filters=32, base_kernels=(5, 5)))
    kernel = keras.ops.convert_to_numpy(convolutions(model)["down0_conv2"].kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (5 * 5 * 32)), rel=0.03)


def test_a_tile_takes_it_about_180_gflop(reference):
    costs = layer_costs(reference, (512, 512))
    assert sum(cost.flop for cost in costs) == pytest.approx(180e9, rel=0.03)
    assert sum(cost.parameters for cost in costs) == 126_809_218
    # Weights, gradients and Adam's two moments alone are 1.9 GiB.
    assert training_bytes(reference, (512, 512), batch_size=2) > 2 * 2**30


def test_its_geometry_is_known_without_building_it():
    assert geometry(REFERENCE).stride_px == 128
    assert geometry(REFERENCE).context_px == 995


def test_dilation_falls_by_one_a_level_for_each_axis(small):
    assert [level.dilation for level in levels(small(dilation=(3, 2), num_layers=4))] == [
        (3, 2),
        (2, 1),
        (1, 1),
        (1, 1),
    ]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [((7, 5), [(7, 5), (5, 3), (3, 3)]), ((4, 4), [(4, 4), (3, 3), (3, 3)]), ((1, 1), [(1, 1)] * 3)],
)
def test_kernels_fall_by_two_a_level_but_not_below_three(kernel, expected, small):
    assert [level.kernel for level in levels(small(base_kernels=kernel))] == expected


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"normalization": True}, keras.layers.BatchNormalization),
        ({"norm": "batch"}, keras.layers.BatchNormalization),
        ({"norm": "group"}, keras.layers.GroupNormalization),
    ],
)
def test_a_normalisation_follows_every_convolution_of_a_block(changes, kind, small):
    layers = build_model(small(**changes)).layers
    norms = [layer.name for layer in layers if isinstance(layer, kind)]
    assert len(norms) == 2 * 5
    assert layers[[layer.name for layer in layers].index("down1_norm2") - 1].name == "down1_conv2"


def test_dropout_that_would_drop_everything_is_refused(small):
    with pytest.raises(ConfigError, match=r"dropout_rate \* \(num_layers - 1\) in \[0, 1\), got 0.5 \* 2"):
        build_model(small(dropout_rate=0.5))


def test_an_activation_is_known_in_any_spelling_and_others_are_refused(small):
    for spelling, name in (("ReLU", "relu"), ("LeakyReLU", "leaky_relu"), ("GELU", "gelu")):
        model = build_model(small(activation=spelling))
        assert convolutions(model)["down0_conv1"].activation.__name__ == name
    with pytest.raises(ConfigError, match=r"\[model\] activation: expected one of .*relu.*got 'snake'"):
        build_model(small(activation="snake"))


def test_the_fixed_dropout_seed_is_the_references(small):
    seeds = {
        layer.seed
        for layer in build_model(small(dropout_rate=0.1, dropout_seed_fixing=True), seed=5).layers
        if isinstance(layer, keras.layers.Dropout)
    }
    assert seeds
    assert all(137 <= seed < 237 for seed in seeds)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 1},
        {"num_layers": 2, "base_kernels": (5, 5)},
        {"num_layers": 3},
        {"num_layers": 4},
        {"num_layers": 3, "upsampling": "bilinear", "residual": True, "base_kernels": (5, 5)},
        {"num_layers": 3, "base_kernels": (5, 5), "dilation": (3, 3)},
        {"num_layers": 3, "base_kernels": (7, 3), "dilation": (1, 2)},
        {"num_layers": 2, "base_kernels": (4, 4)},
        {"num_layers": 2, "base_kernels": (1, 1), "upsampling": "bilinear"},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()),
)
def test_the_context_is_exactly_how_far_a_pixel_reaches(changes, small):
    settings = small(
        **changes, base_filters=1, image_channels=1, input_normalize=False, final_activation="linear"
    )
    known = geometry(settings)
    assert _reach(settings, known.stride_px, known.context_px) == known.context_px


def _reach(settings: ModelSettings, stride: int, expected: int) -> int:
    """How far one lit pixel shows, at most over its places within the stride.

    With weights above zero nothing can cancel, and with one lit pixel no pooling hides it.
    """
    model = build_model(settings)
    for variable in model.trainable_variables:
        kernel = variable.path.endswith("kernel")
        variable.assign(keras.ops.full(variable.shape, 0.3) if kernel else keras.ops.zeros(variable.shape))
    logits = keras.Model(model.input, model.get_layer("logits").output)
    centre = -(-(expected + 2) // stride) * stride
    side = 2 * centre + stride
    reach = 0
    for phase in range(stride):
        lit = np.zeros((2, side, side, 1), "float32")
        at = centre + phase
        # The second picture is dark: what it shows is not the pixel's doing.
        lit[0, at, at] = 1
        shown = keras.ops.convert_to_numpy(logits(lit, training=False))
        rows, columns = np.nonzero((shown[0] != shown[1]).any(-1))
        reach = max(reach, abs(rows - at).max(), abs(columns - at).max())
    return reach
