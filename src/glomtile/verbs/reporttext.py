"""What each figure of a report is called, how it is written and the sentence that says what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEW_IMAGES = 10


@dataclass(frozen=True)
class Shown:
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


def headlines(entry: Mapping[str, Any], unit: str) -> list[Shown]:
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


def _shown(name: str, entry: Mapping[str, Any], unit: str) -> Shown:
    figure = entry["figures"][name]
    value = figure["value"]
    sentence = (
        _sentence(name, entry, unit) if value is not None else "Not defined: there is nothing to measure."
    )
    span = None
    if name not in LOWER_IS_BETTER and value is not None:
        ends = [value if figure[end] is None else figure[end] for end in ("low", "high")]
        span = (100 * value, 100 * ends[0], 100 * ends[1])
    return Shown(TITLES[name], number(name, value, unit), interval(name, figure, unit), sentence, span)


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
            f"{objects['found']} of {objects['truth']} objects found, {objects['missed']} missed, and "
            f"{objects['false']} predicted where there is none or too far off (IoU of 0.5 or less)."
        )
    if name == "count_error":
        return (
            f"By so many objects an image's count is off on average ({objects['predicted']} predicted, "
            f"{objects['truth']} true)."
        )
    if name == "pq":
        return "Object F1 times the mean IoU of the found objects: counting and outlining in one figure."
    away = number(name, figure["value"], unit)
    over = objects["found"]
    return f"95 % of a found object's outline lies within {away} of the true one, on average over {over}."
