"""What one prediction against its truth counts: pixels and objects of each class, before any averaging."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glomtile.core.objects import find_objects, match_objects, matched_hausdorff_px
from glomtile.core.outcomes import Outcome, outcomes
from glomtile.errors import GlomtileError, InputError
from glomtile.types import IGNORE, Float32, UInt8


@dataclass(frozen=True)
class ClassScore:
    """What one image says about one class; all counts, no ratios but the matched IoUs.

    Attributes
    ----------
    tp, fp, fn : int
        Pixels in both masks, only in the prediction, only in the truth.
    truth_objects, predicted_objects : int
        8-connected objects.
    ious : tuple of float
        IoU of each matched pair, so its length is the number found.
    hd95_px : tuple of float
        HD95 of each matched pair, in pixels.
    objects : tuple of Outcome
        What became of each object, the true ones first; empty in a sum over images.
    """

    tp: int
    fp: int
    fn: int
    truth_objects: int
    predicted_objects: int
    ious: tuple[float, ...]
    hd95_px: tuple[float, ...]
    objects: tuple[Outcome, ...] = field(default=(), compare=False)

    @property
    def found(self) -> int:
        return len(self.ious)

    @property
    def false(self) -> int:
        return self.predicted_objects - self.found

    @property
    def missed(self) -> int:
        return self.truth_objects - self.found

    @property
    def dice(self) -> float:
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def object_f1(self) -> float:
        return _ratio(2 * self.found, self.truth_objects + self.predicted_objects)

    @property
    def pq(self) -> float:
        return _ratio(2 * sum(self.ious), self.truth_objects + self.predicted_objects)


@dataclass(frozen=True)
class ImageScore:
    """One prediction against its truth.

    Attributes
    ----------
    classes : tuple of ClassScore
        Of class 1, 2, …; background has none.
    pixels : int
        Pixels that counted: those not labelled `IGNORE` in the truth.
    soft_overlap : float
        Sum over those pixels of the probability given to the true class (1 or 0 without probabilities).
    mpp : float or None
        Micrometres per pixel.
    """

    classes: tuple[ClassScore, ...]
    pixels: int
    soft_overlap: float
    mpp: float | None = None

    @property
    def soft_pixel_accuracy(self) -> float:
        """The reference's ``dice_coef_multiclass`` of one sample (reference §5); background counts too."""
        return (2 * self.soft_overlap + 1) / (2 * self.pixels + 1)


def score_image(
    prediction: UInt8,
    truth: UInt8,
    num_classes: int,
    mpp: float | None = None,
    *,
    probs: Float32 | None = None,
) -> ImageScore:
    """Compare one predicted label image with the truth.

    Parameters
    ----------
    prediction : (H, W) uint8 ndarray
        Class numbers below `num_classes`.
    truth : (H, W) uint8 ndarray
        Class numbers below `num_classes`, or `IGNORE`: such pixels are background in both masks
        when objects are looked for, and count in no sum.
    num_classes : int
        K, background included.
    mpp : float, optional
        Micrometres per pixel.
    probs : (H, W, K) float32 ndarray, optional
        Class probabilities, for the soft pixel accuracy only.

    Returns
    -------
    ImageScore

    Raises
    ------
    InputError
        When one is not uint8, the two differ in size, or hold a class number that does not exist. A
        prediction may not hold `IGNORE`: it cannot choose what it is judged by.
    """
    _check(prediction, truth, num_classes, probs)
    counted = truth != IGNORE
    pixels = int(np.count_nonzero(counted))
    codes = truth[counted].astype(np.uint16) * num_classes + prediction[counted]
    confusion = np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)
    overlap = float(np.trace(confusion))
    if probs is not None:
        own = np.take_along_axis(probs[counted], truth[counted][:, None].astype(np.intp), axis=1)
        overlap = float(own.sum(dtype=np.float64))
    classes = tuple(
        _score_class(prediction, truth, counted, number, confusion) for number in range(1, num_classes)
    )
    return ImageScore(classes, pixels, overlap, mpp)


def _check(prediction: UInt8, truth: UInt8, num_classes: int, probs: Float32 | None) -> None:
    if num_classes < 2:
        raise GlomtileError("num_classes", f"expected at least 2, background included, got {num_classes}")
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise InputError(
            "prediction", f"expected labels of the truth's shape {truth.shape}, got {prediction.shape}"
        )
    for name, plane in (("prediction", prediction), ("truth", truth)):
        if plane.dtype != np.uint8:
            raise InputError(name, f"expected uint8 class numbers, got {plane.dtype}")
    if probs is not None and probs.shape != (*truth.shape, num_classes):
        raise InputError("probs", f"expected the shape {(*truth.shape, num_classes)}, got {probs.shape}")
    if truth.size == 0:
        return
    highest = int(prediction.max())
    if highest >= num_classes:
        raise InputError("prediction", f"expected class numbers below {num_classes}, got {highest}")
    strange = (truth >= num_classes) & (truth != IGNORE)
    if strange.any():
        got = int(truth[strange][0])
        raise InputError("truth", f"expected class numbers below {num_classes} or {IGNORE}, got {got}")


def _score_class(
    prediction: UInt8, truth: UInt8, counted: NDArray[np.bool_], number: int, confusion: NDArray[np.int64]
) -> ClassScore:
    tp = int(confusion[number, number])
    true_objects = find_objects((truth == number) & counted)
    predicted_objects = find_objects((prediction == number) & counted)
    matching = match_objects(true_objects, predicted_objects)
    hd95_px = matched_hausdorff_px(true_objects, predicted_objects, matching)
    return ClassScore(
        tp=tp,
        fp=int(confusion[:, number].sum()) - tp,
        fn=int(confusion[number].sum()) - tp,
        truth_objects=true_objects.count,
        predicted_objects=predicted_objects.count,
        ious=tuple(matching.ious.tolist()),
        hd95_px=tuple(hd95_px.tolist()),
        objects=outcomes(true_objects, predicted_objects, matching, hd95_px),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
