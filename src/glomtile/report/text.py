"""Text and tables of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomtile.errors import GlomtileError
from glomtile.evaluation.bootstrap import Figure
from glomtile.io.tables import read_csv, require_numbers

Row = Mapping[str, str]
"""A line of a table, by column."""

FEW_IMAGES = 10
_LEANING = 0.1
"""Difference of precision and recall from which on outlines are called too large or too small."""


@dataclass(frozen=True)
class FormattedFigure:
    """A figure as the report prints it.

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
    span: tuple[float, float, float] | None


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
    "sq": "IoU of found objects",
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


GALLERY_OF = {
    "missed": (("false_negative",), "truth"),
    "invented": (("false_positive",), "prediction"),
    "split": (("split",), "truth"),
    "merged": (("merged",), "truth"),
    "outlines": (("poor_overlap", "true_positive"), "truth"),
}
"""Galleries of objects: which outcomes of which side are in each."""

GALLERIES = {
    "missed": ("Missed", "True objects that nothing was predicted for, the largest first."),
    "invented": ("Invented", "Predicted where the truth has nothing, the largest first."),
    "split": ("Split", "One true object that was predicted in pieces."),
    "merged": ("Merged", "Several true objects that were predicted as one."),
    "outlines": ("Worst outlines", "Seen, but drawn too far off; the least overlap first."),
}
"""What each gallery is called, and a sentence on it."""


def headlines(entry: Mapping[str, Any], unit: str) -> list[FormattedFigure]:
    """Headline figures of one class of ``scores.json``, each with its sentence."""
    return [_shown(name, entry, unit) for name in HEADLINES]


def number(name: str, value: float | None, unit: str, *, signed: bool = False) -> str:
    """Write one figure with its unit, a difference with its sign; undefined ones as a dash."""
    if value is None:
        return "–"
    digits = 1 if name in LOWER_IS_BETTER else 3
    shown = f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    if name == "hd95":
        return f"{shown} {'µm' if unit == 'um' else 'px'}"
    return shown


def interval(name: str, figure: Mapping[str, Any], unit: str, *, signed: bool = False) -> str:
    """Write an interval as ``low to high``; empty when there is none."""
    if figure["low"] is None or figure["high"] is None:
        return ""
    low = number(name, figure["low"], unit, signed=signed).removesuffix(" µm").removesuffix(" px")
    return f"{low} to {number(name, figure['high'], unit, signed=signed)}"


def figure_lines(entry: Mapping[str, Any], unit: str) -> list[tuple[str, ...]]:
    """All figures of one class of ``scores.json``: title, value, interval, number of images."""
    return [
        (TITLES.get(name, name), number(name, one["value"], unit), interval(name, one, unit) or "–",
         str(one["images"]))
        for name, one in entry["figures"].items()
    ]  # fmt: skip


def difference_lines(entry: Mapping[str, Any], unit: str) -> list[tuple[str, ...]]:
    """Paired differences of one class of ``scores.json``: title, value, interval, what it shows."""
    return [
        (TITLES.get(name, name), number(name, one["value"], unit, signed=True),
         interval(name, one, unit, signed=True) or "–", verdict(name, one))
        for name, one in entry["figures"].items()
    ]  # fmt: skip


def verdict(name: str, figure: Mapping[str, Any]) -> str:
    """Say in a word what a paired difference shows."""
    if figure["value"] is None or figure["low"] is None:
        return "not known"
    if figure["low"] <= 0 <= figure["high"]:
        return "no difference shown"
    better = (figure["value"] < 0) == (name in LOWER_IS_BETTER)
    return "better" if better else "worse"


