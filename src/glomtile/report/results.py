"""Results shown in a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import GlomtileError, InputError
from glomtile.evaluation.bootstrap import DRAWS, SEED, Figure, draw_weights, ratio
from glomtile.evaluation.calibration import LEVELS, reliability
from glomtile.io.image_list import PictureList, read_picture_list
from glomtile.io.images import natural_key, read_image
from glomtile.plotting import read_curves
from glomtile.report import text
from glomtile.report.charts import (
    Histogram,
    LineChart,
    Scatter,
    area_histogram,
    calibration_chart,
    count_scatter,
    line_chart,
)
from glomtile.report.comparison import Card, Crop, Frame, cards_and_crops, film_frames
from glomtile.report.pictures import Picture, ThumbnailBudget
from glomtile.report.slides import ShownSlide, areas_of_slides, classes_of, count_of, shown_slides
from glomtile.report.text import IMAGE_COLUMNS, OBJECT_COLUMNS, SLIDE_COLUMNS, readable_rows

SHEET_PX = 1600
PICTURE_PX = 1100
PICTURE_BYTES = 4_000_000
"""Of the sheets together, and of other pictures of the folder together."""

MOST_SHEETS = 12
MOST_PICTURES = 12
MOST_ROWS = 500
MOST_CHARTS = 20


@dataclass(frozen=True)
class NamedPicture:
    """A picture of the folder with its name and caption."""

    name: str
    caption: str
    picture: Picture


@dataclass
class Results:
    """All that the page shows; what is empty has no place in it.

    Attributes
    ----------
    title : str
    facts : list of str
        Short ones, under the title.
    verdict : list of str
        The outcome in plain sentences.
    scores : dict or None
        Content of ``scores.json``, with what the page prints of it.
    headlines : list of text.Shown
        Of a folder without truth: what was found.
    rows, rows_left_out
        ``per_image.csv``.
    cards, crops, films
        The images.
    slides : list of ShownSlide
    slide_rows : list of dict
        ``summary.csv``.
    curves, areas, counts, calibration
        Charts.
    doubts : list of (str, str)
        Image or slide, and the warnings.
    doubt_rows : list of dict
        ``quality.csv``.
    failed : list of (str, str)
        Inputs that were not done, and why.
    settings, versions, digests : list of (str, str)
    sheets, pictures : list of NamedPicture
    notes : list of str
        What had to be left out.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    headlines: list[text.FormattedFigure] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    rows_left_out: int = 0
    cards: list[Card] = field(default_factory=list)
    crops: dict[str, list[Crop]] = field(default_factory=dict)
    films: list[tuple[str, list[Frame]]] = field(default_factory=list)
    slides: list[ShownSlide] = field(default_factory=list)
    slide_rows: list[dict[str, str]] = field(default_factory=list)
    curves: list[LineChart] = field(default_factory=list)
    areas: list[Histogram] = field(default_factory=list)
    counts: list[Scatter] = field(default_factory=list)
    calibration: list[Scatter] = field(default_factory=list)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    doubt_rows: list[dict[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)
    digests: list[tuple[str, str]] = field(default_factory=list)
    sheets: list[NamedPicture] = field(default_factory=list)
    pictures: list[NamedPicture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(folder: Path) -> Results:
    """Read a folder of results.

    Parameters
    ----------
    folder : Path
        See `glomtile.report.page.report`.

    Raises
    ------
    InputError
        There is nothing to show, or ``scores.json`` or ``run.json`` is not as we write it.
    """
    found = Results(_title(folder.resolve()))
    scores = _read_json(folder / "scores.json")
    run = _read_json(folder / "run.json") or {}
    rows = readable_rows(folder / "per_image.csv", IMAGE_COLUMNS, found.notes)
    found.rows, found.rows_left_out = rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS)
    objects = readable_rows(folder / "objects.csv", OBJECT_COLUMNS, found.notes)
    if scores is not None:
        _require_counts(folder / "scores.json", scores)
    found.facts = _facts(scores, run)
    if scores is not None:
        found.scores = _sections(folder / "scores.json", scores, rows, objects)
        found.verdict = found.scores["verdict"]
    _read_doubts(folder, found)
    _read_images(folder, rows, objects, found)
    _read_distributions(rows, objects, found)
    _read_slides(folder, found)
    found.curves = _charts(folder, found.notes)
    found.calibration = _calibration(folder, found.notes)
    if not found.cards:
        found.sheets = _sheets(folder, rows, found.notes)
    found.pictures = _pictures(folder, {chart.title for chart in found.curves}, found.notes)
    _read_run(run, found)
    if scores is None and not (
        rows or found.curves or found.sheets or found.pictures or found.slides or found.failed
    ):
        raise InputError(
            folder,
            "expected scores.json, curves or pictures, got none of them",
            "run evaluate, score or segment first",
        )
    return found


def _title(folder: Path) -> str:
    """Name the folder and the one above: every project has its ``evaluation``."""
    return ": ".join(name for name in (folder.parent.name, folder.name) if name)


def _sections(
    path: Path,
    scores: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    objects: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Turn the content of ``scores.json`` into what the page prints."""
    try:
        unit = scores["hd95_unit"]
        return {
            **scores,
            "unit": unit,
            "drawn": "{draws} bootstrap draws of {of} (seed {seed})".format(**scores["interval"]),
            "soft": text.number("", scores["soft_pixel_accuracy"]["value"], ""),
            "cautions": text.cautions(scores),
            "classes": [
                {
                    **entry,
                    "headlines": text.headlines(entry, unit),
                    "colour": text.colour(entry["rgb"]),
                    "lines": text.figure_lines(entry, unit),
                }
                for entry in scores["classes"]
            ],
            "difference": [
                {"name": entry["name"], "lines": text.difference_lines(entry, unit)}
                for entry in scores.get("difference") or ()
            ],
            "seams": scores.get("seams"),
            "verdict": text.verdict_sentences(scores, rows, objects),
        }
    except (KeyError, TypeError, ValueError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else f"({error})"
        raise InputError(
            path, f"expected scores as glomtile writes them, got some {what}", "score again"
        ) from error


def _require_counts(path: Path, scores: Mapping[str, Any]) -> None:
    for name in ("images", "groups"):
        count = scores.get(name)
        if not isinstance(count, int | None):
            raise InputError(path, f"expected {name} as a whole number, got {count!r}", "score again")


def _facts(scores: Mapping[str, Any] | None, run: Mapping[str, Any]) -> list[str]:
    """Return the short facts under the title."""
    facts = []
    for name in ("images", "groups"):
        count = scores.get(name) if scores is not None else None
        if count is not None:
            facts.append(text.counted(int(count), name.removesuffix("s")))
    if "command" in run:
        facts.append(f"glomtile {run['command']}")
    if "finished" in run:
        facts.append(str(run["finished"]).replace("T", " ").replace("+00:00", " UTC"))
    return facts


def _read_run(run: Mapping[str, Any], found: Results) -> None:
    found.settings = _flat(run.get("settings", {}))
    found.versions = _flat(run.get("versions", {}))
    if isinstance(run.get("model"), Mapping):
        found.settings = [*_flat(run["model"], "model"), *found.settings]
    if isinstance(run.get("failed"), Mapping):
        found.failed = [(Path(name).name, str(why)) for name, why in run["failed"].items()]
    if isinstance(run.get("inputs"), Mapping):
        found.digests = [
            (Path(name).name, str(record["identity"]["sha256"]))
            for name, record in run["inputs"].items()
            if isinstance(record, Mapping) and "sha256" in record.get("identity", {})
        ]
    if "seconds" in run:
        found.facts.append(f"took {float(run['seconds']):.3g} seconds")


def _read_doubts(folder: Path, found: Results) -> None:
    rows = readable_rows(folder / "quality.csv", ("image", "quality_flags"), found.notes)
    found.doubt_rows = rows
    found.doubts = [(row["image"], row["quality_flags"]) for row in rows if row["quality_flags"]]


def _read_images(
    folder: Path, rows: Sequence[Mapping[str, str]], objects: Sequence[Mapping[str, str]], found: Results
) -> None:
    try:
        listed = read_picture_list(folder)
    except GlomtileError as error:
        found.notes.append(f"pictures: {error.message}")
        return
    if listed is None or not rows:
        return
    notes: list[str] = []
    found.cards, found.crops = cards_and_crops(listed, rows, objects, dict(found.doubts), notes)
    found.notes += notes if found.cards else [f"pictures: they no longer lie where they were ({notes[0]})"]
    _read_films(listed, found)


def _read_films(listed: PictureList, found: Results) -> None:
    for film in listed.films:
        try:
            found.films.append((film.stem, film_frames(film, listed.palette)))
        except GlomtileError as error:
            found.notes.append(f"previews of {film.stem}: {error.message}")


def _read_distributions(
    rows: Sequence[Mapping[str, str]], objects: Sequence[Mapping[str, str]], found: Results
) -> None:
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in objects if row["name"] == name]
        known = bool(own) and all(row["area_um2"] for row in own)
        column, unit = ("area_um2", "µm²") if known else ("area_px", "px")
        truth, prediction = (
            [float(row[column]) for row in own if row["side"] == side] for side in ("truth", "prediction")
        )
        histogram = area_histogram(f"Areas: {name}", truth, prediction, unit)
        if histogram is not None:
            found.areas.append(histogram)
        pairs = [
            (int(row["truth_objects"]), int(row["predicted_objects"])) for row in rows if row["name"] == name
        ]
        scatter = count_scatter(f"Objects in each image: {name}", pairs) if own else None
        if scatter is not None:
            found.counts.append(scatter)


def _read_slides(folder: Path, found: Results) -> None:
    rows = readable_rows(folder / "summary.csv", SLIDE_COLUMNS, found.notes)
    if not rows:
        return
    found.slide_rows = rows
    found.slides = shown_slides(folder, rows, found.notes)
    found.doubts += [(row["image"], row["quality_flags"]) for row in rows if row.get("quality_flags")]
    found.facts.insert(0, text.counted(len(rows), "slide"))
    found.headlines = _found_figures(rows)
    found.verdict = [shown.sentence for shown in found.headlines[:1]]
    if found.doubts:
        found.verdict.append(
            f"{text.counted(len(found.doubts), 'slide')} of {len(rows)} should be looked at first: "
            "the tissue is unlike that of training, or the network is unsure."
        )
    areas = areas_of_slides(folder, rows, found.notes)
    for name in classes_of(rows[0]):
        histogram = area_histogram(f"Areas: {name}", (), areas.get(name, ()), "µm²")
        if histogram is not None:
            found.areas.append(histogram)


def _found_figures(rows: Sequence[Mapping[str, str]]) -> list[text.FormattedFigure]:
    """Headlines of a folder without truth, with intervals over its slides."""
    weights = draw_weights(len(rows), None, DRAWS, SEED)
    tissue = np.array([float(row["tissue_mm2"] or 0) for row in rows])
    shown = []
    for name in classes_of(rows[0]):
        counts = np.array([count_of(row, name) for row in rows])
        areas = np.array([float(row[f"{name}_total_area_mm2"] or 0) for row in rows]) * 1e6
        figures: list[tuple[str, Figure, str]] = [
            ("each slide", ratio(np.stack([counts, np.ones(len(rows))], 1), weights), ".1f"),
            ("for each mm² of tissue", ratio(np.stack([counts, tissue], 1), weights), ".2f"),
            ("mean area, µm²", ratio(np.stack([areas, counts], 1), weights), ",.0f"),
        ]
        shown += text.found_headlines(name, int(counts.sum()), len(rows), float(tissue.sum()), figures)
    return shown


def _charts(folder: Path, notes: list[str]) -> list[LineChart]:
    charts = []
    places = [path for glob in ("", "eval/", "fold-*/eval/") for path in folder.glob(f"{glob}train_*.csv")]
    for path in sorted(places, key=lambda path: natural_key(str(path.relative_to(folder))))[:MOST_CHARTS]:
        fold = path.relative_to(folder).parts[0]
        title = f"{fold}: {path.stem}" if fold.startswith("fold-") else path.stem
        try:
            chart = line_chart(title, read_curves(path))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
            continue
        if chart is not None:
            charts.append(chart)
    return charts


def _calibration(folder: Path, notes: list[str]) -> list[Scatter]:
    rows = readable_rows(folder / "calibration.csv", ("name", "pixels", "true_pixels"), notes)
    charts = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        if len(own) != LEVELS:
            notes.append(f"calibration.csv: expected {LEVELS} rows of {name}, got {len(own)}")
            continue
        counts = np.array([[int(row[column]) for row in own] for column in ("pixels", "true_pixels")])
        bins, error = reliability(counts)
        if bins:
            charts.append(calibration_chart(f"Probability: {name}", name, bins, error))
    return charts


def _sheets(folder: Path, rows: Sequence[Mapping[str, str]], notes: list[str]) -> list[NamedPicture]:
    captions: dict[str, list[str]] = {}
    several = len({row["name"] for row in rows}) > 1
    for row in rows:
        if row["dice"]:
            counts = f"{row['true_positive']} TP, {row['false_positive']} FP, {row['false_negative']} FN"
            name = f"{row['name']}: " if several else ""
            captions.setdefault(row["image"], []).append(f"{name}Dice {float(row['dice']):.3f}, {counts}")
    named = []
    for path in sorted((folder / "sheets").glob("*.png"))[:MOST_SHEETS]:
        stem = path.stem.partition("_")[2] or path.stem
        named.append((path, stem, "; ".join(captions.get(stem, []))))
    return _embedded(named, SHEET_PX, notes)


def _pictures(folder: Path, drawn: set[str], notes: list[str]) -> list[NamedPicture]:
    found = [path for path in sorted(folder.glob("*.png")) if path.stem not in drawn]
    if len(found) > MOST_PICTURES:
        notes.append(f"{len(found) - MOST_PICTURES} more pictures lie in the folder.")
    return _embedded([(path, path.stem, "") for path in found[:MOST_PICTURES]], PICTURE_PX, notes)


def _embedded(
    named: Sequence[tuple[Path, str, str]], longest_px: int, notes: list[str]
) -> list[NamedPicture]:
    album = ThumbnailBudget(PICTURE_BYTES, [1.0] * len(named), longest_px)
    pictures = []
    for path, name, caption in named:
        try:
            pictures.append(NamedPicture(name, caption, album.add(read_image(path))))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
    return pictures


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, f"expected readable JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise InputError(path, f"expected a JSON object, got {type(content).__name__}")
    return content


def _flat(settings: Any, above: str = "") -> list[tuple[str, str]]:
    if not isinstance(settings, Mapping):
        told = "–" if settings is None else json.dumps(settings, ensure_ascii=False)
        return [(above, settings if isinstance(settings, str) else told)]
    return [
        item
        for key, value in settings.items()
        for item in _flat(value, f"{above}.{key}" if above else str(key))
    ]
