"""Predictors: networks as callables on batches of windows, on Keras or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np

from glomtile.errors import ModelError, UsageError
from glomtile.types import Float32, UInt8
from glomtile.validation import choice_argument, number_argument

if TYPE_CHECKING:
    import keras

    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import Config
    from glomtile.networks.registry import Geometry


import sys
from importlib.util import find_spec
from pathlib import Path

from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, MissingExtraError
from glomtile.models.folder import checked_file

Tta = Literal["none", "flips", "rotations", "all"]
"""Test-time augmentation: the copies of a window whose probabilities are averaged."""

MAX_SMOOTHING_PX = 3.0

_TURNS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": tuple((turns, False) for turns in range(4)),
    "all": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Quarter turns, then a left-right flip. Two flips are a half turn, so "flips" contains them all."""


@dataclass(frozen=True)
class PredictionSettings:
    """Preparation of windows for a network, and interpretation of its probabilities.

    Attributes
    ----------
    tta : {"none", "flips", "rotations", "all"}
        Average over 1, 4, 4 or 8 turned copies.
    color_order : {"RGB", "BGR"}
        Order of the channels that the network was trained with; windows are always given as RGB.
    threshold : float
        Above 0 and below 1: the foreground probability that becomes 0.5, see `TilePredictor`.
    smoothing_px : float
        Standard deviation of a Gaussian over the windows, 0 to 3 px of the network. Training samples that
        were turned or scaled are interpolated between pixels, which smooths them (linearly: variance 1/6 px²
        a side, 0.41 px); a network trained on such samples only expects windows as smooth.
    """

    tta: Tta = "none"
    color_order: str = "RGB"
    threshold: float = 0.5
    smoothing_px: float = 0.0

    @classmethod
    def of_card(cls, card: ModelCard) -> PredictionSettings:
        """Return the settings of a model's card."""
        return cls(card.tta, card.color_order, card.threshold, card.smoothing_px)

    @classmethod
    def of_config(cls, config: Config, tta: Tta | None = None) -> PredictionSettings:
        """Return the settings of ``[tiledinfer]`` and ``[image]``, with another `tta` where it is given.

        Raises
        ------
        UsageError
            `tta` is unknown.
        """
        if tta not in (None, *get_args(Tta)):
            raise UsageError("tta", f"expected one of {', '.join(get_args(Tta))}, got {tta!r}")
        section = config.tiledinfer
        return cls(tta or section.tta, config.image.color_order, section.threshold, section.smoothing_px)


DEFAULT_PREDICTION = PredictionSettings()


def override_settings(
    card: ModelCard,
    tta: Tta | None,
    threshold: float | None,
    smoothing_px: float | None,
    min_expected_dice: float | None = None,
) -> ModelCard:
    """Replace settings of a model's card; ``None`` keeps the model's own.

    Raises
    ------
    ArgumentError
        A word is unknown, or a number out of range.
    """
    changed: dict[str, object] = {}
    if tta is not None:
        changed["tta"] = choice_argument("tta", tta, get_args(Tta))
    if threshold is not None:
        changed["threshold"] = number_argument("threshold", threshold, 0, 1)
    if smoothing_px is not None:
        changed["smoothing_px"] = number_argument("smoothing_px", smoothing_px, 0, MAX_SMOOTHING_PX)
    if min_expected_dice is not None:
        changed["min_expected_dice"] = number_argument("min_expected_dice", min_expected_dice, 0, 1)
    return card.model_copy(update=changed) if changed else card


@dataclass(frozen=True)
class Network:
    """A network ready to run on some runtime.

    Attributes
    ----------
    forward : callable
        ``(N, h, w, 3) uint8``, h and w multiples of the stride, to ``(N, h, w, outputs) float32``. Called
        from one thread at a time.
    channels, outputs : int
        Of its input and its output.
    bytes_per_px : callable
        Returns the memory of a forward pass per pixel of a window, without the output.
    runtime : str
        ``"openvino"``, ``"keras-tensorflow"``, …
    precision : str
        Of weights and arithmetic: ``"float32"``, ``"float16"`` (stored so, computed in float32),
        ``"int8"``.
    """

    forward: Callable[[UInt8], Float32]
    channels: int
    outputs: int
    bytes_per_px: Callable[[], float]
    runtime: str
    precision: str = "float32"


