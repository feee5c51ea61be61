"""Tables made from the records of slides, and the figures of a scored set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from glomtile.evaluation.metrics import score_image
from glomtile.evaluation.score import write_scores
from glomtile.inference.records import (
    SlideRecord,
    original_input,
    read_records,
    read_scores,
    record_text,
    write_summary,
)
from glomtile.io.atomic import PRIVATE_FOLDER, write_text
from glomtile.palette import Palette

THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])


def write_record(out: Path, name: str, count: int, given: str = "") -> None:
    figures = {"image": name, "count": count}
    record = SlideRecord(input=given or f"/slides/{name}.svs", fingerprint={}, figures=figures, files=[])
    write_text(out / PRIVATE_FOLDER / f"{name}.json", record_text(record))


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


def test_the_worst_images_are_listed_with_their_worst_class(tmp_path: Path) -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:20, :20], truth[20:, 20:] = 1, 2
    no_vessel, no_tuft, both = truth.copy(), truth.copy(), truth.copy()
    no_vessel[22:, 20:], no_tuft[5:20, :20], both[:, :2] = 0, 0, 0
    planes = {"a": no_vessel, "b": no_tuft, "c": both, "d": truth}
    write_scores(tmp_path, [(stem, score_image(plane, truth, 3)) for stem, plane in planes.items()], THREE)
    worst = read_scores(tmp_path)["worst"]
    assert [(one["image"], one["class"]) for one in worst] == [("a", "vessel"), ("b", "tuft"), ("c", "tuft")]
    assert [one["dice"] for one in worst] == sorted(one["dice"] for one in worst)
