"""The JSON objects of the commands; docs/outputs.md lists their fields."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes import ThresholdNetwork, threshold_card

import glomtile.cli.commands
import glomtile.evaluation.cross_validation
import glomtile.inference.batch
import glomtile.inference.segmenter
import glomtile.training.train
from glomtile.cli.console import print_object
from glomtile.cli.main import run
from glomtile.evaluation.cross_validation import CrossvalResult
from glomtile.evaluation.score import score
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.training.train import TrainResult


@pytest.fixture
def network(monkeypatch):
    card = threshold_card()

    def load(*_, settings=None, **__):
        return Segmenter(ThresholdNetwork(), card, settings)

    monkeypatch.setattr(glomtile.inference.segmenter.Segmenter, "load", load)
    monkeypatch.setattr(glomtile.inference.batch, "runtime_of", lambda _: "openvino")


@pytest.fixture
def run_json(capsys):
    """Run a line with --json; return its exit code, its object and stderr."""

    def run_it(*line):
        code = run([*map(str, line), "--json"])
        seen = capsys.readouterr()
        assert seen.out.count("\n") == 1
        return code, json.loads(seen.out), seen.err

    return run_it


def make_images(folder):
    folder.mkdir()
    tissue = np.full((300, 400, 3), (200, 120, 170), np.uint8)
    tissue[100:160, 100:180] = (120, 40, 120)
    write_png(folder / "a.png", tissue, 2.0)
    write_png(folder / "glass.png", np.full((300, 400, 3), 243, np.uint8), 2.0)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def masks(folder, shift=0):
    folder.mkdir()
    for number in range(3):
        mask = np.zeros((64, 64, 3), np.uint8)
        mask[8 + shift : 40 + shift, 8:40, 0] = 255
        write_png(folder / f"{number}.png", mask)
    return folder


@pytest.mark.usefixtures("network")
def test_segment_prints_every_image_its_flags_and_failures(run_json, tmp_path):
    images, out = make_images(tmp_path / "in"), tmp_path / "out"
    code, result, _ = run_json("segment", images, "-o", out)
    assert code == result["exit_code"] == 1
    assert (result["format"], result["command"]) == (1, "segment")
    assert str(out / "summary.csv") in result["paths"]
    assert [Path(entry["input"]).name for entry in result["failed"]] == ["broken.png"]
    assert "expected PNG, JPEG, TIFF or BMP" in result["failed"][0]["reason"]
    first, glass = result["images"]
    assert (first["input"], first["status"], first["image"]) == (str(images / "a.png"), "done", "a")
    assert (first["glomerulus_count"], first["width_px"], first["mpp"]) == (1, 400, 2)
    assert first["glomerulus_mean_area_um2"] == 60 * 80 * 4
    assert (first["quality_flags"], first["stain_distance"], first["windows_skipped"]) == ([], None, 0)
    assert glass["quality_flags"] == ["tissue: none found"]
    assert any("glass.png: flagged: tissue: none found" in text for text in result["warnings"])


@pytest.mark.usefixtures("network")
def test_segment_again_prints_what_was_done_before(run_json, tmp_path):
    images, out = make_images(tmp_path / "in"), tmp_path / "out"
    run_json("segment", images, "-o", out)
    _, result, _ = run_json("segment", images, "-o", out)
    assert [(one["image"], one["status"]) for one in result["images"]] == [
        ("a", "skipped"), ("glass", "skipped"),
    ]  # fmt: skip
    assert result["images"][1]["quality_flags"] == ["tissue: none found"]


@pytest.mark.usefixtures("network")
def test_a_dry_run_prints_its_plan(run_json, tmp_path):
    code, result, _ = run_json(
        "segment", make_images(tmp_path / "in") / "a.png", "-o", tmp_path / "out", "--dry-run"
    )
    assert code == 0
    (plan,) = result["plan"]
    assert (plan["kind"], plan["width_px"], plan["height_px"], plan["mpp"]) == ("PNG", 400, 300, 2.0)
    assert plan["windows_seen"] == plan["windows"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("network")
def test_a_dry_run_ends_as_the_run_will(run_json, tmp_path):
    inputs = [make_images(tmp_path / name) / "a.png" for name in ("one", "two")]
    code, planned, _ = run_json("segment", *inputs, "-o", tmp_path / "out", "--dry-run")
    assert (code, len(planned["plan"])) == (1, 1)
    ran, result, _ = run_json("segment", *inputs, "-o", tmp_path / "out")
    assert (code, planned["failed"]) == (ran, result["failed"])
    assert "duplicate file name" in planned["failed"][0]["reason"]


@pytest.mark.usefixtures("network")
def test_people_get_a_table_on_stderr_and_paths_on_stdout(tmp_path, capsys):
    images, out = make_images(tmp_path / "in"), tmp_path / "out"
    assert run(["segment", str(images), "-o", str(out)]) == 1
    seen = capsys.readouterr()
    assert seen.out.splitlines()[0] == str(out / "masks")
    assert all(Path(line).exists() for line in seen.out.splitlines())
    assert re.search(
        r"^image +glomerulus +mean µm² +per mm² +tissue mm² +time +note *$", seen.err, re.MULTILINE
    )
    assert re.search(r"^glass +0 .*flagged: tissue *$", seen.err, re.MULTILINE)
    assert re.search(r"^\S+broken\.png +failed *$", seen.err, re.MULTILINE)
    assert "3 images: 2 done, 1 failed, 1 flagged\n" in seen.err
    assert run(["segment", str(images), "-o", str(out), "-q"]) == 1
    assert "done before" not in capsys.readouterr().err


def test_score_prints_its_figures_and_the_worst_images(run_json, tmp_path, capsys):
    line = ("score", masks(tmp_path / "a", 4), masks(tmp_path / "b"), "-o", tmp_path / "out")
    code, result, _ = run_json(*line)
    assert code == 0
    assert result["scores"] == json.loads((tmp_path / "out" / "scores.json").read_text())
    dice = result["scores"]["classes"][0]["figures"]["pooled_dice"]["value"]
    assert result["worst"][0] == {"image": "0", "class": "glomerulus", "dice": pytest.approx(dice)}
    assert len(result["worst"]) == 3
    assert run([*map(str, line)]) == 0
    stderr = capsys.readouterr().err
    assert re.search(rf"^pooled Dice +{dice:.3f} +0\.\d+ to 0\.\d+ *$", stderr, re.MULTILINE)
    assert "objects: 3 true positives, 0 false positives, 0 false negatives\n" in stderr


def test_an_error_is_an_object_too(run_json, tmp_path):
    code, result, stderr = run_json("segment", "a.png", "-o", tmp_path / "out", "-m", tmp_path / "no")
    assert code == result["exit_code"] == 2
    assert result["command"] == "segment"
    assert result["error"]["where"] == str(tmp_path / "no")
    assert result["error"]["message"].startswith("expected a model folder with model.json")
    assert stderr.startswith("error: ")


def test_config_check_prints_findings_as_fields(run_json, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text('[train]\nepohs = 3\nepochs = "ten"\n')
    code, result, _ = run_json("config", "check", config)
    assert code == result["exit_code"] == 2
    (wrong,) = (one for one in result["findings"] if one["severity"] == "error")
    assert (wrong["file"], wrong["line"], wrong["section"], wrong["key"]) == (
        str(config),
        3,
        "train",
        "epochs",
    )


def test_info_of_a_slide_prints_levels_as_numbers(run_json, tmp_path):
    _, result, _ = run_json("info", make_images(tmp_path / "in") / "a.png")
    (slide,) = result["slides"]
    assert slide["size_px"] == [300, 400]
    assert slide["levels"] == [[[300, 400], 1.0]]
    assert slide["mpp"] == pytest.approx(2.0)


@pytest.mark.parametrize("command", ["init", "convert a.toml"])
def test_a_command_that_prints_a_config_refuses(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text("[model]\n")
    assert run(["config", *command.split(), "--json"]) == 2
    assert "expected a command with results" in capsys.readouterr().err


def test_quiet_and_verbose_contradict_each_other(capsys):
    assert run(["info", "-q", "-v"]) == 2
    assert "expected one of --quiet and --verbose" in capsys.readouterr().err


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config for commands whose functions are replaced."""
    monkeypatch.setattr(glomtile.cli.commands, "import_backend", lambda: None)
    path = tmp_path / "a.toml"
    path.write_text("[model]\n")
    return path


