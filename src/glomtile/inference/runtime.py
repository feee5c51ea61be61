"""Inference runtimes: OpenVINO on the processor, and the choice between it and Keras."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from glomtile.config.model_card import FILE_NAME as CARD
from glomtile.config.model_card import ModelCard
from glomtile.errors import ArgumentError, MissingExtraError, ModelError
from glomtile.inference.predictor import Network, PredictionSettings, TilePredictor
from glomtile.models.folder import checked_file
from glomtile.types import Float32, UInt8

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
