"""Exporting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile.errors import MissingExtraError, ModelError, UsageError
from glomtile.inference.runtime import openvino_forward, openvino_module
from glomtile.networks.ensemble import is_head
from glomtile.networks.onnx import INPUT, onnx_model
from glomtile.types import Float32, UInt8

if TYPE_CHECKING:
    import keras

Forward = Callable[[UInt8], Float32]


@dataclass(frozen=True)
class Parity:
    """How far two networks' answers to the same images are apart.

    Attributes
    ----------
    largest, mean : float
        Of the absolute differences of probabilities.
    changed : float
        Share of pixels that another class is the most probable of.
    sizes_px : tuple of (int, int)
        Of the images.
    """

    largest: float
    mean: float
    changed: float
    sizes_px: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{height}x{width}" for height, width in dict.fromkeys(self.sizes_px))
        return (
            f"largest difference {self.largest:.2g}, mean {self.mean:.2g}, "
            f"{100 * self.changed:.3g} % of the pixels change class (at {sizes} px)"
        )


def compare(trained: Forward, exported: Forward, batches: Iterable[UInt8]) -> Parity:
    """Differences of probabilities over batches of images."""
    largest, total, changed, pixels, values = 0.0, 0.0, 0, 0, 0
    sizes = []
    for batch in batches:
        one, other = trained(batch), exported(batch)
        difference = np.abs(one - other)
        # A value that is no number is as far away as can be, not left out by a comparison.
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf).max()))
        total += float(difference.sum(dtype=np.float64))
        changed += int((_classes(one) != _classes(other)).sum())
        values, pixels = values + difference.size, pixels + difference[..., 0].size
        sizes.append((batch.shape[1], batch.shape[2]))
    return Parity(largest, total / values, changed / pixels, tuple(sizes))


def _classes(probs: Float32) -> Any:
    return probs[..., 0] > 0.5 if probs.shape[-1] == 1 else probs.argmax(axis=-1)


def odd_sizes(stride_px: int, channels: int) -> Iterator[UInt8]:
    """Batches of noise at three sizes with odd numbers of strides, one of them of two images."""
    rng = np.random.default_rng(137)
    for images, rows, columns in ((1, 1, 3), (2, 3, 1), (1, 5, 3)):
        yield rng.integers(0, 256, (images, rows * stride_px, columns * stride_px, channels), np.uint8)


def write_onnx(model: keras.Model, path: Path, *, half_weights: bool = False) -> None:
    """Write the network as ONNX; see `glomtile.networks.onnx.onnx_model` for errors."""
    path.write_bytes(onnx_model(model, half_weights=half_weights).SerializeToString(deterministic=True))


def write_int8(source: Path, target: Path, images: Sequence[UInt8]) -> None:
    """Quantise an ONNX file to int8, weights per channel, activations by the ranges that images give.

    Parameters
    ----------
    source : Path
        A float32 file of `write_onnx`.
    target : Path
    images : sequence of (h, w, C) uint8 ndarray
        Sides multiples of the stride.

    Raises
    ------
    MissingExtraError
        ONNX Runtime, whose quantiser this is, is not installed.
    ModelError
        It cannot quantise this network.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "export", f"expected the package onnxruntime, got an installation without {error.name}",
            "pip install 'glomtile[export]'",
        ) from error  # fmt: skip

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None].astype(np.float32)}

    import onnx

    kept = [node.name for node in onnx.load(source).graph.node if is_head(node.name)]
    # It advises another of its own tools to every user of it.
    logging.getLogger().addFilter(_not_about_preprocessing)
    try:
        quantize_static(
            source, target, Reader(),
            quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "ConvTranspose", "MaxPool", "Concat", "Relu"],
            nodes_to_exclude=kept,
        )  # fmt: skip
    except ValueError as problem:
        raise ModelError(
            "--precision",
            f"expected a network that ONNX Runtime can quantise, got one that it cannot: {problem}",
            "float32 and float16 need no ranges; group normalisation is known to be refused",
        ) from problem
    finally:
        logging.getLogger().removeFilter(_not_about_preprocessing)


def _not_about_preprocessing(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


def write_openvino(source: Path, folder: Path, *, half_weights: bool = False) -> Path:
    """Write an ONNX file as OpenVINO's ``model.xml`` and ``model.bin``; the path of the first."""
    openvino = openvino_module()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "model.xml"
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=half_weights)
    return target


def write_saved_model(model: keras.Model, folder: Path) -> None:
    """Write TensorFlow's SavedModel with one plain signature: ``image`` in, one answer out, all sizes free.

    Raises
    ------
    UsageError
        When Keras does not run on TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "--format saved-model",
            f"expected Keras to run on TensorFlow, whose format this is, got {keras.backend.backend()}",
            "set KERAS_BACKEND=tensorflow for this command; the model folder is the same for every backend",
        )
    channels = int(model.input_shape[-1])
    shape = keras.InputSpec(shape=(None, None, None, channels), dtype="float32", name=INPUT)
    model.export(folder, format="tf_saved_model", verbose=False, input_signature=[shape])


def saved_model_forward(folder: Path) -> Forward:
    """A SavedModel as a callable, through its signature, as other programs call it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]

    def forward(batch: UInt8) -> Float32:
        (answer,) = serve(**{INPUT: tf.constant(batch.astype(np.float32))}).values()
        return np.asarray(answer, np.float32)

    # The signature does not keep alive what it belongs to.
    forward.__dict__["loaded"] = loaded
    return forward


def file_forward(path: Path) -> Forward:
    """An ONNX or OpenVINO file as a callable, as segmenting runs it."""
    forward: Forward = openvino_forward(path)[0]
    return forward


def keras_forward(model: keras.Model) -> Forward:
    """The trained network as a callable."""
    import keras

    return lambda batch: np.asarray(
        keras.ops.convert_to_numpy(model(batch.astype(np.float32), training=False)), np.float32
    )