def test_train_prints_its_best_epoch_and_why_it_ended(run_json, config, monkeypatch):
    history = [{"loss": 0.5, "val_loss": 0.4}, {"loss": 0.3, "val_loss": 0.6}]
    result = TrainResult(Path("m/best"), Path("m/last"), history, 1, "all epochs done", (Path("m/best"),))
    monkeypatch.setattr(glomtile.training.train, "train", lambda *_, **__: result)
    code, result, stderr = run_json("train", config)
    assert code == 0
    assert {key: result[key] for key in ("best", "last", "epochs", "best_epoch", "reason", "figures")} == {
        "best": "m/best", "last": "m/last", "epochs": 2, "best_epoch": 1, "reason": "all epochs done",
        "figures": history[0],
    }  # fmt: skip
    assert "best epoch 1 of 2; all epochs done" in stderr


def test_crossval_prints_all_images_and_the_trusted_ones(run_json, config, tmp_path, monkeypatch, capsys):
    scored = score(masks(tmp_path / "a", 4), masks(tmp_path / "b"), tmp_path / "out")
    result = CrossvalResult(scored, None, (tmp_path / "fold-1",), scored.paths)
    monkeypatch.setattr(glomtile.evaluation.cross_validation, "crossval", lambda *_, **__: result)
    _, result, _ = run_json("crossval", config, "-o", tmp_path / "runs")
    assert result["scores"]["images"] == 3
    assert result["trusted"] is None
    assert result["folds"] == [str(tmp_path / "fold-1")]
    trusting = CrossvalResult(scored, scored, (), scored.paths)
    monkeypatch.setattr(glomtile.evaluation.cross_validation, "crossval", lambda *_, **__: trusting)
    assert run_json("crossval", config, "-o", tmp_path / "runs")[1]["trusted"]["scores"]["images"] == 3
    assert run(["crossval", str(config), "-o", str(tmp_path / "runs")]) == 0
    seen = capsys.readouterr().err
    assert re.search(r"^glomerulus, 3 images +value +95 % interval *$", seen, re.MULTILINE)
    assert re.search(r"^glomerulus, 3 images also trained on +value", seen, re.MULTILINE)


