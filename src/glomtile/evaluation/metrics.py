"""Segmentation metrics per pixel and per object, and label flips at tile borders.

Every figure is a ratio of two sums over images, so one table of sums per image serves the value and,
multiplied with the counts of the bootstrap draws, its interval.

Empty cases, decided once:

- A ratio whose denominator is 0 is undefined: NaN here, ``null`` in JSON, empty in CSV. It is never 0 or 1.
- Dice and IoU of an image where the class is in neither mask are undefined, so the image is left out of
  the mean; where it is in one of the two they are 0. Precision is undefined where nothing was predicted,
  recall where there is nothing to find; `Figure.images` is the number of images of a mean.
- Object F1 and PQ are undefined over a set with no object on either side, HD95 and SQ over one without
  a match.
- Draws of the bootstrap in which a figure is undefined are left out of its interval; with fewer than two
  images or groups there is no interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import GlomtileError, InputError
from glomtile.evaluation.bootstrap import (
    DRAWS,
    LEVEL,
    SEED,
    Array,
    Figure,
    draw_weights,
    ratio,
    ratio_difference,
)
from glomtile.evaluation.matching import ObjectMatch, classify_objects, match_objects, matched_hausdorff_px
from glomtile.objects.labelling import find_objects
from glomtile.types import IGNORE, UInt8


@dataclass(frozen=True)
class ClassScore:
    """Counts of one class in one image.

    Attributes
    ----------
    tp_px, fp_px, fn_px : int
        Pixels in both masks, only in the prediction, only in the truth.
    truth_objects, predicted_objects : int
        8-connected objects.
    ious : tuple of float
        IoU of each matched pair.
    hd95_px : tuple of float
        HD95 of each matched pair, in pixels.
    objects : tuple of ObjectMatch
        Outcome of each object, the true ones first; empty in a sum over images.
    """

    tp_px: int
    fp_px: int
    fn_px: int
    truth_objects: int
    predicted_objects: int
    ious: tuple[float, ...]
    hd95_px: tuple[float, ...]
    objects: tuple[ObjectMatch, ...] = field(default=(), compare=False)

    @property
    def true_positive(self) -> int:
        return len(self.ious)

    @property
    def false_positive(self) -> int:
        return self.predicted_objects - self.true_positive

    @property
    def false_negative(self) -> int:
        return self.truth_objects - self.true_positive

    @property
    def dice(self) -> float:
        return _ratio(2 * self.tp_px, 2 * self.tp_px + self.fp_px + self.fn_px)

    @property
    def iou(self) -> float:
        return _ratio(self.tp_px, self.tp_px + self.fp_px + self.fn_px)

    @property
    def precision(self) -> float:
        return _ratio(self.tp_px, self.tp_px + self.fp_px)

    @property
    def recall(self) -> float:
        return _ratio(self.tp_px, self.tp_px + self.fn_px)

    @property
    def object_f1(self) -> float:
        return _ratio(2 * self.true_positive, self.truth_objects + self.predicted_objects)

    @property
    def pq(self) -> float:
        return _ratio(2 * sum(self.ious), self.truth_objects + self.predicted_objects)


@dataclass(frozen=True)
class ImageScore:
    """Scores of one prediction.

    Attributes
    ----------
    classes : tuple of ClassScore
        Of class 1, 2, …; background has none.
    pixels : int
        Pixels that counted: those not labelled `IGNORE` in the truth.
    right_pixels : int
        Those of them whose predicted class is the true one, background included.
    mpp : float or None
        Micrometres per pixel.
    """

    classes: tuple[ClassScore, ...]
    pixels: int
    right_pixels: int
    mpp: float | None = None

    @property
    def soft_pixel_accuracy(self) -> float:
        """The reference's ``dice_coef_multiclass`` of one sample (reference §5); background counts too."""
        return (2 * self.right_pixels + 1) / (2 * self.pixels + 1)


