"""What the figures of a set of images look like on disk: JSON, tables, comparison sheets, the run's facts."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.core.bootstrap import DRAWS, SEED, Figure
from glomtile.core.palette import Palette
from glomtile.core.scores import ImageScore, Scores, summarise
from glomtile.core.sheets import comparison_sheet
from glomtile.files.images import write_png
from glomtile.files.tables import Cell, write_csv
from glomtile.files.workspace import move_aside, replace_folder, write_json
from glomtile.types import SILENT, Progress, UInt8

SHEETS = 24
IMAGE_COLUMNS = (
    *("image", "group", "class", "name", "dice", "iou", "precision", "recall", "object_f1", "pq"),
    *("truth_objects", "predicted_objects", "found", "false", "missed", "hd95_px", "hd95_um"),
    *("tp", "fp", "fn", "soft_pixel_accuracy"),
)
OBJECT_COLUMNS = (
    *("image", "class", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
COUNT_COLUMNS = ("truth_objects", "predicted_objects", "found", "false", "missed", "tp", "fp", "fn")

RUN_FILE = "run.json"
PerImage = list[tuple[str, ImageScore]]
Triple = tuple[UInt8, UInt8, UInt8]


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
    """Sum up and write ``scores.json``, ``per_image.csv``, ``per_class.csv`` and ``objects.csv``.

    Parameters
    ----------
    out : Path
        The folder, made when missing.
    per_image : list of (str, ImageScore)
        Stem and score of every image.
    palette : Palette
        Names the classes.
    groups : mapping of str to str, optional
        Group of every stem.
    draws, seed : int
        Of the bootstrap.
    difference : sequence of mapping, optional
        From `paired_difference`; stands in ``scores.json`` under ``difference``.
    seams : mapping, optional
        Figures of the tile grid, from `core.seams`; stand in ``scores.json`` under ``seams``.

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
        content["seams"] = {name: None if _undefined(value) else value for name, value in seams.items()}
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
    load: Callable[[str], Triple],
    *,
    limit: int = SHEETS,
    progress: Progress = SILENT,
) -> tuple[Path, ...]:
    """Draw ``sheets/<rank>_<stem>.png`` of the worst images: image, truth, prediction, difference.

    Parameters
    ----------
    out : Path
        Folder above ``sheets``; sheets of an earlier run there are replaced.
    per_image : list of (str, ImageScore)
        Stem and score of every image.
    palette : Palette
        Colours and names of the classes.
    load : callable
        ``load(stem) -> (image (H, W, 3) uint8, truth (H, W) uint8, prediction (H, W) uint8)``, called for
        one image at a time.
    limit : int
        Most sheets to draw.
    progress : Progress
        Told of every sheet.

    Returns
    -------
    tuple of Path
        The sheets, the worst first.
    """
    chosen = worst_first(per_image)[:limit]
    folder = out / "sheets"
    _make_way(folder)
    progress.start("comparison sheets", len(chosen))
    names = []
    with replace_folder(folder) as partial:
        for rank, (stem, image_score) in enumerate(chosen, start=1):
            image, truth, prediction = load(stem)
            sheet = comparison_sheet(image, truth, prediction, palette, caption(stem, image_score, palette))
            names.append(f"{rank:02d}_{stem}.png")
            write_png(partial / names[-1], sheet)
            progress.advance()
    return tuple(folder / name for name in names)


def write_run(out: Path, verb: str, settings: Mapping[str, Any], seconds: float) -> Path:
    """Write ``run.json``: what ran, with what, on what, when and for how long.

    Parameters
    ----------
    out : Path
    verb : str
        The command.
    settings : mapping
        What it was asked; anything JSON can hold.
    seconds : float
        Wall time.

    Returns
    -------
    Path
    """
    path = out / RUN_FILE
    facts = {
        "command": verb,
        "settings": dict(settings),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("glomtile", "numpy", "opencv-python-headless")},
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    write_json(path, facts)
    return path


