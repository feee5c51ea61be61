"""Bad inputs are named and the others finish; what is done is not done again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import disk
from tests.fakes import RecordingProgress, ThresholdNetwork

import glomtile.inference.segmenter as segmenter_module
from glomtile.errors import PlaceError, UsageError
from glomtile.inference.batch import segment, survey
from glomtile.inference.quality_control import QualityFlags
from glomtile.inference.segmenter import Segmenter
from glomtile.inference.slide_task import SegmentOptions
from glomtile.io.atomic import file_lock
from glomtile.io.images import write_png

pytestmark = pytest.mark.usefixtures("threshold_network")


def test_a_card_of_another_scale_or_class_makes_other_results() -> None:
    """Its weights are the same file: the digest of that alone passed stale results off as done."""
    card = Segmenter.load("any").card
    told = card.model_copy(update={"scores": {"test": 1}, "versions": {"keras": "9"}, "epoch": 7})
    assert told.deciding_digest == card.deciding_digest
    renamed = card.classes[1].model_copy(update={"name": "tubule"})
    for change in ({"mpp": 1.0}, {"classes": (card.classes[0], renamed)}, {"color_order": "BGR"}):
        other = card.model_copy(update=change)
        assert Segmenter(ThresholdNetwork(), other).identity != Segmenter(ThresholdNetwork(), card).identity


def test_only_files_that_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = segment([tmp_path / "broken.png"], tmp_path / "out", SegmentOptions(tmp_path, 0.5))
    assert len(result.failed) == 1
    assert all(path.exists() for path in result.paths)
    assert (tmp_path / "out/run.json") in result.paths


def picture(path: Path) -> Path:
    pixels = np.full((300, 400, 3), (200, 120, 170), np.uint8)
    pixels[disk((150, 220), 40)] = (120, 40, 120)
    write_png(path, pixels)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_bad_inputs_are_named_and_the_others_finish(tmp_path: Path) -> None:
    good = picture(tmp_path / "ein Schnitt ü.png")
    twin = picture(tmp_path / "EIN schnitt ü.png")
    (broken := tmp_path / "broken.svs").write_bytes(b"II*\0")
    missing = tmp_path / "missing.svs"
    (tmp_path / "empty").mkdir()
    inputs = [broken, good, missing, twin, tmp_path / "empty"]
    result = segment(inputs, tmp_path / "out", SegmentOptions(tmp_path, mpp=2.0))
    assert result.done == (good,)
    assert {path for path, _ in result.failed} == {broken, missing, twin, tmp_path / "empty"}
    told = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert told["done"] == [str(good)]
    assert len(told["failed"]) == 4
    assert len((tmp_path / "out" / "summary.csv").read_text("utf-8").splitlines()) == 2
    left = [name for name in tree(tmp_path / "out") if not name.endswith(".lock")]
    assert not [name for name in left if "broken" in name or "missing" in name]


def test_finished_is_skipped_other_settings_refused_and_overwrite_replaces(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).done == (path,)
    mask = (out / "masks" / "a.png").read_bytes()
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).skipped == (path,)
    ((_, reason),) = segment([path], out, SegmentOptions(tmp_path, mpp=1.0)).failed
    assert "--overwrite" in reason
    assert (out / "masks" / "a.png").read_bytes() == mask
    assert segment([path], out, SegmentOptions(tmp_path, mpp=1.0, overwrite=True)).done == (path,)
    assert (out / "masks" / "a.png").read_bytes() != mask


@pytest.mark.parametrize("asked", [{"tta": "flips"}, {"threshold": 0.4}])
def test_a_model_asked_otherwise_makes_other_results(tmp_path: Path, asked: dict[str, Any]) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    request = SegmentOptions(tmp_path, mpp=2.0)
    assert segment([path], out, request).done == (path,)
    other = replace(request, **asked)
    ((_, reason),) = segment([path], out, other).failed
    assert f"got others: {next(iter(asked))} (--overwrite" in reason
    assert segment([path], out, replace(other, overwrite=True)).done == (path,)
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["settings"].items() >= asked.items()
    assert run["inputs"][str(path)]["identity"].items() >= asked.items()


@pytest.mark.parametrize("damage", ["", "[]", "{", "{}"])
def test_a_damaged_record_means_a_fresh_start(tmp_path: Path, damage: str) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    (out / ".glomtile" / "a.json").write_text(damage)
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).done == (path,)


@pytest.mark.parametrize("kind", ["masks", "geojson", "objects", "overlays", "tissue", "zarr"])
def test_a_folder_with_masks_that_no_run_wrote_is_refused(tmp_path: Path, kind: str) -> None:
    """A study's images and true masks: they were replaced by predictions without a word."""
    (tmp_path / "images").mkdir()
    image = picture(tmp_path / "images/a.png")
    (tmp_path / kind).mkdir()
    segmented = segment(
        [image], tmp_path, SegmentOptions(tmp_path, 0.5)
    )  # an empty folder holds nothing to lose
    assert segmented.done == (image,)
    assert segment([image], tmp_path, SegmentOptions(tmp_path, 0.5)).skipped == (image,)

    study = tmp_path / "study"
    (study / kind).mkdir(parents=True)
    (study / kind / "a.png").write_bytes(b"drawn by hand")
    for run in (segment, survey):
        with pytest.raises(UsageError, match=f"{kind}/a.png, which no run of segment wrote"):
            run([image], study, SegmentOptions(tmp_path, 0.5))
    assert tree(study) == {f"{kind}/a.png": b"drawn by hand"}


