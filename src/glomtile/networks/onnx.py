"""Conversion of Keras networks to ONNX graphs.

Written here and not left to a converter: by way of a traced TensorFlow graph half of the operators work out
sizes around transposed convolutions. Our layers are few, each has its ONNX operator, kernels can be stored as
float16, and the result does not depend on Keras' backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from glomtile.errors import MissingExtraError, ModelError
from glomtile.networks.layers import BilinearUpsample

OPSET = 21
INPUT, OUTPUT = "image", "probs"

_UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "celu": ("Celu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "mish": ("Mish", {}),
    "sigmoid": ("Sigmoid", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "tanh": ("Tanh", {}),
    "hard_silu": ("HardSwish", {}),
}
"""Keras' name of an activation to ONNX' operator and its attributes."""


def onnx_model(model: keras.Model, *, half_weights: bool = False) -> Any:
    """Convert the network to an ONNX model.

    Parameters
    ----------
    model : keras.Model
        ``(N, H, W, C)`` to ``(N, H, W, K)``, functional, made of the layers of `glomtile.networks`.
    half_weights : bool
        Store kernels as float16; arithmetic stays float32.

    Returns
    -------
    onnx.ModelProto
        One float32 input ``image`` and one float32 output ``probs``, NHWC, batch, height and width free.

    Raises
    ------
    ModelError
        A layer or an activation has no counterpart here; the layer is named.
    MissingExtraError
        The package ``onnx`` is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "export",
            "expected the package onnx, got an installation without it",
            "pip install 'glomtile[export]'",
        ) from error
    graph = _Graph(onnx, half_weights)
    channels, classes = int(model.input_shape[-1]), int(model.output_shape[-1])
    names = {id(model.input): graph.add("Transpose", [INPUT], "nchw", perm=[0, 3, 1, 2])}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        sources = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        names[id(layer.output)] = _translate(graph, layer, [names[id(tensor)] for tensor in sources])
    graph.add("Transpose", [names[id(model.output)]], OUTPUT, perm=[0, 2, 3, 1])
    value = onnx.helper.make_tensor_value_info
    free = ["batch", "height", "width"]
    body = onnx.helper.make_graph(
        graph.nodes,
        model.name,
        [value(INPUT, onnx.TensorProto.FLOAT, [*free, channels])],
        [value(OUTPUT, onnx.TensorProto.FLOAT, [*free, classes])],
        graph.constants,
    )
    made = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    # The least version that has this opset: older runtimes refuse files that call themselves newer.
    made.ir_version = 10
    made.producer_name = "glomtile"
    return made


def as_float16(values: Any, name: str) -> Any:
    """Numbers rounded to float16; a ModelError where one does not fit."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        largest = float(np.abs(values).max())
        raise ModelError(name, f"expected weights of at most 65,504 for float16, got {largest:.3g}")
    return rounded


class _Graph:
    """Nodes and constants under way. Names are the layers', so that two runs give the same bytes."""

    def __init__(self, onnx: Any, half_weights: bool) -> None:
        self._onnx, self._half = onnx, half_weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any, name: str) -> str:
        """Add a float32 number or array, never stored shorter."""
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def kernel(self, values: Any, name: str) -> str:
        """Add a kernel, stored as float16 if configured."""
        values = np.ascontiguousarray(values)
        if not self._half:
            return self.constant(values, name)
        stored = f"{name}_float16"
        self.constants.append(self._onnx.numpy_helper.from_array(as_float16(values, name), stored))
        return self.add("Cast", [stored], name, to=self._onnx.TensorProto.FLOAT)


