"""Which figures of a result stand in the table that a command ends with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glomtile.cli.tables import Column
from glomtile.formatting import duration

MOST_ROWS = 24
_FIGURES = {
    "pooled_dice": "pooled Dice",
    "mean_dice": "mean Dice",
    "pooled_precision": "pooled precision",
    "pooled_recall": "pooled recall",
    "object_f1": "object F1",
}


class Table(NamedTuple):
    """A table, and lines that follow it.

    Attributes
    ----------
    columns : tuple of Column
    rows : list of (list of str, str)
        Cells, and the row's style: ``""``, ``"yellow"`` or ``"red"``.
    closing : tuple of str
    """

    columns: tuple[Column, ...]
    rows: list[tuple[list[str], str]]
    closing: tuple[str, ...] = ()


def slides_table(images: Sequence[Mapping[str, Any]], failed: Sequence[tuple[object, str]]) -> Table:
    """What `segment` found: a row for each slide, of many those first that ask for a look.

    Parameters
    ----------
    images : sequence of mapping
        As of `glomtile.inference.records.slides_outcome`.
    failed : sequence of (path, reason)
    """
    keys = dict.fromkeys(key for image in images for key in image)
    classes = [key.removesuffix("_count") for key in keys if key.endswith("_count")]
    one = len(classes) == 1
    columns = [
        Column("image", 9),
        *(Column(name, 8, right=True) for name in classes),
        *([Column("mean µm²", 3, right=True), Column("per mm²", 4, right=True)] if one else []),
        Column("tissue mm²", 2, right=True),
        Column("time", 1, right=True),
        Column("note", 7),
    ]
    rows = []
    for image in images:
        name = classes[0] if one else ""
        cells = [
            str(image["image"]),
            *(_shown(image.get(f"{each}_count")) for each in classes),
            *([_shown(image.get(f"{name}_{key}")) for key in ("mean_area_um2", "per_mm2")] if one else []),
            _shown(image.get("tissue_mm2")),
            "" if image["seconds"] is None or image["status"] != "done" else duration(image["seconds"]),
            _slide_note(image),
        ]
        rows.append((cells, "yellow" if image["quality_flags"] else ""))
    blank = [""] * (len(columns) - 2)
    rows += [([str(path), *blank, "failed"], "red") for path, _ in failed]
    left = len(rows) - MOST_ROWS
    if left > 0:
        urgent = {"red": 0, "yellow": 1, "": 2}
        rows = sorted(rows, key=lambda row: urgent[row[1]])[:MOST_ROWS]
    more = (f"… and {left:,} more in summary.csv",) if left > 0 else ()
    return Table(tuple(columns), rows, (*more, _slides_line(images, failed)))


def scores_tables(outcome: Mapping[str, Any], title: str = "") -> list[Table]:
    """Figures with their intervals, a table for each class, the worst images behind the last.

    Parameters
    ----------
    outcome : mapping
        As of `glomtile.inference.records.scores_outcome`.
    title : str
        Which images, where that has to be said.
    """
    scores = outcome["scores"]
    tables = []
    for entry in scores["classes"]:
        heading = f"{entry['name']}, {scores['images']} images{title and ' '}{title}"
        columns = (Column(heading, 9), Column("value", 9), Column("95 % interval", 9))
        rows = []
        for key, words in _FIGURES.items():
            figure = entry["figures"][key]
            low, high = figure["low"], figure["high"]
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            value = figure["value"]
            rows.append(([words, "undefined" if value is None else f"{value:.3f}", interval], ""))
        objects = entry["objects"]
        found, false, missed = (objects[key] for key in ("true_positive", "false_positive", "false_negative"))
        line = f"objects: {found:,} true positives, {false:,} false positives, {missed:,} false negatives"
        tables.append(Table(columns, rows, (line,)))
    several = len(scores["classes"]) > 1
    worst = ", ".join(
        f"{each['image']} {each['dice']:.3f}" + (f" ({each['class']})" if several else "")
        for each in outcome["worst"]
    )
    if worst and tables:
        tables[-1] = tables[-1]._replace(closing=(*tables[-1].closing, f"worst images by Dice: {worst}"))
    return tables


def runs_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the runs of a sweep reach, the best first: a row for each run and class.

    Parameters
    ----------
    runs : mapping of str to mapping
        By name, as of `glomtile.inference.records.scores_outcome`, with the outcome over the images that are
        trained on too, or None, under ``trusted``: where there is one, it counts.
    """
    figures = [Column(words, 8, right=True) for words in _FIGURES.values()]
    found = []
    for name, outcome in runs.items():
        for entry in (outcome["trusted"] or outcome)["scores"]["classes"]:
            values = [entry["figures"][key]["value"] for key in _FIGURES]
            best = -1.0 if values[0] is None else values[0]
            cells = [name, entry["name"], *("undefined" if v is None else f"{v:.3f}" for v in values)]
            found.append((-best, cells))
    rows = [(cells, "") for _, cells in sorted(found, key=lambda row: row[0])]
    note = "chosen by these figures, the best looks better than it is on images that chose nothing"
    columns = (Column("run", 9), Column("class", 1), *figures)
    return Table(columns, rows, (note,) if len(runs) > 1 else ())


def _slide_note(image: Mapping[str, Any]) -> str:
    aspects = ", ".join(re.split(r":| \(", str(flag))[0] for flag in image["quality_flags"])
    before = "done before" if image["status"] == "skipped" else ""
    return "; ".join(filter(None, (f"flagged: {aspects}" if aspects else "", before)))


def _slides_line(images: Sequence[Mapping[str, Any]], failed: Sequence[object]) -> str:
    states = [image["status"] for image in images]
    counts = {
        "done": states.count("done"),
        "done before": states.count("skipped"),
        "failed": len(failed),
        "flagged": sum(bool(image["quality_flags"]) for image in images),
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    fresh = [image for image in images if image["status"] == "done"]
    windows, glass = (sum(image[key] or 0 for image in fresh) for key in ("windows", "windows_skipped"))
    number = len(images) + len(failed)
    line = f"{number} image{'' if number == 1 else 's'}: {told}"
    return f"{line}; {glass:,} of {windows:,} windows skipped as glass" if glass else line


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
