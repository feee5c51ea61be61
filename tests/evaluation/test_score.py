from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.fakes import RecordingProgress

from glomtile.errors import ArgumentError, InputError
from glomtile.evaluation.metrics import score_image
from glomtile.evaluation.score import read_scores, score, worst_first, write_scores, write_sheets
from glomtile.io.images import read_image, write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI, Palette

THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])


def square(top: int, left: int, size: int = 20, number: int = 1) -> np.ndarray:
    plane = np.zeros((64, 64), np.uint8)
    plane[top : top + size, left : left + size] = number
    return plane


def study(folder: Path, shifts: dict[str, int]) -> tuple[Path, Path, Path]:
    """Truth is a square; each prediction is it, moved right by so many pixels."""
    for stem, shift in shifts.items():
        for kind, plane in (("truth", square(10, 10)), ("predictions", square(10, 10 + shift))):
            (folder / kind).mkdir(exist_ok=True, parents=True)
            write_mask(folder / kind / f"{stem}.png", plane, GLOMERULI)
        (folder / "images").mkdir(exist_ok=True)
        write_png(folder / "images" / f"{stem}.png", np.full((64, 64, 3), 200, np.uint8))
    return folder / "predictions", folder / "truth", folder / "images"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_three_files_hold_the_figures_and_agree(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4, "c": 30})
    result = score(predictions, truth, tmp_path / "out", mpp=0.5)
    content = json.loads((tmp_path / "out/scores.json").read_text())
    rows, classes = read(tmp_path / "out/per_image.csv"), read(tmp_path / "out/per_class.csv")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in result.paths)
    assert [float(row["dice"]) for row in rows] == pytest.approx([0, 0.8, 1])
    assert [row["image"] for row in rows] == ["c", "b", "a"]
    figures = content["classes"][0]["figures"]
    assert figures["mean_dice"]["value"] == pytest.approx(0.6)
    assert float(classes[0]["mean_dice"]) == pytest.approx(0.6)
    assert content["classes"][0]["name"] == classes[0]["name"] == "glomerulus"
    assert content["classes"][0]["objects"] == {
        "truth": 3,
        "predicted": 3,
        "true_positive": 2,
        "false_positive": 1,
        "false_negative": 1,
    }
    assert content["hd95_unit"] == "um"
    # shifts of 0 and 4 px at 0.5 um
    assert figures["hd95"]["value"] == pytest.approx((0 + 4 * 0.5) / 2)
    assert float(classes[0]["hd95_um"]) == pytest.approx(1)


def test_a_folder_scored_against_itself_is_warned_of(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4})
    listening = RecordingProgress()
    score(predictions, truth, tmp_path / "out", progress=listening)
    assert not listening.warnings
    score(truth, truth.parent / "predictions/../truth", tmp_path / "out", progress=listening)
    [told] = listening.warnings
    assert "same folder" in told


@pytest.mark.shared
def test_the_reference_predictions_score_what_the_reference_page_says(shared_data, tmp_path):
    folder = shared_data / "glomeruli"
    all_of_them = score(folder / "reference_predictions", folder / "masks", tmp_path / "all").scores.classes[
        0
    ]
    figures, total = all_of_them.figures, all_of_them.total
    assert round(figures["pooled_dice"].value, 4) == 0.9190
    assert round(figures["pooled_precision"].value, 4) == 0.8695
    assert round(figures["pooled_recall"].value, 4) == 0.9744
    assert (total.true_positive, total.false_positive, total.false_negative) == (17, 196, 1)

    for kind in ("reference_predictions", "masks"):
        (tmp_path / kind).mkdir()
        for path in (folder / kind).iterdir():
            if path.stem not in ("10165", "10215"):
                shutil.copy(path, tmp_path / kind)
    rest = score(tmp_path / "reference_predictions", tmp_path / "masks", tmp_path / "rest").scores.classes[0]
    assert round(rest.figures["pooled_dice"].value, 4) == 0.9473
    assert round(rest.figures["mean_dice"].value, 4) == 0.9504
    assert (rest.total.true_positive, rest.total.false_positive, rest.total.false_negative) == (16, 168, 0)


def test_scoring_twice_writes_the_same_bytes_but_for_the_run_facts(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0, "b": 4, "c": 30})
    for out in ("one", "two"):
        score(predictions, truth, tmp_path / out, images=images)
    for path in (tmp_path / "one").rglob("*.*"):
        if path.name != "run.json":  # which says when
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_sheets_are_numbered_from_the_worst(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0, "b": 4, "c": 30})
    (images / "unused.png").write_bytes((images / "a.png").read_bytes())
    score(predictions, truth, tmp_path / "out", images=images)
    names = sorted(path.name for path in (tmp_path / "out/sheets").iterdir())
    assert names == ["01_c.png", "02_b.png", "03_a.png"]
    assert read_image(tmp_path / "out/sheets/01_c.png").shape[1] > 4 * 512


