"""Scores of two folders of masks, and the files that every evaluation writes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.contact_sheets import comparison_sheet
from glomtile.datasets.loading import map_files
from glomtile.datasets.pairing import by_stem, group_rows
from glomtile.errors import InputError
from glomtile.evaluation.bootstrap import DRAWS, SEED, Figure
from glomtile.evaluation.calibration import remove_calibration
from glomtile.evaluation.metrics import ImageScore, Scores, paired_difference, score_image, summarise
from glomtile.formatting import listed
from glomtile.io.atomic import move_aside, read_json, replace_folder, write_json
from glomtile.io.image_list import ImageList, ImageRecord, write_image_list
from glomtile.io.images import PLAUSIBLE_MPP, image_size, list_images, read_image, write_png
from glomtile.io.masks import MASK_SUFFIXES, mask_size, read_mask
from glomtile.io.tables import Cell, read_csv, write_csv
from glomtile.models.folder import versions
from glomtile.palette import GLOMERULI, Palette
from glomtile.slides.slide import slide_name
from glomtile.types import SILENT, Progress, UInt8
from glomtile.validation import number_argument, path_argument, typed_argument, whole_argument

MOST_SHEETS = 24
RUN_FILE = "run.json"
_WORST = 3
OBJECT_COUNTS = ("true_positive", "false_positive", "false_negative")
COUNT_COLUMNS = ("truth_objects", "predicted_objects", *OBJECT_COUNTS, "tp_px", "fp_px", "fn_px")
RATIO_COLUMNS = ("dice", "iou", "precision", "recall", "object_f1", "pq")
IMAGE_COLUMNS = (
    *("image", "group", "class", "name", *RATIO_COLUMNS, *COUNT_COLUMNS[:5]),
    *("hd95_px", "hd95_um", *COUNT_COLUMNS[5:], "soft_pixel_accuracy"),
)
OBJECT_COLUMNS = (
    *("image", "class", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)

PerImage = list[tuple[str, ImageScore]]
"""Stem and score of each image."""

ImageAndMasks = tuple[UInt8, UInt8, UInt8]
"""Image ``(H, W, 3)``, truth ``(H, W)`` and prediction ``(H, W)``."""


def write_scores(
    out: Path,
    per_image: PerImage,
    palette: Palette,
    *,
    groups: Mapping[str, str] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
    difference: Sequence[Mapping[str, Figure]] | None = None,
    seams: Mapping[str, float | int | None] | None = None,
) -> tuple[Scores, tuple[Path, ...]]:
    """Summarise and write ``scores.json``, ``per_image.csv``, ``per_class.csv`` and ``objects.csv``.

    Parameters
    ----------
    out : Path
        Folder, created when missing.
    per_image : list of (str, ImageScore)
    palette : Palette
        Names of the classes.
    groups : mapping of str to str, optional
        Group of every stem.
    draws, seed : int
        Of the bootstrap.
    difference : sequence of mapping, optional
        From `paired_difference`; written under ``difference``.
    seams : mapping, optional
        Seam ratio, written under ``seams``.

    Returns
    -------
    Scores
    tuple of Path
        The four files.
    """
    ordered = [groups[stem] for stem, _ in per_image] if groups is not None else None
    scores = summarise([s for _, s in per_image], groups=ordered, draws=draws, seed=seed)
    names = {entry.number: entry.name for entry in palette.classes}
    content = scores.to_dict()
    for entry in content["classes"]:
        entry["name"] = names[entry["class"]]
        entry["rgb"] = list(palette.classes[entry["class"]].rgb)
    if difference is not None:
        content["difference"] = [
            {"class": number, "name": names[number], "figures": {k: f.to_dict() for k, f in figures.items()}}
            for number, figures in enumerate(difference, start=1)
        ]
    if seams is not None:
        content["seams"] = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in seams.items()
        }
    paths = tuple(out / name for name in ("scores.json", "per_image.csv", "per_class.csv", "objects.csv"))
    write_csv(paths[1], IMAGE_COLUMNS, _image_rows(per_image, names, groups))
    write_csv(paths[2], *_class_table(scores, names))
    write_csv(paths[3], OBJECT_COLUMNS, _object_rows(per_image, names))
    write_json(paths[0], content)
    return scores, paths


def write_sheets(
    out: Path,
    per_image: PerImage,
    palette: Palette,
    load: Callable[[str], ImageAndMasks],
    *,
    limit: int = MOST_SHEETS,
    progress: Progress = SILENT,
) -> tuple[Path, ...]:
    """Draw ``sheets/<rank>_<stem>.png`` of the worst images: image, truth, prediction, difference.

    Parameters
    ----------
    out : Path
        Folder above ``sheets``. Sheets of an earlier run are replaced; a folder with other files is moved
        aside.
    per_image : list of (str, ImageScore)
    palette : Palette
        Colours and names of the classes.
    load : callable
        ``load(stem)`` returns image, truth and prediction; called for one image at a time.
    limit : int
        Most sheets to draw.
    progress : Progress

    Returns
    -------
    tuple of Path
        The sheets, the worst first.
    """
    chosen = worst_first(per_image)[:limit]
    folder = out / "sheets"
    if folder.is_dir() and not all(re.fullmatch(r"\d+_.+\.png", path.name) for path in folder.iterdir()):
        move_aside(folder)
    progress.start("comparison sheets", len(chosen))
    names = []
    with replace_folder(folder) as partial:
        for rank, (stem, image_score) in enumerate(chosen, start=1):
            caption = _caption(stem, image_score, palette)
            names.append(f"{rank:02d}_{stem}.png")
            write_png(partial / names[-1], comparison_sheet(*load(stem), palette, caption))
            progress.advance()
    return tuple(folder / name for name in names)


def write_run(out: Path, command: str, settings: Mapping[str, Any], seconds: float) -> Path:
    """Write ``run.json``: command, settings, versions, time and duration.

    Parameters
    ----------
    out : Path
    command : str
    settings : mapping
        Anything JSON can hold.
    seconds : float
        Wall time.

    Returns
    -------
    Path
    """
    path = out / RUN_FILE
    facts = {
        "command": command,
        "settings": dict(settings),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    write_json(path, facts)
    return path


def worst_first(per_image: PerImage) -> PerImage:
    """Order images by their mean Dice over the classes they hold; images that hold none come last."""

    def rank(item: tuple[str, ImageScore]) -> tuple[float, str]:
        dice = [c.dice for c in item[1].classes if not math.isnan(c.dice)]
        return (float(np.mean(dice)) if dice else math.inf, item[0])

    return sorted(per_image, key=rank)


def _caption(stem: str, image_score: ImageScore, palette: Palette) -> str:
    parts = [stem]
    for number, c in enumerate(image_score.classes, start=1):
        if not math.isnan(c.dice):
            name = f"{palette.classes[number].name}: " if len(image_score.classes) > 1 else ""
            counts = f"{c.true_positive} TP, {c.false_positive} FP, {c.false_negative} FN"
            parts.append(f"{name}Dice {c.dice:.3f}, {counts}")
    return "  |  ".join(parts if len(parts) > 1 else [stem, "no class in truth or prediction"])


def _image_rows(
    per_image: PerImage, names: Mapping[int, str], groups: Mapping[str, str] | None
) -> Iterable[list[Cell]]:
    for stem, image_score in worst_first(per_image):
        group = groups[stem] if groups is not None else None
        for number, c in enumerate(image_score.classes, start=1):
            hd95 = float(np.mean(c.hd95_px)) if c.hd95_px else None
            hd95_um = hd95 * image_score.mpp if hd95 is not None and image_score.mpp else None
            counts = [getattr(c, column) for column in COUNT_COLUMNS]
            yield [
                *(stem, group, number, names[number], *(getattr(c, column) for column in RATIO_COLUMNS)),
                *(*counts[:5], hd95, hd95_um, *counts[5:], image_score.soft_pixel_accuracy),
            ]


def _object_rows(per_image: PerImage, names: Mapping[int, str]) -> Iterable[list[Cell]]:
    for stem, image_score in worst_first(per_image):
        for number, c in enumerate(image_score.classes, start=1):
            for one in c.objects:
                area_um2 = one.area_px * image_score.mpp**2 if image_score.mpp else None
                yield [
                    *(stem, number, names[number], one.side, one.outcome, one.area_px, area_um2),
                    *(one.iou, one.hd95_px, *one.box),
                ]


def _class_table(scores: Scores, names: Mapping[int, str]) -> tuple[list[str], list[list[Cell]]]:
    columns = [f"hd95_{scores.hd95_unit}" if f == "hd95" else f for f in scores.classes[0].figures]
    header = ["class", "name", "images", "images_left_out"]
    header += [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    rows = []
    for summary in scores.classes:
        row: list[Cell] = [summary.number, names[summary.number], scores.images, summary.images_left_out]
        for figure in summary.figures.values():
            row += [figure.value, figure.low, figure.high]
        rows.append([*row, *(getattr(summary.total, column) for column in COUNT_COLUMNS)])
    return [*header, *COUNT_COLUMNS], rows


@dataclass(frozen=True)
class ScoreResult:
    """Scores, and the files that hold them.

    Attributes
    ----------
    scores : Scores
        Figures with intervals.
    per_image : list of (str, ImageScore)
        Stem and score, the worst image first.
    folder : Path
    paths : tuple of Path
        Files written.
    """

    scores: Scores
    per_image: PerImage
    folder: Path
    paths: tuple[Path, ...]


def score(
    predictions: str | Path,
    truth: str | Path,
    out: str | Path,
    *,
    palette: Palette = GLOMERULI,
    tolerance: int = 0,
    groups: str | Path | None = None,
    mpp: float | Mapping[str, float] | None = None,
    images: str | Path | None = None,
    against: str | Path | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
    progress: Progress = SILENT,
) -> ScoreResult:
    """Compare a folder of predicted masks with a folder of true masks.

    Parameters
    ----------
    predictions, truth : Path
        Folders of masks, one each of every stem, written by any program.
    out : Path
        Folder for ``scores.json``, ``per_image.csv``, ``per_class.csv``, ``objects.csv``, ``images.json``,
        ``run.json`` and, with `images`, ``sheets/``.
    palette : Palette
        Colours of the classes.
    tolerance : int
        Greatest distance of red, green and blue of a mask from a class's colour, 0 to 255: masks stored as
        JPEG have no exact colours.
    groups : Path, optional
        CSV with the columns ``stem,group``; the bootstrap then draws groups.
    mpp : float or mapping of str to float, optional
        Micrometres per pixel, of all images or by stem, for distances and areas in µm; 0.05 to 20.
    images : Path, optional
        Folder of the images, for the report and for comparison sheets of the worst.
    against : Path, optional
        Another folder of predictions: the paired difference to it is written too.
    draws, seed : int
        Of the bootstrap.
    progress : Progress

    Returns
    -------
    ScoreResult

    Raises
    ------
    ArgumentError
        An argument has a wrong type or is out of range.
    InputError
        A mask has no partner, two partners or a partner of another size, cannot be read or holds a colour
        that the palette does not; all such masks are named. Nothing is written then.
    """
    began = time.perf_counter()
    predictions, truth, out = (
        path_argument(name, value)
        for name, value in (("predictions", predictions), ("truth", truth), ("out", out))
    )
    groups, images, against = (
        None if value is None else path_argument(name, value)
        for name, value in (("groups", groups), ("images", images), ("against", against))
    )
    typed_argument("palette", palette, Palette, "a Palette")
    whole_argument("tolerance", tolerance, 0, 255)

    def labels(path: Path) -> UInt8:
        return read_mask(path, palette, tolerance=tolerance)

    pairs = _pair(predictions, truth)
    scales = _scales(mpp, pairs)
    if predictions.resolve() == truth.resolve():
        progress.warn(f"predictions and truth are the same folder, {truth}: every figure will be perfect")
    known = read_groups(groups, list(pairs)) if groups is not None else None
    image_of = _find_images(images, pairs) if images is not None else {}
    per_image = _score_pairs(pairs, labels, palette.num_classes, scales, progress)
    difference = None
    if against is not None:
        other = _score_pairs(_pair(against, truth), labels, palette.num_classes, scales, progress)
        ordered = [known[stem] for stem, _ in per_image] if known is not None else None
        difference = paired_difference(
            [s for _, s in other], [s for _, s in per_image], groups=ordered, draws=draws, seed=seed
        )
    sheets: tuple[Path, ...] = ()
    if images is not None:
        # Before the scores: an image that cannot be decoded must not leave new scores beside old sheets.

        def load(stem: str) -> ImageAndMasks:
            predicted, true = pairs[stem]
            return read_image(image_of[stem]), labels(true), labels(predicted)

        sheets = write_sheets(out, per_image, palette, load, progress=progress)
    else:
        move_aside(out / "sheets")  # the report would show those of an earlier run beside these scores
    if _command_of(out) == "evaluate":
        remove_calibration(out)
    scores, paths = write_scores(
        out, per_image, palette, groups=known, draws=draws, seed=seed, difference=difference
    )
    records = tuple(
        ImageRecord(stem, image_of.get(stem), true, predicted) for stem, (predicted, true) in pairs.items()
    )
    listing = write_image_list(out, ImageList(palette, records, tolerance=tolerance))
    settings = {
        "predictions": predictions.name,
        "truth": truth.name,
        "against": against.name if against else None,
        "groups": groups.name if groups else None,
        "tolerance": tolerance,
        "mpp": "of each image" if isinstance(mpp, Mapping) else mpp,
        "draws": draws,
        "seed": seed,
    }
    run = write_run(out, "score", settings, time.perf_counter() - began)
    return ScoreResult(scores, worst_first(per_image), out, (*paths, *sheets, listing, run))


def read_groups(path: Path, stems: Iterable[str]) -> dict[str, str]:
    """Read the group of each image.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group``; other columns and other stems are ignored.
    stems : iterable of str
        Images that must have a group.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        A stem has no group or two.
    """
    wanted = list(stems)
    known = {row["stem"]: row["group"] for row in group_rows(path, wanted)}
    return {stem: known[stem] for stem in wanted}


def read_scores(folder: Path) -> dict[str, Any]:
    """Read the figures of a scored set of images.

    Parameters
    ----------
    folder : Path
        Its ``scores.json`` and ``per_image.csv`` are read.

    Returns
    -------
    dict
        ``scores``, the content of ``scores.json``, and ``worst``, a list of the images of lowest Dice:
        ``image``, and ``class`` (its name) and ``dice`` of its worst class.

    Raises
    ------
    InputError
        One of the two cannot be read.
    """
    rows: list[dict[str, Any]] = [
        {"image": row["image"], "class": row["name"], "dice": float(row["dice"])}
        for row in read_csv(folder / "per_image.csv", ("image", "name", "dice"))
        if row["dice"]
    ]
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["dice"]):
        worst.setdefault(row["image"], row)
    scores = read_json(folder / "scores.json", "the scores of a run")
    return {"scores": scores, "worst": list(worst.values())[:_WORST]}


def _command_of(out: Path) -> str | None:
    """Return the command that wrote the scores in a folder, as far as its ``run.json`` is readable."""
    try:
        return read_json(out / RUN_FILE).get("command")
    except InputError:
        return None


def _score_pairs(
    pairs: Mapping[str, tuple[Path, Path]],
    labels: Callable[[Path], UInt8],
    num_classes: int,
    scales: Mapping[str, float],
    progress: Progress,
) -> PerImage:
    def score_pair(item: tuple[str, tuple[Path, Path]]) -> tuple[str, ImageScore]:
        stem, (predicted, true) = item
        prediction, reference = labels(predicted), labels(true)
        if prediction.shape != reference.shape:
            got, expected = (f"{w} x {h} px" for h, w in (prediction.shape, reference.shape))
            raise InputError(predicted, f"expected the size of {true.name}, {expected}, got {got}")
        try:
            return stem, score_image(prediction, reference, num_classes, scales.get(stem))
        except InputError as error:
            raise InputError(predicted, f"{error.where}: {error.message}", error.hint) from error

    progress.start("score", len(pairs))
    items = list(pairs.items())
    return map_files(score_pair, items, lambda item: item[1][0], progress, threads=1)


def _scales(mpp: float | Mapping[str, float] | None, stems: Iterable[str]) -> dict[str, float]:
    if mpp is None:
        return {}
    given = mpp if isinstance(mpp, Mapping) else dict.fromkeys(stems, mpp)
    return {stem: number_argument("mpp", one, *PLAUSIBLE_MPP, "µm per pixel") for stem, one in given.items()}


def _pair(folder: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    predicted, true = (by_stem(list_images(place, MASK_SUFFIXES), slide_name) for place in (folder, truth))
    for some, others, where in ((true, predicted, folder), (predicted, true, truth)):
        alone = [path.name for stem, path in some.items() if stem not in others]
        if alone:
            raise InputError(
                where, f"expected a partner of the same stem for every file, got none for {listed(alone)}"
            )
    return {stem: (predicted[stem], true[stem]) for stem in sorted(predicted)}


def _find_images(folder: Path, pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, Path]:
    """Return the image of every stem; the folder may hold more."""
    found = by_stem(list_images(folder, MASK_SUFFIXES), slide_name)
    missing = [stem for stem in pairs if stem not in found]
    if missing:
        raise InputError(folder, f"expected an image for every mask, got none for {listed(missing)}")
    for stem, (_, true) in pairs.items():
        if image_size(found[stem]) != mask_size(true):
            raise InputError(found[stem], f"expected the size of {true.name}, got another")
    return {stem: found[stem] for stem in pairs}
