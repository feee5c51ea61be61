"""One harness over every network in the registry and every option that changes what is built."""

from __future__ import annotations

import json
from functools import cache

import keras
import numpy as np
import onnx
import pytest

from glomtile.config.schema import ModelSettings, TrainSettings
from glomtile.inference.predictor import openvino_forward
from glomtile.networks.decoders import DECODERS
from glomtile.networks.layers import ACTIVATIONS
from glomtile.networks.losses import build_loss
from glomtile.networks.metrics import build_metrics
from glomtile.networks.onnx import onnx_model
from glomtile.networks.optimizers import build_optimizer
from glomtile.networks.registry import NETWORKS, build_model, geometry

OPTIONS = {
    "plain": {},
    "group-norm": {"norm": "group", "norm_groups": 3},
    "bilinear": {"upsampling": "bilinear"},
    "residual-bilinear-group": {"residual": True, "upsampling": "bilinear", "norm": "group"},
    "residual-batch-dropout": {"residual": True, "norm": "batch", "dropout_rate": 0.05},
    "dilated": {"dilation": (3, 2), "base_kernels": (5, 3)},
    "even-kernels": {"base_kernels": (6, 4)},
    "sigmoid": {"num_classes": 1, "loss": "bce_dice_loss"},
    "sigmoid-ssim": {"num_classes": 1, "loss": "basnet_hybrid_loss", "input_normalize": False},
    "four-classes": {"num_classes": 4, "loss": "dice_crossentropy"},
    "one-level": {"num_layers": 1},
    "five-levels": {"num_layers": 5, "loss": "focal"},
    "grey-gelu": {"image_channels": 1, "activation": "gelu", "loss": "tversky"},
}
ENCODER_OPTIONS = {
    "encoder": {"decoder_filters": (16, 12, 8, 8, 8), "decoder_width": 8},
    "encoder-bilinear": {
        "decoder_upsampling": "bilinear",
        "decoder_filters": (8,) * 5,
        "num_classes": 1,
        "loss": "bce_dice_loss",
    },
    "encoder-lite1": {
        "encoder": "efficientnet-lite1",
        "decoder_width": 8,
        "num_classes": 4,
        "loss": "dice_crossentropy",
    },
}
CASES = [
    *((name, option) for name in NETWORKS for option in OPTIONS if name == "FlexUNet" or option == "plain"),
    *((name, "encoder") for name in DECODERS),
    ("UNet", "encoder-bilinear"),
    ("Linknet", "encoder-lite1"),
]
CASES = [case for case in CASES if case[0] not in DECODERS or case[1] != "plain"]
EXPORTED = [
    "residual-bilinear-group",
    "residual-batch-dropout",
    pytest.param("plain", marks=pytest.mark.slow),
    pytest.param("sigmoid", marks=pytest.mark.slow),
]
# Tracing a training step takes seconds; the other cases run layer by layer, where that is the quicker.
TRACED = ("residual-bilinear-group",) if keras.backend.backend() == "tensorflow" else tuple(OPTIONS)


def settings(name: str, option: str) -> ModelSettings:
    """A network small enough to train a step in a test."""
    small = {"model": name, "base_filters": 4, "num_layers": 3, "dropout_rate": 0.0, "learning_rate": 0.003}
    return ModelSettings(**small | (OPTIONS | ENCODER_OPTIONS)[option])


@cache
def network(name: str, option: str) -> keras.Model:
    """Built once for the tests that only look."""
    return build_model(settings(name, option), seed=7)


def answer(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=False))