def test_only_the_worst_images_are_loaded_for_sheets(tmp_path):
    loaded = []
    per_image = [(f"i{s}", score_image(square(10, 10 + s), square(10, 10), 2)) for s in range(6)]

    def load(stem: str):
        loaded.append(stem)
        return np.full((64, 64, 3), 200, np.uint8), square(10, 10), square(10, 12)

    paths = write_sheets(tmp_path, per_image, GLOMERULI, load, limit=2)
    assert loaded == ["i5", "i4"]
    assert [path.name for path in paths] == ["01_i5.png", "02_i4.png"]


def test_sheets_of_an_earlier_run_are_replaced_and_files_of_others_kept(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0, "b": 4, "c": 30})
    out = tmp_path / "out"
    score(predictions, truth, out, images=images)
    for kind in (predictions, truth):
        (kind / "c.png").unlink()
    score(predictions, truth, out, images=images)
    assert sorted(path.name for path in (out / "sheets").iterdir()) == ["01_b.png", "02_a.png"]

    (out / "sheets" / "notes.txt").write_text("mine")
    score(predictions, truth, out, images=images)
    assert len(list((out / "sheets").iterdir())) == 2
    (kept,) = list(out.rglob("notes.txt"))
    assert kept.read_text() == "mine"


def test_sheets_of_an_earlier_run_do_not_stay_beside_new_figures(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0})
    score(predictions, truth, tmp_path / "out", images=images)
    score(predictions, truth, tmp_path / "out")
    assert not (tmp_path / "out/sheets").exists()
    assert [path.name for path in tmp_path.glob("out/sheets-*/*")] == ["01_a.png"]


def test_probabilities_of_an_earlier_evaluation_do_not_stay_beside_figures_of_masks(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0})
    score(predictions, truth, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    run = tmp_path / "out/run.json"
    for name in ("quality.csv", "calibration.csv"):
        (tmp_path / "out" / name).write_text("name\nof an evaluation or of someone else\n", "utf-8")
    score(predictions, truth, tmp_path / "out")  # none wrote these figures
    assert len(list((tmp_path / "out").iterdir())) == len(files) + 2
    run.write_text(json.dumps(json.loads(run.read_text("utf-8")) | {"command": "evaluate"}), "utf-8")
    score(predictions, truth, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


def test_an_image_without_the_class_ranks_behind_all_others():
    empty = np.zeros((64, 64), np.uint8)
    order = [
        ("empty", score_image(empty, empty, 2)),
        ("good", score_image(square(1, 1), square(1, 1), 2)),
        ("bad", score_image(empty, square(1, 1), 2)),
    ]
    assert [stem for stem, _ in worst_first(order)] == ["bad", "good", "empty"]


def test_several_classes_have_a_row_each(tmp_path):
    truth = np.maximum(square(5, 5), square(40, 40, number=2))
    scores, _ = write_scores(tmp_path, [("a", score_image(square(5, 5), truth, 3))], THREE)
    assert [row["name"] for row in read(tmp_path / "per_class.csv")] == ["tuft", "vessel"]
    assert [row["dice"] for row in read(tmp_path / "per_image.csv")] == ["1.0", "0.0"]
    assert len(scores.classes) == 2


def test_groups_come_from_a_table_and_stand_beside_each_image(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4, "c": 6})
    table = tmp_path / "groups.csv"
    table.write_text("stem,group,split\na,s1,train\nb,s1,test\nc,s2,test\nelsewhere,s9,\n")
    result = score(predictions, truth, tmp_path / "out", groups=table)
    assert result.scores.groups == 2
    assert {r["image"]: r["group"] for r in read(tmp_path / "out/per_image.csv")} == {
        "a": "s1",
        "b": "s1",
        "c": "s2",
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("stem,group\na,1\n", "expected a line for every image, got none for b"),
        ("stem,group\na,1\nb,\n", "expected a group for every image, got an empty cell for b"),
        ("stem,group\na,1\na,2\nb,1\n", "expected one group for a, got '1' and '2'"),
        ("stem\na\n", "expected the columns stem, group"),
    ],
)
def test_a_group_table_that_does_not_fit_is_refused(tmp_path, table, message):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4})
    (tmp_path / "g.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        score(predictions, truth, tmp_path / "out", groups=tmp_path / "g.csv")
    assert not (tmp_path / "out").exists()


def test_the_difference_to_other_predictions_is_paired(tmp_path):
    better, truth, _ = study(tmp_path / "x", {"a": 1, "b": 2, "c": 3})
    worse, _, _ = study(tmp_path / "y", {"a": 5, "b": 6, "c": 7})
    score(better, truth, tmp_path / "out", against=worse)
    dice = json.loads((tmp_path / "out/scores.json").read_text())["difference"][0]["figures"]["mean_dice"]
    assert dice["value"] == pytest.approx(0.2)
    assert 0.19 < dice["low"] <= dice["high"] < 0.21


def test_seams_that_are_not_defined_become_null(tmp_path):
    per_image = [("a", score_image(square(1, 1), square(1, 1), 2))]
    write_scores(tmp_path, per_image, GLOMERULI, seams={"seam_ratio": float("nan"), "tile_px": 512})
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["seams"] == {"seam_ratio": None, "tile_px": 512}


@pytest.mark.parametrize(("folder", "name"), [("predictions", "truth"), ("truth", "predictions")])
def test_a_mask_without_a_partner_is_named(tmp_path, folder, name):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4})
    (tmp_path / folder / "b.png").unlink()
    with pytest.raises(InputError, match=rf"{folder}: expected a partner .* got none for b\.png"):
        score(predictions, truth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_masks_of_one_stem_are_refused(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0})
    shutil.copy(predictions / "a.png", predictions / "a.bmp")
    with pytest.raises(InputError, match=r"expected every name once, got a\.bmp and a\.png"):
        score(predictions, truth, tmp_path / "out")


