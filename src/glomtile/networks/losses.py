"""Segmentation losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError
from glomtile.networks.layers import LAYOUT, PACKAGE
from glomtile.types import IGNORE

EPSILON = 1e-7
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def targets(y_true: Any, num_classes: int) -> tuple[Any, Any]:
    """One plane per class and the weight of each pixel.

    Parameters
    ----------
    y_true : tensor
        ``(N, H, W)`` or ``(N, H, W, 1)`` class numbers of any dtype, 255 = ignored.
    num_classes : int
        K. With 1, every class number but 0 is foreground.

    Returns
    -------
    planes : tensor
        ``(N, H, W, K) float32`` zeros and ones, all zero where ignored.
    valid : tensor
        ``(N, H, W) float32``, 0 where ignored.
    """
    labels = ops.cast(y_true, "int32")
    if len(labels.shape) == 4:
        labels = ops.squeeze(labels, axis=-1)
    keep = ops.not_equal(labels, IGNORE)
    valid = ops.cast(keep, "float32")
    if num_classes == 1:
        return ops.cast(ops.logical_and(labels > 0, keep), "float32")[..., None], valid
    planes = ops.one_hot(ops.where(keep, labels, 0), num_classes, dtype="float32")
    return planes * valid[..., None], valid


def predictions(y_pred: Any) -> Any:
    """``(N, H, W, K) float32``; a lost class axis of length 1 is put back."""
    probs = ops.cast(y_pred, "float32")
    return probs[..., None] if len(probs.shape) == 3 else probs


def with_background(planes: Any, probs: Any, valid: Any) -> tuple[Any, Any]:
    """Two planes, background and foreground, of the single plane of a network with one class."""
    if probs.shape[-1] > 1:
        return planes, probs
    return (
        ops.concatenate([valid[..., None] - planes, planes], axis=-1),
        ops.concatenate([1.0 - probs, probs], axis=-1),
    )


class PixelLoss(keras.losses.Loss):  # type: ignore[misc]
    """Base of all losses: class numbers as targets, ignored pixels, class weights.

    Parameters
    ----------
    num_classes : int
        K, channels of the prediction.
    class_weights : sequence of float, optional
        One weight per class (two where K = 1), multiplied onto each pixel's crossentropy and, in
        region losses, weighting the mean over foreground classes.
    name : str
        The name of the config.

    Notes
    -----
    Crossentropies return one value a sample, the mean over its pixels that count, so that the loss of
    an epoch is the mean over its samples whatever the batches. Region terms (Dice, Tversky, IoU) are
    ratios of sums over the batch, which keeps tiles without foreground from dominating.
    """

    def __init__(
        self, num_classes: int, class_weights: Sequence[float] | None = None, name: str | None = None
    ) -> None:
        super().__init__(name=name, reduction="sum_over_batch_size")
        wanted = max(2, num_classes)
        if class_weights is not None and len(class_weights) != wanted:
            raise ConfigError(
                "[model] class_weights", f"expected {wanted} numbers, one a class, got {len(class_weights)}"
            )
        self.num_classes = num_classes
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        planes, valid = targets(y_true, self.num_classes)
        values = self.compare(planes, predictions(y_pred), valid)
        # One value a sample, always: Keras neither weights nor shares out a scalar as it does a vector.
        return values + ops.zeros_like(valid[:, 0, 0])

    def compare(self, planes: Any, probs: Any, valid: Any) -> Any:
        """Loss of planes ``(N, H, W, K)`` against probs, a scalar or one value a sample."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "class_weights": self.class_weights, "name": self.name}

    def pixel_mean(self, values: Any, planes: Any, valid: Any) -> Any:
        """Mean over each sample's pixels that count of `values` ``(N, H, W)``; 0 where none counts."""
        weight = valid
        if self.class_weights is not None:
            weights = ops.convert_to_tensor(np.array(self.class_weights, "float32"))
            if planes.shape[-1] == 1:
                planes = ops.concatenate([valid[..., None] - planes, planes], axis=-1)
            weight = ops.sum(planes * weights, axis=-1)
        count = ops.maximum(ops.sum(valid, axis=(1, 2)), 1.0)
        return ops.sum(values * weight, axis=(1, 2)) / count

    def foreground_mean(self, ratios: Any) -> Any:
        """Mean of one value a class over the foreground classes."""
        if self.class_weights is None:
            return ops.mean(ratios[1:])
        weights = np.array(self.class_weights[1:], "float32")
        return ops.sum(ratios[1:] * ops.convert_to_tensor(weights / max(weights.sum(), EPSILON)))


