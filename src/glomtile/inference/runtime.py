"""Inference runtimes: OpenVINO and ONNX Runtime."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, MissingExtraError, ModelError
from glomtile.inference.compiled import kept_network
from glomtile.inference.predictor import Network, PredictionSettings, TilePredictor
from glomtile.models.folder import checked_file
from glomtile.types import Float32, UInt8

Runtime = Literal["auto", "openvino", "keras"]
"""What may compute a network; ``auto`` is the fastest installed that the folder has a file for."""

_BYTES_PER_PX_AND_FILTER = 1.5 * 4 * 4
"""Where a folder does not say: at full resolution two inputs of a join and its answer are alive, four times
the first level's filters in float32; see `glomtile.inference.predictor.activation_bytes`."""


def installed_runtimes() -> tuple[str, ...]:
    """The runtimes that can be imported here, the fastest first."""
    return tuple(name for name in get_args(Runtime)[1:] if find_spec(name) is not None)


def chosen_runtime(card: ModelCard, wanted: str, where: object) -> str:
    """Which runtime computes a model.

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
        When `wanted` is none of these.
    ModelError
        When the folder has no file for the runtime.
    MissingExtraError
        When the runtime is not installed, or none of `auto` is.
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
            raise MissingExtraError(
                "openvino", "expected the runtime OpenVINO, got an installation without it"
            )
        raise MissingExtraError(
            where,
            "expected a file for the light runtime beside model.keras, or Keras, got neither",
            "pip install 'glomtile[cpu]', or where Keras is installed: glomtile export MODEL --format onnx",
        )
    if wanted == "openvino" and card.runtime is None:
        raise ModelError(
            where, "expected a file for OpenVINO beside model.keras, found none", "glomtile export MODEL"
        )
    if wanted not in installed:
        hint = "pip install 'glomtile[cpu]'" if wanted == "keras" else "pip install openvino"
        raise MissingExtraError(wanted, "expected this runtime to be installed, it is not", hint)
    return wanted


class _CardGeometry:
    def __init__(self, card: ModelCard) -> None:
        self.stride_px, self.context_px, self.local = card.stride_px, card.context_px, card.local


class OpenVinoPredictor(TilePredictor):
    """A model folder's exported network as a predictor, computed by OpenVINO on the processor.

    Each window is a request of its own, so its answer does not depend on what else is in the batch.

    Parameters
    ----------
    folder : Path
        A model folder whose card names a runtime file.
    card : ModelCard
        Of this folder.
    threads : int or None
        That compute; as many as there are cores where ``None``.

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
        forward, channels, outputs = openvino_forward(path, threads=threads, keep=True)
        if outputs != card.network.num_classes:
            raise ModelError(
                path,
                f"expected {card.network.num_classes} probabilities a pixel as {CARD} says, got {outputs}",
                "the file belongs to another model; export it again",
            )
        per_px = card.bytes_per_px or _BYTES_PER_PX_AND_FILTER * card.network.base_filters
        network = Network(forward, channels, outputs, lambda: per_px, "openvino", exported.precision)
        super().__init__(network, _CardGeometry(card), card.mpp, PredictionSettings.of_card(card), path)


def openvino_forward(
    path: Path, *, streams: int = 1, precision: str = "f32", threads: int | None = None, keep: bool = False
) -> tuple[Any, int, int]:
    """A file as a callable on OpenVINO.

    Parameters
    ----------
    path : Path
        ONNX, or OpenVINO's own XML; one NHWC input with values 0 to 255, one NHWC answer.
    streams : int
        Windows computed side by side when a batch has several.
    precision : {"f32", "bf16", "f16"}
        Of the arithmetic, always set: left to itself OpenVINO rounds to bfloat16 where the processor can.
    threads : int or None
        As many as there are cores where ``None``.
    keep : bool
        Keep the compiled network for later processes, or take what an earlier one kept; see
        `glomtile.inference.compiled`.

    Returns
    -------
    forward : callable
        ``(N, h, w, C) uint8`` to ``(N, h, w, K) float32``.
    channels, outputs : int

    Raises
    ------
    ModelError
        OpenVINO cannot read the file, or its input or answer is another.
    """
    openvino = openvino_module()
    try:
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(streams)}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        if keep:
            compiled = kept_network(core, path, settings)
        else:
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        shapes = [side.partial_shape for side in (*compiled.inputs, *compiled.outputs)]
        if len(shapes) != 2 or any(shape.rank.get_length() != 4 for shape in shapes):
            raise ModelError(path, "expected one image in and one out, got another network")
        channels, outputs = (int(shape[3].get_length()) for shape in shapes)
    except RuntimeError as problem:
        line = str(problem).strip().splitlines()[-1]
        raise ModelError(path, f"expected a network that OpenVINO can run, got: {line}") from problem
    return _Requests(compiled, streams), channels, outputs


def openvino_module() -> Any:
    """OpenVINO without its telemetry.

    Imported as it comes, it writes an identifier into the home folder and reports the import to a
    statistics service. Where the package that does so cannot be imported it uses a stub of its own.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class _Requests:
    """A compiled network and the requests that run side by side on it."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def __call__(self, batch: UInt8) -> Float32:
        answers = []
        for first in range(0, len(batch), len(self._requests)):
            under_way = []
            for request, image in zip(self._requests, batch[first:], strict=False):
                request.start_async({0: np.ascontiguousarray(image[None], np.float32)}, share_inputs=True)
                under_way.append(request)
            for request in under_way:
                request.wait()
                answers.append(np.array(request.get_output_tensor(0).data, np.float32))
        return np.concatenate(answers)
