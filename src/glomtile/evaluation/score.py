"""Scores of two mask folders."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.contact_sheets import comparison_sheet
from glomtile.datasets.pairing import group_rows
from glomtile.errors import GlomtileError, InputError
from glomtile.evaluation.bootstrap import DRAWS, SEED, Figure
from glomtile.evaluation.calibration import remove_judged
from glomtile.evaluation.metrics import ImageScore, Scores, paired_difference, score_image, summarise
from glomtile.io.atomic import move_aside, replace_folder, write_json
from glomtile.io.image_list import ImageRecord, PictureList, write_picture_list
from glomtile.io.images import image_size, list_images, read_image, write_png
from glomtile.io.masks import MASK_SUFFIXES, mask_size, read_mask
from glomtile.io.resolution import PLAUSIBLE_MPP
from glomtile.io.tables import Cell, write_csv
from glomtile.palette import GLOMERULI, Palette
from glomtile.slides.slide import slide_name
from glomtile.types import SILENT, Progress, UInt8
from glomtile.validation import number_argument, path_argument, typed_argument, whole_argument

SHEETS = 24
IMAGE_COLUMNS = (
    *("image", "group", "class", "name", "dice", "iou", "precision", "recall", "object_f1", "pq"),
    *(
        "truth_objects",
        "predicted_objects",
        "true_positive",
        "false_positive",
        "false_negative",
        "hd95_px",
        "hd95_um",
    ),
    *("tp_px", "fp_px", "fn_px", "soft_pixel_accuracy"),
)
OBJECT_COLUMNS = (
    *("image", "class", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
COUNT_COLUMNS = (
    *("truth_objects", "predicted_objects", "true_positive", "false_positive", "false_negative"),
    *("tp_px", "fp_px", "fn_px"),
)

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
        parts.append(
            f"{name}Dice {c.dice:.3f}, {c.true_positive} TP, {c.false_positive} FP, {c.false_negative} FN"
        )
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
                *(c.truth_objects, c.predicted_objects, c.true_positive, c.false_positive, c.false_negative),
                *(hd95, hd95_um, c.tp_px, c.fp_px, c.fn_px, image_score.soft_pixel_accuracy),
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
        row += [total.truth_objects, total.predicted_objects]
        row += [total.true_positive, total.false_positive, total.false_negative]
        rows.append([*row, total.tp_px, total.fp_px, total.fn_px])
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


@dataclass(frozen=True)
class ScoreResult:
    """What scoring found and wrote.

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
    """Compare a folder of predicted masks with a folder of true ones.

    Parameters
    ----------
    predictions, truth : Path
        Folders of masks, one each of every stem, of any program.
    out : Path
        Folder for ``scores.json``, ``per_image.csv``, ``per_class.csv``, ``objects.csv``, ``images.json``,
        ``run.json`` and, with `images`, ``sheets/``.
    palette : Palette
        Which colour is which class.
    tolerance : int
        How far red, green and blue of a mask may each lie from a class's colour: masks stored as JPEG have no
        exact ones. 0 to 255.
    groups : Path, optional
        CSV with the columns ``stem,group``: intervals then draw whole groups.
    mpp : float or mapping of str to float, optional
        Micrometres per pixel, of all images or by stem, for distances and areas in µm; 0.05 to 20.
    images : Path, optional
        The pictures themselves, for the report and for comparison sheets of the worst.
    against : Path, optional
        Another folder of predictions: the paired difference to it is written too.
    draws, seed : int
        Of the bootstrap.
    progress : Progress
        Told of every image.

    Returns
    -------
    ScoreResult

    Raises
    ------
    ArgumentError
        When an argument has a wrong type or is out of range.
    InputError
        When a mask has no partner, two partners or another size than its partner, cannot be read or holds
        what the palette does not; all such masks are named. Nothing is written then.
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
    reading = _Reading(palette, whole_argument("tolerance", tolerance, 0, 255))
    pairs = _pair(predictions, truth)
    scales = _scales(mpp, pairs)
    if predictions.resolve() == truth.resolve():
        progress.warn(f"predictions and truth are the same folder, {truth}: every figure will be perfect")
    known = read_groups(groups, list(pairs)) if groups is not None else None
    pictures = _pictures(images, pairs) if images is not None else {}
    per_image = _score_pairs(pairs, reading, scales, progress)
    difference = None
    if against is not None:
        other = _score_pairs(_pair(against, truth), reading, scales, progress)
        ordered = [known[stem] for stem, _ in per_image] if known is not None else None
        difference = paired_difference(
            [s for _, s in other], [s for _, s in per_image], groups=ordered, draws=draws, seed=seed
        )
    sheets: tuple[Path, ...] = ()
    if images is not None:
        # First: a picture that cannot be decoded must not leave new figures beside an old page.

        def load(stem: str) -> Triple:
            predicted, true = pairs[stem]
            return read_image(pictures[stem]), reading.labels(true), reading.labels(predicted)

        sheets = write_sheets(out, per_image, palette, load, progress=progress)
    else:
        move_aside(out / "sheets")  # of an earlier run: they would stand in the report beside these figures
    if run_command(out) == "evaluate":
        remove_judged(out)  # masks tell no probabilities
    scores, paths = write_scores(
        out, per_image, palette, groups=known, draws=draws, seed=seed, difference=difference
    )
    paths += sheets
    trios = tuple(
        ImageRecord(stem, pictures.get(stem), true, predicted) for stem, (predicted, true) in pairs.items()
    )
    paths += (write_picture_list(out, PictureList(palette, trios, tolerance=reading.tolerance)),)
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
    paths += (write_run(out, "score", settings, time.perf_counter() - began),)
    return ScoreResult(scores, worst_first(per_image), out, paths)


def read_groups(path: Path, stems: Iterable[str]) -> dict[str, str]:
    """Read which group each image belongs to.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group``; other columns and other stems are passed over.
    stems : iterable of str
        Images that must have a group.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        When a stem has no group or two.
    """
    wanted = list(stems)
    known = {row["stem"]: row["group"] for row in group_rows(path, wanted)}
    return {stem: known[stem] for stem in wanted}


def _score_pairs(
    pairs: Mapping[str, tuple[Path, Path]],
    reading: _Reading,
    scales: Mapping[str, float],
    progress: Progress,
) -> PerImage:
    progress.start("score", len(pairs))
    per_image, failed = [], []
    for stem, (predicted, true) in pairs.items():
        try:
            per_image.append((stem, _score_pair(predicted, true, reading, scales.get(stem))))
        except GlomtileError as error:
            failed.append(error)
        progress.advance()
    if len(failed) == 1:
        raise failed[0]
    if failed:
        reasons = "".join(f"\n  {error}" for error in failed)
        raise InputError(
            "score", f"expected {len(pairs)} usable pairs of masks, got {len(failed)} that are not:{reasons}"
        )
    return per_image


def _scales(mpp: float | Mapping[str, float] | None, stems: Iterable[str]) -> dict[str, float]:
    """Micrometres per pixel by stem, of those images of which they are known."""
    if mpp is None:
        return {}
    given = mpp if isinstance(mpp, Mapping) else dict.fromkeys(stems, mpp)
    return {stem: number_argument("mpp", one, *PLAUSIBLE_MPP, "µm per pixel") for stem, one in given.items()}


@dataclass(frozen=True)
class _Reading:
    """How the masks of both folders are read."""

    palette: Palette
    tolerance: int

    def labels(self, path: Path) -> UInt8:
        return read_mask(path, self.palette, tolerance=self.tolerance)


def _score_pair(predicted: Path, true: Path, reading: _Reading, mpp: float | None) -> ImageScore:
    prediction, truth = reading.labels(predicted), reading.labels(true)
    if prediction.shape != truth.shape:
        got, expected = (f"{w} x {h} px" for h, w in (prediction.shape, truth.shape))
        raise InputError(predicted, f"expected the size of {true.name}, {expected}, got {got}")
    try:
        return score_image(prediction, truth, reading.palette.num_classes, mpp)
    except InputError as error:
        raise InputError(predicted, f"{error.where}: {error.message}", error.hint) from error


def _pair(folder: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    ours, theirs = _by_stem(folder), _by_stem(truth)
    for some, others, where in ((theirs, ours, folder), (ours, theirs, truth)):
        alone = [path.name for stem, path in some.items() if stem not in others]
        if alone:
            raise InputError(
                where, f"expected a partner of the same stem for every file, got none for {_listed(alone)}"
            )
    return {stem: (ours[stem], theirs[stem]) for stem in sorted(ours)}


def _pictures(folder: Path, pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, Path]:
    """Return the image of every stem; the folder may hold more."""
    found = _by_stem(folder)
    missing = [stem for stem in pairs if stem not in found]
    if missing:
        raise InputError(folder, f"expected an image for every mask, got none for {_listed(missing)}")
    for stem, (_, true) in pairs.items():
        if image_size(found[stem]) != mask_size(true):
            raise InputError(found[stem], f"expected the size of {true.name}, got another")
    return {stem: found[stem] for stem in pairs}


def _by_stem(folder: Path) -> dict[str, Path]:
    """The masks or pictures of a folder by what `segment` calls the slide: ``a`` of ``a.ome.tif`` too."""
    found: dict[str, Path] = {}
    for path in list_images(folder, MASK_SUFFIXES):
        stem = slide_name(path)
        if stem in found:
            raise InputError(folder, f"expected one file a stem, got {found[stem].name} and {path.name}")
        found[stem] = path
    return found


def _listed(names: Sequence[str], most: int = 10) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
