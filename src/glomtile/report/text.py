"""Sentences, numbers and tables of the report page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from glomtile.errors import GlomtileError
from glomtile.evaluation.bootstrap import Figure
from glomtile.evaluation.calibration import Bin
from glomtile.io.tables import read_csv, require_numbers

Row = Mapping[str, str]
"""A line of a table, by column."""

FEW_IMAGES = 10
_BIAS = 0.1
"""Difference of precision and recall from which on an area is called too large or too small."""

TITLES = {
    "pooled_dice": "Dice, pooled",
    "mean_dice": "Dice, mean per image",
    "pooled_iou": "IoU, pooled",
    "mean_iou": "IoU, mean per image",
    "pooled_precision": "Precision, pooled",
    "mean_precision": "Precision, mean per image",
    "pooled_recall": "Recall, pooled",
    "mean_recall": "Recall, mean per image",
    "object_f1": "Object F1",
    "pq": "Panoptic quality",
    "sq": "IoU of true positives",
    "count_error": "Count error",
    "hd95": "Outline distance (HD95)",
}
HEADLINES = (
    "pooled_dice",
    "mean_dice",
    "pooled_precision",
    "pooled_recall",
    "object_f1",
    "pq",
    "count_error",
    "hd95",
)
LOWER_IS_BETTER = ("count_error", "hd95")


class Gallery(NamedTuple):
    """A gallery of objects: its title, a sentence, and the outcomes and the side of ``objects.csv``."""

    title: str
    sentence: str
    outcomes: tuple[str, ...]
    side: str


GALLERIES = {
    "false_negative": Gallery(
        "False negatives", "True objects without a prediction; largest first.", ("false_negative",), "truth"
    ),
    "false_positive": Gallery(
        "False positives", "Predictions without a true object; largest first.", ("false_positive",),
        "prediction",
    ),
    "split": Gallery("Split", "One true object predicted in several pieces.", ("split",), "truth"),
    "merged": Gallery("Merged", "Several true objects predicted as one.", ("merged",), "truth"),
    "outlines": Gallery(
        "Worst outlines", "Objects that were found, lowest overlap first.",
        ("poor_overlap", "true_positive"), "truth",
    ),
}  # fmt: skip

_ERRORS = (
    ("false_negative", "truth", "false negative"),
    ("split", "truth", "split"),
    ("merged", "truth", "merged"),
    ("poor_overlap", "truth", "with poor overlap"),
    ("false_positive", "prediction", "false positive"),
)


@dataclass(frozen=True)
class FormattedFigure:
    """A figure as the page prints it.

    Attributes
    ----------
    title, value, interval, sentence : str
        `interval` is empty when there is none.
    span : (float, float, float) or None
        Value, low and high in percent of the scale from 0 to 1; None for figures on another scale.
    """

    title: str
    value: str
    interval: str
    sentence: str
    span: tuple[float, float, float] | None = None


# --- scores -------------------------------------------------------------------------------------------------


def headlines(entry: Mapping[str, Any], unit: str) -> list[FormattedFigure]:
    """Format the headline figures of one class of ``scores.json``."""
    shown = []
    for name in HEADLINES:
        figure = entry["figures"][name]
        value, span = figure["value"], None
        if name not in LOWER_IS_BETTER and value is not None:
            low, high = (value if figure[end] is None else figure[end] for end in ("low", "high"))
            span = (100 * value, 100 * low, 100 * high)
        sentence = "Not defined." if value is None else _sentence(name, entry, unit)
        shown.append(
            FormattedFigure(
                TITLES[name], number(name, value, unit), interval(name, figure, unit), sentence, span
            )
        )
    return shown


def number(name: str, value: float | None, unit: str, *, signed: bool = False) -> str:
    """Format one figure with its unit, and a sign if `signed`; a dash where it is not defined."""
    if value is None:
        return "–"
    digits = 1 if name in LOWER_IS_BETTER else 3
    shown = f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    if name == "hd95":
        return f"{shown} {'µm' if unit == 'um' else 'px'}"
    return shown


def interval(name: str, figure: Mapping[str, Any], unit: str, *, signed: bool = False) -> str:
    """Format an interval as ``low to high``; empty when there is none."""
    if figure["low"] is None or figure["high"] is None:
        return ""
    low = number(name, figure["low"], unit, signed=signed).removesuffix(" µm").removesuffix(" px")
    return f"{low} to {number(name, figure['high'], unit, signed=signed)}"


def figure_lines(entry: Mapping[str, Any], unit: str) -> list[tuple[str, ...]]:
    """List all figures of one class of ``scores.json``: title, value, interval, number of images."""
    return [
        (TITLES.get(name, name), number(name, one["value"], unit), interval(name, one, unit) or "–",
         str(one["images"]))
        for name, one in entry["figures"].items()
    ]  # fmt: skip


def difference_lines(entry: Mapping[str, Any], unit: str) -> list[tuple[str, ...]]:
    """List the paired differences of one class of ``scores.json``: title, value, interval, verdict."""
    return [
        (TITLES.get(name, name), number(name, one["value"], unit, signed=True),
         interval(name, one, unit, signed=True) or "–", verdict(name, one))
        for name, one in entry["figures"].items()
    ]  # fmt: skip


def verdict(name: str, figure: Mapping[str, Any]) -> str:
    """Return what a paired difference shows."""
    if figure["value"] is None or figure["low"] is None:
        return "not known"
    if figure["low"] <= 0 <= figure["high"]:
        return "no difference shown"
    better = (figure["value"] < 0) == (name in LOWER_IS_BETTER)
    return "better" if better else "worse"


def cautions(scores: Mapping[str, Any]) -> list[str]:
    """List the limits of the intervals."""
    found = []
    units = scores["groups"] if scores["groups"] is not None else scores["images"]
    of = scores["interval"]["of"]
    if units < 2:
        found.append(f"There are no intervals: they need at least two {of}.")
    elif units < FEW_IMAGES:
        found.append(f"Only {units} {of}: the intervals are rough, and more likely too narrow than too wide.")
    if scores["groups"] is None and scores["images"] > 1:
        found.append(
            "Images count as independent. If several come from one slide or patient, the true intervals are "
            "wider: pass the groups."
        )
    for entry in scores["classes"]:
        if all(figure["value"] is None for key, figure in entry["figures"].items() if key != "count_error"):
            found.append(f"The class {entry['name']} is in no truth and no prediction: it has no figures.")
    return found


def verdict_sentences(scores: Mapping[str, Any], rows: Sequence[Row], objects: Sequence[Row]) -> list[str]:
    """Summarise the scores, and the errors of the worst image, which has the first row."""
    sentences = []
    for entry in scores["classes"]:
        counts = entry["objects"]
        if counts["truth"] + counts["predicted"] == 0:
            continue
        sentences.append(
            f"In {counted(scores['images'], 'image')}, {counts['true_positive']:,} of "
            f"{counted(counts['truth'], 'object')} of class {entry['name']} were found; "
            f"{counted(counts['false_negative'], 'false negative')}, "
            f"{counted(counts['false_positive'], 'false positive')}."
        )
    errors = ("false_negative", "false_positive")
    failed = dict.fromkeys(row["image"] for row in rows if any(int(row[key]) for key in errors))
    images = list(dict.fromkeys(row["image"] for row in rows))
    if images and not sentences:
        sentences.append("No image contains an object, and none was predicted.")
    elif images and not failed:
        sentences.append("Every object was found, without a false positive.")
    elif failed:
        worst = images[0]
        why = errors_in_words(*([row for row in table if row["image"] == worst] for table in (rows, objects)))
        sentences.append(
            f"{counted(len(failed), 'image')} of {len(images)} {'has' if len(failed) == 1 else 'have'} false "
            f"negatives or false positives. The worst image is {worst}{': ' + why if why else ''}."
        )
    return sentences


def errors_in_words(rows: Sequence[Row], objects: Sequence[Row]) -> str:
    """List the errors of an image from its rows of ``per_image.csv`` and ``objects.csv``."""
    parts = []
    for row in rows:
        own = [one for one in objects if one["name"] == row["name"]]
        wrong = ", ".join([*_object_errors(own), *_area_error(row)])
        if wrong:
            parts.append(f"{row['name']}: {wrong}" if len(rows) > 1 else wrong)
    return "; ".join(parts)


def object_counts(rows: Sequence[Row]) -> dict[str, int]:
    """Add up the objects of an image's classes."""
    columns = {"truth": "truth_objects"} | {
        name: name for name in ("true_positive", "false_positive", "false_negative")
    }
    return {key: sum(int(row[column]) for row in rows) for key, column in columns.items()}


