"""The summary holds a row for each finished slide, and no note is read twice."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from glomtile.inference import records as slidenotes
from glomtile.inference.records import OWN, Summary
from glomtile.io import atomic as workspace


def note(out: Path, name: str, count: int) -> Path:
    told = {"input": name, "identity": {}, "figures": {"image": name, "count": count}, "files": []}
    workspace.write_json(out / OWN / f"{name}.json", told)
    return out / f"{name}.svs"


def rows(out: Path) -> list[tuple[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as table:
        return [(row["image"], row["count"]) for row in csv.DictReader(table)]


def test_a_row_for_each_slide_of_all_runs_and_the_newest_of_one(tmp_path: Path) -> None:
    note(tmp_path, "b", 1)
    (tmp_path / OWN / "broken.json").write_text("{")
    summary = Summary(tmp_path)
    summary.add(note(tmp_path, "c", 2))
    summary.add(note(tmp_path, "a", 3))
    summary.add(note(tmp_path, "b", 4))
    summary.write()
    assert rows(tmp_path) == [("a", "3"), ("b", "4"), ("c", "2")]


def test_no_slide_no_summary(tmp_path: Path) -> None:
    Summary(tmp_path).write()
    assert not (tmp_path / "summary.csv").exists()


def test_reading_and_writing_do_not_grow_with_the_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made from all notes after every slide: ten thousand slides read fifty million files."""
    read: list[Path] = []
    written: list[Path] = []
    now = [100.0]

    def write(path: Path, *rest: Any) -> Path:
        now[0] += 1.0  # a table that takes a second
        written.append(path)
        return path

    reader = slidenotes.read_note
    monkeypatch.setattr(slidenotes, "read_note", lambda path: read.append(path) or reader(path))
    monkeypatch.setattr(slidenotes, "write_csv", write)
    monkeypatch.setattr(slidenotes.time, "monotonic", lambda: now[0])
    for number in range(10):
        note(tmp_path, f"old{number}", 0)
    summary = Summary(tmp_path)
    for number in range(100):
        summary.add(note(tmp_path, f"new{number}", 0))
        now[0] += 0.5
    assert len(read) == 110
    assert 2 <= len(written) <= 4
