from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from glomtile.errors import InputError
from glomtile.io.image_list import (
    ImageRecord,
    PictureList,
    PreviewSeries,
    preview_films,
    read_picture_list,
    write_picture_list,
)
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI

PLANE = np.zeros((8, 9), np.uint8)


def listed(root: Path) -> PictureList:
    for kind in ("truth", "predictions"):
        write_mask(root / "data" / kind / "a.png", PLANE, GLOMERULI)
    trio = ImageRecord("a", root / "data/a.png", root / "data/truth/a.png", root / "data/predictions/a.png")
    bare = ImageRecord("b", None, root / "data/truth/a.png", root / "data/predictions/a.png")
    film = PreviewSeries("a", root / "data/a.png", ((1, root / "one.png"), (9, root / "nine.png")))
    return PictureList(GLOMERULI, (trio, bare), (film,), "indexed", 3)


def test_what_was_written_comes_back(tmp_path):
    (tmp_path / "out").mkdir()
    pictures = listed(tmp_path)
    write_picture_list(tmp_path / "out", pictures)
    back = read_picture_list(tmp_path / "out")
    assert (back.palette, back.datatype, back.tolerance) == (GLOMERULI, "indexed", 3)
    assert [trio.stem for trio in back.trios] == ["a", "b"]
    assert back.trios[0].truth.samefile(pictures.trios[0].truth)
    assert back.trios[1].image is None
    assert [(epoch, path.name) for epoch, path in back.films[0].frames] == [(1, "one.png"), (9, "nine.png")]


def test_results_may_move_together_with_what_they_are_of(tmp_path):
    project = tmp_path / "project"
    (project / "out").mkdir(parents=True)
    write_picture_list(project / "out", listed(project))
    shutil.move(project, tmp_path / "elsewhere")
    back = read_picture_list(tmp_path / "elsewhere/out")
    truth, prediction = back.labels(back.trios[0])
    assert truth.shape == prediction.shape == (8, 9)


def test_masks_of_different_sizes_are_refused(tmp_path):
    pictures = listed(tmp_path)
    write_mask(tmp_path / "data/predictions/a.png", PLANE[:4], GLOMERULI)
    with pytest.raises(InputError, match="expected the size"):
        pictures.labels(pictures.trios[0])


def test_no_list_is_none_and_another_file_is_refused(tmp_path):
    assert read_picture_list(tmp_path) is None
    write_picture_list(tmp_path, listed(tmp_path))
    content = json.loads((tmp_path / "images.json").read_text())
    for damaged in ("{", "[]", "{}", json.dumps(content | {"truth": {"datatype": "x", "tolerance": 0}})):
        (tmp_path / "images.json").write_text(damaged)
        with pytest.raises(InputError, match="list of pictures"):
            read_picture_list(tmp_path)


def test_previews_are_told_by_first_middle_and_last_epoch(tmp_path):
    for stem in ("a", "b"):
        write_png(tmp_path / "images" / f"{stem}.png", np.zeros((4, 4, 3), np.uint8))
    for epoch in range(1, 12):
        write_mask(tmp_path / "previews" / f"Epoch_{epoch}_a.png", PLANE, GLOMERULI)
    write_mask(tmp_path / "previews/Epoch_1_gone.png", PLANE, GLOMERULI)
    (tmp_path / "previews/notes.txt").write_text("mine")
    (film,) = preview_films(tmp_path / "previews", tmp_path / "images")
    assert (film.stem, [epoch for epoch, _ in film.frames]) == ("a", [1, 6, 11])
    for epoch in range(2, 12):
        (tmp_path / f"previews/Epoch_{epoch}_a.png").unlink()
    (film,) = preview_films(tmp_path / "previews", tmp_path / "images")
    assert [epoch for epoch, _ in film.frames] == [1]