def run_command(out: Path) -> str | None:
    """Which command wrote the figures in a folder, as its ``run.json`` says; ``None`` where none says so."""
    try:
        told = json.loads((out / RUN_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told.get("command") if isinstance(told, dict) else None


def worst_first(per_image: PerImage) -> PerImage:
    """Order images by their mean Dice over the classes they hold; images that hold none come last."""

    def rank(item: tuple[str, ImageScore]) -> tuple[float, str]:
        dice = [c.dice for c in item[1].classes if not math.isnan(c.dice)]
        return (float(np.mean(dice)) if dice else math.inf, item[0])

    return sorted(per_image, key=rank)


def caption(stem: str, image_score: ImageScore, palette: Palette) -> str:
    """One line over a comparison sheet: the image and, for each class in it, Dice and object counts."""
    parts = [stem]
    for number, c in enumerate(image_score.classes, start=1):
        if math.isnan(c.dice):
            continue
        name = f"{palette.classes[number].name}: " if len(image_score.classes) > 1 else ""
        parts.append(f"{name}Dice {c.dice:.3f}, {c.found} found, {c.false} false, {c.missed} missed")
    return "  |  ".join(parts if len(parts) > 1 else [stem, "no class in truth or prediction"])


def _image_rows(
    per_image: PerImage, names: Mapping[int, str], groups: Mapping[str, str] | None
) -> Iterable[list[Cell]]:
    for stem, image_score in worst_first(per_image):
        group = groups[stem] if groups is not None else None
        for number, c in enumerate(image_score.classes, start=1):
            hd95 = float(np.mean(c.hd95_px)) if c.hd95_px else None
            hd95_um = hd95 * image_score.mpp if hd95 is not None and image_score.mpp else None
            yield [
                *(stem, group, number, names[number]),
                *(c.dice, c.iou, c.precision, c.recall, c.object_f1, c.pq),
                *(c.truth_objects, c.predicted_objects, c.found, c.false, c.missed),
                *(hd95, hd95_um, c.tp, c.fp, c.fn, image_score.soft_pixel_accuracy),
            ]


def _object_rows(per_image: PerImage, names: Mapping[int, str]) -> Iterable[list[Cell]]:
    for stem, image_score in worst_first(per_image):
        for number, c in enumerate(image_score.classes, start=1):
            for one in c.objects:
                area_um2 = one.area_px * image_score.mpp**2 if image_score.mpp else None
                yield [
                    *(stem, number, names[number], one.side, one.kind, one.area_px, area_um2),
                    *(one.iou, one.hd95_px, *one.box),
                ]


def _class_table(scores: Scores, names: Mapping[int, str]) -> tuple[list[str], list[list[Cell]]]:
    figures = list(scores.classes[0].figures)
    unit = {"hd95": f"hd95_{scores.hd95_unit}"}
    header = ["class", "name", "images", "images_left_out"]
    header += [column for f in figures for column in _with_ends(unit.get(f, f))]
    header += COUNT_COLUMNS
    rows = []
    for summary in scores.classes:
        total = summary.total
        row: list[Cell] = [summary.number, names[summary.number], scores.images, summary.images_left_out]
        for f in figures:
            figure = summary.figures[f]
            row += [figure.value, figure.low, figure.high]
        row += [total.truth_objects, total.predicted_objects, total.found, total.false, total.missed]
        rows.append([*row, total.tp, total.fp, total.fn])
    return header, rows


def _with_ends(figure: str) -> tuple[str, str, str]:
    return figure, f"{figure}_low", f"{figure}_high"


def _undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _make_way(folder: Path) -> None:
    """Sheets of ours are replaced; a folder that holds anything else is somebody's and moved aside."""
    if folder.is_dir() and any(not _is_sheet(path) for path in folder.iterdir()):
        move_aside(folder)


def _is_sheet(path: Path) -> bool:
    rank, _, stem = path.name.partition("_")
    return rank.isdecimal() and bool(stem) and path.suffix == ".png"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