def severity(gallery: str, row: Row) -> float:
    """Rank an object of a gallery; the worst has the largest value."""
    if gallery == "outlines":
        return (1.0 - float(row["iou"])) + (1.0 if row["outcome"] == "poor_overlap" else 0.0)
    return float(row["area_px"])


def crop_caption(gallery: str, row: Row) -> str:
    """Describe an object of a gallery in one line."""
    size = f"{float(row['area_um2']):,.0f} µm²" if row["area_um2"] else f"{int(row['area_px']):,} px"
    if gallery == "outlines":
        hd95 = f", HD95 {float(row['hd95_px']):.1f} px" if row["hd95_px"] else ""
        return f"IoU {float(row['iou']):.2f}{hd95}, {size}"
    return size


def _sentence(name: str, entry: Mapping[str, Any], unit: str) -> str:
    figure, objects, what = entry["figures"][name], entry["objects"], entry["name"]
    percent = f"{100 * figure['value']:.1f} %"
    if name == "pooled_dice":
        return "Overlap of all pixels of all images: twice the common area over the sum of both areas."
    if name == "mean_dice":
        out = entry["images_left_out"]
        left_out = f"; {out} without {what} left out" if out else ""
        return f"Every image counts the same ({figure['images']} images{left_out})."
    if name == "pooled_precision":
        return f"{percent} of the area predicted as {what} is {what}."
    if name == "pooled_recall":
        return f"{percent} of the true {what} area was found."
    if name == "object_f1":
        return (
            f"{objects['true_positive']} of {counted(objects['truth'], 'object')} found at an IoU above 0.5; "
            f"{counted(objects['false_negative'], 'false negative')}, "
            f"{counted(objects['false_positive'], 'false positive')}."
        )
    if name == "count_error":
        return (
            f"Mean absolute error of the count per image ({objects['predicted']} predicted, "
            f"{objects['truth']} true)."
        )
    if name == "pq":
        return "Object F1 times the mean IoU of the true positives."
    return (
        f"95 % of the outline of a true positive is within {number(name, figure['value'], unit)} of the true "
        f"one (mean of {counted(objects['true_positive'], 'object')})."
    )


