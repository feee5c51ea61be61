"""Build the report page of a folder of results."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomtile.errors import GlomtileError, InputError
from glomtile.io.atomic import read_json, write_text
from glomtile.io.images import natural_key, read_image
from glomtile.report.elements import (
    FLAGS,
    Chart,
    FormattedFigure,
    Row,
    Thumbnail,
    ThumbnailBudget,
    counted,
    read_optional_table,
)

if TYPE_CHECKING:
    from glomtile.report.scores import Card, Crop, Frame, Gallery
    from glomtile.report.slides import SlideView

REPORT_NAME = "report.html"
SHEET_PX, IMAGE_PX = 1600, 1100
IMAGE_BYTES = 4_000_000
"""Of the sheets together, and of other images of the folder together."""

MAX_SHEETS = 12
MAX_IMAGES = 12
MAX_ROWS = 500
MAX_CURVES = 20

IMAGE_COLUMNS = (
    *("image", "name", "dice", "precision", "recall", "truth_objects", "predicted_objects"),
    *("true_positive", "false_positive", "false_negative"),
)
OBJECT_COLUMNS = (
    *("image", "name", "side", "outcome", "area_px", "area_um2", "iou", "hd95_px"),
    *("top", "left", "bottom", "right"),
)
SLIDE_COLUMNS = ("image", "kind", "width_px", "height_px", "mpp")


@dataclass(frozen=True)
class NamedImage:
    """An image of the folder with its name and caption."""

    name: str
    caption: str
    thumbnail: Thumbnail


@dataclass
class Results:
    """Content of the page; an empty part is left out.

    `rows` are those of ``per_image.csv``, `objects` of ``objects.csv``, `slide_rows` of ``summary.csv``,
    `quality_rows` of ``quality.csv``; `flags` and `failed` pair an image or slide with its quality flags or
    its error; `notes` list what is left out.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    headlines: list[FormattedFigure] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    objects: list[dict[str, str]] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    crops: list[tuple[Gallery, list[Crop]]] = field(default_factory=list)
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
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glomtile.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = files("glomtile.report").joinpath("templates")
    style, script = (templates.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    return environment.get_template("report.html").render(
        r=results, counted=counted, most_rows=MAX_ROWS, style=style, script=script, script_digest=digest
    )


def read_results(folder: Path) -> Results:
    """Read a folder of results; see `write_report`."""
    resolved = folder.resolve()
    found = Results(": ".join(name for name in (resolved.parent.name, resolved.name) if name))
    scores, run = (
        read_json(path) if (path := folder / name).exists() else {} for name in ("scores.json", "run.json")
    )
    found.rows = read_optional_table(folder / "per_image.csv", IMAGE_COLUMNS, found.notes)
    found.objects = read_optional_table(folder / "objects.csv", OBJECT_COLUMNS, found.notes)
    found.quality_rows = read_optional_table(folder / "quality.csv", ("image", FLAGS), found.notes)
    found.flags = [(row["image"], row[FLAGS]) for row in found.quality_rows if row[FLAGS]]
    has_scores = (folder / "scores.json").exists()
    if has_scores or found.rows:
        from glomtile.report.scores import add_images, add_scores, distributions

        if has_scores:
            add_scores(folder, scores, found)
        if found.rows:
            add_images(folder, found)
            found.distributions = distributions(found.rows, found.objects)
    _read_run(run, found)
    slide_rows = read_optional_table(folder / "summary.csv", SLIDE_COLUMNS, found.notes)
    if slide_rows:
        from glomtile.report.slides import add_slides

        add_slides(folder, slide_rows, found)
    tables = [path for glob in ("", "eval/", "fold-*/eval/") for path in folder.glob(f"{glob}train_*.csv")]
    drawn = _add_curves(folder, tables, found) if tables else set()
    if levels := read_optional_table(
        folder / "calibration.csv", ("name", "pixels", "true_pixels"), found.notes
    ):
        _add_calibration(levels, found)
    sheets = sorted((folder / "sheets").glob("*.png"))[:MAX_SHEETS]
    if sheets and not found.cards:
        captions = _captions(found.rows)
        stems = {path: path.stem.partition("_")[2] or path.stem for path in sheets}
        named = [(path, stem, "; ".join(captions.get(stem, ()))) for path, stem in stems.items()]
        found.sheets = _embedded(named, SHEET_PX, found.notes)
    images = [path for path in sorted(folder.glob("*.png")) if path.stem not in drawn]
    if len(images) > MAX_IMAGES:
        found.notes.append(f"{len(images) - MAX_IMAGES} more images of the folder")
    if images:
        named = [(path, path.stem, "") for path in images[:MAX_IMAGES]]
        found.images = _embedded(named, IMAGE_PX, found.notes)
    if not (
        has_scores
        or found.rows
        or found.curves
        or found.sheets
        or found.images
        or found.slides
        or found.failed
    ):
        raise InputError(
            folder,
            "expected scores.json, curves or images, got none of them",
            "run evaluate, score or segment first",
        )
    return found


def _read_run(run: Mapping[str, Any], found: Results) -> None:
    if "command" in run:
        found.facts.append(f"glomtile {run['command']}")
    if "finished" in run:
        found.facts.append(str(run["finished"]).replace("T", " ").replace("+00:00", " UTC"))
    if "seconds" in run:
        found.facts.append(f"took {float(run['seconds']):.3g} seconds")
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


def _add_curves(folder: Path, tables: Sequence[Path], found: Results) -> set[str]:
    """Draw the tables of training; return their titles, which are the stems of those in the folder itself."""
    from glomtile import plotting

    for path in sorted(tables, key=lambda path: natural_key(str(path.relative_to(folder))))[:MAX_CURVES]:
        fold = path.relative_to(folder).parts[0]
        title = f"{fold}: {path.stem}" if fold.startswith("fold-") else path.stem
        try:
            svg = plotting.curves_svg(plotting.read_curves(path))
        except GlomtileError as error:
            found.notes.append(f"{path.name}: {error.message}")
            continue
        if svg:
            found.curves.append(Chart(title, "", svg))
    return {chart.title for chart in found.curves}


def _add_calibration(rows: Sequence[Row], found: Results) -> None:
    import numpy as np

    from glomtile import plotting
    from glomtile.evaluation.calibration import LEVELS, reliability

    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        if len(own) != LEVELS:
            found.notes.append(f"calibration.csv: expected {LEVELS} rows of {name}, got {len(own)}")
            continue
        bins, error = reliability(
            np.array([[int(row[column]) for row in own] for column in ("pixels", "true_pixels")])
        )
        if bins:
            predicted, observed, _ = bins[-1]
            sentence = (
                f"Where the network predicts {predicted:.2f}, {100 * observed:.0f} % of "
                f"the pixels are {name}. On the diagonal the probabilities are right; below it the network "
                f"is overconfident. Expected calibration error: {error:.3f}."
            )
            svg = plotting.calibration_svg(bins)
            found.calibration.append(Chart(f"Calibration: {name}", sentence, svg, square=True))


def _captions(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Describe the scores of each image for its sheet."""
    captions: dict[str, list[str]] = {}
    several = len({row["name"] for row in rows}) > 1
    for row in rows:
        if row["dice"]:
            words = ("true_positive", "false_positive", "false_negative")
            counts = ", ".join(counted(int(row[key]), key.replace("_", " ")) for key in words)
            name = f"{row['name']}: " if several else ""
            captions.setdefault(row["image"], []).append(f"{name}Dice {float(row['dice']):.3f}, {counts}")
    return captions


def _embedded(named: Sequence[tuple[Path, str, str]], longest_px: int, notes: list[str]) -> list[NamedImage]:
    budget = ThumbnailBudget(IMAGE_BYTES, len(named), largest_px=longest_px)
    images = []
    for path, name, caption in named:
        try:
            images.append(NamedImage(name, caption, budget.add(read_image(path))))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
    return images
