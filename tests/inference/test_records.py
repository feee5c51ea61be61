"""Records of segmented slides and tables made from them."""

from __future__ import annotations

import csv
from pathlib import Path

from glomtile.inference.records import (
    SlideRecord,
    original_input,
    read_records,
    write_summary,
)
from glomtile.io.atomic import PRIVATE_FOLDER, write_json


def write_record(out: Path, name: str, count: int, given: str = "") -> None:
    figures = {"image": name, "count": count}
    record = SlideRecord(input=given or f"/slides/{name}.svs", fingerprint={}, figures=figures, files=[])
    write_json(out / PRIVATE_FOLDER / f"{name}.json", record.model_dump(exclude_none=True))


def test_the_summary_has_a_row_for_each_slide_of_all_runs(tmp_path: Path) -> None:
    for name, count in (("b", 1), ("c", 2), ("a", 3), ("b", 4)):
        write_record(tmp_path, name, count)
    (tmp_path / PRIVATE_FOLDER / "broken.json").write_text("{")
    summary = write_summary(tmp_path, read_records(tmp_path))
    assert summary is not None
    with summary.open(encoding="utf-8", newline="") as table:
        assert [(row["image"], row["count"]) for row in csv.DictReader(table)] == [
            ("a", "3"), ("b", "4"), ("c", "2"),
        ]  # fmt: skip


def test_without_slides_there_is_no_summary(tmp_path: Path) -> None:
    assert write_summary(tmp_path, read_records(tmp_path)) is None
    assert not (tmp_path / "summary.csv").exists()


def test_the_original_input_of_a_result_is_known_from_its_record(tmp_path: Path) -> None:
    write_record(tmp_path, "a", 1)
    write_record(tmp_path, "b", 1, "s3://bucket/b.svs")
    assert original_input(tmp_path, "a") == Path("/slides/a.svs")
    assert original_input(tmp_path, "b") is None
    assert original_input(tmp_path, "none") is None