def pictures(asked: ModelSettings, size: tuple[int, int], samples: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on dark noise, and their labels."""
    rng = np.random.default_rng(11)
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = np.zeros((samples, *size), "uint8")
    for i in range(samples):
        for k in range(1, max(2, asked.num_classes)):
            centre = rng.uniform(0, 1, 2) * size
            labels[i][np.hypot(rows - centre[0], columns - centre[1]) < min(size) / 4] = k
    images = rng.integers(0, 90, (*labels.shape, asked.image_channels)) + 50 * labels[..., None].clip(0, 3)
    return images.astype("uint8"), labels


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request):
    return request.param


def test_probabilities_have_the_images_size_at_every_multiple_of_the_stride(case):
    asked, model = settings(*case), network(*case)
    stride = geometry(asked).stride_px
    for size in ((stride, stride), (3 * stride, stride), (5 * stride, 7 * stride)):
        images, _ = pictures(asked, size)
        probs = answer(model, images)
        assert probs.shape == (2, *size, asked.num_classes)
        assert probs.dtype == np.float32
        assert probs.min() >= 0
        assert probs.max() <= 1
        if asked.num_classes > 1:
            np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


def test_grey_levels_give_the_same_as_bytes_and_as_floats(case):
    images, _ = pictures(settings(*case), (32, 64))
    model = network(*case)
    np.testing.assert_array_equal(answer(model, images), answer(model, images.astype("float32")))


def test_a_shift_by_the_stride_shifts_the_answer(case):
    asked, model = settings(*case), network(*case)
    known = geometry(asked)
    if not known.local:
        pytest.skip("normalises over the window: another window, another answer")
    stride, reach = known.stride_px, -(-known.context_px // known.stride_px) * known.stride_px
    # Few columns: both windows have the same ones, so they may differ by their rows only.
    images, _ = pictures(asked, (2 * reach + 3 * stride, 2 * stride), samples=1)
    whole, shifted = answer(model, images), answer(model, images[:, stride:])
    np.testing.assert_allclose(
        whole[:, reach + stride : reach + 2 * stride], shifted[:, reach : reach + stride], atol=1e-5
    )


def test_the_same_seed_builds_the_same_network_and_another_does_not(case):
    asked = settings(*case)
    first = network(*case).get_weights()
    second, other = (build_model(asked, seed=seed).get_weights() for seed in (7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_saved_network_loads_in_safe_mode_and_answers_the_same(case, tmp_path):
    images, _ = pictures(settings(*case), (64, 32))
    network(*case).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(answer(loaded, images), answer(network(*case), images))


def test_a_network_comes_back_from_its_config(case):
    model = network(*case)
    config = model.get_config()
    again = keras.Model.from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config(), sort_keys=True) == json.dumps(config, sort_keys=True)
    again.set_weights(model.get_weights())
    images, _ = pictures(settings(*case), (32, 32))
    np.testing.assert_array_equal(answer(again, images), answer(model, images))


def test_a_step_lowers_the_loss_of_its_own_batch(case):
    asked = settings(*case)
    model = build_model(asked, seed=7)
    model.compile(
        build_optimizer(asked, TrainSettings(), 1),
        build_loss(asked),
        metrics=build_metrics(asked, ["dice_coef_multiclass", "foreground_dice"]),
        run_eagerly=case[1] not in TRACED,
        jit_compile=keras.backend.backend() == "jax",
    )
    images, labels = pictures(asked, (32, 32), samples=3)
    labels[0, :3] = 255
    losses = []
    for _ in range(4):
        model.reset_metrics()
        figures = model.train_on_batch(images, labels, return_dict=True)
        losses.append(float(figures["loss"]))
        assert 0 <= float(figures["foreground_dice"]) <= 1
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("option", ["plain", "residual-bilinear-group"])
def test_mixed_precision_keeps_the_answer_in_float32(option, precision):
    asked = settings("FlexUNet", option)
    exact, mixed = network("FlexUNet", option), build_model(asked, precision=precision, seed=7)
    assert mixed.get_layer("down0_conv1").compute_dtype == precision.removeprefix("mixed_")
    assert mixed.get_layer("down0_conv1").kernel.dtype == "float32"
    images, _ = pictures(asked, (32, 32))
    probs = answer(mixed, images)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    # Eight bits of mantissa through a dozen layers of random weights: close in the mean, not in every pixel.
    assert np.abs(probs - answer(exact, images)).mean() < 0.02


def test_a_network_as_onnx_answers_the_same_at_any_size(case, tmp_path):
    asked, model = settings(*case), network(*case)
    stride = geometry(asked).stride_px
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model(model).SerializeToString())
    onnx.checker.check_model(path, full_check=True)
    forward, channels, outputs = openvino_forward(path)
    assert (channels, outputs) == (asked.image_channels, asked.num_classes)
    for rows, columns in ((1, 1), (3, 5), (7, 2)):
        images, _ = pictures(asked, (rows * stride, columns * stride))
        np.testing.assert_allclose(forward(images), answer(model, images), atol=1e-4)


def test_every_activation_a_setting_may_name_has_its_onnx():
    for name in ACTIVATIONS:
        model = build_model(ModelSettings(num_layers=1, base_filters=2, activation=name), seed=1)
        onnx.checker.check_model(onnx_model(model), full_check=True)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="SavedModel is TensorFlow's own format")
@pytest.mark.parametrize("option", EXPORTED)
def test_an_exported_network_takes_any_size(option, tmp_path):
    import tensorflow as tf

    asked, model = settings("FlexUNet", option), network("FlexUNet", option)
    model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    for size in ((16, 16), (48, 32), (8, 88)):
        images = pictures(asked, size, samples=1)[0].astype("float32")
        np.testing.assert_allclose(exported.serve(images).numpy(), answer(model, images), atol=1e-5)
