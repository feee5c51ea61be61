"""Scores in the report page: figures and sentences, and scored images with outlines and errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile import plotting
from glomtile.errors import GlomtileError, InputError
from glomtile.io.image_list import ImageList, PreviewSeries, read_image_list
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.palette import Palette
from glomtile.report.elements import (
    THUMBNAIL_BYTES,
    Chart,
    FormattedFigure,
    Row,
    Thumbnail,
    ThumbnailBudget,
    counted,
    crop_around,
    svg_path,
    thumbnail,
)
from glomtile.types import IGNORE, Box, UInt8, crop

if TYPE_CHECKING:
    from glomtile.report.build import Results

CARD_BYTES = 9_500_000
MOST_CARDS = CARD_BYTES // THUMBNAIL_BYTES
PATH_CHARACTERS = 2_500_000
MAX_PATH_CHARACTERS = 40_000
"""Of one path. A mask of more detail is drawn more coarsely, and at last without its smallest parts."""

CROP_PX, FRAME_PX = 232, 320
MAX_CROPS = 12
FEW_IMAGES = 10
_TOLERANCE = 0.6 / 1000
"""Tolerance of an outline, as a share of the image's longer side."""

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
    *("pooled_dice", "mean_dice", "pooled_precision", "pooled_recall"),
    *("object_f1", "pq", "count_error", "hd95"),
)
LOWER_IS_BETTER = ("count_error", "hd95")
_WRONG = ("false_negative", "false_positive")


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


def add_scores(folder: Path, scores: Mapping[str, Any], found: Results) -> None:
    """Add figures, cautions and verdict of ``scores.json``.

    Raises
    ------
    InputError
        A part of the scores is missing or has a wrong type.
    """
    path = folder / "scores.json"
    for name in ("images", "groups"):
        if not isinstance(count := scores.get(name), int | None):
            raise InputError(path, f"expected {name} as a whole number, got {count!r}", "score again")
    try:
        unit = scores["hd95_unit"]
        found.verdict = _verdict_sentences(scores, found)
        found.scores = {
            "drawn": "{draws} bootstrap draws of {of} (seed {seed})".format(**scores["interval"]),
            "soft": _number("", scores["soft_pixel_accuracy"]["value"], ""),
            "cautions": _cautions(scores),
            "classes": [
                {
                    "name": entry["name"],
                    "headlines": _headlines(entry, unit),
                    "colour": "#{:02x}{:02x}{:02x}".format(*entry["rgb"]),
                    "lines": [
                        (*_figure_cells(name, one, unit), str(one["images"]))
                        for name, one in entry["figures"].items()
                    ],
                }
                for entry in scores["classes"]
            ],
            "difference": [
                {
                    "name": entry["name"],
                    "lines": [
                        (*_figure_cells(name, one, unit, signed=True), _verdict(name, one))
                        for name, one in entry["figures"].items()
                    ],
                }
                for entry in scores.get("difference") or ()
            ],
            "seams": scores.get("seams"),
        }
        found.facts = [
            counted(scores[name], name.removesuffix("s"))
            for name in ("images", "groups")
            if scores[name] is not None
        ]
    except (KeyError, TypeError, ValueError) as error:
        what = f"a file without {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(path, f"expected scores written by glomtile, got {what}", "score again") from error


def _headlines(entry: Mapping[str, Any], unit: str) -> list[FormattedFigure]:
    shown = []
    for name in HEADLINES:
        figure = entry["figures"][name]
        value, span = figure["value"], None
        if name not in LOWER_IS_BETTER and value is not None:
            low, high = (value if figure[end] is None else figure[end] for end in ("low", "high"))
            span = (100 * value, 100 * low, 100 * high)
        sentence = "Not defined." if value is None else _sentence(name, entry, unit)
        title, number, interval = _figure_cells(name, figure, unit)
        shown.append(FormattedFigure(title, number, interval.removesuffix("–"), sentence, span))
    return shown


def _figure_cells(
    name: str, figure: Mapping[str, Any], unit: str, *, signed: bool = False
) -> tuple[str, str, str]:
    """Return title, value and interval of a figure; a dash where one is not defined."""
    interval = "–"
    if figure["low"] is not None and figure["high"] is not None:
        low = _number(name, figure["low"], unit, signed=signed).removesuffix(" µm").removesuffix(" px")
        interval = f"{low} to {_number(name, figure['high'], unit, signed=signed)}"
    return TITLES.get(name, name), _number(name, figure["value"], unit, signed=signed), interval


