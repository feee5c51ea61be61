"""Predictors: networks as callables on batches of windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import cv2
import numpy as np

from glomtile.errors import ModelError, UsageError
from glomtile.tiling.grid import round_up
from glomtile.types import Float32, UInt8
from glomtile.validation import choice_argument, number_argument

if TYPE_CHECKING:
    import keras

    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import Config

Tta = Literal["none", "flips", "rotations", "all"]
"""Test-time augmentation: over which turned copies of a tile the answer is averaged."""

MOST_SMOOTHING_PX = 3.0


@dataclass(frozen=True)
class PredictionSettings:
    """How a network is asked, the windows apart.

    Attributes
    ----------
    tta : {"none", "flips", "rotations", "all"}
        Average over 1, 4, 4 or 8 turned copies.
    color_order : {"RGB", "BGR"}
        Order of the channels that the network was trained with; tiles are always given as RGB.
    threshold : float
        Above 0 and below 1: the probability of not being background that becomes 0.5, see `TilePredictor`.
    smoothing_px : float
        Standard deviation of a Gaussian over the tiles, 0 to 3 px of the network. Samples that training
        turned or scaled were interpolated between pixels, which smooths them (linearly: variance 1/6 px² a
        side, 0.41 px); a network that only met such samples is surprised by sharper ones.

    Raises
    ------
    UsageError
        When `tta` or `color_order` is unknown, or a number is out of range.
    """

    tta: Tta = "none"
    color_order: str = "RGB"
    threshold: float = 0.5
    smoothing_px: float = 0.0

    def __post_init__(self) -> None:
        if self.tta not in get_args(Tta):
            raise UsageError("tta", f"expected one of {', '.join(get_args(Tta))}, got {self.tta!r}")
        if self.color_order not in ("RGB", "BGR"):
            raise UsageError("color_order", f"expected RGB or BGR, got {self.color_order!r}")
        if not 0 < self.threshold < 1:
            raise UsageError("threshold", f"expected a number between 0 and 1, got {self.threshold}")
        if not 0 <= self.smoothing_px <= MOST_SMOOTHING_PX:
            raise UsageError(
                "smoothing_px", f"expected a number from 0 to {MOST_SMOOTHING_PX}, got {self.smoothing_px}"
            )

    @classmethod
    def of_card(cls, card: ModelCard) -> PredictionSettings:
        """As the model was meant to be asked."""
        return cls(card.tta, card.color_order, card.threshold, card.smoothing_px)

    @classmethod
    def of_config(cls, config: Config, tta: Tta | None = None) -> PredictionSettings:
        """As ``[tiledinfer]`` and ``[image]`` say, in other turned copies where they are given."""
        asked = config.tiledinfer
        return cls(tta or asked.tta, config.image.color_order, asked.threshold, asked.smoothing_px)

    @property
    def reach_px(self) -> int:
        """How much farther a pixel sees than the network."""
        return ceil(3 * self.smoothing_px)

    def smoothed(self, batch: UInt8) -> UInt8:
        """Tiles ``(N, h, w, 3)`` as the network shall see them, channels apart; of whole numbers, exactly."""
        if not self.smoothing_px:
            return batch
        side = 2 * self.reach_px + 1
        kernel, sd = (side, side), self.smoothing_px
        return np.stack([cv2.GaussianBlur(np.ascontiguousarray(tile), kernel, sd) for tile in batch])


DEFAULT_PREDICTION = PredictionSettings()


def override_settings(
    card: ModelCard,
    tta: Tta | None,
    threshold: float | None,
    smoothing_px: float | None,
    min_expected_dice: float | None = None,
) -> ModelCard:
    """A model's card with what a caller wants otherwise; ``None`` leaves the model's own.

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
        changed["smoothing_px"] = number_argument("smoothing_px", smoothing_px, 0, MOST_SMOOTHING_PX)
    if min_expected_dice is not None:
        changed["min_expected_dice"] = number_argument("min_expected_dice", min_expected_dice, 0, 1)
    return card.model_copy(update=changed)


_TURNS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": tuple((turns, False) for turns in range(4)),
    "all": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Quarter turns, then a left-right flip. Two flips are a half turn, so "flips" holds them all."""

_SCRATCH = 1.5
"""Peak memory of a forward pass over the activations alive at once: the backends' own buffers."""


class NetworkGeometry(Protocol):
    """What tiling must know of a network."""

    @property
    def stride_px(self) -> int: ...

    @property
    def context_px(self) -> int: ...

    @property
    def local(self) -> bool: ...


@runtime_checkable
class MeasuredPredictor(Protocol):
    """A predictor that also knows what a window costs, which ``window = "auto"`` asks for."""

    @property
    def num_classes(self) -> int: ...

    @property
    def stride_px(self) -> int: ...

    @property
    def bytes_per_px(self) -> float:
        """Memory that a forward pass takes, per pixel of a window."""
        ...

    @property
    def local(self) -> bool:
        """Whether a pixel's answer depends on its surroundings only; not so under group normalisation."""
        ...