def _object_errors(objects: Sequence[Row]) -> Iterator[str]:
    for outcome, side, words in _ERRORS:
        count = sum(one["outcome"] == outcome and one["side"] == side for one in objects)
        if count:
            yield counted(count, words) if words.startswith("false") else f"{count} {words}"


def _area_error(row: Row) -> Iterator[str]:
    if row["precision"] and row["recall"] and int(row["true_positive"]):
        bias = float(row["precision"]) - float(row["recall"])
        if abs(bias) > _BIAS:
            yield "too little area" if bias > 0 else "too much area"


# --- slides and charts --------------------------------------------------------------------------------------


def class_headlines(
    name: str, count: int, slides: int, tissue_mm2: float, figures: Sequence[tuple[str, str, Figure, str]]
) -> list[FormattedFigure]:
    """Format the headline figures of one class of segmented slides.

    `figures` are title, sentence, figure and the format of its numbers.
    """
    sentence = f"{counted(count, name)} in {counted(slides, 'slide')} with {tissue_mm2:.3g} mm² of tissue."
    shown = [FormattedFigure(f"{name}: count", f"{count:,}", "", sentence)]
    for title, sentence, figure, form in figures:
        known = math.isfinite(figure.value)
        ends = f"{figure.low:{form}} to {figure.high:{form}}" if math.isfinite(figure.low) and known else ""
        value = f"{figure.value:{form}}" if known else "–"
        shown.append(FormattedFigure(f"{name}: {title}", value, ends, sentence))
    return shown