def score_image(prediction: UInt8, truth: UInt8, num_classes: int, mpp: float | None = None) -> ImageScore:
    """Compare one predicted label image with the truth.

    Parameters
    ----------
    prediction : (H, W) uint8 ndarray
        Class numbers below `num_classes`.
    truth : (H, W) uint8 ndarray
        Class numbers below `num_classes`, or `IGNORE`: such pixels are background in both masks
        when objects are labelled, and count in no sum.
    num_classes : int
        K, background included.
    mpp : float, optional
        Micrometres per pixel.

    Returns
    -------
    ImageScore

    Raises
    ------
    InputError
        When one is not uint8, the two differ in size, or hold a class number that does not exist. A
        prediction may not hold `IGNORE`.
    """
    _check(prediction, truth, num_classes)
    counted = truth != IGNORE
    pixels = int(np.count_nonzero(counted))
    codes = truth[counted].astype(np.uint16) * num_classes + prediction[counted]
    confusion = np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)
    classes = tuple(
        _score_class(prediction, truth, counted, number, confusion) for number in range(1, num_classes)
    )
    return ImageScore(classes, pixels, int(np.trace(confusion)), mpp)


def _check(prediction: UInt8, truth: UInt8, num_classes: int) -> None:
    if num_classes < 2:
        raise GlomtileError("num_classes", f"expected at least 2, background included, got {num_classes}")
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise InputError(
            "prediction", f"expected labels of the truth's shape {truth.shape}, got {prediction.shape}"
        )
    for name, plane in (("prediction", prediction), ("truth", truth)):
        if plane.dtype != np.uint8:
            raise InputError(name, f"expected uint8 class numbers, got {plane.dtype}")
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
        tp_px=tp,
        fp_px=int(confusion[:, number].sum()) - tp,
        fn_px=int(confusion[number].sum()) - tp,
        truth_objects=true_objects.count,
        predicted_objects=predicted_objects.count,
        ious=tuple(matching.ious.tolist()),
        hd95_px=tuple(hd95_px.tolist()),
        objects=classify_objects(true_objects, predicted_objects, matching, hd95_px),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


@dataclass(frozen=True)
class ClassSummary:
    """One class over a set of images.

    Attributes
    ----------
    number : int
        The class.
    figures : dict of str to Figure
        ``pooled_dice mean_dice pooled_iou mean_iou pooled_precision mean_precision pooled_recall mean_recall
        object_f1 pq sq count_error hd95``: see `summarise`.
    total : ClassScore
        The images' counts added up.
    images_left_out : int
        Images where the class is in neither mask: they have no Dice.
    """

    number: int
    figures: dict[str, Figure]
    total: ClassScore
    images_left_out: int

    def to_dict(self) -> dict[str, Any]:
        total = self.total
        return {
            "class": self.number,
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "objects": {
                "truth": total.truth_objects,
                "predicted": total.predicted_objects,
                "true_positive": total.true_positive,
                "false_positive": total.false_positive,
                "false_negative": total.false_negative,
            },
            "pixels": {"tp_px": total.tp_px, "fp_px": total.fp_px, "fn_px": total.fn_px},
            "images_left_out": self.images_left_out,
        }


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images.

    Attributes
    ----------
    classes : tuple of ClassSummary
        Class 1, 2, …
    soft_pixel_accuracy : Figure
        Mean over the images of the reference's ``dice_coef_multiclass``.
    images : int
        Images in the set.
    groups : int or None
        Groups they fall into, where known: the bootstrap then draws groups.
    hd95_unit : str
        ``"um"`` when every image with a matched object has an mpp, else ``"px"``.
    draws, seed : int
        Of the bootstrap.
    """

    classes: tuple[ClassSummary, ...]
    soft_pixel_accuracy: Figure
    images: int
    groups: int | None
    hd95_unit: str
    draws: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and None: ready for JSON."""
        return {
            "images": self.images,
            "groups": self.groups,
            "interval": {
                "level": LEVEL,
                "draws": self.draws,
                "seed": self.seed,
                "of": "images" if self.groups is None else "groups",
            },
            "hd95_unit": self.hd95_unit,
            "soft_pixel_accuracy": self.soft_pixel_accuracy.to_dict(),
            "classes": [summary.to_dict() for summary in self.classes],
        }


