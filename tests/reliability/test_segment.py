"""`glomtile segment`: killed, on a full disk, with odd names, and where its outlines lie."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile

from glomtile.cli.main import run
from glomtile.config.load import make_config
from glomtile.config.model_card import ModelCard
from glomtile.inference.export import export
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.io.masks import read_mask
from glomtile.palette import GLOMERULI
from glomtile.slides.slide import slide_name

KINDS = ("masks", "geojson", "objects", "overlays", "tissue")
SHAPE = (900, 800)


@pytest.fixture(scope="module")
def model(write_model: Callable[..., Path]) -> Path:
    """An exported network that nobody trained, so that its objects are many and ragged."""
    folder = write_model(card={"mpp_range": (1.4, 2.8)})
    export(folder)
    return folder


def write_slide(path: Path, mpp: float = 2.0, seed: int = 0) -> None:
    """Stained noise on glass, as a tiled OME-TIFF."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 240, (SHAPE[0] // 50, SHAPE[1] // 50, 3)).repeat(50, 0).repeat(50, 1)
    picture = np.full((*SHAPE, 3), 243, np.uint8)
    picture[:, 100:700] = coarse[:, 100:700]
    tifffile.imwrite(
        path, picture, tile=(256, 256), photometric="rgb", ome=True, compression="deflate",
        metadata={"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp},
    )  # fmt: skip


def arguments(model: Path, out: Path, *inputs: Path | str, more: tuple[str, ...] = ()) -> list[str]:
    return ["segment", "-m", str(model), "-o", str(out), *more, "--", *map(str, inputs)]


def outputs(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kind in KINDS
        for path in sorted((out / kind).iterdir())
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "shares", [(0.0, 0.2), pytest.param((0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7), marks=pytest.mark.long)]
)
def test_a_killed_run_ends_with_the_same_bytes(
    model: Path, tmp_path: Path, shares: tuple[float, ...]
) -> None:
    """Killed after a share of the time that the slide takes in this process."""
    write_slide(tmp_path / "a.ome.tif")
    whole, cut = (
        arguments(model, tmp_path / name, tmp_path / "a.ome.tif", more=("--window", "64"))
        for name in ("whole", "cut")
    )
    began = time.monotonic()
    assert run(whole) == 0
    seconds = time.monotonic() - began
    expected = outputs(tmp_path / "whole")
    assert len(json.loads(expected["geojson/a.geojson"])["features"]) > 0
    killed = 0
    for share in shares:
        process = subprocess.Popen([sys.executable, "-m", "glomtile", *cut])
        while not (tmp_path / "cut/.glomtile/a.work").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(share * seconds)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed > 0
    assert run(cut) == 0
    assert outputs(tmp_path / "cut") == expected
    assert list((tmp_path / "cut/.glomtile").glob("*.work")) == []


def test_odd_names_and_broken_slides_are_each_told(
    model: Path,
    tmp_path: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["Größe ä.tif", "a..b.tif", "-dash.tif", "n" * 200 + ".tif", "twin.tif"]
    for number, name in enumerate(names):
        write_slide(tmp_path / name, seed=number)
    write_png(tmp_path / "TWIN.png", np.full((64, 64, 3), 200, np.uint8), 0.5)
    broken = ("broken.svs", "unreadable.svs", "unopenable.tiff")
    for name in broken:
        shutil.copy(shared_data / "slides" / name, tmp_path / name)
    (tmp_path / "empty.svs").touch()
    given = [*names, "TWIN.png", *broken, "empty.svs", "gone.svs"]
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    assert run(arguments(model, out, *given)) == 1
    printed = capsys.readouterr()
    assert "failed: 6" in printed.err
    assert "Traceback" not in printed.err
    assert "  TWIN.png: duplicate file name" in printed.err
    for name in given[6:]:
        assert f"  {name}: expected" in printed.err
    assert all(Path(line).exists() for line in printed.out.splitlines())
    stems = {Path(name).stem for name in names}
    for kind in KINDS:
        found = {p.name for p in (out / kind).iterdir()}
        assert {slide_name(name) for name in found} == stems, kind
    with (out / "summary.csv").open(encoding="utf-8") as table:
        assert {row["image"] for row in csv.DictReader(table)} == stems
    assert set(json.loads((out / "run.json").read_text("utf-8"))["failed"]) == set(given[5:])


def test_a_full_disk_ends_the_run_and_leaves_no_half_file(
    model: Path, tmp_path: Path, mount: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = mount("100k") / "out"
    write_slide(tmp_path / "a.ome.tif")
    assert run(arguments(model, out, tmp_path / "a.ome.tif")) == 1
    printed = capsys.readouterr().err
    assert "the disk is full" in printed
    assert "Traceback" not in printed
    for path in (p for kind in KINDS for p in (out / kind).glob("[!.]*")):
        if path.parent.name == "masks" and path.suffix == ".png":
            read_mask(path, GLOMERULI, datatype="indexed")
        elif path.suffix == ".geojson":
            json.loads(path.read_text("utf-8"))


def test_a_folder_below_a_file_cannot_be_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_slide(tmp_path / "a.ome.tif")
    (tmp_path / "file").write_text("mine")
    assert run(arguments(model, tmp_path / "file" / "out", tmp_path / "a.ome.tif")) == 2
    printed = capsys.readouterr().err
    assert "expected to write here, got: a part of the path is a file, not a folder" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "file").read_text() == "mine"


class Reddish:
    """Calls a pixel a glomerulus where it is red: no context, so truth is known to the pixel."""

    num_classes, stride_px, context_px, mpp = 2, 1, 0, 2.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        red = np.clip((batch[..., 0].astype(np.float32) - batch[..., 1]) / 150, 0, 1)
        return np.stack([1 - red, red], axis=-1)


@pytest.mark.parametrize("mpp", [0.25, 0.4990, 1.0])
@pytest.mark.parametrize("suffix", [".ome.tif", ".png"])
def test_outlines_lie_where_the_slide_has_them(model: Path, tmp_path: Path, mpp: float, suffix: str) -> None:
    """Shift at full resolution below one pixel, at three scales, for a slide and for a picture."""
    radius_px, size = 60 / mpp, round(600 / mpp)
    centres = [(0.2, 0.3), (0.7, 0.25), (0.81, 0.83)]
    rows, columns = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    picture = np.full((size, size, 3), 243, np.uint8)
    picture[40:-40, 40:-40] = (190, 160, 200)
    for y, x in centres:
        picture[(rows - y * size) ** 2 + (columns - x * size) ** 2 < radius_px**2] = (220, 40, 120)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        write_png(path, picture, mpp)
    else:
        tifffile.imwrite(
            path, picture, tile=(256, 256), photometric="rgb", ome=True,
            metadata={"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp},
        )  # fmt: skip
    card = ModelCard(
        network=make_config({"model": {"num_classes": 2}}, tmp_path).model,
        classes=ModelCard.classes_of(GLOMERULI), mpp=2.0, tile_px=(64, 64), stride_px=1, context_px=0,
    )  # fmt: skip
    Segmenter(Reddish(), card).segment(str(path)).save(tmp_path / "out")
    told = json.loads(next((tmp_path / "out/geojson").iterdir()).read_text("utf-8"))
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in told["features"]]
    assert len(polygons) == 3
    assert all(polygon.is_valid for polygon in polygons)
    for y, x in centres:
        nearest = min(
            polygons, key=lambda p, at=(x, y): p.centroid.distance(shapely.Point(at[0] * size, at[1] * size))
        )
        assert abs(nearest.centroid.x - x * size) < 1
        assert abs(nearest.centroid.y - y * size) < 1
        assert nearest.area == pytest.approx(np.pi * radius_px**2, rel=0.03)
    with next((tmp_path / "out/objects").iterdir()).open(encoding="utf-8") as table:
        areas = [float(row["area_um2"]) for row in csv.DictReader(table)]
    assert areas == pytest.approx([np.pi * 60**2] * 3, rel=0.03)


def test_a_given_scale_is_noted_and_too_coarse_a_slide_is_forced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_slide(tmp_path / "a.ome.tif", mpp=8.0)
    assert run(arguments(model, tmp_path / "out", tmp_path / "a.ome.tif")) == 1
    assert "--force" in capsys.readouterr().err
    given = ("--mpp", "2.0", "--zarr")
    assert run(arguments(model, tmp_path / "out", tmp_path / "a.ome.tif", more=given)) == 0
    assert "taken as 2 µm per pixel, as given; OME-XML states 8" in capsys.readouterr().err
    with (tmp_path / "out/summary.csv").open(encoding="utf-8") as table:
        row = next(csv.DictReader(table))
    assert (row["mpp"], row["mpp_source"]) == ("2", "given")
    assert (tmp_path / "out/zarr/a.ome.zarr/zarr.json").is_file()


def test_a_dry_run_writes_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_slide(tmp_path / "a.ome.tif")
    assert run(arguments(model, tmp_path / "out", tmp_path / "a.ome.tif", more=("--dry-run",))) == 0
    assert "800 x 900 px at 2 µm" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]
