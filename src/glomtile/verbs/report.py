"""Report alone knows how what lies in a folder of results becomes one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.errors import GlomtileError, InputError
from glomtile.files.figures import read_curves
from glomtile.files.images import read_image
from glomtile.files.tables import read_csv
from glomtile.files.workspace import write_text
from glomtile.types import UInt8
from glomtile.verbs import reporttext
from glomtile.verbs.reportcharts import LineChart, line_chart

SHEET_WIDTH_PX = 1600
PICTURE_WIDTH_PX = 1100
MOST_SHEETS = 12
MOST_PICTURES = 12
MOST_ROWS = 200
REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: `source` is a data URI."""

    name: str
    caption: str
    source: str
    width: int
    height: int


def report(folder: Path) -> Path:
    """Write ``report.html`` from what lies in a folder.

    Parameters
    ----------
    folder : Path
        What `score` or `evaluate` wrote: ``scores.json``, ``per_image.csv``, ``sheets/*.png``, ``run.json``;
        curves (``train_*.csv``) there or in ``eval/`` below, and further PNGs. All but one may be missing.

    Returns
    -------
    Path
        The page: one file, pictures inside, no script, nothing loaded from anywhere.

    Raises
    ------
    InputError
        When the folder cannot be read, holds none of these, or ``scores.json`` or ``run.json`` is not as
        we write it. A picture or table that cannot be read is left out, and the page says so.
    """
    if not folder.is_dir():
        raise InputError(folder, "expected a folder of results, got none")
    notes: list[str] = []
    scores = _read_json(folder / "scores.json")
    run = _read_json(folder / "run.json") or {}
    rows = _rows(folder / "per_image.csv", notes)
    charts = _charts(folder, notes)
    sheets = _sheets(folder, rows, notes)
    drawn = {chart.title for chart in charts}
    pictures = _pictures(folder, drawn, notes)
    if scores is None and not (rows or charts or sheets or pictures):
        raise InputError(
            folder, "expected scores.json, curves or pictures, got none of them", "run score first"
        )
    page = _render(
        title=_title(folder.resolve()),
        facts=_facts(scores, run),
        scores=_sections(folder / "scores.json", scores) if scores is not None else None,
        run=run,
        settings=_flat(run.get("settings", {})),
        versions=_flat(run.get("versions", {})),
        rows=rows[:MOST_ROWS],
        rows_left_out=max(0, len(rows) - MOST_ROWS),
        charts=charts,
        sheets=sheets,
        pictures=pictures,
        notes=notes,
    )
    path = folder / REPORT_NAME
    write_text(path, page)
    return path


def _render(**content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glomtile.verbs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(text=reporttext, **content)


def _title(folder: Path) -> str:
    """Name the folder and the one above: every project has its ``evaluation``."""
    return ": ".join(name for name in (folder.parent.name, folder.name) if name)


def _sections(path: Path, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the content of ``scores.json`` into what the page prints."""
    try:
        unit = scores["hd95_unit"]
        return {
            **scores,
            "unit": unit,
            "cautions": reporttext.cautions(scores),
            "classes": [
                {**entry, "headlines": reporttext.headlines(entry, unit), "colour": _colour(entry["rgb"])}
                for entry in scores["classes"]
            ],
            "difference": scores.get("difference"),
            "seams": scores.get("seams"),
        }
    except (KeyError, TypeError, ValueError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else f"({error})"
        raise InputError(
            path, f"expected scores as glomtile writes them, got some {what}", "score again"
        ) from error


def _facts(scores: Mapping[str, Any] | None, run: Mapping[str, Any]) -> list[str]:
    """Return the short facts under the title."""
    facts = []
    for name in ("images", "groups"):
        count = scores.get(name) if scores is not None else None
        if count is not None:
            facts.append(f"{count} {name if count != 1 else name[:-1]}")
    if "command" in run:
        facts.append(f"glomtile {run['command']}")
    if "finished" in run:
        facts.append(str(run["finished"]).replace("T", " ").replace("+00:00", " UTC"))
    return facts


def _rows(path: Path, notes: list[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        return read_csv(
            path, required=("image", "name", "dice", "precision", "recall", "found", "false", "missed")
        )
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return []


def _charts(folder: Path, notes: list[str]) -> list[LineChart]:
    charts = []
    for path in sorted([*folder.glob("train_*.csv"), *folder.glob("eval/train_*.csv")]):
        try:
            chart = line_chart(path.stem, read_curves(path))
        except GlomtileError as error:
            notes.append(f"{path.name}: {error.message}")
            continue
        if chart is not None:
            charts.append(chart)
    return charts


def _sheets(folder: Path, rows: list[dict[str, str]], notes: list[str]) -> list[Picture]:
    captions: dict[str, list[str]] = {}
    several = len({row["name"] for row in rows}) > 1
    for row in rows:
        if row["dice"]:
            counts = f"{row['found']} found, {row['false']} false, {row['missed']} missed"
            name = f"{row['name']}: " if several else ""
            captions.setdefault(row["image"], []).append(f"{name}Dice {float(row['dice']):.3f}, {counts}")
    sheets: list[Picture] = []
    for path in sorted((folder / "sheets").glob("*.png"))[:MOST_SHEETS]:
        stem = path.stem.partition("_")[2] or path.stem
        caption = "; ".join(captions.get(stem, []))
        _embed(sheets, path, stem, caption, SHEET_WIDTH_PX, notes)
    return sheets


def _pictures(folder: Path, drawn: set[str], notes: list[str]) -> list[Picture]:
    pictures: list[Picture] = []
    found = [path for path in sorted(folder.glob("*.png")) if path.stem not in drawn]
    for path in found[:MOST_PICTURES]:
        _embed(pictures, path, path.stem, "", PICTURE_WIDTH_PX, notes)
    if len(found) > MOST_PICTURES:
        notes.append(f"{len(found) - MOST_PICTURES} more pictures lie in the folder.")
    return pictures


def _embed(into: list[Picture], path: Path, name: str, caption: str, most_px: int, notes: list[str]) -> None:
    try:
        image = read_image(path)
    except GlomtileError as error:
        notes.append(f"{path.name}: {error.message}")
        return
    data, width, height = _encoded(image, most_px)
    into.append(Picture(name, caption, f"data:image/webp;base64,{data}", width, height))


def _encoded(image: UInt8, most_px: int) -> tuple[str, int, int]:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((most_px, 4 * most_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82, method=3)
    return base64.b64encode(stream.getvalue()).decode("ascii"), *picture.size


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
        return [(above, settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False))]
    return [
        item
        for key, value in settings.items()
        for item in _flat(value, f"{above}.{key}" if above else str(key))
    ]


def _colour(rgb: list[int]) -> str:
    red, green, blue = (int(part) for part in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"