def _translate(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    for kind, translate in _LAYERS.items():
        if type(layer) is kind:
            return translate(graph, layer, inputs)
    known = ", ".join(kind.__name__ for kind in _LAYERS)
    raise ModelError(layer.name, f"expected one of the layers {known}, got {type(layer).__name__}")


def _activate(graph: _Graph, layer: Any, x: str) -> str:
    """Return the final activation of a layer, or none."""
    name = keras.activations.serialize(layer.activation)
    if name == "linear":
        return x
    out = f"{layer.name}_out"
    if name == "silu":
        return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{layer.name}_sigmoid")], out)
    if name == "relu6":
        bounds = [graph.constant(bound, f"{layer.name}_{bound}") for bound in (0, 6)]
        return graph.add("Clip", [x, *bounds], out)
    if name not in _UNARY:
        raise ModelError(layer.name, f"expected an activation that ONNX has, got {name}")
    operator, attributes = _UNARY[name]
    return graph.add(operator, [x], out, **attributes)


def _rescaling(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    scaled = graph.add("Mul", [inputs[0], graph.constant(layer.scale, f"{layer.name}_scale")], layer.name)
    if not layer.offset:
        return scaled
    offset = graph.constant(layer.offset, f"{layer.name}_offset")
    return graph.add("Add", [scaled, offset], f"{layer.name}_moved")


def _conv(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    groups_fit = layer.depth_multiplier == 1 if depthwise else layer.groups == 1
    if layer.padding != "same" or not groups_fit:
        raise ModelError(
            layer.name, 'expected padding "same", all channels or each one alone, got another convolution'
        )
    # Rows, columns, inputs, outputs; a depthwise kernel has one output for each input.
    kernel = _array(layer.kernel).transpose(3, 2, 0, 1)
    groups = kernel.shape[1] if depthwise else 1
    x = graph.add(
        "Conv",
        [
            inputs[0],
            graph.kernel(kernel.transpose(1, 0, 2, 3) if depthwise else kernel, f"{layer.name}_kernel"),
            *_bias(graph, layer),
        ],
        layer.name,
        kernel_shape=list(layer.kernel_size),
        dilations=list(layer.dilation_rate),
        strides=list(layer.strides),
        group=groups,
        pads=_pads(
            layer,
            [d * (size - 1) + 1 for size, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)],
        ),
    )
    return _activate(graph, layer, x)


def _pads(layer: Any, reach: list[int]) -> list[int]:
    """Return the zeros before and behind rows and columns, for sizes that the strides divide."""
    pads = [max(size - step, 0) for size, step in zip(reach, layer.strides, strict=True)]
    before = [pad // 2 for pad in pads]
    return [*before, *(pad - less for pad, less in zip(pads, before, strict=True))]


def _conv_transpose(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if layer.kernel_size != layer.strides or layer.dilation_rate != (1, 1):
        raise ModelError(
            layer.name, "expected a kernel as large as its stride, got another transposed convolution"
        )
    x = graph.add(
        "ConvTranspose",
        [inputs[0], _kernel(graph, layer), *_bias(graph, layer)],
        layer.name,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
    )
    return _activate(graph, layer, x)


def _kernel(graph: _Graph, layer: Any) -> str:
    """Keras' (rows, columns, in, out) as ONNX' (out, in, rows, columns); a transposed one the same way."""
    return graph.kernel(_array(layer.kernel).transpose(3, 2, 0, 1), f"{layer.name}_kernel")


def _bias(graph: _Graph, layer: Any) -> list[str]:
    return [graph.constant(_array(layer.bias), f"{layer.name}_bias")] if layer.use_bias else []


def _max_pool(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    sizes = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
    return graph.add("MaxPool", inputs, layer.name, **sizes)


def _average_pool(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if layer.padding != "same" or tuple(layer.strides) != (1, 1):
        raise ModelError(layer.name, 'expected padding "same" and stride 1, got another pooling')
    sizes = {"kernel_shape": list(layer.pool_size), "pads": _pads(layer, list(layer.pool_size))}
    return graph.add("AveragePool", inputs, layer.name, count_include_pad=0, **sizes)


def _batch_norm(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    # As one factor and one summand: after an activation it cannot be folded into the kernel before it.
    factor = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    summand = _array(layer.beta) - _array(layer.moving_mean) * factor
    x = graph.add(
        "Mul", [inputs[0], _per_channel(graph, factor, f"{layer.name}_factor")], f"{layer.name}_mul"
    )
    return graph.add("Add", [x, _per_channel(graph, summand, f"{layer.name}_summand")], layer.name)


def _per_channel(graph: _Graph, values: Any, name: str) -> str:
    return graph.constant(values.reshape(1, -1, 1, 1), name)


def _group_norm(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    scale = graph.constant(_array(layer.gamma), f"{layer.name}_scale")
    bias = graph.constant(_array(layer.beta), f"{layer.name}_bias")
    facts = {"num_groups": int(layer.groups), "epsilon": float(layer.epsilon)}
    return graph.add("GroupNormalization", [inputs[0], scale, bias], layer.name, **facts)


def _bilinear(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    scales = graph.constant([1, 1, 2, 2], f"{layer.name}_scales")
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph.add("Resize", [inputs[0], "", scales], layer.name, **how)


def _nearest(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if layer.interpolation != "nearest":
        raise ModelError(layer.name, f"expected nearest upsampling, got {layer.interpolation}")
    scales = graph.constant([1, 1, *layer.size], f"{layer.name}_scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [inputs[0], "", scales], layer.name, **how)


def _average(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    total = graph.add("Sum", inputs, f"{layer.name}_sum")
    return graph.add("Mul", [total, graph.constant(1 / len(inputs), f"{layer.name}_share")], layer.name)


def _array(variable: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


_LAYERS: dict[type, Callable[[_Graph, Any, list[str]], str]] = {
    keras.layers.Rescaling: _rescaling,
    keras.layers.Conv2D: _conv,
    keras.layers.DepthwiseConv2D: _conv,
    keras.layers.Conv2DTranspose: _conv_transpose,
    keras.layers.AveragePooling2D: _average_pool,
    keras.layers.UpSampling2D: _nearest,
    keras.layers.MaxPooling2D: _max_pool,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.GroupNormalization: _group_norm,
    keras.layers.Dropout: lambda graph, layer, inputs: inputs[0],
    keras.layers.Concatenate: lambda graph, layer, inputs: graph.add("Concat", inputs, layer.name, axis=1),
    keras.layers.Add: lambda graph, layer, inputs: graph.add("Sum", inputs, layer.name),
    keras.layers.Average: _average,
    keras.layers.Activation: lambda graph, layer, inputs: _activate(graph, layer, inputs[0]),
    BilinearUpsample: _bilinear,
}