def test_a_sweep_prints_each_run_the_best_first(run_json, config, tmp_path, monkeypatch, capsys):
    truth, results = masks(tmp_path / "truth"), {}
    for name, shift in (("a-seed=1", 4), ("a-seed=2", 2)):
        scored = score(masks(tmp_path / name, shift), truth, tmp_path / "out" / name)
        results[name] = CrossvalResult(scored, None, (), scored.paths)
    options: dict[str, Any] = {}

    def sweep(configs, out, **more):
        options.update(more, out=out, names=list(configs))
        return results

    monkeypatch.setattr(glomtile.evaluation.cross_validation, "sweep", sweep)
    vary = ["--vary", "train.seed=1", "--vary", "train.seed=2"]
    _, result, _ = run_json("crossval", config, "-o", tmp_path / "runs", "--folds", 3, *vary)
    assert (options["folds"], options["out"], options["names"]) == (3, tmp_path / "runs", list(results))
    assert list(result["runs"]) == list(results)
    assert result["runs"]["a-seed=2"]["scores"]["images"] == 3
    assert run(["crossval", str(config), "-o", str(tmp_path / "runs"), *vary]) == 0
    rows = re.findall(r"^(a-seed=\d) +glomerulus +([\d.]+)", capsys.readouterr().err, re.MULTILINE)
    assert [name for name, _ in rows] == ["a-seed=2", "a-seed=1"]
    assert [float(value) for _, value in rows] == sorted((float(value) for _, value in rows), reverse=True)


def test_numbers_that_are_not_defined_are_null(capsys):
    facts = {"figures": [{"dice": float("nan")}, (float("inf"), 0.5)], "path": Path("a/b"), "done": True}
    print_object("train", facts)
    printed = json.loads(capsys.readouterr().out)
    assert printed["figures"] == [{"dice": None}, [None, 0.5]]
    assert (printed["path"], printed["done"], printed["command"]) == (str(Path("a/b")), True, "train")
