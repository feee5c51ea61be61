"""The reference's weight files become model folders that answer the same; what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from glomtile.cli.main import run
from glomtile.config.load import load_config
from glomtile.errors import ModelError, UsageError
from glomtile.models.folder import load_model_folder, read_card
from glomtile.models.import_weights import import_weights

CONFIG = """
[model]
model = "TensorFlowFlexUNet"
image_width = 64
image_height = 64
image_channels = 3
input_normalize = True
normalization = {normalization}
num_classes = {num_classes}
base_filters = {base_filters}
base_kernels = (5,5)
num_layers = {num_layers}
dropout_rate = 0.05
dilation = (1,1)
[mask]
rgb_map = {{(0,0,0):0,(255,0,0):1,}}
"""


def config(folder: Path, **settings: Any) -> Path:
    chosen = {"normalization": False, "num_classes": 2, "base_filters": 4, "num_layers": 3, **settings}
    path = folder / "train_eval_infer.config"
    path.write_text(CONFIG.format(**chosen), "utf-8")
    return path


def other_unet(normalization: bool = False, num_classes: int = 2) -> keras.Model:
    """A U-Net of the same plan by another hand: three levels, 4 filters, kernels 5, 3, 3, a Lambda ahead."""
    layers = keras.layers
    keras.utils.set_random_seed(4)

    def twice(x: Any, filters: int, kernel: int, dropout: float) -> Any:
        for turn in range(2):
            x = layers.Conv2D(
                filters, (kernel, kernel), activation="relu", padding="same", kernel_initializer="he_normal"
            )(x)
            if normalization:
                x = layers.BatchNormalization()(x)
            if turn == 0:
                x = layers.Dropout(dropout)(x)
        return x

    inputs = layers.Input((64, 64, 3))
    x = layers.Lambda(lambda values: values / 255)(inputs)
    first = twice(x, 4, 5, 0.0)
    second = twice(layers.MaxPooling2D()(first), 8, 3, 0.05)
    x = twice(layers.MaxPooling2D()(second), 16, 3, 0.1)
    for filters, kernel, skip, dropout in ((8, 3, second, 0.05), (4, 5, first, 0.0)):
        x = layers.Conv2DTranspose(filters, (2, 2), strides=(2, 2), padding="same")(x)
        x = twice(layers.concatenate([x, skip]), filters, kernel, dropout)
    outputs = layers.Conv2D(num_classes, (1, 1), activation="softmax" if num_classes > 1 else "sigmoid")(x)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(4)
    # Running averages of a fresh network are all 0 and 1: of no use to tell a mix-up by.
    model.set_weights(
        [w + rng.uniform(0.05, 0.4, w.shape).astype(w.dtype) * (w.ndim == 1) for w in model.get_weights()]
    )
    return model


def write_weights(model: keras.Model, path: Path, kind: str) -> Path:
    if kind == "whole model":
        model.save(path)
    else:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, model)
    return path


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("kind", ["whole model", "weights alone"])
@pytest.mark.parametrize(("normalization", "num_classes"), [(False, 2), (True, 2), (True, 1)])
def test_imported_weights_answer_as_the_network_they_come_from(
    tmp_path: Path, kind: str, normalization: bool, num_classes: int
) -> None:
    theirs = other_unet(normalization, num_classes)
    weights = write_weights(theirs, tmp_path / "best_model.h5", kind)
    told = config(tmp_path, normalization=normalization, num_classes=num_classes)
    out = import_weights(weights, load_config(told), tmp_path / "model")
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    ours = load_model_folder(out).model
    expected = keras.ops.convert_to_numpy(theirs(images, training=False))
    answer = keras.ops.convert_to_numpy(ours(images, training=False))
    assert expected.std() > 1e-3
    # They divide by 255, we multiply by its inverse.
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert "best_model.h5" in read_card(out).data.name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_filters": 8}, r"layer down0_conv1 arrays of 5x5x3x8, 8, got in conv2d\w* 5x5x3x4, 4"),
        ({"num_layers": 4}, r"layer down2_conv2|expected for the layer"),
        ({"normalization": True}, r"layer down0_norm1 arrays of 4, 4, 4, 4, got in conv2d\w* 5x5x4x4, 4"),
        ({"num_classes": 1}, r"layer logits arrays of 1x1x4x1, 1, got in conv2d\w* 1x1x4x2, 2"),
    ],
)
def test_another_network_is_refused_by_layer_and_shape(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    weights = write_weights(other_unet(), tmp_path / "best_model.h5", "weights alone")
    with pytest.raises(ModelError, match=words):
        import_weights(weights, load_config(config(tmp_path, **settings)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_layers_too_many_or_too_few_are_counted(tmp_path: Path) -> None:
    theirs = other_unet()
    longer = keras.Model(theirs.input, keras.layers.Conv2D(2, 1)(theirs.output))
    weights = write_weights(longer, tmp_path / "best_model.h5", "weights alone")
    with pytest.raises(
        ModelError, match="expected 13 layers with weights as the config's network has, got 14"
    ):
        import_weights(weights, load_config(config(tmp_path)), tmp_path / "model")


def damaged(path: Path, kind: str) -> None:
    if kind == "gone":
        path.unlink()
    elif kind == "no hdf5":
        path.write_bytes(b"weights")
    elif kind == "keras 3":
        path.unlink()
        other_unet().save_weights(path.with_name("new.weights.h5"))
        path.with_name("new.weights.h5").rename(path)
    else:
        with h5py.File(path, "r+") as file:
            first = next(name for name in file if name.startswith("conv2d"))
            inner = file[first]
            while isinstance(inner, h5py.Group):
                holder, name = inner, next(iter(inner))
                inner = inner[name]
            shape = inner.shape
            del holder[name]
            if kind == "link":
                holder[name] = h5py.ExternalLink("elsewhere.h5", "/secret")
            elif kind == "text":
                holder[name] = "no numbers"
            elif kind == "not finite":
                holder[name] = np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", "it does not exist"),
        ("no hdf5", "expected an HDF5 file"),
        ("keras 3", "got those of Keras 3"),
        ("link", "got a link to elsewhere"),
        ("text", "got something else"),
        ("missing", "found none"),
        ("not finite", "expected finite weights, got others for the layer down0_conv1"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, kind: str, words: str) -> None:
    weights = write_weights(other_unet(), tmp_path / "best_model.h5", "weights alone")
    damaged(weights, kind)
    with pytest.raises(ModelError, match=words):
        import_weights(weights, load_config(config(tmp_path)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    weights = write_weights(other_unet(), tmp_path / "best_model.h5", "weights alone")
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="expected a name that is free"):
        import_weights(weights, load_config(config(tmp_path)), tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_the_command_prints_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(other_unet(), tmp_path / "best_model.h5", "weights alone")
    out = tmp_path / "model"
    assert run(["import-weights", str(weights), str(config(tmp_path)), "-o", str(out)]) == 0
    assert capfd.readouterr().out.strip() == str(out)