def cautions(scores: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before trusting the intervals."""
    found = []
    units = scores["groups"] if scores["groups"] is not None else scores["images"]
    of = scores["interval"]["of"]
    if units < 2:
        found.append(f"There are no intervals: they need at least two {of}.")
    elif units < FEW_IMAGES:
        found.append(f"Only {units} {of}: the intervals are rough, and more likely too narrow than too wide.")
    if scores["groups"] is None and scores["images"] > 1:
        found.append(
            "Images count as independent of each other. If several come from one slide or patient, the true "
            "intervals are wider: name the groups."
        )
    for entry in scores["classes"]:
        if all(figure["value"] is None for key, figure in entry["figures"].items() if key != "count_error"):
            found.append(f"The class {entry['name']} is in no truth and no prediction: it has no figures.")
    return found


def _shown(name: str, entry: Mapping[str, Any], unit: str) -> FormattedFigure:
    figure = entry["figures"][name]
    value = figure["value"]
    sentence = (
        _sentence(name, entry, unit) if value is not None else "Not defined: there is nothing to measure."
    )
    span = None
    if name not in LOWER_IS_BETTER and value is not None:
        ends = [value if figure[end] is None else figure[end] for end in ("low", "high")]
        span = (100 * value, 100 * ends[0], 100 * ends[1])
    return FormattedFigure(
        TITLES[name], number(name, value, unit), interval(name, figure, unit), sentence, span
    )


def _sentence(name: str, entry: Mapping[str, Any], unit: str) -> str:
    figure, objects, what = entry["figures"][name], entry["objects"], entry["name"]
    percent = f"{100 * figure['value']:.1f} %"
    if name == "pooled_dice":
        return (
            "All pixels of all images together: the area both agree on, twice, over the two areas added up."
        )
    if name == "mean_dice":
        out = entry["images_left_out"]
        left_out = f"; {out} with no {what} at all left out" if out else ""
        images = figure["images"]
        return (
            f"Every image counts the same, small objects as much as large ones ({images} images{left_out})."
        )
    if name == "pooled_precision":
        return f"{percent} of the area predicted as {what} is {what}."
    if name == "pooled_recall":
        return f"{percent} of the true {what} area was found."
    if name == "object_f1":
        return (
            f"{objects['true_positive']} of {objects['truth']} objects found, "
            f"{objects['false_negative']} missed, and "
            f"{objects['false_positive']} predicted where there is none or too far off (IoU of 0.5 or less)."
        )
    if name == "count_error":
        return (
            f"By so many objects an image's count is off on average ({objects['predicted']} predicted, "
            f"{objects['truth']} true)."
        )
    if name == "pq":
        return "Object F1 times the mean IoU of the found objects: counting and outlining in one figure."
    away = number(name, figure["value"], unit)
    over = objects["true_positive"]
    return f"95 % of a found object's outline lies within {away} of the true one, on average over {over}."


def verdict_sentences(scores: Mapping[str, Any], rows: Sequence[Row], objects: Sequence[Row]) -> list[str]:
    """The outcome in a few plain sentences: what was found, and which image is worst and why.

    Parameters
    ----------
    scores : mapping
        ``scores.json``.
    rows, objects : sequence of mapping
        ``per_image.csv``, the worst image first, and ``objects.csv``.
    """
    sentences = []
    for entry in scores["classes"]:
        counts = entry["objects"]
        if counts["truth"] + counts["predicted"] == 0:
            continue
        sentences.append(
            f"In {counted(scores['images'], 'image')}, {counts['true_positive']} of "
            f"{counted(counts['truth'], 'object')} of class {entry['name']} were found, "
            f"{counts['false_negative']} were not; {counts['false_positive']} were predicted where there is "
            "none or too far off."
        )
    failed = list(
        dict.fromkeys(
            row["image"] for row in rows if int(row["false_negative"]) or int(row["false_positive"])
        )
    )
    judged = list(dict.fromkeys(row["image"] for row in rows))
    if judged and not sentences:
        sentences.append("No image holds an object, and none was predicted.")
    elif judged and not failed:
        sentences.append("Every object of every image was found, and none was invented.")
    elif failed:
        worst = judged[0]
        why = reason(*([row for row in table if row["image"] == worst] for table in (rows, objects)))
        sentences.append(
            f"{counted(len(failed), 'image')} of {len(judged)} {'has' if len(failed) == 1 else 'have'} an "
            f"object missed or invented. The worst image is {worst}{': ' + why if why else ''}."
        )
    return sentences


def found_headlines(
    name: str, count: int, slides: int, tissue_mm2: float, figures: Sequence[tuple[str, Figure, str]]
) -> list[FormattedFigure]:
    """Headlines of what was found where there is no truth to hold it against.

    Parameters
    ----------
    name : str
        The class.
    count, slides : int
    tissue_mm2 : float
        Of all slides.
    figures : sequence of (str, Figure, str)
        What each is of, the figure, and how its number is written.
    """
    sentences = (
        "A slide has so many on average.",
        "Found objects over the tissue that was seen.",
        "Of the found objects, those at an edge included.",
    )
    shown = [
        FormattedFigure(
            f"{name}: found",
            f"{count:,}",
            "",
            f"{counted(count, name + ' object')} on {counted(slides, 'slide')} with {tissue_mm2:.3g} mm² of "
            "tissue.",
            None,
        )
    ]
    for (what, figure, form), sentence in zip(figures, sentences, strict=True):
        known = math.isfinite(figure.value)
        ends = "" if not math.isfinite(figure.low) else f"{figure.low:{form}} to {figure.high:{form}}"
        shown.append(
            FormattedFigure(
                f"{name}: {what}",
                f"{figure.value:{form}}" if known else "–",
                ends if known else "",
                sentence,
                None,
            )
        )
    return shown


_WRONG = (
    ("false_negative", "truth", "missed"),
    ("split", "truth", "split into pieces"),
    ("merged", "truth", "merged with another"),
    ("poor_overlap", "truth", "drawn too far off"),
    ("false_positive", "prediction", "false positive"),
)


def reason(rows: Sequence[Row], objects: Sequence[Row]) -> str:
    """What went wrong in an image, from its rows of both tables; empty where nothing did.

    Parameters
    ----------
    rows : sequence of mapping
        Of ``per_image.csv``, one a class.
    objects : sequence of mapping
        Of ``objects.csv``.
    """
    several = len(rows) > 1
    parts = []
    for row in rows:
        own = [one for one in objects if one["name"] == row["name"]]
        wrong = ", ".join([*_wrong_objects(own), *_wrong_area(row)])
        if wrong:
            parts.append(f"{row['name']}: {wrong}" if several else wrong)
    return "; ".join(parts)


def _wrong_objects(objects: Sequence[Row]) -> Iterator[str]:
    for kind, side, said in _WRONG:
        count = sum(one["outcome"] == kind and one["side"] == side for one in objects)
        if count:
            yield f"{count} {said}"


def _wrong_area(row: Row) -> Iterator[str]:
    if row["precision"] and row["recall"] and int(row["true_positive"]):
        leaning = float(row["precision"]) - float(row["recall"])
        if abs(leaning) > _LEANING:
            yield "too little area" if leaning > 0 else "too much area"


def crop_caption(kind: str, row: Row) -> str:
    """One line under an object of a gallery."""
    size = f"{float(row['area_um2']):,.0f} µm²" if row["area_um2"] else f"{int(row['area_px']):,} px"
    if kind == "outlines":
        hd95 = f", HD95 {float(row['hd95_px']):.1f} px" if row["hd95_px"] else ""
        return f"IoU {float(row['iou']):.2f}{hd95}, {size}"
    return size


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def colour(rgb: Sequence[int]) -> str:
    """A colour as CSS writes it."""
    red, green, blue = (int(part) for part in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"


IMAGE_COLUMNS = (
    *("image", "name", "dice", "precision", "recall", "truth_objects", "predicted_objects"),
    *("true_positive", "false_positive", "false_negative"),
)
OBJECT_COLUMNS = (
    *("image", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
SLIDE_COLUMNS = ("image", "kind", "width_px", "height_px", "mpp")

_WHOLE = (
    *("truth_objects", "predicted_objects", "true_positive", "false_positive", "false_negative"),
    *("area_px", "top", "left", "bottom", "right", "width_px", "height_px", "pixels", "true_pixels"),
)
_NUMBERS = ("dice", "precision", "recall", "area_um2", "iou", "hd95_px", "mpp", "tissue_mm2")
_OF_A_CLASS = ("_count", "_total_area_mm2", "_per_mm2")
"""How the names of those columns of ``summary.csv`` end that are numbers of a class."""


def numbered_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table that anybody may have edited since we wrote it.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that it must have.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, or a cell of a column of numbers holds none.
    """
    rows = read_csv(path, required)
    columns = list(rows[0]) if rows else []
    whole = [name for name in columns if name in _WHOLE]
    require_numbers(path, rows, whole, whole=True)
    numbers = [name for name in columns if name in _NUMBERS or name.endswith(_OF_A_CLASS)]
    require_numbers(path, rows, numbers)
    return rows


def readable_rows(path: Path, required: Sequence[str], notes: list[str]) -> list[dict[str, str]]:
    """`numbered_rows` of a table that may be missing; where it is of no use, `notes` takes the reason."""
    if not path.exists():
        return []
    try:
        return numbered_rows(path, required)
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return []
