"""Training metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from glomtile.config.schema import ModelSettings
from glomtile.errors import ConfigError
from glomtile.networks.layers import PACKAGE
from glomtile.networks.losses import EPSILON, predictions, targets, with_background

_BLOCK = 2.0**20


class SumMetric(keras.metrics.Metric):  # type: ignore[misc]
    """A figure made of sums over all pixels since the last reset.

    Parameters
    ----------
    num_classes : int
        K, channels of the prediction.
    name : str
        Of the column in logs and tables.

    Notes
    -----
    A float32 stops counting at 2**24 = 4,096 x 4,096 pixels. Each sum is therefore kept as whole
    blocks of 2**20 and a rest: counts of pixels are kept exactly up to 2**44 where no batch has more than
    15 * 2**20 of them, and rounded to float32 once, when the figure is made. Sums of probabilities are
    rounded with each batch, by at most 2**-24 of the batch's sum and the rest.
    """

    def __init__(self, num_classes: int, name: str) -> None:
        super().__init__(name=name)
        self.num_classes = num_classes
        shape = (self.num_sums(),)
        self._blocks = self.add_variable(shape, initializer="zeros", name="blocks")
        self._rest = self.add_variable(shape, initializer="zeros", name="rest")

    def num_sums(self) -> int:
        """Return the number of sums kept."""
        raise NotImplementedError

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        """``(num_sums,)`` of one batch."""
        raise NotImplementedError

    def figure(self, sums: Any) -> Any:
        """Compute the figure from the sums of all batches."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: class numbers ``(N, H, W)``, 255 ignored, against probabilities ``(N, H, W, K)``.

        `sample_weight` is not taken into account: these are counts of pixels.
        """
        planes, valid = targets(y_true, self.num_classes)
        rest = self._rest + self.batch_sums(planes, predictions(y_pred), valid)
        full = ops.floor(rest / _BLOCK)
        self._blocks.assign(self._blocks + full)
        self._rest.assign(rest - full * _BLOCK)

    def result(self) -> Any:
        return self.figure(self._blocks * _BLOCK + self._rest)

    def get_config(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "name": self.name}


def _ratio(part: Any, whole: Any, empty: float) -> Any:
    return ops.where(whole > 0, part / ops.maximum(whole, EPSILON), empty)


class ClassCounts(SumMetric):
    """Counts of right, predicted and true pixels per class, of the most probable class of each pixel."""

    def num_sums(self) -> int:
        return 3 * max(2, self.num_classes)

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        planes, probs = with_background(planes, probs, valid)
        chosen = ops.one_hot(ops.argmax(probs, axis=-1), probs.shape[-1], dtype="float32")
        chosen = chosen * valid[..., None]
        sums = [ops.sum(x, axis=(0, 1, 2)) for x in (planes * chosen, chosen, planes)]
        return ops.concatenate(sums)

    def figure(self, sums: Any) -> Any:
        right, predicted, true = ops.split(sums, 3)
        return self.figure_of_counts(right, predicted, true)

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        """Compute the figure from ``(K,)`` counts."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelAccuracy(ClassCounts):
    """Share of the pixels that count whose class is right; 0 where none counts."""

    def __init__(self, num_classes: int, name: str = "pixel_accuracy") -> None:
        super().__init__(num_classes, name)

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        return _ratio(ops.sum(right), ops.sum(true), empty=0.0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ForegroundDice(ClassCounts):
    """``2 TP / (2 TP + FP + FN)`` summed over the foreground classes; 1 where neither side has any."""

    def __init__(self, num_classes: int, name: str = "foreground_dice") -> None:
        super().__init__(num_classes, name)

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        return _ratio(2.0 * ops.sum(right[1:]), ops.sum(predicted[1:]) + ops.sum(true[1:]), empty=1.0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ForegroundIoU(ClassCounts):
    """``TP / (TP + FP + FN)`` summed over the foreground classes; 1 where neither side has any."""

    def __init__(self, num_classes: int, name: str = "foreground_iou") -> None:
        super().__init__(num_classes, name)

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        hit = ops.sum(right[1:])
        return _ratio(hit, ops.sum(predicted[1:]) + ops.sum(true[1:]) - hit, empty=1.0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ClassDice(ClassCounts):
    """Dice of one class; 1 where it is in neither truth nor prediction.

    Parameters
    ----------
    class_number : int
        0 to K - 1 (0 or 1 where K = 1).
    """

    def __init__(self, num_classes: int, class_number: int, name: str | None = None) -> None:
        super().__init__(num_classes, name or f"class_dice_{class_number}")
        self.class_number = class_number

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        k = self.class_number
        return _ratio(2.0 * right[k], predicted[k] + true[k], empty=1.0)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"class_number": self.class_number}


@keras.saving.register_keras_serializable(package=PACKAGE)
class ClassIoU(ClassDice):
    """Intersection over union of one class; 1 where it is in neither truth nor prediction."""

    def __init__(self, num_classes: int, class_number: int, name: str | None = None) -> None:
        super().__init__(num_classes, class_number, name or f"class_iou_{class_number}")

    def figure_of_counts(self, right: Any, predicted: Any, true: Any) -> Any:
        k = self.class_number
        return _ratio(right[k], predicted[k] + true[k] - right[k], empty=1.0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceCoefMulticlass(SumMetric):
    """The reference's `dice_coef_multiclass`: soft pixel accuracy, the mean over samples (reference §5).

    A sample none of whose pixels counts is no sample.
    """

    def __init__(self, num_classes: int, name: str = "dice_coef_multiclass") -> None:
        super().__init__(num_classes, name)

    def num_sums(self) -> int:
        return 2

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        probs = probs * valid[..., None]
        axes = (1, 2, 3)
        both = ops.sum(planes * probs, axis=axes)
        dice = (2.0 * both + 1.0) / (ops.sum(planes, axis=axes) + ops.sum(probs, axis=axes) + 1.0)
        seen = ops.max(valid, axis=(1, 2))
        return ops.stack([ops.sum(dice * seen), ops.sum(seen)])

    def figure(self, sums: Any) -> Any:
        return _ratio(sums[0], sums[1], empty=0.0)


class SoftSums(SumMetric):
    """Σ y p, Σ y and Σ p over everything seen, all classes together."""

    def num_sums(self) -> int:
        return 3

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        probs = probs * valid[..., None]
        return ops.stack([ops.sum(planes * probs), ops.sum(planes), ops.sum(probs)])


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceCoef(SoftSums):
    """The reference's `dice_coef`, of the epoch as one batch (reference §5)."""

    def __init__(self, num_classes: int, name: str = "dice_coef") -> None:
        super().__init__(num_classes, name)

    def figure(self, sums: Any) -> Any:
        return (2.0 * sums[0] + 1.0) / (sums[1] + sums[2] + 1.0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class IouCoef(SoftSums):
    """The reference's `iou_coef`, of the epoch as one batch (reference §5)."""

    def __init__(self, num_classes: int, name: str = "iou_coef") -> None:
        super().__init__(num_classes, name)

    def figure(self, sums: Any) -> Any:
        return sums[0] / ops.maximum(sums[1] + sums[2] - sums[0], EPSILON)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Sensitivity(SumMetric):
    """The reference's `sensitivity`: share of the ones in y that p, rounded, finds; all classes together."""

    def __init__(self, num_classes: int, name: str = "sensitivity") -> None:
        super().__init__(num_classes, name)

    def num_sums(self) -> int:
        return 2

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        return ops.stack([ops.sum(planes * ops.round(probs)), ops.sum(planes)])

    def figure(self, sums: Any) -> Any:
        return sums[0] / (sums[1] + EPSILON)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Specificity(Sensitivity):
    """The reference's `specificity`: share of the zeros in y that p, rounded, spares; all classes."""

    def __init__(self, num_classes: int, name: str = "specificity") -> None:
        super().__init__(num_classes, name)

    def batch_sums(self, planes: Any, probs: Any, valid: Any) -> Any:
        zeros = valid[..., None] - planes
        return ops.stack([ops.sum(zeros * (1.0 - ops.round(probs))), ops.sum(zeros)])


_BY_NAME: dict[str, Any] = {
    "dice_coef_multiclass": DiceCoefMulticlass,
    "dice_coef": DiceCoef,
    "iou_coef": IouCoef,
    "sensitivity": Sensitivity,
    "specificity": Specificity,
    "binary_accuracy": PixelAccuracy,
    "categorical_accuracy": PixelAccuracy,
    "accuracy": PixelAccuracy,
    "pixel_accuracy": PixelAccuracy,
    "foreground_dice": ForegroundDice,
    "foreground_iou": ForegroundIoU,
}

METRICS = (*_BY_NAME, "class_dice_<k>", "class_iou_<k>")
"""Names that `[model] metrics` may give, <k> being a class number."""


def build_metrics(
    settings: ModelSettings, names: Iterable[str] | None = None, places: Mapping[str, str] | None = None
) -> list[keras.metrics.Metric]:
    """Build the streaming metrics of these names, in order, without repetition.

    Parameters
    ----------
    settings : ModelSettings
        The ``[model]`` section.
    names : iterable of str, optional
        Any of `METRICS`; by default those of the settings.
    places : mapping of str to str, optional
        The config key of a name for error messages, where that is not ``[model] metrics``.

    Raises
    ------
    ConfigError
        When a name is unknown or its class does not exist.
    """
    wanted, keys = dict.fromkeys(settings.metrics if names is None else names), places or {}
    return [_metric(name, settings.num_classes, keys.get(name, "[model] metrics")) for name in wanted]


def _metric(name: str, num_classes: int, place: str) -> keras.metrics.Metric:
    if name in _BY_NAME:
        return _BY_NAME[name](num_classes, name=name)
    match = re.fullmatch(r"class_(dice|iou)_(\d+)", name)
    if match is None:
        raise ConfigError(place, f"expected any of {', '.join(METRICS)}, got {name!r}")
    number = int(match[2])
    if number >= max(2, num_classes):
        raise ConfigError(place, f"expected a class below {max(2, num_classes)}, got {name!r}")
    return (ClassDice if match[1] == "dice" else ClassIoU)(num_classes, number, name=name)