def _number(name: str, value: float | None, unit: str, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    digits = 1 if name in LOWER_IS_BETTER else 3
    shown = f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    if name == "hd95":
        return f"{shown} {'µm' if unit == 'um' else 'px'}"
    return shown


def _verdict(name: str, figure: Mapping[str, Any]) -> str:
    if figure["value"] is None or figure["low"] is None:
        return "not known"
    if figure["low"] <= 0 <= figure["high"]:
        return "no difference shown"
    better = (figure["value"] < 0) == (name in LOWER_IS_BETTER)
    return "better" if better else "worse"


def _cautions(scores: Mapping[str, Any]) -> list[str]:
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


def _verdict_sentences(scores: Mapping[str, Any], found: Results) -> list[str]:
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
    images = list(dict.fromkeys(row["image"] for row in found.rows))
    failed = {row["image"] for row in found.rows if any(int(row[key]) for key in _WRONG)}
    if images and not sentences:
        sentences.append("No image contains an object, and none was predicted.")
    elif images and not failed:
        sentences.append("Every object was found, without a false positive.")
    elif failed:
        worst = images[0]
        why = _errors_in_words(
            *([row for row in table if row["image"] == worst] for table in (found.rows, found.objects))
        )
        sentences.append(
            f"{counted(len(failed), 'image')} of {len(images)} {'has' if len(failed) == 1 else 'have'} false "
            f"negatives or false positives. The worst image is {worst}{': ' + why if why else ''}."
        )
    return sentences


def _errors_in_words(rows: Sequence[Row], objects: Sequence[Row]) -> str:
    """List the errors of an image from its rows of ``per_image.csv`` and ``objects.csv``."""
    parts = []
    for row in rows:
        wrong = []
        own = [(one["outcome"], one["side"]) for one in objects if one["name"] == row["name"]]
        for outcome, side, words in _ERRORS:
            if count := own.count((outcome, side)):
                wrong.append(counted(count, words) if words.startswith("false") else f"{count} {words}")
        if row["precision"] and row["recall"] and int(row["true_positive"]):
            bias = float(row["precision"]) - float(row["recall"])
            if abs(bias) > _BIAS:
                wrong.append("too little area" if bias > 0 else "too much area")
        if wrong:
            parts.append((f"{row['name']}: " if len(rows) > 1 else "") + ", ".join(wrong))
    return "; ".join(parts)


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
        f"95 % of the outline of a true positive is within {_number(name, figure['value'], unit)} of the "
        f"true one (mean of {counted(objects['true_positive'], 'object')})."
    )


def distributions(rows: Sequence[Row], objects: Sequence[Row]) -> list[Chart]:
    """Draw the areas of the objects of every class, then the true and predicted counts of the images."""
    areas, counts = [], []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in objects if row["name"] == name]
        if not own:
            continue
        column, unit = ("area_um2", "µm²") if all(row["area_um2"] for row in own) else ("area_px", "px")
        truth, prediction = (
            [float(row[column]) for row in own if row["side"] == side] for side in ("truth", "prediction")
        )
        true, predicted = (f"{median(one):,.0f} {unit}" if one else "none" for one in (truth, prediction))
        sentence = (
            f"Median area: {true} true, {predicted} predicted." if truth else f"Median area: {predicted}."
        )
        areas.append(Chart(f"Areas: {name}", sentence, plotting.area_histogram_svg(truth, prediction, unit)))
        pairs = [
            (int(row["truth_objects"]), int(row["predicted_objects"])) for row in rows if row["name"] == name
        ]
        right = sum(true == predicted for true, predicted in pairs)
        sentence = (
            f"The count is right in {right} of {counted(len(pairs), 'image')}. Above the diagonal too "
            "many were predicted, below it too few; a larger circle is more images."
        )
        svg = plotting.count_scatter_svg(pairs)
        counts.append(Chart(f"Objects in each image: {name}", sentence, svg, square=True))
    return [*areas, *counts]


# --- scored images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One class of an image: its true and its predicted outlines as SVG paths."""

    name: str
    colour: str
    truth: str
    prediction: str


