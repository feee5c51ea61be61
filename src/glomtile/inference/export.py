"""Export of models to ONNX, OpenVINO and SavedModel, compared with the trained network."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from glomtile.config.model_card import ModelCard, RuntimeFile
from glomtile.errors import InputError, MissingExtraError, ModelError, UsageError
from glomtile.inference.predictor import openvino_forward, openvino_module
from glomtile.io import atomic
from glomtile.models import folder as model_folder
from glomtile.types import SILENT, Float32, Progress, UInt8

if TYPE_CHECKING:
    import keras

    from glomtile.models.folder import LoadedModel

Format = Literal["onnx", "openvino", "saved-model", "bundle"]
Forward = Callable[[UInt8], Float32]

ONNX = "model.onnx"
BUNDLE_BYTES = 8_000_000
"""Size limit of a bundled model, all files together."""

_PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "int8"),
    "saved-model": ("float32",),
    "bundle": ("float16", "int8"),
}
"""The first is the default."""

_MAX_DIFFERENCE = {"float32": 1e-4, "float16": 0.02, "int8": math.inf}
_MAX_MEAN, _SMALL_MEAN, _MAX_CHANGED = 0.02, 0.002, 0.01
"""int8 rounds activations too: single pixels may change, but the mean and the classes hardly. If even the
mean difference is small, the network is undecided, and changed classes mean nothing."""

_MAX_TILES = 64


@dataclass(frozen=True)
class Parity:
    """Differences between two networks' probabilities for the same images.

    Attributes
    ----------
    largest, mean : float
        Of the absolute differences.
    changed : float
        Share of pixels whose most probable class is another.
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


@dataclass(frozen=True)
class ExportResult:
    """Files of an export.

    Attributes
    ----------
    path : Path
        The file or folder.
    precision : str
    parity : Parity
        Against the trained network, at three odd sizes; for int8 over the calibration images.
    bytes : int
        Of all that was written.
    """

    path: Path
    precision: str
    parity: Parity
    bytes: int


