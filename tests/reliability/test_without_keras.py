"""The base install segments: no training framework, nor anything else of an extra, is ever imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glomtile.io.images import write_png

WITHOUT = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

EXTRAS = {
    "keras", "tensorflow", "jax", "torch", "onnx", "onnxruntime", "h5py",
    "fsspec", "s3fs", "aiohttp", "distributed",
}

class Refusing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

# Asking whether a module is there is no import.
ask = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in EXTRAS else ask(name, package)
sys.meta_path.insert(0, Refusing())
from glomtile.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(1).integers(60, 240, (8, 9, 3), np.uint8)
    write_png(tmp_path / "biopsy.png", coarse.repeat(40, 0).repeat(40, 1))
    return tmp_path / "biopsy.png"


def test_a_picture_is_segmented(exported_model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("segment", picture, "--mpp", 0.5, "-m", exported_model, "-o", out)
    assert done.returncode == 0, done.stderr
    assert (out / "masks/biopsy.png").is_file()
    told = json.loads((out / "run.json").read_text("utf-8"))
    assert told["settings"]["runtime"] == "openvino"
    assert told["settings"]["precision"] == "float32"
    assert "openvino" in told["versions"]
    assert "backend" not in told["versions"]


@pytest.mark.parametrize(
    "line", [("s3://bucket/a.svs", "-o", "out"), ("biopsy.png", "-o", "s3://bucket/out")]
)
def test_an_address_asks_for_the_extra(
    exported_model: Path, picture: Path, tmp_path: Path, line: tuple[str, ...]
) -> None:
    given = [str(tmp_path / part) if part in ("out", picture.name) else part for part in line]
    told = run("segment", *given, "--mpp", 0.5, "-m", exported_model, "--scratch", tmp_path / "scratch")
    assert told.returncode == 2
    assert "s3://bucket/" in told.stderr
    assert "expected fsspec to be installed, it is not (pip install 'glomtile[remote]')" in told.stderr


def test_masks_are_scored_with_sheets_and_a_report(picture: Path, tmp_path: Path) -> None:
    for name, width in (("truth", 90), ("predictions", 110)):
        mask = np.zeros((320, 360, 3), np.uint8)
        mask[40:200, 50 : 50 + width] = (255, 0, 0)
        write_png(tmp_path / name / "biopsy.png", mask)
    out = tmp_path / "scores"
    line = ("score", tmp_path / "predictions", tmp_path / "truth", "-o", out, "--images", picture.parent)
    assert run(*line).returncode == 0
    assert run("report", out).returncode == 0
    assert (out / "sheets/01_biopsy.png").is_file()
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    "line",
    [
        ("segment", "{picture}", "--mpp", 0.5, "-m", "{model}", "-o", "{out}", "--runtime", "keras"),
        ("export", "{model}"),
        ("demo", "-o", "{out}"),
    ],
)
def test_what_needs_an_extra_says_so_in_one_line(
    line: tuple[object, ...], exported_model: Path, picture: Path, tmp_path: Path
) -> None:
    names = {"picture": picture, "model": exported_model, "out": tmp_path / "out"}
    done = run(*(str(word).format(**names) for word in line))
    assert done.returncode == 2, done.stderr
    assert "pip install 'glomtile[cpu]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