def area_sentence(truth: Sequence[float], prediction: Sequence[float], unit: str) -> str:
    """Describe a histogram of areas by its medians."""
    true, predicted = (f"{median(areas):,.0f} {unit}" if areas else "none" for areas in (truth, prediction))
    return f"Median area: {true} true, {predicted} predicted." if truth else f"Median area: {predicted}."


def count_sentence(counts: Sequence[tuple[int, int]]) -> str:
    """Describe a chart of predicted over true numbers of objects."""
    right = sum(truth == predicted for truth, predicted in counts)
    return (
        f"The count is right in {right} of {counted(len(counts), 'image')}. Above the diagonal too many were "
        "predicted, below it too few; a larger circle is more images."
    )


def calibration_sentence(name: str, bins: Sequence[Bin], error: float) -> str:
    """Describe a calibration chart by its highest bin and the expected calibration error."""
    last = bins[-1]
    return (
        f"Where the network predicts {last.predicted:.2f}, {100 * last.observed:.0f} % of the pixels are "
        f"{name}. On the diagonal the probabilities are right; below it the network is overconfident. "
        f"Expected calibration error: {error:.3f}."
    )


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not 1."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-2]}i" if noun.endswith("glomerulus") else f"{count:,} {noun}s"


def css_colour(rgb: Sequence[int]) -> str:
    """Return a colour as CSS writes it."""
    red, green, blue = (int(part) for part in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"


# --- tables -------------------------------------------------------------------------------------------------

IMAGE_COLUMNS = (
    *("image", "name", "dice", "precision", "recall", "truth_objects", "predicted_objects"),
    *("true_positive", "false_positive", "false_negative"),
)
OBJECT_COLUMNS = (
    *("image", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
QUALITY_CSV, FLAGS = "quality.csv", "quality_flags"
"""The table of distances from the training images, and its column of quality flags."""

SLIDE_COLUMNS = ("image", "kind", "width_px", "height_px", "mpp")

_INTEGERS = (
    *("truth_objects", "predicted_objects", "true_positive", "false_positive", "false_negative"),
    *("area_px", "top", "left", "bottom", "right", "width_px", "height_px", "pixels", "true_pixels"),
)
_NUMBERS = ("dice", "precision", "recall", "area_um2", "iou", "hd95_px", "mpp", "tissue_mm2")
_CLASS_SUFFIXES = ("_count", "_mean_area_um2", "_total_area_mm2", "_per_mm2")
"""Ends of those columns of ``summary.csv`` that are numbers of a class."""


def read_table(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table that a user may have edited.

    Raises
    ------
    InputError
        It cannot be read, lacks a required column, or a cell of a column of numbers is not a number.
    """
    rows = read_csv(path, required)
    columns = list(rows[0]) if rows else []
    require_numbers(path, rows, [name for name in columns if name in _INTEGERS], whole=True)
    numbers = [name for name in columns if name in _NUMBERS or name.endswith(_CLASS_SUFFIXES)]
    require_numbers(path, rows, numbers)
    return rows


def read_optional_table(path: Path, required: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    """Read a table that may be missing; where it cannot be used, `notes` receives the reason."""
    if not path.exists():
        return []
    try:
        return read_table(path, required)
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return []
