"""Parameters, operations and memory of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from glomtile.networks.layers import BilinearUpsample


@dataclass(frozen=True)
class LayerCost:
    """One layer at one input size, batch 1.

    Parameters
    ----------
    name, kind : str
        Its own name and its class's.
    sources : tuple of str
        Names of the layers it takes its input from.
    shape : tuple of int
        ``(H, W, C)`` of its answer.
    parameters : int
    flop : float
        Two for each multiplication with its addition; only convolutions are counted.
    answer_bytes : float
        Size of its answer.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    flop: float
    answer_bytes: float


def layer_costs(model: keras.Model, size_px: tuple[int, int]) -> list[LayerCost]:
    """Compute the cost of every layer of a functional model, in order of execution.

    Parameters
    ----------
    model : keras.Model
        One input ``(N, H, W, C)``.
    size_px : tuple of int
        ``(H, W)``, multiples of the network's stride.
    """
    shapes: dict[int, tuple[int, ...]] = {id(model.input): (1, *size_px, model.input.shape[-1])}
    givers: dict[int, str] = {id(model.input): "image"}
    costs = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        sources = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        given = [shapes[id(tensor)] for tensor in sources]
        shape = tuple(layer.compute_output_shape(given if len(given) > 1 else given[0]))
        shapes[id(layer.output)], givers[id(layer.output)] = shape, layer.name
        width = 2 if layer.compute_dtype in ("float16", "bfloat16") else 4
        costs.append(
            LayerCost(
                name=layer.name,
                kind=type(layer).__name__,
                sources=tuple(givers[id(tensor)] for tensor in sources),
                shape=shape[1:],
                parameters=layer.count_params(),
                flop=_flop(layer, given[0], shape),
                answer_bytes=float(np.prod(shape)) * width,
            )
        )
    return costs


def _flop(layer: Any, given: tuple[int, ...], shape: tuple[int, ...]) -> float:
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Every input pixel is multiplied into a kernel's worth of the answer.
        return 2.0 * float(np.prod(given[1:3])) * float(np.prod(layer.kernel.shape))
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return 2.0 * float(np.prod(shape[1:])) * float(np.prod(layer.kernel_size))
    if isinstance(layer, keras.layers.Conv2D):
        return 2.0 * float(np.prod(shape[1:3])) * float(np.prod(layer.kernel.shape))
    if isinstance(layer, BilinearUpsample):
        return 2.0 * 9 * float(np.prod(shape[1:]))
    return 0.0


def training_bytes(model: keras.Model, size_px: tuple[int, int], batch_size: int, slots: int = 2) -> float:
    """Memory of a training step: every layer's answer, kept for the gradient, and the weights' copies.

    Parameters
    ----------
    slots : int
        Numbers the optimizer keeps for each weight: 2 for Adam, 3 with averaged weights.

    Returns
    -------
    float
        An estimate from below: a backend's own buffers come on top.
    """
    kept = sum(cost.answer_bytes for cost in layer_costs(model, size_px))
    return float(batch_size * kept + 4.0 * model.count_params() * (2 + slots))


_BUFFERS = 1.5
"""Peak memory of a forward pass over the activations alive at once: the backends' own buffers."""


def network_bytes_per_px(model: keras.Model, stride_px: int) -> float:
    """Estimate the memory of a forward pass per pixel; see `activation_bytes`."""
    return _BUFFERS * activation_bytes(model, stride_px)


def activation_bytes(model: keras.Model, stride_px: int) -> float:
    """Return the largest size of all activations alive at once, per pixel of the input.

    Parameters
    ----------
    model : keras.Model
        A functional model; layers run in the order of ``model.layers``.
    stride_px : int
        Smallest input size; sizes are counted on a window of that size.

    Returns
    -------
    float
        An activation is alive from its layer to the last layer that reads it.
    """
    last_use = {
        id(tensor): step
        for step, layer in enumerate(model.layers)
        for tensor in (layer.input if isinstance(layer.input, (list, tuple)) else [layer.input])
    }
    sizes = {cost.name: cost.answer_bytes for cost in layer_costs(model, (stride_px, stride_px))}
    alive = {id(model.input): 4.0 * stride_px**2 * int(model.input_shape[-1])}
    peak = 0.0
    for step, layer in enumerate(model.layers):
        if layer.name in sizes:
            alive[id(layer.output)] = sizes[layer.name]
        peak = max(peak, sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last_use.get(key, step) > step}
    return peak / stride_px**2


def stride_px(model: keras.Model) -> int:
    """Return the largest reduction of a network: input heights, widths and shifts are multiples of it."""
    reduction: dict[int, float] = {id(model.input): 1.0}
    for layer in _computing(model):
        source = layer.input[0] if isinstance(layer.input, (list, tuple)) else layer.input
        reduction[id(layer.output)] = reduction[id(source)] * _reduction(layer)
    return int(max(reduction.values()))


def context_px(model: keras.Model) -> int:
    """Compute the exact context: the furthest input pixel that an output pixel depends on, over all phases.

    Notes
    -----
    The interval of pixels that one output pixel depends on is followed back through every layer, for each
    position within the stride: strided layers treat the pixels of a group differently.
    """
    reach = 0
    for axis in (0, 1):
        for x in range(stride_px(model)):
            seen: dict[int, tuple[int, int]] = {id(model.output): (x, x)}
            for layer in reversed(_computing(model)):
                if id(layer.output) not in seen:
                    continue
                low, high = _read_by(layer, *seen[id(layer.output)], axis)
                for tensor in layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]:
                    known = seen.get(id(tensor), (low, high))
                    seen[id(tensor)] = (min(low, known[0]), max(high, known[1]))
            low, high = seen[id(model.input)]
            reach = max(reach, x - low, high - x)
    return reach


def _computing(model: keras.Model) -> list[Any]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _reduction(layer: Any) -> float:
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return 1 / float(layer.strides[0])
    if isinstance(layer, BilinearUpsample):
        return 1 / 2
    if isinstance(layer, keras.layers.UpSampling2D):
        return 1 / float(layer.size[0])
    strides = getattr(layer, "strides", 1)
    return float(strides[0] if isinstance(strides, tuple) else strides)


def _read_by(layer: Any, low: int, high: int, axis: int) -> tuple[int, int]:
    """Return the interval of a layer's input that an interval of its output depends on."""
    if isinstance(layer, BilinearUpsample):
        return (low - 1) // 2, (high + 1) // 2
    if isinstance(layer, (keras.layers.UpSampling2D, keras.layers.Conv2DTranspose)):
        factor = layer.size[axis] if isinstance(layer, keras.layers.UpSampling2D) else layer.strides[axis]
        return low // factor, high // factor
    if hasattr(layer, "kernel_size"):
        size = layer.dilation_rate[axis] * (layer.kernel_size[axis] - 1) + 1
    elif hasattr(layer, "pool_size"):
        size = layer.pool_size[axis]
    else:
        return low, high
    step = layer.strides[axis]
    # Zeros around, as TensorFlow's "same": the odd one behind, counted for sizes that the stride divides.
    before = max(size - step, 0) // 2
    return low * step - before, high * step - before + size - 1
