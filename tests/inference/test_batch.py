"""Segmentation of many slides: failures are listed, finished slides are skipped, folders are shared."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk
from tests.fakes import RecordingProgress, tree

import glomtile.inference.segmenter as segmenter_module
from glomtile.errors import PlaceError, StorageError, UsageError
from glomtile.inference.batch import KINDS, SegmentOptions, attach_report, dry_run, segment
from glomtile.inference.quality_control import QualityFlags
from glomtile.io.atomic import PRIVATE_FOLDER, file_lock
from glomtile.io.images import write_png

pytestmark = pytest.mark.usefixtures("threshold_network")


def write_report(folder: Path) -> Path:
    """Write a stand-in for the page of glomtile.report."""
    (folder / "report.html").write_bytes((folder / "run.json").read_bytes())
    return folder / "report.html"


def slide_lock(out: Path, name: str) -> Any:
    """Return the lock that a run holds while it is at a slide."""
    return file_lock(out / PRIVATE_FOLDER / f"{name}.lock")


def test_only_files_that_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = segment([tmp_path / "broken.png"], tmp_path / "out", SegmentOptions(tmp_path, 0.5))
    assert len(result.failed) == 1
    assert all(path.exists() for path in result.paths)
    assert (tmp_path / "out/run.json") in result.paths


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((300, 400, 3), (200, 120, 170), np.uint8)
    pixels[disk((150, 220), 40)] = (120, 40, 120)
    write_png(path, pixels)
    return path


def slide(path: Path) -> Path:
    """Tissue with a disc, as a tiled TIFF of 2 µm per pixel."""
    pixels = np.full((600, 600, 3), (200, 120, 170), np.uint8)
    pixels[disk((300, 300), 60)] = (120, 40, 120)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(5000, 5000), resolutionunit="CENTIMETER"
    )
    return path


def outputs(out: Path) -> dict[str, bytes]:
    """Return the outputs of slides in a folder of results."""
    return {name: content for name, content in tree(out).items() if name.partition("/")[0] in KINDS}


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
    assert not [name for name in outputs(tmp_path / "out") if "broken" in name or "missing" in name]


def test_finished_slides_are_skipped_and_overwrite_replaces_them(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).done == (path,)
    mask = (out / "masks" / "a.png").read_bytes()
    again = segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    assert again.skipped == (path,)
    ((facts),) = again.images
    assert (facts["input"], facts["status"], facts["glomerulus_count"]) == (str(path), "skipped", 1)
    assert segment([path], out, SegmentOptions(tmp_path, mpp=1.0, overwrite=True)).done == (path,)
    assert (out / "masks" / "a.png").read_bytes() != mask


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"threshold": 0.4}, {"mpp": 1.0}])
def test_a_run_of_other_settings_is_refused_and_touches_nothing(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """It listed every slide as failed and rewrote run.json and the report with its own settings."""
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    new = picture(tmp_path / "new.png")
    options = SegmentOptions(tmp_path, mpp=2.0)
    attach_report(segment([path], out, options), write_report)
    before = tree(out)
    options = replace(options, **other)
    for run in (segment, dry_run):
        with pytest.raises(UsageError, match=rf"got others: {next(iter(other))} \(--overwrite") as refused:
            run([new, path], out, options)
        assert refused.value.where == str(out)
        assert tree(out) == before
    assert segment([new, path], out, replace(options, overwrite=True)).done == (new, path)
    run_file = json.loads((out / "run.json").read_text("utf-8"))
    assert run_file["inputs"][str(path)]["fingerprint"].items() >= other.items()


def test_other_content_under_a_finished_name_is_listed(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    write_png(path, np.full((300, 400, 3), 200, np.uint8))
    ((source, reason),) = segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).failed
    assert source == path
    assert reason.startswith("expected the content of")
    assert "--overwrite" in reason


def test_an_emptied_output_is_made_anew(tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    before = outputs(out)
    (out / "masks" / "a.png").write_bytes(b"")
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).done == (path,)
    assert outputs(out) == before


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "{}", "null", "[" * 100_000, '{"a":' * 100_000, "\\ud800",
        {"figures": None}, {"files": 3}, {"files": ["../../elsewhere"]}, {"fingerprint": []},
        {"figures": {"image": "a", "glomerulus_count": "many"}}, {"figures": {"image": None}},
        {"quality_flags": [None]}, {"input": ["a"]}, {"seconds": "long"}, {"effort": {"windows": None}},
        {"figures": {"image": "SURROGATE"}}, {"input": "SURROGATE"}, {"quality_flags": ["SURROGATE"]},
    ],
)  # fmt: skip
def test_a_damaged_record_counts_for_nothing_and_its_slide_is_done_anew(tmp_path: Path, damage: Any) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out"
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0))
    before = outputs(out)
    record = out / ".glomtile" / "a.json"
    text = damage
    if isinstance(damage, dict):
        text = json.dumps(json.loads(record.read_text("utf-8")) | damage).replace("SURROGATE", "\\ud800")
    record.write_text(text)
    record.with_name("other.json").write_text(text)
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0)).done == (path,)
    assert outputs(out) == before
    ((row,), _) = read_summary(out)
    assert row["image"] == "a"


@pytest.mark.parametrize(
    "name", [".glomtile/lock", ".glomtile/a.lock", ".glomtile", ".glomtile/a.work", "masks"]
)
def test_nothing_is_written_through_a_link_in_the_folder_of_results(tmp_path: Path, name: str) -> None:
    path, out, elsewhere = slide(tmp_path / "a.tif"), tmp_path / "out", tmp_path / "elsewhere"
    (out / name).parent.mkdir(parents=True)
    if name.endswith("lock"):
        elsewhere.write_text("mine")
    else:
        elsewhere.mkdir()
        (elsewhere / "kept.txt").write_text("mine")
    before = tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_text()
    (out / name).symlink_to(elsewhere)
    try:
        failed = segment([path], out, SegmentOptions(tmp_path)).failed
    except (UsageError, StorageError) as refused:
        failed = ((path, str(refused)),)
    assert len(failed) == 1
    assert "got a link" in failed[0][1]
    assert (tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_text()) == before


def test_whatever_goes_wrong_in_one_input_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A TIFF tag of another type, or a link to itself, ended the run with the inputs behind it undone."""
    bad = slide(tmp_path / "images" / "bad.tif")
    (loop := tmp_path / "images" / "loop.svs").symlink_to(loop)
    good = picture(tmp_path / "images" / "good.png")
    with tifffile.TiffFile(bad, mode="r+b") as file:
        file.pages[0].tags["ResolutionUnit"].overwrite("none", dtype="s")
    inside = segmenter_module.Segmenter.segment

    def breaks(self: Any, path: Path, **rest: Any) -> Any:
        if path.name == "odd.png":
            raise ZeroDivisionError("of some library")
        return inside(self, path, **rest)

    monkeypatch.setattr(segmenter_module.Segmenter, "segment", breaks)
    odd = picture(tmp_path / "images" / "odd.png")
    progress = RecordingProgress()
    result = segment(
        [tmp_path / "images"], tmp_path / "out", SegmentOptions(tmp_path, 2.0), progress=progress
    )
    assert set(result.done) in ({good}, {good, bad})
    failed = dict(result.failed)
    assert {loop, odd} <= set(failed) <= {loop, odd, bad}
    assert "ZeroDivisionError: of some library" in failed[odd]
    assert "symbolic links" in failed[loop]
    assert 'raise ZeroDivisionError("of some library")' in caplog.text
    run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert set(run["failed"]) == {str(path) for path in failed}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names of arbitrary bytes")
