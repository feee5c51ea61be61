"""What a folder of results says, as plain values: each slide of the last run, the figures of a scored set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glomtile.errors import InputError
from glomtile.files.slides import slide_name
from glomtile.files.tables import read_csv

_WORST = 3
_TEXTS = ("image", "kind", "mpp_source")
_TOLD_ELSEWHERE = ("doubt", "seconds")


def slides_outcome(out: Path) -> list[dict[str, Any]]:
    """What the last run of `segment` did with each slide that has results.

    Parameters
    ----------
    out : Path
        The folder of results: its ``run.json`` and ``summary.csv`` are read.

    Returns
    -------
    list of dict
        ``input``, ``status`` (``"done"``, or ``"skipped"`` where an earlier run had finished it), the columns
        of ``summary.csv`` as numbers, ``None`` where they are empty, ``doubts`` as a list, ``windows``,
        ``windows_skipped`` and ``seconds``.

    Raises
    ------
    InputError
        One of the two cannot be read.
    """
    run = _read_json(out / "run.json")
    summary = out / "summary.csv"
    rows = {row["image"]: row for row in read_csv(summary, ("image",))} if summary.is_file() else {}
    found = []
    for status in ("done", "skipped"):
        for given in run[status]:
            record = run["inputs"].get(given, {})
            effort = record.get("effort", {})
            found.append(
                {
                    "input": given,
                    "status": status,
                    **{
                        key: value if key in _TEXTS else _number(value)
                        for key, value in rows.get(slide_name(given), {}).items()
                        if key not in _TOLD_ELSEWHERE
                    },
                    "doubts": record.get("doubts", []),
                    "windows": effort.get("windows"),
                    "windows_skipped": effort.get("skipped"),
                    "seconds": record.get("seconds"),
                }
            )
    return found


def scores_outcome(folder: Path) -> dict[str, Any]:
    """The figures of a scored set of images.

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
    return {"scores": _read_json(folder / "scores.json"), "worst": list(worst.values())[:_WORST]}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(path, f"expected what the run has just written, got: {problem}") from problem
    return content


def _number(text: str) -> float | int | None:
    """A cell of numbers; ``None`` where it is empty."""
    if not text:
        return None
    value = float(text)
    return int(value) if text.lstrip("-").isdecimal() else value