@dataclass(frozen=True)
class Card:
    """One scored image; without a thumbnail where only masks are known.

    `layers` and `ignored`, the path of pixels that do not count, are in pixels of the image, `size_px` its
    ``(H, W)``. `counts` are numbers of objects, `errors` and `flags` texts that may be empty.
    """

    key: str
    name: str
    thumbnail: Thumbnail | None
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]
    ignored: str
    dice: float | None
    counts: Mapping[str, int]
    errors: str
    flags: str


@dataclass(frozen=True)
class Crop:
    """One object of a gallery: a square cut out of a card's image."""

    card: str
    name: str
    caption: str
    box: Box
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class Frame:
    """The prediction of one epoch on a preview image."""

    epoch: int
    thumbnail: Thumbnail
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]


def add_images(folder: Path, found: Results) -> None:
    """Add cards, galleries and previews of the images of ``images.json``; note what cannot be read."""
    try:
        listed = read_image_list(folder)
    except GlomtileError as error:
        found.notes.append(f"images: {error.message}")
        return
    if listed is None:
        return
    notes: list[str] = []
    found.cards, crops = cards_and_crops(listed, found.rows, found.objects, dict(found.flags), notes)
    found.crops = [(GALLERIES[kind], shown) for kind, shown in crops.items()]
    found.notes += notes if found.cards else [f"images: they are no longer in their folders ({notes[0]})"]
    for series in listed.previews:
        try:
            found.previews.append((series.stem, preview_frames(series, listed.palette)))
        except GlomtileError as error:
            found.notes.append(f"previews of {series.stem}: {error.message}")