def test_a_name_of_other_bytes_is_listed_escaped_and_the_others_are_done(tmp_path: Path) -> None:
    """The run ended amid the batch, with masks that had no record."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    inside, good = picture(odd / "a.png"), picture(tmp_path / "b.png")
    named = picture(tmp_path / os.fsdecode(b"caf\xe9.png"))
    out = tmp_path / "out"
    result = segment([named, inside, good], out, SegmentOptions(tmp_path, 2.0))
    assert result.done == (inside, good)
    assert result.failed[0][0] == named
    assert "a file name in UTF-8" in result.failed[0][1]
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert list(run["failed"]) == [str(tmp_path / "caf\\xe9.png")]
    assert run["done"] == [str(tmp_path / "caf\\xe9" / "a.png"), str(good)]
    assert [facts["image"] for facts in result.images] == ["a", "b"]
    assert attach_report(result, write_report).paths[-1] == out / "report.html"


def test_runs_share_a_folder_and_a_locked_slide_is_tried_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, out = picture(tmp_path / "a.png"), picture(tmp_path / "b.png"), tmp_path / "out"
    expected = segment([a, b], tmp_path / "alone", SegmentOptions(tmp_path, 2.0))
    assert expected.done == (a, b)
    progress = RecordingProgress()
    other = slide_lock(out, "a")
    other.__enter__()

    def other_run_ends(seconds: float) -> None:
        assert (out / "masks" / "b.png").exists()
        other.__exit__(None, None, None)

    monkeypatch.setattr("glomtile.inference.batch.time.sleep", other_run_ends)
    assert segment([a, b], out, SegmentOptions(tmp_path, 2.0), progress=progress).done == (b, a)
    assert progress.notes.count(f"{a}: another process is segmenting it") == 1
    assert outputs(out) == outputs(tmp_path / "alone")


@pytest.mark.parametrize("kind", ["masks", "geojson", "objects", "overlays", "tissue", "zarr"])
def test_a_folder_with_masks_that_no_run_wrote_is_refused(tmp_path: Path, kind: str) -> None:
    """A study's images and true masks: they were replaced by predictions without a word."""
    (tmp_path / "images").mkdir()
    image = picture(tmp_path / "images/a.png")
    (tmp_path / kind).mkdir()  # an empty folder holds nothing to lose
    assert segment([image], tmp_path, SegmentOptions(tmp_path, 0.5)).done == (image,)
    assert segment([image], tmp_path, SegmentOptions(tmp_path, 0.5)).skipped == (image,)

    study = tmp_path / "study"
    (study / kind).mkdir(parents=True)
    (study / kind / "a.png").write_bytes(b"drawn by hand")
    for run in (segment, dry_run):
        with pytest.raises(UsageError, match=f"{kind}/a.png, which no run of segment wrote"):
            run([image], study, SegmentOptions(tmp_path, 0.5))
    assert tree(study) == {f"{kind}/a.png": b"drawn by hand"}