@dataclass(frozen=True)
class Network:
    """A network ready to run, whatever computes it.

    Attributes
    ----------
    forward : callable
        ``(N, h, w, 3) uint8``, h and w multiples of the stride, to ``(N, h, w, outputs) float32``. Need not
        bear several threads: `TilePredictor` asks it from one at a time.
    channels, outputs : int
        Of its input and its answer.
    bytes_per_px : callable
        Memory of a forward pass per pixel of a window, without the answer.
    runtime : str
        What computes it: ``"openvino"``, ``"keras-tensorflow"``.
    precision : str
        Of the weights and of the arithmetic: ``"float32"``, ``"float16"`` (stored so, computed in float32),
        ``"int8"``.
    """

    forward: Callable[[UInt8], Float32]
    channels: int
    outputs: int
    bytes_per_px: Callable[[], float]
    runtime: str
    precision: str = "float32"


class TilePredictor:
    """A network as a predictor.

    Tiles of any size are padded, mirrored, at the bottom and right to a multiple of the network's stride and
    the answer is cropped. Several threads may ask: they take turns at the network.

    Parameters
    ----------
    network : Network
    geometry : NetworkGeometry
        Its stride and context in pixels, and whether it is local.
    mpp : float, optional
        Micrometres per pixel the network was trained at.
    asking : Asking
    name : object
        The network or its file, named in errors.

    Raises
    ------
    ModelError
        When the network does not take three channels.

    Notes
    -----
    A network with one output (sigmoid) is presented as two classes, background first.

    A threshold t other than 0.5 multiplies the odds of background by t / (1 - t), as another share of
    background would (Saerens et al. 2002, doi 10.1162/089976602753284446). So of two classes the second is
    the likelier where its probability was above t, and whatever follows need not know of thresholds.
    """

    def __init__(
        self,
        network: Network,
        geometry: NetworkGeometry,
        mpp: float | None = None,
        asking: PredictionSettings = DEFAULT_PREDICTION,
        name: object = "network",
    ) -> None:
        if network.channels != 3:
            raise ModelError(name, f"expected a network of 3 colour channels, got one of {network.channels}")
        self._network = network
        self._turn = Lock()  # requests of OpenVINO hold one tile, and memory is reckoned for one pass
        self._asking = asking
        self._turns = _TURNS[asking.tta]
        self._background_odds = np.float32(asking.threshold / (1 - asking.threshold))
        self._stride_px, self._context_px = geometry.stride_px, geometry.context_px + asking.reach_px
        self._local = geometry.local
        self._mpp = mpp

    @property
    def num_classes(self) -> int:
        return max(self._network.outputs, 2)

    @property
    def stride_px(self) -> int:
        return self._stride_px

    @property
    def context_px(self) -> int:
        return self._context_px

    @property
    def mpp(self) -> float | None:
        return self._mpp

    @property
    def bytes_per_px(self) -> float:
        return self._network.bytes_per_px() + 4.0 * self.num_classes

    @property
    def local(self) -> bool:
        return self._local

    @property
    def runtime(self) -> str:
        """What computes the network."""
        return self._network.runtime

    @property
    def precision(self) -> str:
        """Of its weights and arithmetic; see `Network`."""
        return self._network.precision

    def __call__(self, batch: UInt8) -> Float32:
        if self._asking.color_order == "BGR":
            batch = batch[..., ::-1]
        batch = self._asking.smoothed(batch)
        height, width = batch.shape[1:3]
        down, right = (round_up(n, self._stride_px) - n for n in (height, width))
        if down or right:
            batch = np.pad(batch, ((0, 0), (0, down), (0, right), (0, 0)), mode="reflect")
        probs = self._turned(batch)[:, :height, :width]
        if self._network.outputs == 1:
            probs = np.concatenate([1 - probs, probs], axis=-1)
        if self._background_odds != 1:
            probs = with_background_odds(probs, self._background_odds)
        return np.ascontiguousarray(probs)

    def _turned(self, batch: UInt8) -> Float32:
        """Mean over the turned copies. A quarter turn swaps height and width."""
        total: Float32 | None = None
        for turns, flip in self._turns:
            turned = np.rot90(batch, turns, axes=(1, 2))
            turned = turned[:, :, ::-1] if flip else turned
            turned = np.ascontiguousarray(turned)
            with self._turn:
                probs = self._network.forward(turned)
            probs = probs[:, :, ::-1] if flip else probs
            probs = np.rot90(probs, -turns, axes=(1, 2))
            total = probs if total is None else total + probs
        assert total is not None
        return total if len(self._turns) == 1 else total / np.float32(len(self._turns))


def with_background_odds(probs: Float32, factor: np.float32) -> Float32:
    """Probabilities ``(..., K)`` with the odds of class 0 multiplied; they sum to what they summed to."""
    background = probs[..., 0]
    total = probs.sum(axis=-1)
    scale = total / (total + (factor - np.float32(1)) * background)
    changed = probs * scale[..., None]
    changed[..., 0] *= factor
    return np.asarray(changed, np.float32)