class TilePredictor:
    """A network as a predictor of windows of any size.

    Windows are padded, mirrored, at the bottom and right to a multiple of the network's stride, and the
    probabilities are cropped. Several threads may call it: they take turns at the network.

    Parameters
    ----------
    network : Network
    geometry : Geometry or ModelCard
        Stride, context and locality of the network.
    mpp : float, optional
        Micrometres per pixel the network was trained at.
    settings : PredictionSettings
    name : object
        The network or its file, named in errors.

    Attributes
    ----------
    num_classes, stride_px, context_px : int
    mpp : float or None
    local : bool
    runtime, precision : str
        See `Network`.

    Raises
    ------
    ModelError
        The network does not take three channels.

    Notes
    -----
    A network with one output (sigmoid) is presented as two classes, background first.

    A threshold t other than 0.5 multiplies the odds of background by t / (1 - t), as another share of
    background would (Saerens et al. 2002, doi 10.1162/089976602753284446). So of two classes the second is
    the more probable where its probability was above t, and nothing after this class depends on thresholds.
    """

    def __init__(
        self,
        network: Network,
        geometry: Geometry | ModelCard,
        mpp: float | None = None,
        settings: PredictionSettings = DEFAULT_PREDICTION,
        name: object = "network",
    ) -> None:
        if network.channels != 3:
            raise ModelError(name, f"expected a network of 3 colour channels, got one of {network.channels}")
        self._network, self._settings = network, settings
        self._turn = Lock()  # requests of OpenVINO hold one window, and memory is estimated for one pass
        self._blur_px = ceil(3 * settings.smoothing_px)
        self._background_odds = np.float32(settings.threshold / (1 - settings.threshold))
        self.num_classes = max(network.outputs, 2)
        self.stride_px, self.context_px = geometry.stride_px, geometry.context_px + self._blur_px
        self.local, self.mpp = geometry.local, mpp
        self.runtime, self.precision = network.runtime, network.precision

    @cached_property
    def bytes_per_px(self) -> float:
        """Memory of a forward pass per pixel of a window."""
        return self._network.bytes_per_px() + 4.0 * self.num_classes

    def __call__(self, batch: UInt8) -> Float32:
        """Predict windows: ``(N, h, w, 3) uint8`` RGB to ``(N, h, w, K) float32`` probabilities."""
        if self._settings.color_order == "BGR":
            batch = batch[..., ::-1]
        if self._blur_px:
            kernel, sigma = (2 * self._blur_px + 1,) * 2, self._settings.smoothing_px
            batch = np.stack([cv2.GaussianBlur(np.ascontiguousarray(tile), kernel, sigma) for tile in batch])
        height, width = batch.shape[1:3]
        down, right = -height % self.stride_px, -width % self.stride_px
        if down or right:
            batch = np.pad(batch, ((0, 0), (0, down), (0, right), (0, 0)), mode="reflect")
        copies, total = _TURNS[self._settings.tta], np.zeros(1, np.float32)
        for turns, flip in copies:
            turned = np.rot90(batch, turns, axes=(1, 2))
            turned = np.ascontiguousarray(turned[:, :, ::-1] if flip else turned)
            with self._turn:
                answer = self._network.forward(turned)
            answer = np.rot90(answer[:, :, ::-1] if flip else answer, -turns, axes=(1, 2))
            total = total + answer
        probs = (total / np.float32(len(copies)))[:, :height, :width]
        if self._network.outputs == 1:
            probs = np.concatenate([1 - probs, probs], axis=-1)
        if self._background_odds != 1:
            sums = probs.sum(axis=-1)
            scale = sums / (sums + (self._background_odds - np.float32(1)) * probs[..., 0])
            probs = probs * scale[..., None]  # their sums stay
            probs[..., 0] *= self._background_odds
        return np.ascontiguousarray(probs)


