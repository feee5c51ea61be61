"""The list of scored images beside their scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from glomtile.errors import InputError
from glomtile.io.image_list import (
    ImageList,
    ImageRecord,
    PreviewSeries,
    find_previews,
    read_image_list,
    write_image_list,
)
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI

PLANE = np.zeros((8, 9), np.uint8)


def image_list(root: Path) -> ImageList:
    truth, prediction = root / "data/truth/a.png", root / "data/predictions/a.png"
    for path in (truth, prediction):
        write_mask(path, PLANE, GLOMERULI)
    images = (
        ImageRecord("a", root / "data/a.png", truth, prediction),
        ImageRecord("b", None, truth, prediction),
    )
    previews = PreviewSeries("a", root / "data/a.png", ((1, root / "one.png"), (9, root / "nine.png")))
    return ImageList(GLOMERULI, images, (previews,), "indexed", 3)


def test_a_list_is_read_as_written_and_may_move_with_its_files(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "out").mkdir(parents=True)
    write_image_list(project / "out", image_list(project))
    shutil.move(project, tmp_path / "elsewhere")
    back = read_image_list(tmp_path / "elsewhere/out")
    assert back is not None
    assert (back.palette, back.datatype, back.tolerance) == (GLOMERULI, "indexed", 3)
    assert [(one.stem, one.image is None) for one in back.images] == [("a", False), ("b", True)]
    assert [(epoch, path.name) for epoch, path in back.previews[0].frames] == [
        (1, "one.png"),
        (9, "nine.png"),
    ]
    assert [labels.shape for labels in back.labels(back.images[0])] == [(8, 9), (8, 9)]


def test_masks_of_different_sizes_are_refused(tmp_path: Path) -> None:
    listed = image_list(tmp_path)
    write_mask(tmp_path / "data/predictions/a.png", PLANE[:4], GLOMERULI)
    with pytest.raises(InputError, match="expected the size"):
        listed.labels(listed.images[0])


def test_a_missing_list_is_none_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_image_list(tmp_path) is None
    write_image_list(tmp_path, image_list(tmp_path))
    content = json.loads((tmp_path / "images.json").read_text())
    for damaged in ("{", "[]", "{}", json.dumps(content | {"truth": {"datatype": "x", "tolerance": 0}})):
        (tmp_path / "images.json").write_text(damaged)
        with pytest.raises(InputError, match="list of images"):
            read_image_list(tmp_path)


def test_previews_of_the_first_middle_and_last_epoch_are_found(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write_png(tmp_path / "images" / f"{stem}.png", np.zeros((4, 4, 3), np.uint8))
    for epoch in range(1, 12):
        write_mask(tmp_path / "previews" / f"Epoch_{epoch}_a.png", PLANE, GLOMERULI)
    write_mask(tmp_path / "previews/Epoch_1_gone.png", PLANE, GLOMERULI)
    (tmp_path / "previews/notes.txt").write_text("mine")
    (found,) = find_previews(tmp_path / "previews", tmp_path / "images")
    assert (found.stem, [epoch for epoch, _ in found.frames]) == ("a", [1, 6, 11])
    for epoch in range(2, 12):
        (tmp_path / f"previews/Epoch_{epoch}_a.png").unlink()
    (found,) = find_previews(tmp_path / "previews", tmp_path / "images")
    assert [epoch for epoch, _ in found.frames] == [1]