def export(
    model: Path,
    out: Path | None = None,
    *,
    fmt: str = "onnx",
    precision: str | None = None,
    calibration: Path | None = None,
    mpp: float | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a model folder's network in another format.

    Parameters
    ----------
    model : Path
        A model folder.
    out : Path, optional
        File (onnx) or folder (the others) that does not exist yet. Without it an ONNX file goes into the
        model folder, and `segment` runs it from then on.
    fmt : {"onnx", "openvino", "saved-model", "bundle"}
        A bundle is a model folder of its own with float16 kernels, runtime file included.
    precision : {"float32", "float16", "int8"}, optional
        float32 by default, float16 for a bundle.
    calibration : Path, optional
        Folder of images like those to segment; required for int8, and only for int8.
    mpp : float, optional
        Micrometres per pixel of the calibration images, in place of the files' own.
    progress : Progress

    Returns
    -------
    ExportResult

    Raises
    ------
    UsageError
        An unknown format or precision, int8 without images or images without int8, a target missing or
        already there.
    ModelError
        The folder is no model, cannot be exported, or the exported network differs too much.
    MissingExtraError
        A package of the extra `export` is absent.
    StorageError
        The target cannot be written.
    """
    precision = _checked_precision(fmt, precision, calibration, mpp)
    if out is None and fmt != "onnx":
        raise UsageError("--out", f"expected a place to write {fmt} to, got none")
    if out is not None and out.exists():
        raise UsageError("--out", f"expected a new name, got {out}, which exists", "remove it first")
    folder = model_folder.model_folder(model)
    loaded = model_folder.load_model_folder(folder)
    images = [] if calibration is None else _calibration_tiles(loaded.card, calibration, mpp)
    progress.start(f"{fmt}, {precision}", None)
    with tempfile.TemporaryDirectory(prefix="glomtile-") as name:
        temporary = Path(name)
        source, bundle = loaded, temporary / "bundle"
        if fmt == "bundle":
            # The rounded network is exported, so that Keras and the runtime agree on the bundle; parity is
            # that of the runtime and the network that was trained.
            written = model_folder.save_model_folder(bundle, loaded.model, loaded.card, half_weights=True)
            source = model_folder.load_model_folder(bundle)
        made, exported = _write(source.model, temporary, fmt, precision, images)
        parity = _checked_parity(loaded, exported, fmt, precision, images)
        progress.note(f"against the trained network: {parity}")
        runtime = RuntimeFile(
            name=ONNX,
            precision=precision,  # type: ignore[arg-type]
            max_difference=min(1.0, parity.largest),
            calibration_images=len(images),
        )
        if fmt == "bundle":
            _add_runtime(bundle, made, written.model_copy(update={"versions": loaded.card.versions}), runtime)
            made = bundle
            if (size := _size(bundle)) > BUNDLE_BYTES:
                raise ModelError(
                    "bundle", f"expected at most {BUNDLE_BYTES:,} bytes for a bundled model, got {size:,}",
                    "train fewer filters, or give --precision int8 with --calibration",
                )  # fmt: skip
        if out is None:
            out = folder / ONNX
            _add_runtime(folder, made, loaded.card, runtime)
        elif fmt == "onnx":
            with atomic.atomic_write(out) as partial:
                shutil.copyfile(made, partial)
        else:
            with atomic.replace_folder(out) as partial:
                shutil.copytree(made.parent if made.is_file() else made, partial, dirs_exist_ok=True)
    return ExportResult(out, precision, parity, _size(out))


def _checked_precision(fmt: str, precision: str | None, calibration: Path | None, mpp: float | None) -> str:
    if fmt not in get_args(Format):
        raise UsageError("--format", f"expected one of {', '.join(get_args(Format))}, got {fmt!r}")
    allowed = _PRECISIONS[fmt]
    chosen = precision or allowed[0]
    if chosen not in allowed:
        raise UsageError("--precision", f"expected one of {', '.join(allowed)} for {fmt}, got {chosen!r}")
    if chosen == "int8" and calibration is None:
        raise UsageError(
            "--calibration",
            "expected a folder of images for int8, whose value ranges are measured on them, got none",
            "a dozen images of the kind to segment are enough",
        )
    if chosen != "int8" and calibration is not None:
        raise UsageError("--calibration", f"expected --precision int8 with calibration images, got {chosen}")
    if calibration is None and mpp is not None:
        raise UsageError("--mpp", f"expected calibration images of this scale, got {mpp:g} without any")
    return chosen


def _write(
    model: keras.Model, folder: Path, fmt: str, precision: str, images: Sequence[UInt8]
) -> tuple[Path, Forward]:
    """Write a network into a folder; return the file or folder, and the exported network as a callable."""
    if fmt == "saved-model":
        write_saved_model(model, folder / "saved")
        return folder / "saved", saved_model_forward(folder / "saved")
    path, half = folder / ONNX, precision == "float16"
    write_onnx(model, path, half_weights=half)
    if precision == "int8":
        path = folder / "int8.onnx"
        write_int8(folder / ONNX, path, images)
    if fmt == "openvino":
        openvino = openvino_module()
        (folder / "openvino").mkdir()
        target = folder / "openvino" / "model.xml"
        openvino.save_model(openvino.Core().read_model(path), target, compress_to_fp16=half)
        path = target
    return path, openvino_forward(path)[0]


def _checked_parity(
    loaded: LoadedModel, exported: Forward, fmt: str, precision: str, images: Sequence[UInt8]
) -> Parity:
    """Compare with the trained network; a ModelError if the difference is too large."""
    card = loaded.card
    batches = (
        (image[None] for image in images)
        if images
        else odd_sizes(card.stride_px, card.network.image_channels)
    )
    parity = compare(keras_forward(loaded.model), exported, batches)
    undecided = parity.mean <= _SMALL_MEAN
    changed = parity.mean > _MAX_MEAN or (parity.changed > _MAX_CHANGED and not undecided)
    if (images and changed) or not parity.largest <= _MAX_DIFFERENCE[precision]:
        raise ModelError(
            fmt,
            f"expected the probabilities of the trained network, got others: {parity}",
            "nothing was written" + ("; more calibration images may help" if images else ""),
        )
    return parity


def _add_runtime(folder: Path, made: Path, card: ModelCard, runtime: RuntimeFile) -> None:
    """Put a file beside the network and name it in the card; a kill leaves a whole model without it."""
    digests = {name: digest for name, digest in card.sha256.items() if name != ONNX}
    model_folder.write_card(folder, card.model_copy(update={"runtime": None, "sha256": digests}))
    with atomic.atomic_write(folder / ONNX) as partial:
        shutil.copyfile(made, partial)
    digests[ONNX] = atomic.sha256(folder / ONNX)
    model_folder.write_card(folder, card.model_copy(update={"runtime": runtime, "sha256": digests}))


def _calibration_tiles(card: ModelCard, folder: Path, mpp: float | None) -> list[UInt8]:
    """Return at most 64 tiles of the images at the model's scale, spread evenly over all of them."""
    from glomtile.io.images import image_mpp, list_images, read_image, resize_to_mpp

    height, width = (max(1, side // card.stride_px) * card.stride_px for side in card.tile_px)
    tiles = []
    for path in list_images(folder):
        image = read_image(path)
        if card.mpp is not None:
            scale = mpp or image_mpp(path)
            if scale is None:
                raise InputError(path, "expected micrometres per pixel in the file, found none", "give --mpp")
            image = resize_to_mpp(image, scale, card.mpp)
        down, across = (max(0, least - n) for n, least in zip(image.shape, (height, width), strict=False))
        image = np.pad(image, ((0, down), (0, across), (0, 0)), mode="symmetric")
        if card.color_order == "BGR":
            image = image[..., ::-1]
        tiles += [
            image[top : top + height, left : left + width]
            for top in range(0, image.shape[0] - height + 1, height)
            for left in range(0, image.shape[1] - width + 1, width)
        ]
    if not tiles:
        raise UsageError("--calibration", f"expected images in {folder}, found none")
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), _MAX_TILES)).round().astype(int))
    return [tiles[i] for i in chosen]