def crossentropy(planes: Any, probs: Any, *, gamma: float = 0.0, smoothing: float = 0.0) -> Any:
    """Crossentropy of each pixel ``(N, H, W)``, damped by ``(1 - p) ** gamma`` where `gamma` > 0."""
    classes = planes.shape[-1]
    if smoothing > 0:
        planes = planes * (1.0 - smoothing) + smoothing / classes
    p = ops.clip(probs, EPSILON, 1.0 - EPSILON)
    terms = -planes * ops.log(p)
    if gamma > 0:
        terms = terms * ops.power(1.0 - p, gamma)
    return ops.sum(terms, axis=-1)


def tversky_index(planes: Any, probs: Any, alpha: float, beta: float, smooth: float = 1.0) -> Any:
    """``(K,)`` Tversky index of each class over the batch; alpha = beta = 0.5 is the soft Dice."""
    axes = (0, 1, 2)
    hit = ops.sum(planes * probs, axis=axes)
    false = ops.sum(probs, axis=axes) - hit
    missed = ops.sum(planes, axis=axes) - hit
    return (hit + smooth) / (hit + alpha * false + beta * missed + smooth)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CategoricalCrossentropy(PixelLoss):
    """Crossentropy; with `gamma` > 0 the focal loss (Lin et al. 2017, doi:10.1109/ICCV.2017.324).

    Parameters
    ----------
    gamma : float
        How much sure pixels are damped; 0 is plain crossentropy.
    label_smoothing : float
        Share of the truth spread over all classes, in [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        class_weights: Sequence[float] | None = None,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        name: str = "categorical_crossentropy",
    ) -> None:
        super().__init__(num_classes, class_weights, name)
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    def compare(self, planes: Any, probs: Any, valid: Any) -> Any:
        planes, probs = with_background(planes, probs, valid)
        values = crossentropy(planes, probs, gamma=self.gamma, smoothing=self.label_smoothing)
        return self.pixel_mean(values, planes, valid)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"gamma": self.gamma, "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Tversky(PixelLoss):
    """1 - Tversky index of the foreground classes (Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44).

    Parameters
    ----------
    alpha, beta : float
        Weight of false and of missed foreground.
    crossentropy_share : float
        Weight of an added crossentropy; with alpha = beta = 0.5 and 1 this is Dice + crossentropy.
    label_smoothing : float
        Of the added crossentropy.
    """

    def __init__(
        self,
        num_classes: int,
        class_weights: Sequence[float] | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        crossentropy_share: float = 0.0,
        label_smoothing: float = 0.0,
        name: str = "tversky",
    ) -> None:
        super().__init__(num_classes, class_weights, name)
        self.alpha = alpha
        self.beta = beta
        self.crossentropy_share = crossentropy_share
        self.label_smoothing = label_smoothing

    def compare(self, planes: Any, probs: Any, valid: Any) -> Any:
        planes, probs = with_background(planes, probs, valid)
        counted = probs * valid[..., None]
        index = tversky_index(planes, counted, self.alpha, self.beta)
        loss = 1.0 - self.foreground_mean(index)
        if self.crossentropy_share > 0:
            values = crossentropy(planes, probs, smoothing=self.label_smoothing)
            loss = loss + self.crossentropy_share * self.pixel_mean(values, planes, valid)
        return loss

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "alpha": self.alpha,
            "beta": self.beta,
            "crossentropy_share": self.crossentropy_share,
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class ReferenceLoss(PixelLoss):
    """Mean of the terms of one of the reference's losses (reference §5).

    Parameters
    ----------
    terms : sequence of {"bce", "dice", "iou", "ssim"}
        Binary crossentropy, 1 - dice_coef, 1 - iou_coef, 1 - SSIM. Ignored pixels count as right in
        the SSIM, whose windows cannot leave them out; class weights act on the crossentropy.
    """

    def __init__(
        self,
        num_classes: int,
        class_weights: Sequence[float] | None = None,
        terms: Sequence[str] = ("bce",),
        name: str = "binary_crossentropy",
    ) -> None:
        super().__init__(num_classes, class_weights, name)
        self.terms = list(terms)

    def compare(self, planes: Any, probs: Any, valid: Any) -> Any:
        counted = probs * valid[..., None]
        known = {
            "bce": lambda: self.pixel_mean(binary_crossentropy(planes, probs), planes, valid),
            "dice": lambda: 1.0 - dice_coef(planes, counted),
            "iou": lambda: 1.0 - iou_coef(planes, counted),
            "ssim": lambda: 1.0 - ssim(planes, counted),
        }
        total = known[self.terms[0]]()
        for term in self.terms[1:]:
            total = total + known[term]()
        return total / len(self.terms)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"terms": self.terms}


def binary_crossentropy(planes: Any, probs: Any) -> Any:
    """Binary crossentropy of each pixel ``(N, H, W)``, the mean over its channels."""
    p = ops.clip(probs, EPSILON, 1.0 - EPSILON)
    return -ops.mean(planes * ops.log(p) + (1.0 - planes) * ops.log(1.0 - p), axis=-1)


def dice_coef(planes: Any, probs: Any) -> Any:
    """``(2 Σ y p + 1) / (Σ y + Σ p + 1)`` over the whole batch, all classes together."""
    both, either = ops.sum(planes * probs), ops.sum(planes) + ops.sum(probs)
    return (2.0 * both + 1.0) / (either + 1.0)


def iou_coef(planes: Any, probs: Any) -> Any:
    """``Σ y p / (Σ y + Σ p - Σ y p)`` over the whole batch, all classes together."""
    both, either = ops.sum(planes * probs), ops.sum(planes) + ops.sum(probs)
    return both / ops.maximum(either - both, EPSILON)


def ssim(a: Any, b: Any) -> Any:
    """Mean structural similarity ``(N,)`` of each two samples of ``(N, H, W, K)`` with values in [0, 1].

    Notes
    -----
    Gaussian window of 11 px, sigma 1.5, only where it fits whole; K1 = 0.01, K2 = 0.03 (Wang et al.
    2004, doi:10.1109/TIP.2003.819861). Images smaller than 11 px get the largest window that fits.
    """
    smallest = min(side or SSIM_WINDOW for side in a.shape[1:3])
    radius = min(SSIM_WINDOW // 2, (smallest - 1) // 2)
    channels = b.shape[-1]
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * SSIM_SIGMA**2))
    line = (line / line.sum()).astype("float32")
    rows = ops.convert_to_tensor(np.tile(line[:, None, None, None], (1, 1, channels, 1)))
    cols = ops.convert_to_tensor(np.tile(line[None, :, None, None], (1, 1, channels, 1)))

    def smooth(x: Any) -> Any:
        x = ops.depthwise_conv(x, rows, strides=1, padding="valid", data_format=LAYOUT)
        return ops.depthwise_conv(x, cols, strides=1, padding="valid", data_format=LAYOUT)

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = smooth(a), smooth(b)
    product = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    luminance = (2.0 * product + c1) / (squares + c1)
    contrast = (2.0 * (smooth(a * b) - product) + c2) / (smooth(a * a + b * b) - squares + c2)
    return ops.mean(luminance * contrast, axis=(1, 2, 3))


_REFERENCE_TERMS = {
    "binary_crossentropy": ("bce",),
    "bce_dice_loss": ("bce", "dice"),
    "bce_iou_loss": ("bce", "iou"),
    "basnet_hybrid_loss": ("bce", "ssim", "iou"),
    "dice_loss": ("dice",),
    "iou_loss": ("iou",),
}

LOSSES = ("categorical_crossentropy", "focal", "dice_crossentropy", "tversky", *_REFERENCE_TERMS)
"""Names that `[model] loss` may give."""


def build_loss(settings: ModelSettings) -> keras.losses.Loss:
    """Build the loss of a config, for targets ``(N, H, W)`` of class numbers with 255 ignored.

    Parameters
    ----------
    settings : ModelSettings
        The ``[model]`` section.

    Raises
    ------
    ConfigError
        When the name is unknown, the weights do not fit the classes, or a categorical crossentropy is
        asked of a network with one class.
    """
    weights = settings.class_weights
    if weights is not None and not any(weights[1:]):
        raise ConfigError(
            "[model] class_weights",
            f"expected a weight above 0 for some class but the background, got {list(weights)}",
        )
    name, classes, weights = settings.loss, settings.num_classes, settings.class_weights
    smoothing = settings.label_smoothing
    if name in _REFERENCE_TERMS:
        return ReferenceLoss(classes, weights, _REFERENCE_TERMS[name], name)
    if name == "categorical_crossentropy":
        if classes == 1:
            raise ConfigError(
                "[model] loss",
                "expected a loss for num_classes = 1, got 'categorical_crossentropy'",
                hint="binary_crossentropy is the same for one class",
            )
        return CategoricalCrossentropy(classes, weights, 0.0, smoothing, name)
    if name == "focal":
        return CategoricalCrossentropy(classes, weights, settings.focal_gamma, smoothing, name)
    if name == "dice_crossentropy":
        return Tversky(classes, weights, 0.5, 0.5, 1.0, smoothing, name)
    if name == "tversky":
        return Tversky(classes, weights, settings.tversky_alpha, settings.tversky_beta, name=name)
    raise ConfigError("[model] loss", f"expected one of {', '.join(LOSSES)}, got {name!r}")