def test_no_name_is_no_folder_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a shell's variable that is not set: it would be this folder else."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="empty text"):
        segment([tmp_path], "", SegmentOptions(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_results_that_cannot_be_used_is_named_as_it_was_given(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    with file_lock(out / ".glomtile" / "lock"), pytest.raises(UsageError, match="no other run") as held:
        segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    assert held.value.where == str(out)
    with pytest.raises(PlaceError, match="a part of the path is a file") as placed:
        segment([path], path / "out", SegmentOptions(tmp_path, mpp=2.0))
    assert placed.value.where == str(path / "out")


def test_no_scale_is_refused_with_the_way_out_and_a_survey_writes_nothing(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    ((_, reason),) = segment([path], tmp_path / "out", SegmentOptions(tmp_path)).failed
    assert "--mpp" in reason
    before = tree(tmp_path)
    survey([path], tmp_path / "other", SegmentOptions(tmp_path, mpp=2.0))
    assert tree(tmp_path) == before
    assert not (tmp_path / "other").exists()


def test_a_survey_fails_what_the_run_would_for_its_name(tmp_path: Path) -> None:
    """It planned both, and the run then refused the second."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    inputs = [picture(tmp_path / "a/x.png"), tmp_path / "none.png", picture(tmp_path / "b/X.png")]
    request = SegmentOptions(tmp_path, mpp=2.0)
    plans, failed = survey(inputs, tmp_path / "out", request)
    assert not (tmp_path / "out").exists()
    result = segment(inputs, tmp_path / "out", request)
    assert tuple(plan.input for plan in plans) == result.done == (inputs[0],)
    assert failed == list(result.failed)
    assert [path for path, _ in failed] == [inputs[2], inputs[1]]


@pytest.mark.parametrize(
    "place", ["", "a.png", "a.png/out", "file:///{}/a.png", "https://host/out", "sss://b/o"]
)
def test_a_survey_refuses_the_places_that_the_run_refuses(tmp_path: Path, place: str) -> None:
    """The dry run did not look at --out."""
    path, request = picture(tmp_path / "a.png"), SegmentOptions(tmp_path, mpp=2.0)
    if ":" in place:
        pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")
    request = replace(request, scratch=tmp_path / "scratch")
    out = place.format(str(tmp_path).lstrip("/")) if ":" in place else place and str(tmp_path / place)
    before = tree(tmp_path)
    with pytest.raises((UsageError, PlaceError)) as surveyed:
        survey([path], out, request)
    assert tree(tmp_path) == before
    assert not (tmp_path / "scratch").exists()
    with pytest.raises(type(surveyed.value)) as ran:
        segment([path], out, request)
    assert str(ran.value) == str(surveyed.value)


def test_a_survey_refuses_no_inputs_and_a_place_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="at least one slide"):
        survey([], tmp_path / "out", SegmentOptions(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PlaceError, match="permission denied"):
        survey([tmp_path], tmp_path / "out", SegmentOptions(tmp_path))


def test_doubts_are_warned_of_and_stand_in_summary_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, told = picture(tmp_path / "a.png"), tmp_path / "out", RecordingProgress()
    doubts = QualityFlags({"stain": 2.5, "brightness": 0.5}, 1.0, 0.61, ("stain: far", "unsure: very"))
    monkeypatch.setattr(segmenter_module, "assess_quality", lambda *_, **__: doubts)
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=told)
    assert told.warnings == [f"{path}: flagged: stain: far; unsure: very"]
    again = RecordingProgress()
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=again).skipped == (path,)
    assert again.warnings == told.warnings
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["inputs"][str(path)]["quality_flags"] == ["stain: far", "unsure: very"]
    ((row,), columns) = read_summary(out)
    assert columns[-1] == "seconds"
    assert (row["stain_distance"], row["scale_distance"]) == ("2.5", "")
    assert (row["expected_dice"], row["quality_flags"]) == ("0.61", "stain: far; unsure: very")


def test_a_model_that_says_nothing_of_its_training_is_not_doubted(tmp_path: Path) -> None:
    path, out, told = picture(tmp_path / "a.png"), tmp_path / "out", RecordingProgress()
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=told)
    assert told.warnings == []
    assert json.loads((out / "run.json").read_text("utf-8"))["inputs"][str(path)]["quality_flags"] == []
    ((row,), _) = read_summary(out)
    assert row["stain_distance"] == row["expected_dice"] == row["quality_flags"] == ""


def read_summary(out: Path) -> tuple[list[dict[str, str]], list[str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or ())