def summarise(
    scores: Sequence[ImageScore],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Scores:
    """Sum up the scores of a set of images.

    Parameters
    ----------
    scores : sequence of ImageScore
        One an image, at least one.
    groups : sequence, optional
        Group (slide, patient) of each image. Images of one group resemble each other, so the bootstrap
        draws whole groups; intervals that draw images would be too narrow.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    Scores
        ``pooled_*`` take all pixels of all images as one image; ``mean_*`` are means over the images where
        the figure is defined. ``object_f1`` is 2 TP / (2 TP + FP + FN) of objects matched at IoU > 0.5,
        ``sq`` the mean IoU of the matched, ``pq`` their product. ``count_error`` is the mean over all
        images of the absolute difference between predicted and true numbers of objects, ``hd95`` the mean
        over the matched objects.

    Raises
    ------
    InputError
        When there is no score, the images differ in their number of classes, or the group list has another
        length.

    Notes
    -----
    Percentile bootstrap, Efron and Tibshirani 1993. PQ: Kirillov et al., doi 10.1109/CVPR.2019.00963.
    Pooled Dice is dominated by large objects, mean Dice by images with small ones: read both.
    """
    weights = draw_weights(len(scores), groups, draws, seed)
    _require_one_count("scores", scores)
    unit, in_unit = _hd95_unit(scores)
    summaries = []
    for index in range(len(scores[0].classes)):
        per_class = [score.classes[index] for score in scores]
        terms = _terms(per_class, in_unit)
        total = _add(per_class)
        seen = sum(score.tp_px + score.fp_px + score.fn_px > 0 for score in per_class)
        figures = {name: ratio(term, weights) for name, term in terms.items()}
        summaries.append(ClassSummary(index + 1, figures, total, len(scores) - seen))
    soft = np.array([[score.soft_pixel_accuracy, 1.0] for score in scores])
    group_count = None if groups is None else len(set(groups))
    return Scores(tuple(summaries), ratio(soft, weights), len(scores), group_count, unit, draws, seed)


def paired_difference(
    a: Sequence[ImageScore],
    b: Sequence[ImageScore],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> tuple[dict[str, Figure], ...]:
    """Estimate the difference of `b` to `a` on the same images: ``figure(b) - figure(a)``.

    Both use the same draws of images, so the difficulty of an image cancels.

    Parameters
    ----------
    a, b : sequence of ImageScore
        Scores of the same images in the same order.
    groups, draws, seed
        As in `summarise`.

    Returns
    -------
    tuple of dict of str to Figure
        One dictionary a class, names as in `ClassSummary.figures`; NaN where either side is undefined.
        An interval that holds 0 shows no difference.

    Raises
    ------
    InputError
        When the two differ in length or in classes.
    """
    if len(a) != len(b):
        raise InputError(
            "paired difference",
            f"expected the same images and classes twice, got {len(a)} and {len(b)} images",
        )
    _require_one_count("paired difference", [*a, *b])
    weights = draw_weights(len(a), groups, draws, seed)
    _, in_unit = _hd95_unit([*a, *b])
    result = []
    for index in range(len(a[0].classes)):
        before = _terms([score.classes[index] for score in a], in_unit[: len(a)])
        after = _terms([score.classes[index] for score in b], in_unit[len(a) :])
        result.append({name: ratio_difference(before[name], after[name], weights) for name in before})
    return tuple(result)


def _require_one_count(where: str, scores: Sequence[ImageScore]) -> None:
    counts = sorted({1 + len(score.classes) for score in scores})
    if len(counts) > 1:
        raise InputError(
            where, f"expected images of one number of classes, got {', '.join(map(str, counts))}"
        )


def _terms(scores: Sequence[ClassScore], px_to_unit: Array) -> dict[str, Array]:
    """Numerator and denominator of every figure for each image, ``(N, 2)``; a figure is the sums' ratio."""

    def pooled(numerator: Array, denominator: Array) -> Array:
        return np.stack([numerator, denominator], axis=1)

    def mean(numerator: Array, denominator: Array) -> Array:
        defined = denominator > 0
        ratio = np.divide(numerator, denominator, out=np.zeros(len(defined)), where=defined)
        return np.stack([ratio, defined.astype(np.float64)], axis=1)

    counts = np.array(
        [[s.tp_px, s.fp_px, s.fn_px, s.truth_objects, s.predicted_objects, s.true_positive] for s in scores],
        np.float64,
    )
    tp, fp, fn, true_objects, predicted_objects, found = counts.reshape(-1, 6).T
    iou_sum = np.array([sum(s.ious) for s in scores])
    hd95_sum = np.array([sum(s.hd95_px) for s in scores]) * px_to_unit
    parts = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }
    terms = {f"pooled_{name}": pooled(*part) for name, part in parts.items()}
    terms |= {f"mean_{name}": mean(*part) for name, part in parts.items()}
    objects = true_objects + predicted_objects
    terms["object_f1"] = pooled(2 * found, objects)
    terms["pq"] = pooled(2 * iou_sum, objects)
    terms["sq"] = pooled(iou_sum, found)
    terms["count_error"] = pooled(np.abs(predicted_objects - true_objects), np.ones(len(scores)))
    terms["hd95"] = pooled(hd95_sum, found)
    return terms


def _hd95_unit(scores: Sequence[ImageScore]) -> tuple[str, Array]:
    known = all(score.mpp for score in scores if any(c.true_positive for c in score.classes))
    if not (known and any(score.mpp for score in scores)):
        return "px", np.ones(len(scores))
    return "um", np.array([score.mpp or 1.0 for score in scores])


def _add(scores: Sequence[ClassScore]) -> ClassScore:
    return ClassScore(
        tp_px=sum(s.tp_px for s in scores),
        fp_px=sum(s.fp_px for s in scores),
        fn_px=sum(s.fn_px for s in scores),
        truth_objects=sum(s.truth_objects for s in scores),
        predicted_objects=sum(s.predicted_objects for s in scores),
        ious=tuple(iou for s in scores for iou in s.ious),
        hd95_px=tuple(hd for s in scores for hd in s.hd95_px),
    )


@dataclass(frozen=True)
class SeamCount:
    """Label flips of one or more images, at tile borders and at all other lines.

    A line is the step between two neighbouring pixel rows or columns; a flip is a pixel on it whose
    two sides have different labels.
    """

    border_flips: int = 0
    border_lines: int = 0
    other_flips: int = 0
    other_lines: int = 0

    @property
    def ratio(self) -> float:
        """Flips per border line over flips per other line.

        NaN when there is no line of one of the two kinds or no flip at all; infinite when every flip is
        on a border. 1 is no seam.
        """
        if not self.border_lines or not self.other_lines or not (self.border_flips or self.other_flips):
            return float("nan")
        if not self.other_flips:
            return float("inf")
        return (self.border_flips / self.border_lines) / (self.other_flips / self.other_lines)

    def __add__(self, other: SeamCount) -> SeamCount:
        return SeamCount(
            self.border_flips + other.border_flips,
            self.border_lines + other.border_lines,
            self.other_flips + other.other_flips,
            self.other_lines + other.other_lines,
        )


def count_seams(labels: UInt8, tile_px: int, offset_px: tuple[int, int] = (0, 0)) -> SeamCount:
    """Count the label flips of one image at tile borders and elsewhere, rows and columns pooled.

    Parameters
    ----------
    labels : (H, W) uint8 ndarray
        Class numbers.
    tile_px : int
        Distance of the borders: the stride of the tiles, not their size with overlap.
    offset_px : (int, int)
        Row and column of one border.

    Returns
    -------
    SeamCount

    Raises
    ------
    InputError
        When `tile_px` is below 1, or `labels` is no plane.
    """
    if tile_px < 1 or labels.ndim != 2:
        raise InputError(
            "seams", f"expected a plane of labels and a tile of at least 1 px, got {labels.shape}, {tile_px}"
        )
    total = SeamCount()
    for plane, offset in ((labels, offset_px[0]), (labels.T, offset_px[1])):
        flips = np.count_nonzero(plane[1:] != plane[:-1], axis=1)
        border = (np.arange(1, plane.shape[0]) - offset) % tile_px == 0 if len(flips) else np.zeros(0, bool)
        total += SeamCount(
            int(flips[border].sum()), int(border.sum()), int(flips[~border].sum()), int((~border).sum())
        )
    return total