@pytest.mark.parametrize("name", ["summary.csv", "run.json", "report.html"])
def test_a_folder_with_a_table_that_no_run_wrote_is_refused(tmp_path: Path, name: str) -> None:
    image = picture(tmp_path / "a.png")
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name}, which no run of segment wrote"):
        segment([image], tmp_path, SegmentOptions(tmp_path, 0.5))
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / ".glomtile").exists()


def test_no_name_is_no_folder_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a shell's variable that is not set: it would be this folder else."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="empty text"):
        segment([tmp_path], "", SegmentOptions(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_results_that_cannot_be_used_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(PlaceError, match="a part of the path is a file") as placed:
        segment([path], path / "out", SegmentOptions(tmp_path, mpp=2.0))
    assert placed.value.where == str(path / "out")


def test_no_scale_is_refused_with_a_hint_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    ((_, reason),) = segment([path], tmp_path / "out", SegmentOptions(tmp_path)).failed
    assert "--mpp" in reason
    before = tree(tmp_path)
    dry_run([path], tmp_path / "other", SegmentOptions(tmp_path, mpp=2.0))
    assert tree(tmp_path) == before
    assert not (tmp_path / "other").exists()


def test_a_dry_run_lists_the_name_clashes_of_the_run(tmp_path: Path) -> None:
    """It planned both, and the run then refused the second."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    inputs = [picture(tmp_path / "a/x.png"), tmp_path / "none.png", picture(tmp_path / "b/X.png")]
    request = SegmentOptions(tmp_path, mpp=2.0)
    plans, failed = dry_run(inputs, tmp_path / "out", request)
    assert not (tmp_path / "out").exists()
    result = segment(inputs, tmp_path / "out", request)
    assert tuple(plan.input for plan in plans) == result.done == (inputs[0],)
    assert [path for path, _ in failed] == [path for path, _ in result.failed] == [inputs[2], inputs[1]]
    assert failed[0] == result.failed[0]


@pytest.mark.parametrize(
    "place", ["", "a.png", "a.png/out", "file:///{}/a.png", "https://host/out", "sss://b/o"]
)
def test_a_dry_run_refuses_the_places_that_the_run_refuses(tmp_path: Path, place: str) -> None:
    """The dry run did not look at --out."""
    path, request = picture(tmp_path / "a.png"), SegmentOptions(tmp_path, mpp=2.0)
    if ":" in place:
        pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")
    request = replace(request, scratch=tmp_path / "scratch")
    out = place.format(str(tmp_path).lstrip("/")) if ":" in place else place and str(tmp_path / place)
    before = tree(tmp_path)
    with pytest.raises((UsageError, PlaceError)) as dry:
        dry_run([path], out, request)
    assert tree(tmp_path) == before
    assert not (tmp_path / "scratch").exists()
    with pytest.raises(type(dry.value)) as ran:
        segment([path], out, request)
    assert str(ran.value) == str(dry.value)


def test_a_dry_run_refuses_no_inputs_and_a_place_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="at least one slide"):
        dry_run([], tmp_path / "out", SegmentOptions(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PlaceError, match="permission denied"):
        dry_run([tmp_path], tmp_path / "out", SegmentOptions(tmp_path))


def test_quality_flags_are_warnings_and_are_in_summary_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, progress = picture(tmp_path / "a.png"), tmp_path / "out", RecordingProgress()
    flags = QualityFlags({"stain": 2.5, "brightness": 0.5}, 1.0, 0.61, ("stain: far", "unsure: very"))
    monkeypatch.setattr(segmenter_module, "assess_quality", lambda *_, **__: flags)
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=progress)
    assert progress.warnings == [f"{path}: flagged: stain: far; unsure: very"]
    again = RecordingProgress()
    assert segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=again).skipped == (path,)
    assert again.warnings == progress.warnings
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["inputs"][str(path)]["quality_flags"] == ["stain: far", "unsure: very"]
    ((row,), columns) = read_summary(out)
    assert columns[-1] == "seconds"
    assert (row["stain_distance"], row["scale_distance"]) == ("2.5", "")
    assert (row["expected_dice"], row["quality_flags"]) == ("0.61", "stain: far; unsure: very")


def test_a_model_without_reference_statistics_flags_nothing(tmp_path: Path) -> None:
    path, out, progress = picture(tmp_path / "a.png"), tmp_path / "out", RecordingProgress()
    segment([path], out, SegmentOptions(tmp_path, mpp=2.0), progress=progress)
    assert progress.warnings == []
    assert json.loads((out / "run.json").read_text("utf-8"))["inputs"][str(path)]["quality_flags"] == []
    ((row,), _) = read_summary(out)
    assert row["stain_distance"] == row["expected_dice"] == row["quality_flags"] == ""


def read_summary(out: Path) -> tuple[list[dict[str, str]], list[str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or ())
