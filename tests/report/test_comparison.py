from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomtile.evaluation.score import score
from glomtile.io.image_list import ImageRecord, PictureList, PreviewSeries, read_picture_list
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.io.tables import read_csv
from glomtile.palette import GLOMERULI, Palette
from glomtile.report import comparison
from glomtile.report.comparison import cards_and_crops, film_frames
from glomtile.types import IGNORE

SIDE = 96
A, B, C = (10, 10), (10, 60), (60, 10)


def plane(*places: tuple[int, int], size: int = 24) -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for top, left in places:
        labels[top : top + size, left : left + size] = 1
    return labels


CASES = {
    "good": (plane(A, B), plane(A, B)),
    "blind": (plane(A, B), plane()),
    "eager": (plane(A), plane(A, B, C)),
    "coarse": (plane(A), plane((16, 16))),
}


def scored(root: Path, images: bool = True) -> Path:
    for stem, (truth, prediction) in CASES.items():
        write_mask(root / "truth" / f"{stem}.png", truth, GLOMERULI)
        write_mask(root / "predictions" / f"{stem}.png", prediction, GLOMERULI)
        write_png(root / "images" / f"{stem}.png", np.full((SIDE, SIDE, 3), 190, np.uint8))
    pictures = root / "images" if images else None
    score(root / "predictions", root / "truth", root / "out", images=pictures, draws=10)
    return root / "out"


def read(out: Path) -> tuple[list, dict, list[str]]:
    notes: list[str] = []
    listed = read_picture_list(out)
    rows, objects = read_csv(out / "per_image.csv"), read_csv(out / "objects.csv")
    return (*cards_and_crops(listed, rows, objects, {"good": "stain: far"}, notes), notes)


def test_every_image_has_a_card_the_worst_first_and_says_why(tmp_path):
    cards, _, notes = read(scored(tmp_path))
    assert [card.name for card in cards][::3] == ["blind", "good"]
    assert notes == []
    reasons = {card.name: card.reason for card in cards}
    assert reasons == {
        "blind": "2 missed",
        "eager": "2 false positive, too much area",
        "coarse": "1 drawn too far off",
        "good": "",
    }
    assert {card.name: card.doubt for card in cards if card.doubt} == {"good": "stain: far"}


def test_galleries_hold_each_mistake_once(tmp_path):
    _, crops, _ = read(scored(tmp_path))
    assert {kind: [crop.name for crop in found] for kind, found in crops.items()} == {
        "missed": ["blind", "blind"],
        "invented": ["eager", "eager"],
        "outlines": ["coarse", "eager", "good", "good"],
    }
    assert all(crop.picture is not None for found in crops.values() for crop in found)


def test_masks_alone_make_cards_without_pictures(tmp_path):
    cards, crops, _ = read(scored(tmp_path, images=False))
    assert [card.picture for card in cards] == [None] * 4
    assert cards[0].layers[0].truth
    assert crops["missed"][0].picture is None


def test_a_picture_that_is_gone_is_named_and_the_others_are_shown(tmp_path):
    out = scored(tmp_path)
    (tmp_path / "images/blind.png").unlink()
    cards, _, (note,) = read(out)
    assert {card.name for card in cards} == {"good", "eager", "coarse"}
    assert note.startswith("blind: ")


def test_of_very_many_images_the_worst_are_shown(tmp_path, monkeypatch):
    out = scored(tmp_path)
    monkeypatch.setattr(comparison, "most_pictures", lambda _: 1)
    (card,), crops, (note,) = read(out)
    assert card.name == "blind"
    assert "3 best images" in note
    assert {crop.name for found in crops.values() for crop in found} == {"blind"}


def test_classes_and_what_does_not_count_have_paths_of_their_own(tmp_path):
    palette = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])
    truth = plane(A) + 2 * plane(B)
    layers = comparison.layers_of(truth, plane(A), palette)
    assert [(layer.name, bool(layer.truth), bool(layer.prediction)) for layer in layers] == [
        ("tuft", True, True),
        ("vessel", True, False),
    ]
    assert layers[1].colour == "#0000ff"
    assert comparison.mask_path(np.where(plane(C), IGNORE, 0) == IGNORE, 0.5) != ""


def test_a_film_has_a_frame_for_each_epoch(tmp_path):
    write_png(tmp_path / "a.png", np.full((SIDE, SIDE, 3), 190, np.uint8))
    for epoch, labels in ((1, plane()), (5, plane(A))):
        write_mask(tmp_path / f"{epoch}.png", labels, GLOMERULI)
    frames = film_frames(
        PreviewSeries("a", tmp_path / "a.png", ((1, tmp_path / "1.png"), (5, tmp_path / "5.png"))), GLOMERULI
    )
    assert [(frame.epoch, bool(frame.layers[0].prediction)) for frame in frames] == [(1, False), (5, True)]


def test_a_list_without_rows_has_no_cards():
    trio = ImageRecord("a", None, Path("t.png"), Path("p.png"))
    assert cards_and_crops(PictureList(GLOMERULI, (trio,)), [], [], {}, []) == ([], {})


def test_images_with_no_object_at_all_have_no_dice(tmp_path):
    for kind in ("truth", "predictions"):
        write_mask(tmp_path / kind / "empty.png", plane(), GLOMERULI)
        write_mask(tmp_path / kind / "full.png", plane(A), GLOMERULI)
    score(tmp_path / "predictions", tmp_path / "truth", tmp_path / "out", draws=10)
    cards, crops, _ = read(tmp_path / "out")
    assert [(card.name, card.dice) for card in cards] == [("full", pytest.approx(1)), ("empty", None)]
    assert list(crops) == ["outlines"]
