"""Build the report page of a folder of results."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomtile import plotting
from glomtile.errors import GlomtileError, InputError
from glomtile.evaluation.bootstrap import DRAWS, SEED, draw_weights, ratio
from glomtile.evaluation.calibration import LEVELS, reliability
from glomtile.io.atomic import read_json, write_text
from glomtile.io.image_list import read_image_list
from glomtile.io.images import natural_key, read_image
from glomtile.report import text
from glomtile.report.images import (
    Card,
    Crop,
    Frame,
    Thumbnail,
    ThumbnailBudget,
    cards_and_crops,
    preview_frames,
)
from glomtile.report.slides import SlideView, areas_of_slides, classes_of, count_of, slide_views
from glomtile.report.text import IMAGE_COLUMNS, OBJECT_COLUMNS, SLIDE_COLUMNS, Row, read_optional_table

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT_NAME = "report.html"
SHEET_PX, IMAGE_PX = 1600, 1100
IMAGE_BYTES = 4_000_000
"""Of the sheets together, and of other images of the folder together."""

MAX_SHEETS = 12
MAX_IMAGES = 12
MAX_ROWS = 500
MAX_CURVES = 20


@dataclass(frozen=True)
class NamedImage:
    """An image of the folder with its name and caption."""

    name: str
    caption: str
    thumbnail: Thumbnail


@dataclass(frozen=True)
class Chart:
    """A plot with its title and a sentence about it; `svg` is an ``<svg>`` element."""

    title: str
    sentence: str
    svg: str
    square: bool = False


@dataclass
class Results:
    """Content of the page; an empty part is left out.

    `rows` are those of ``per_image.csv``, `slide_rows` of ``summary.csv``, `quality_rows` of ``quality.csv``;
    `flags` and `failed` pair an image or slide with its quality flags or its error; `notes` list what is left
    out.
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
    previews: list[tuple[str, list[Frame]]] = field(default_factory=list)
    slides: list[SlideView] = field(default_factory=list)
    slide_rows: list[dict[str, str]] = field(default_factory=list)
    curves: list[Chart] = field(default_factory=list)
    distributions: list[Chart] = field(default_factory=list)
    calibration: list[Chart] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)
    quality_rows: list[dict[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)
    digests: list[tuple[str, str]] = field(default_factory=list)
    sheets: list[NamedImage] = field(default_factory=list)
    images: list[NamedImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the results in a folder.

    Parameters
    ----------
    folder : Path
        A folder that `score`, `evaluate`, `crossval`, `segment` or `train` wrote: scores and tables, curves,
        ``images.json`` with the paths of the images, ``summary.csv`` of slides. All but one may be missing.

    Returns
    -------
    Path
        The page: one file that contains its images and loads nothing.

    Raises
    ------
    InputError
        The folder cannot be read or contains none of these, or ``scores.json`` or ``run.json`` is damaged.
        An image or a table that cannot be read is left out and listed on the page.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "folder not found")
    path = folder / REPORT_NAME
    write_text(path, render(read_results(folder)))
    return path


def render(results: Results) -> str:
    """Return the page as HTML.

    Notes
    -----
    Templates escape every name. The content security policy of the page allows its own script only, and no
    requests.
    """
    template = _environment().get_template("report.html")
    script = files("glomtile.report").joinpath("templates", "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    return template.render(text=text, r=results, script=script, script_digest=digest)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glomtile.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = lambda cell: f"{float(cell):.3f}" if cell else "–"
    return environment


def read_results(folder: Path) -> Results:
    """Read a folder of results; see `write_report`."""
    resolved = folder.resolve()
    found = Results(": ".join(name for name in (resolved.parent.name, resolved.name) if name))
    scores = _read_optional(folder / "scores.json")
    run = _read_optional(folder / "run.json") or {}
    rows = read_optional_table(folder / "per_image.csv", IMAGE_COLUMNS, found.notes)
    found.rows, found.rows_left_out = rows[:MAX_ROWS], max(0, len(rows) - MAX_ROWS)
    objects = read_optional_table(folder / "objects.csv", OBJECT_COLUMNS, found.notes)
    if scores is not None:
        found.scores = _formatted_scores(folder / "scores.json", scores, rows, objects)
        found.verdict = found.scores["verdict"]
    found.facts = _facts(scores or {}, run)
    found.quality_rows = read_optional_table(folder / text.QUALITY_CSV, ("image", text.FLAGS), found.notes)
    found.flags = [(row["image"], row[text.FLAGS]) for row in found.quality_rows if row[text.FLAGS]]
    _read_images(folder, rows, objects, found)
    _read_distributions(rows, objects, found)
    _read_slides(folder, found)
    found.curves, curve_names = _curves(folder, found.notes)
    found.calibration = _calibration(folder, found.notes)
    if not found.cards:
        found.sheets = _sheets(folder, rows, found.notes)
    found.images = _images(folder, curve_names, found.notes)
    _read_run(run, found)
    if scores is None and not (
        rows or found.curves or found.sheets or found.images or found.slides or found.failed
    ):
        raise InputError(
            folder,
            "expected scores.json, curves or images, got none of them",
            "run evaluate, score or segment first",
        )
    return found


def _formatted_scores(
    path: Path, scores: Mapping[str, Any], rows: Sequence[Row], objects: Sequence[Row]
) -> dict[str, Any]:
    for name in ("images", "groups"):
        if not isinstance(count := scores.get(name), int | None):
            raise InputError(path, f"expected {name} as a whole number, got {count!r}", "score again")
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
                    "colour": text.css_colour(entry["rgb"]),
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
        what = f"a file without {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(path, f"expected scores written by glomtile, got {what}", "score again") from error


def _facts(scores: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    facts = [
        text.counted(int(scores[name]), name.removesuffix("s"))
        for name in ("images", "groups")
        if scores.get(name) is not None
    ]
    if "command" in run:
        facts.append(f"glomtile {run['command']}")
    if "finished" in run:
        facts.append(str(run["finished"]).replace("T", " ").replace("+00:00", " UTC"))
    if "seconds" in run:
        facts.append(f"took {float(run['seconds']):.3g} seconds")
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


def _read_images(folder: Path, rows: Sequence[Row], objects: Sequence[Row], found: Results) -> None:
    try:
        listed = read_image_list(folder)
    except GlomtileError as error:
        found.notes.append(f"images: {error.message}")
        return
    if listed is None or not rows:
        return
    notes: list[str] = []
    found.cards, found.crops = cards_and_crops(listed, rows, objects, dict(found.flags), notes)
    found.notes += notes if found.cards else [f"images: they are no longer in their folders ({notes[0]})"]
    for series in listed.previews:
        try:
            found.previews.append((series.stem, preview_frames(series, listed.palette)))
        except GlomtileError as error:
            found.notes.append(f"previews of {series.stem}: {error.message}")


def _read_distributions(rows: Sequence[Row], objects: Sequence[Row], found: Results) -> None:
    counts = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in objects if row["name"] == name]
        known = bool(own) and all(row["area_um2"] for row in own)
        column, unit = ("area_um2", "µm²") if known else ("area_px", "px")
        truth, prediction = (
            [float(row[column]) for row in own if row["side"] == side] for side in ("truth", "prediction")
        )
        _add_areas(f"Areas: {name}", truth, prediction, unit, found)
        pairs = [
            (int(row["truth_objects"]), int(row["predicted_objects"])) for row in rows if row["name"] == name
        ]
        if own and (svg := plotting.count_scatter_svg(pairs)):
            title = f"Objects in each image: {name}"
            counts.append(Chart(title, text.count_sentence(pairs), svg, square=True))
    found.distributions += counts


def _add_areas(
    title: str, truth: Sequence[float], prediction: Sequence[float], unit: str, found: Results
) -> None:
    svg = plotting.area_histogram_svg(truth, prediction, unit)
    if svg:
        found.distributions.append(Chart(title, text.area_sentence(truth, prediction, unit), svg))


def _read_slides(folder: Path, found: Results) -> None:
    rows = read_optional_table(folder / "summary.csv", SLIDE_COLUMNS, found.notes)
    if not rows:
        return
    found.slide_rows = rows
    found.slides = slide_views(folder, rows, found.notes)
    found.flags += [(row["image"], row[text.FLAGS]) for row in rows if row.get(text.FLAGS)]
    found.facts.insert(0, text.counted(len(rows), "slide"))
    found.headlines = _class_figures(rows)
    found.verdict = [shown.sentence for shown in found.headlines[:1]]
    if found.flags:
        found.verdict.append(
            f"{text.counted(len(found.flags), 'slide')} of {len(rows)} "
            f"{'needs' if len(found.flags) == 1 else 'need'} review."
        )
    areas = areas_of_slides(folder, rows, found.notes)
    for name in classes_of(rows[0]):
        _add_areas(f"Areas: {name}", (), areas.get(name, ()), "µm²", found)


def _class_figures(rows: Sequence[Row]) -> list[text.FormattedFigure]:
    """Compute the headline figures of segmented slides, with intervals over the slides."""
    weights = draw_weights(len(rows), None, DRAWS, SEED)
    tissue = np.array([float(row["tissue_mm2"] or 0) for row in rows])
    slides = np.ones(len(rows))
    shown = []
    for name in classes_of(rows[0]):
        counts = np.array([count_of(row, name) for row in rows])
        areas = np.array([float(row[f"{name}_total_area_mm2"] or 0) for row in rows]) * 1e6
        figures = [
            ("mean per slide", "Mean over all slides.", _ratio(counts, slides, weights), ".1f"),
            ("per mm² of tissue", "Of the tissue area that was detected.", _ratio(counts, tissue, weights),
             ".2f"),
            ("mean area, µm²", "Including objects cut by an edge.", _ratio(areas, counts, weights), ",.0f"),
        ]  # fmt: skip
        shown += text.class_headlines(name, int(counts.sum()), len(rows), float(tissue.sum()), figures)
    return shown


def _ratio(above: Any, below: Any, weights: Any) -> Any:
    return ratio(np.stack([above, below], 1), weights)


def _curves(folder: Path, notes: list[str]) -> tuple[list[Chart], set[str]]:
    """Draw the tables of training; return the charts and the stems of those in the folder itself."""
    charts, names = [], set()
    paths = [path for glob in ("", "eval/", "fold-*/eval/") for path in folder.glob(f"{glob}train_*.csv")]
    for path in sorted(paths, key=lambda path: natural_key(str(path.relative_to(folder))))[:MAX_CURVES]:
        fold = path.relative_to(folder).parts[0]
        title = f"{fold}: {path.stem}" if fold.startswith("fold-") else path.stem
        try:
            svg = plotting.curves_svg(plotting.read_curves(path))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
            continue
        if svg:
            charts.append(Chart(title, "", svg))
            names.add(title)
    return charts, names


def _calibration(folder: Path, notes: list[str]) -> list[Chart]:
    rows = read_optional_table(folder / "calibration.csv", ("name", "pixels", "true_pixels"), notes)
    charts = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        if len(own) != LEVELS:
            notes.append(f"calibration.csv: expected {LEVELS} rows of {name}, got {len(own)}")
            continue
        counts = np.array([[int(row[column]) for row in own] for column in ("pixels", "true_pixels")])
        bins, error = reliability(counts)
        if bins:
            svg = plotting.calibration_svg([(one.predicted, one.observed, one.pixels) for one in bins])
            sentence = text.calibration_sentence(name, bins, error)
            charts.append(Chart(f"Calibration: {name}", sentence, svg, square=True))
    return charts


def _sheets(folder: Path, rows: Sequence[Row], notes: list[str]) -> list[NamedImage]:
    captions: dict[str, list[str]] = {}
    several = len({row["name"] for row in rows}) > 1
    for row in rows:
        if row["dice"]:
            words = ("true_positive", "false_positive", "false_negative")
            counts = ", ".join(text.counted(int(row[key]), key.replace("_", " ")) for key in words)
            name = f"{row['name']}: " if several else ""
            captions.setdefault(row["image"], []).append(f"{name}Dice {float(row['dice']):.3f}, {counts}")
    named = []
    for path in sorted((folder / "sheets").glob("*.png"))[:MAX_SHEETS]:
        stem = path.stem.partition("_")[2] or path.stem
        named.append((path, stem, "; ".join(captions.get(stem, []))))
    return _embedded(named, SHEET_PX, notes)


def _images(folder: Path, drawn: set[str], notes: list[str]) -> list[NamedImage]:
    found = [path for path in sorted(folder.glob("*.png")) if path.stem not in drawn]
    if len(found) > MAX_IMAGES:
        notes.append(f"{len(found) - MAX_IMAGES} more images of the folder")
    return _embedded([(path, path.stem, "") for path in found[:MAX_IMAGES]], IMAGE_PX, notes)


def _embedded(named: Sequence[tuple[Path, str, str]], longest_px: int, notes: list[str]) -> list[NamedImage]:
    budget = ThumbnailBudget(IMAGE_BYTES, [1.0] * len(named), longest_px)
    images = []
    for path, name, caption in named:
        try:
            images.append(NamedImage(name, caption, budget.add(read_image(path))))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
    return images


def _read_optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _flat(settings: Any, above: str = "") -> list[tuple[str, str]]:
    if not isinstance(settings, Mapping):
        if settings is None:
            return [(above, "–")]
        return [(above, settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False))]
    return [
        item
        for key, value in settings.items()
        for item in _flat(value, f"{above}.{key}" if above else str(key))
    ]