class KerasPredictor(TilePredictor):
    """A Keras network as a predictor.

    It is compiled once for each shape, on TensorFlow (graph), JAX (jit) and PyTorch (eager, without
    gradients). Weights are read at each call, so a network in training can be used.

    Parameters
    ----------
    model : keras.Model
        Takes ``(N, h, w, 3)`` with values 0 to 255, returns ``(N, h, w, K)`` probabilities.
    geometry, mpp, settings
        See `TilePredictor`, errors too.
    """

    def __init__(
        self,
        model: keras.Model,
        geometry: Geometry | ModelCard,
        mpp: float | None = None,
        settings: PredictionSettings = DEFAULT_PREDICTION,
    ) -> None:
        import keras

        from glomtile.networks.profiling import network_bytes_per_px

        network = Network(
            _forward(model),
            int(model.input_shape[-1]),
            int(model.output_shape[-1]),
            lambda: network_bytes_per_px(model, geometry.stride_px),
            f"keras-{keras.backend.backend()}",
        )
        super().__init__(network, geometry, mpp, settings, model.name)


def _forward(model: keras.Model) -> Callable[[UInt8], Float32]:
    """Return the network in inference mode, compiled where the backend compiles.

    Keras' own ``predict`` costs milliseconds a call.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # XLA off: compiling a large network takes minutes on CPU and gains little there.
        graph = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=False)
        return lambda batch: np.asarray(graph(tf.constant(batch)), np.float32)
    if backend == "jax":
        import jax

        def stateless(trainable: list[Any], fixed: list[Any], x: Any) -> Any:
            return model.stateless_call(trainable, fixed, x, training=False)[0]

        compiled = jax.jit(stateless)

        def run(batch: UInt8) -> Float32:
            trainable = [variable.value for variable in model.trainable_variables]
            fixed = [variable.value for variable in model.non_trainable_variables]
            return np.asarray(compiled(trainable, fixed, batch), np.float32)

        return run
    import torch

    def eager(batch: UInt8) -> Float32:
        with torch.no_grad():
            probs = model(batch, training=False)
        return np.asarray(keras.ops.convert_to_numpy(probs), np.float32)

    return eager


Runtime = Literal["auto", "openvino", "keras"]
"""``auto`` is the fastest installed runtime that the model folder has a file for."""

_BYTES_PER_PX_AND_FILTER = 1.5 * 4 * 4
"""For cards without a figure: at full resolution two inputs of a join and its output are alive, four times
the first level's filters in float32; see `glomtile.networks.profiling.activation_bytes`."""


def installed_runtimes() -> tuple[str, ...]:
    """Return the runtimes that can be imported, the fastest first."""
    return tuple(name for name in get_args(Runtime)[1:] if find_spec(name) is not None)


def chosen_runtime(card: ModelCard, wanted: str, where: object) -> str:
    """Choose the runtime of a model.

    Parameters
    ----------
    card : ModelCard
    wanted : {"auto", "openvino", "keras"}
    where : object
        The model folder, named in errors.

    Returns
    -------
    {"openvino", "keras"}

    Raises
    ------
    UsageError
        `wanted` is none of these.
    ModelError
        The folder has no file for the runtime.
    MissingExtraError
        The runtime is not installed, or none of `auto` is.
    """
    if wanted not in get_args(Runtime):
        raise ArgumentError("runtime", f"one of {', '.join(get_args(Runtime))}", wanted)
    installed = installed_runtimes()
    if wanted == "auto":
        if card.runtime is not None and "openvino" in installed:
            return "openvino"
        if "keras" in installed:
            return "keras"
        if card.runtime is not None:
            raise MissingExtraError("openvino", "expected the package openvino, it is not installed")
        raise MissingExtraError(
            where,
            "expected a file for OpenVINO beside model.keras, or Keras, got neither",
            "pip install 'glomtile[cpu]', or where Keras is installed: glomtile export MODEL --format onnx",
        )
    if wanted == "openvino" and card.runtime is None:
        raise ModelError(
            where, "expected a file for OpenVINO beside model.keras, found none", "glomtile export MODEL"
        )
    if wanted not in installed:
        hint = "pip install 'glomtile[cpu]'" if wanted == "keras" else "pip install openvino"
        raise MissingExtraError(wanted, "expected this runtime, it is not installed", hint)
    return wanted