def test_all_unusable_masks_are_named_at_once_and_nothing_is_written(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 4, "c": 2})
    (predictions / "a.png").write_bytes((predictions / "a.png").read_bytes()[:60])
    write_mask(predictions / "b.png", np.zeros((10, 20), np.uint8), GLOMERULI)
    with pytest.raises(InputError, match="expected 3 usable files, got 2 that are not") as caught:
        score(predictions, truth, tmp_path / "out")
    assert "a.png" in str(caught.value)
    assert "b.png: expected the size of b.png, 64 x 64 px, got 20 x 10 px" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_colour_the_palette_does_not_hold_is_refused_with_the_file(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0})
    write_png(predictions / "a.png", np.full((64, 64, 3), (1, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png"):
        score(predictions, truth, tmp_path / "out")


def test_an_image_of_another_size_is_refused_before_anything_is_written(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0})
    write_png(images / "a.png", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png: expected the size of a\.png"):
        score(predictions, truth, tmp_path / "out", images=images)
    assert not (tmp_path / "out").exists()


def test_an_empty_a_missing_and_an_unreadable_folder_are_told_apart(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected at least one of \.png, .* got none"):
        score(tmp_path / "empty", truth, tmp_path / "out")
    with pytest.raises(InputError, match="nowhere: expected a folder of images, folder not found"):
        score(tmp_path / "nowhere", truth, tmp_path / "out")
    if os.geteuid() != 0:
        predictions.chmod(0)
        with pytest.raises(InputError, match="Permission denied"):
            score(predictions, truth, tmp_path / "out")
        predictions.chmod(0o755)


def test_run_facts_say_what_ran_with_which_versions(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0})
    score(predictions, truth, tmp_path / "out", draws=50, seed=3)
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["command"] == "score"
    assert facts["settings"]["draws"] == 50
    assert {"python", "glomtile", "numpy"} <= set(facts["versions"])


def test_each_image_is_measured_at_its_own_scale(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 0, "b": 0, "c": 0})
    score(predictions, truth, tmp_path / "out", mpp={"a": 0.5, "b": 0.25})
    areas = {row["image"]: row["area_um2"] for row in read(tmp_path / "out/objects.csv")}
    assert areas == {"a": "100.0", "b": "25.0", "c": ""}
    with pytest.raises(ArgumentError, match=r"mpp: expected .* got 90"):
        score(predictions, truth, tmp_path / "out", mpp={"a": 90})


def test_a_picture_that_cannot_be_decoded_changes_nothing(tmp_path):
    predictions, truth, images = study(tmp_path, {"a": 0, "b": 4})
    score(predictions, truth, tmp_path / "out", images=images)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()}
    write_mask(predictions / "a.png", square(10, 20), GLOMERULI)
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:-60])
    with pytest.raises(InputError, match=r"b\.png"):
        score(predictions, truth, tmp_path / "out", images=images)
    after = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()}
    assert after == before


def test_masks_are_paired_as_segment_calls_them(tmp_path):
    predictions, truth, _ = study(tmp_path, {"a": 4})
    (predictions / "a.png").rename(predictions / "a.ome.png")
    (predictions / "._a.png").write_bytes(b"what another system keeps beside a file")
    assert [stem for stem, _ in score(predictions, truth, tmp_path / "out").per_image] == ["a"]


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
