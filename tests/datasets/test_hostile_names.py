"""Names and files that a file system may hold and a dataset should survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glomtile.datasets import prepare as prepare_module
from glomtile.datasets.pairing import whole_pairs
from glomtile.datasets.prepare import prepare
from glomtile.errors import InputError
from glomtile.evaluation import score as score_module
from glomtile.evaluation.score import score
from glomtile.io.image_list import read_image_list
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.io.tables import read_csv
from glomtile.palette import GLOMERULI

LATIN_1 = os.fsdecode(b"caf\xe9")


def paint(folder: Path, stems: tuple[str, ...] = ("k0", "k1", LATIN_1)) -> tuple[Path, Path]:
    labels = np.zeros((40, 40), np.uint8)
    labels[3:20, 3:20] = 1
    for number, stem in enumerate(stems):
        for kind, write in (("images", write_png), ("masks", None)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            temporary = folder / kind / f"t{number}.png"
            if write is not None:
                write(temporary, np.full((40, 40, 3), 90 + number, np.uint8))
            else:
                write_mask(temporary, labels, GLOMERULI)
            try:
                temporary.rename(folder / kind / f"{stem}.png")
            except OSError:
                pytest.skip("the file system refuses such names")
    return folder / "images", folder / "masks"


def run(command: str, images: Path, masks: Path, out: Path) -> None:
    if command == "prepare":
        prepare(images, masks, out, tile_px=32)
    else:
        score(masks, masks, out)


def test_a_name_that_is_not_utf_8_is_prepared_and_found_again(tmp_path: Path) -> None:
    images, masks = paint(tmp_path)
    prepare(images, masks, tmp_path / "set", tile_px=32)
    found = [
        one.stem
        for split in ("train", "valid", "test")
        for one in whole_pairs(*(tmp_path / "set" / split / kind for kind in ("images", "masks"))) or ()
    ]
    assert sorted(found) == sorted(["k0", "k1", LATIN_1])


def test_a_name_that_is_not_utf_8_is_scored_and_escaped_in_tables(tmp_path: Path) -> None:
    images, masks = paint(tmp_path)
    (tmp_path / "groups.csv").write_text("stem,group\nk0,a\nk1,b\ncaf\\xe9,c\n")
    score(masks, masks, tmp_path / "out", images=images, groups=tmp_path / "groups.csv")
    names = {row["image"] for row in read_csv(tmp_path / "out/per_image.csv")}
    assert names == {"k0", "k1", "caf\\xe9"}
    listed = read_image_list(tmp_path / "out")
    assert listed is not None
    assert all(one.image is not None and one.image.is_file() for one in listed.images)


@pytest.mark.parametrize("command", ["prepare", "score"])
def test_unusable_files_with_such_names_are_listed_escaped(tmp_path: Path, command: str) -> None:
    images, masks = paint(tmp_path)
    for path in masks.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="got 3 that are not") as caught:
        run(command, images, masks, tmp_path / "out")
    assert "caf\\xe9.png" in str(caught.value)
    str(caught.value).encode("utf-8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["prepare", "score"])
def test_a_link_to_itself_is_named(tmp_path: Path, command: str) -> None:
    images, masks = paint(tmp_path, ("k0", "k1", "k2"))
    (masks / "k1.png").unlink()
    (masks / "k1.png").symlink_to("k1.png")
    with pytest.raises(InputError, match=r"k1\.png: expected"):
        run(command, images, masks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["prepare", "score"])
def test_an_unforeseen_error_of_one_file_is_named_and_logged(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images, masks = paint(tmp_path, ("k0", "k1", "k2"))
    module = prepare_module if command == "prepare" else score_module
    read = module.read_mask

    def read_mask(path: Path, *args: object, **settings: object) -> np.ndarray:
        if path.name == "k1.png":
            raise ZeroDivisionError("a tag of another type")
        return read(path, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_mask", read_mask)
    with pytest.raises(InputError, match=r"k1\.png: expected a usable file, got ZeroDivisionError: a tag"):
        run(command, images, masks, tmp_path / "out")
    assert "Traceback" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="locales of Linux")
def test_utf_8_names_are_prepared_and_scored_under_an_ascii_locale(tmp_path: Path) -> None:
    images, masks = paint(tmp_path, ("k0", "k1", "Größe"))
    environment = os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (
        ["prepare", images, masks, "-o", tmp_path / "set", "--tile", "32"],
        ["score", masks, masks, "-o", tmp_path / "out"],
    ):
        command = [sys.executable, "-m", "glomtile", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    stems = {source["stem"] for source in json.loads((tmp_path / "set/prepare.json").read_bytes())["sources"]}
    assert {os.fsencode(stem).decode() for stem in stems} == {"k0", "k1", "Größe"}
    assert {row["image"] for row in read_csv(tmp_path / "out/per_image.csv")} == {"k0", "k1", "Größe"}