def cards_and_crops(
    images: ImageList,
    rows: Sequence[Row],
    objects: Sequence[Row],
    flags: Mapping[str, str],
    notes: list[str],
) -> tuple[list[Card], dict[str, list[Crop]]]:
    """Read every image and its masks once; make its card, and crops of the objects in error.

    `rows` are those of ``per_image.csv``, the worst image first, `objects` of ``objects.csv``, `flags` the
    quality flags by stem. `notes` receives what is left out, and why. The crops are sorted into the galleries
    of `GALLERIES`.
    """
    by_stem = {record.stem: record for record in images.images}
    stems = [stem for stem in dict.fromkeys(row["image"] for row in rows) if stem in by_stem]
    if len(stems) > MOST_CARDS:
        notes.append(f"the {len(stems) - MOST_CARDS} best images: only the {MOST_CARDS} worst are shown")
        stems = stems[:MOST_CARDS]
    rows_of, objects_of = _by_image(rows), _by_image(objects)
    wanted = _gallery_objects(objects, set(stems))
    budget = ThumbnailBudget(CARD_BYTES, len(stems), large=12)
    paths = max(1, len(stems)) * (2 * images.palette.num_classes - 1)
    characters = min(MAX_PATH_CHARACTERS, PATH_CHARACTERS // paths)
    cards: list[Card] = []
    crops: dict[str, list[tuple[int, Crop]]] = defaultdict(list)
    for number, stem in enumerate(stems):
        key, record, own = f"image-{number}", by_stem[stem], rows_of[stem]
        try:
            truth, prediction = images.labels(record)
            image = None if record.image is None else read_image(record.image)
        except GlomtileError as error:
            notes.append(f"{stem}: {error.message}")
            continue
        dice = [float(row["dice"]) for row in own if row["dice"]]
        columns = {"truth": "truth_objects"} | {name: name for name in ("true_positive", *_WRONG)}
        cards.append(
            Card(
                key,
                stem,
                None if image is None else budget.add(image),
                truth.shape,
                layers_of(truth, prediction, images.palette, characters),
                mask_path(truth == IGNORE, _TOLERANCE * max(truth.shape), characters),
                float(np.mean(dice)) if dice else None,
                {name: sum(int(row[column]) for row in own) for name, column in columns.items()},
                _errors_in_words(own, objects_of[stem]),
                flags.get(stem, ""),
            )
        )
        for kind, rank, row in wanted.get(stem, ()):
            box = crop_around(Box(*(int(row[edge]) for edge in Box._fields)), truth.shape)
            cut = None if image is None else thumbnail(crop(image, box), CROP_PX)
            crops[kind].append((rank, Crop(key, stem, _crop_caption(kind, row), box, cut)))
    ordered = {
        kind: [made for _, made in sorted(crops[kind], key=lambda one: one[0])]
        for kind in GALLERIES
        if kind in crops
    }
    return cards, ordered


def preview_frames(series: PreviewSeries, palette: Palette) -> list[Frame]:
    """Read the previews of a training."""
    small = thumbnail(read_image(series.image), FRAME_PX)
    frames = []
    for epoch, path in series.frames:
        labels = read_mask(path, palette)
        frames.append(Frame(epoch, small, labels.shape, layers_of(None, labels, palette)))
    return frames


def layers_of(
    truth: UInt8 | None, prediction: UInt8, palette: Palette, most: int = MAX_PATH_CHARACTERS
) -> tuple[Layer, ...]:
    """Trace the outlines of every class above 0, each in at most `most` characters."""
    tolerance = max(0.5, _TOLERANCE * max(prediction.shape))
    return tuple(
        Layer(
            entry.name,
            "#{:02x}{:02x}{:02x}".format(*entry.rgb),
            "" if truth is None else mask_path(truth == entry.number, tolerance, most),
            mask_path(prediction == entry.number, tolerance, most),
        )
        for entry in palette.classes[1:]
    )


def mask_path(mask: NDArray[np.bool_], tolerance_px: float, most: int = MAX_PATH_CHARACTERS) -> str:
    """Trace the outlines of a mask, holes included, as an SVG path for the even-odd rule.

    Parameters
    ----------
    mask : (H, W) bool ndarray
    tolerance_px : float
        Largest distance of a line from the pixels' centres.
    most : int
        Largest number of characters.

    Returns
    -------
    str
        In pixels of the mask; empty for an empty mask. Specks of less than three points are drawn as
        rectangles of their pixels.
    """
    if not mask.any():
        return ""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts: list[str] = []
    for coarser in (1, 2, 4, 8):
        parts = [_contour_path(contour, tolerance_px * coarser) for contour in contours]
        if sum(map(len, parts)) <= most:
            return "".join(parts)
    parts = [part for _, part in sorted(zip(contours, parts, strict=True), key=lambda one: -len(one[0]))]
    ends = np.cumsum([len(part) for part in parts])
    return "".join(parts[: int(np.searchsorted(ends, most, side="right"))])


def _contour_path(contour: Any, tolerance_px: float) -> str:
    points = cv2.approxPolyDP(contour, tolerance_px, closed=True)[:, 0]
    if len(points) < 3:
        x, y, width, height = cv2.boundingRect(contour)
        return f"M{x} {y}h{width}v{height}h-{width}z"
    return svg_path(points.astype(np.int64))


def _gallery_objects(objects: Sequence[Row], stems: set[str]) -> dict[str, list[tuple[str, int, Row]]]:
    """Choose the objects of the galleries; by image: gallery, rank and row.

    The largest errors of each kind come first, and of the outlines those of least overlap.
    """
    chosen: dict[str, list[tuple[str, int, Row]]] = defaultdict(list)
    for kind, gallery in GALLERIES.items():
        found = [
            row
            for row in objects
            if row["outcome"] in gallery.outcomes and row["side"] == gallery.side and row["image"] in stems
        ]
        if kind == "outlines":
            found.sort(key=lambda row: (row["outcome"] != "poor_overlap", float(row["iou"])))
        else:
            found.sort(key=lambda row: float(row["area_px"]), reverse=True)
        # Two true objects merged into one are one error.
        places = {tuple(row[key] for key in ("image", *Box._fields)): row for row in reversed(found)}
        for rank, row in enumerate([*places.values()][::-1][:MAX_CROPS]):
            chosen[row["image"]].append((kind, rank, row))
    return chosen


def _crop_caption(gallery: str, row: Row) -> str:
    size = f"{float(row['area_um2']):,.0f} µm²" if row["area_um2"] else f"{int(row['area_px']):,} px"
    if gallery == "outlines":
        hd95 = f", HD95 {float(row['hd95_px']):.1f} px" if row["hd95_px"] else ""
        return f"IoU {float(row['iou']):.2f}{hd95}, {size}"
    return size


def _by_image(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["image"]].append(row)
    return grouped