def _size(path: Path) -> int:
    parts = [path] if path.is_file() else path.rglob("*")
    return sum(part.stat().st_size for part in parts if part.is_file())


def compare(trained: Forward, exported: Forward, batches: Iterable[UInt8]) -> Parity:
    """Measure differences of probabilities over batches of images."""
    largest, total, changed, pixels, values = 0.0, 0.0, 0, 0, 0
    sizes = []
    for batch in batches:
        one, other = trained(batch), exported(batch)
        difference = np.abs(one - other)
        # NaN counts as infinitely far: a comparison would leave it out.
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf).max()))
        total += float(difference.sum(dtype=np.float64))
        chosen = [p[..., 0] > 0.5 if p.shape[-1] == 1 else p.argmax(axis=-1) for p in (one, other)]
        changed += int((chosen[0] != chosen[1]).sum())
        values, pixels = values + difference.size, pixels + difference[..., 0].size
        sizes.append((batch.shape[1], batch.shape[2]))
    return Parity(largest, total / values, changed / pixels, tuple(sizes))


def odd_sizes(stride_px: int, channels: int) -> Iterator[UInt8]:
    """Yield batches of noise at three sizes with odd numbers of strides, one of them of two images."""
    rng = np.random.default_rng(137)
    for images, rows, columns in ((1, 1, 3), (2, 3, 1), (1, 5, 3)):
        yield rng.integers(0, 256, (images, rows * stride_px, columns * stride_px, channels), np.uint8)


def write_onnx(model: keras.Model, path: Path, *, half_weights: bool = False) -> None:
    """Write the network as ONNX; see `glomtile.networks.onnx.onnx_model` for errors."""
    from glomtile.networks.onnx import onnx_model

    path.write_bytes(onnx_model(model, half_weights=half_weights).SerializeToString(deterministic=True))


def write_int8(source: Path, target: Path, images: Sequence[UInt8]) -> None:
    """Quantise an ONNX file to int8: weights per channel, activations by the ranges found in images.

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
    import onnx

    from glomtile.models.ensemble import is_head
    from glomtile.networks.onnx import INPUT

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None].astype(np.float32)}

    kept = [node.name for node in onnx.load(source).graph.node if is_head(node.name)]

    def not_about_preprocessing(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    # ONNX Runtime logs advice to run another of its tools.
    logging.getLogger().addFilter(not_about_preprocessing)
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
            "float32 and float16 need no ranges; group normalisation is not supported",
        ) from problem
    finally:
        logging.getLogger().removeFilter(not_about_preprocessing)


def write_saved_model(model: keras.Model, folder: Path) -> None:
    """Write TensorFlow's SavedModel with one signature: ``image`` of any size in, probabilities out.

    Raises
    ------
    UsageError
        Keras does not run on TensorFlow.
    """
    import keras

    from glomtile.networks.onnx import INPUT

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
    """Return a SavedModel as a callable, through its signature, as other programs call it."""
    import tensorflow as tf

    from glomtile.networks.onnx import INPUT

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]

    def forward(batch: UInt8) -> Float32:
        (probs,) = serve(**{INPUT: tf.constant(batch.astype(np.float32))}).values()
        return np.asarray(probs, np.float32)

    # The signature does not keep its model alive.
    forward.__dict__["loaded"] = loaded
    return forward


def keras_forward(model: keras.Model) -> Forward:
    """Return the trained network as a callable."""
    import keras

    return lambda batch: np.asarray(
        keras.ops.convert_to_numpy(model(batch.astype(np.float32), training=False)), np.float32
    )