class KerasPredictor(TilePredictor):
    """A Keras network as a predictor.

    It is compiled once for each shape, on TensorFlow (graph), JAX (jit) and PyTorch (eager, without
    gradients). Weights are read at each call, so a network in training can be asked.

    Parameters
    ----------
    model : keras.Model
        Takes ``(N, h, w, 3)`` with values 0 to 255, answers ``(N, h, w, K)`` probabilities.
    geometry, mpp, asking
        See `TilePredictor`, errors too.
    """

    def __init__(
        self,
        model: keras.Model,
        geometry: NetworkGeometry,
        mpp: float | None = None,
        asking: PredictionSettings = DEFAULT_PREDICTION,
    ) -> None:
        import keras

        network = Network(
            _forward(model),
            int(model.input_shape[-1]),
            int(model.output_shape[-1]),
            lambda: network_bytes_per_px(model, geometry.stride_px),
            f"keras-{keras.backend.backend()}",
        )
        super().__init__(network, geometry, mpp, asking, model.name)


def _forward(model: keras.Model) -> Callable[[UInt8], Float32]:
    """The network, not training, compiled where the backend compiles; ``predict`` would cost ms a call."""
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
            answer = model(batch, training=False)
        return np.asarray(keras.ops.convert_to_numpy(answer), np.float32)

    return eager


def network_bytes_per_px(model: keras.Model, stride_px: int) -> float:
    """Memory of a forward pass per pixel, the backend's own buffers included; see `activation_bytes`."""
    return _SCRATCH * activation_bytes(model, stride_px)


def activation_bytes(model: keras.Model, stride_px: int) -> float:
    """Bytes of the activations alive at once in a forward pass, at most, per pixel of the input.

    Parameters
    ----------
    model : keras.Model
        A functional model; layers run in the order of ``model.layers``.
    stride_px : int
        Least size the network takes; sizes are counted on a window of that size.

    Returns
    -------
    float
        An answer is alive from the layer that gives it to the last layer that takes it.
    """
    from glomtile.networks.profiling import layer_costs

    last_use = {
        id(tensor): step for step, layer in enumerate(model.layers) for tensor in _tensors(layer.input)
    }
    answers = {cost.name: cost.answer_bytes for cost in layer_costs(model, (stride_px, stride_px))}
    alive = {id(model.input): 4.0 * stride_px**2 * int(model.input_shape[-1])}
    peak = 0.0
    for step, layer in enumerate(model.layers):
        if layer.name in answers:
            alive[id(layer.output)] = answers[layer.name]
        peak = max(peak, sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last_use.get(key, step) > step}
    return peak / stride_px**2


def largest_window(
    predictor: MeasuredPredictor,
    memory_mb: int,
    size_px: tuple[int, int],
    overlap_px: int,
    batch_size: int = 1,
) -> tuple[int, int]:
    """The largest window that a memory budget allows: less overlap to compute twice.

    Parameters
    ----------
    predictor : MeasuredPredictor
    memory_mb : int
        Budget in MiB for the network's forward pass and the strip of rows being blended, weights apart.
    size_px : (int, int)
        ``(H, W)`` of the picture; no window is larger than this and its margins.
    overlap_px : int
        Margin per side, a multiple of the stride.
    batch_size : int
        Windows for each call of the network.

    Returns
    -------
    (int, int)
        ``(h, w)``, multiples of the network's stride.

    Raises
    ------
    UsageError
        When the network normalises over the window's content, whose answers would change with the window,
        or when the budget does not hold the least window.
    """
    if not predictor.local:
        raise UsageError(
            'window = "auto"',
            "expected a network whose answer at a pixel depends on its surroundings only, "
            "got one that normalises over the whole window",
            hint="give the window it was trained with as a number",
        )
    stride = predictor.stride_px
    caps = tuple(round_up(length + 2 * overlap_px, stride) for length in size_px)
    budget = memory_mb * 2**20
    # Two strips: one being blended, one on its way out.
    strip_row = 2 * 4 * size_px[1] * predictor.num_classes
    per_px = predictor.bytes_per_px * batch_size
    least = round_up(2 * overlap_px + 1, stride)
    for side in range(max(caps), least - 1, -stride):
        height, width = min(side, caps[0]), min(side, caps[1])
        if height * width * per_px + height * strip_row <= budget:
            return height, width
    raise UsageError(
        "memory_mb",
        f"expected at least {_needed_mb(least, caps, per_px, strip_row)} MiB for a window of {least} px, "
        f"got {memory_mb} MiB",
        hint="raise memory_mb or lower overlapping",
    )


def _needed_mb(least: int, caps: tuple[int, ...], per_px: float, strip_row: int) -> int:
    height, width = min(least, caps[0]), min(least, caps[1])
    return int((height * width * per_px + height * strip_row) / 2**20) + 1


def _tensors(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