class OpenVinoPredictor(TilePredictor):
    """A model folder's exported network as a predictor, computed by OpenVINO on the processor.

    Each window is a request of its own, so its probabilities do not depend on the rest of the batch.

    Parameters
    ----------
    folder : Path
        A model folder whose card names a runtime file.
    card : ModelCard
        Of this folder.
    threads : int or None
        For computing; all cores where ``None``.

    Raises
    ------
    ModelError
        The file is missing, was changed, is no network, or has other classes than the card.
    """

    def __init__(self, folder: Path, card: ModelCard, threads: int | None = None) -> None:
        exported = card.runtime
        if exported is None:
            raise ModelError(folder, "expected a file for OpenVINO, found none", "glomtile export MODEL")
        path = checked_file(folder, card, exported.name)
        forward, channels, outputs = openvino_forward(path, threads=threads)
        if outputs != card.network.num_classes:
            raise ModelError(
                path,
                f"expected {card.network.num_classes} probabilities a pixel as in {CARD}, got {outputs}",
                "the file belongs to another model; export it again",
            )
        per_px = card.bytes_per_px or _BYTES_PER_PX_AND_FILTER * card.network.base_filters
        network = Network(forward, channels, outputs, lambda: per_px, "openvino", exported.precision)
        super().__init__(network, card, card.mpp, PredictionSettings.of_card(card), path)


def openvino_forward(
    path: Path, *, streams: int = 1, precision: str = "f32", threads: int | None = None
) -> tuple[Any, int, int]:
    """Load a file as a callable on OpenVINO.

    Parameters
    ----------
    path : Path
        ONNX, or OpenVINO's own XML; one NHWC input with values 0 to 255, one NHWC output.
    streams : int
        Windows computed side by side when a batch has several.
    precision : {"f32", "bf16", "f16"}
        Of the arithmetic, always set: by default OpenVINO rounds to bfloat16 where the processor can.
    threads : int or None
        All cores where ``None``.

    Returns
    -------
    forward : callable
        ``(N, h, w, C) uint8`` to ``(N, h, w, K) float32``.
    channels, outputs : int

    Raises
    ------
    ModelError
        OpenVINO cannot read the file, or its input or output is another.
    """
    core = openvino_module().Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(streams)}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", options)
        shapes = [side.partial_shape for side in (*compiled.inputs, *compiled.outputs)]
        if len(shapes) != 2 or any(shape.rank.get_length() != 4 for shape in shapes):
            raise ModelError(path, "expected one image in and one out, got another network")
        channels, outputs = (int(shape[3].get_length()) for shape in shapes)
    except RuntimeError as problem:
        line = str(problem).strip().splitlines()[-1]
        raise ModelError(path, f"expected a network that OpenVINO can run, got: {line}") from problem
    requests = [compiled.create_infer_request() for _ in range(streams)]

    def forward(batch: UInt8) -> Float32:
        probs = []
        for first in range(0, len(batch), streams):
            running = list(zip(requests, batch[first : first + streams], strict=False))
            for request, image in running:
                request.start_async({0: np.ascontiguousarray(image[None], np.float32)}, share_inputs=True)
            for request, _ in running:
                request.wait()
                probs.append(np.array(request.get_output_tensor(0).data, np.float32))
        return np.concatenate(probs)

    return forward, channels, outputs


def openvino_module() -> Any:
    """Import OpenVINO without its telemetry.

    By default its import writes an identifier into the home folder and reports to a statistics service.
    Without the package that does so it uses a stub of its own.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
