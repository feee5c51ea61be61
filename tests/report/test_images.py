from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from glomtile.evaluation.score import score
from glomtile.io.image_list import ImageList, ImageRecord, PreviewSeries, read_image_list
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.io.tables import read_csv
from glomtile.palette import GLOMERULI, Palette
from glomtile.report import scores as module
from glomtile.report.elements import Thumbnail, ThumbnailBudget, crop_around
from glomtile.report.scores import cards_and_crops, layers_of, mask_path, preview_frames
from glomtile.types import IGNORE, Box

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
    images_dir = root / "images" if images else None
    score(root / "predictions", root / "truth", root / "out", images=images_dir, draws=10)
    return root / "out"


def read(out: Path) -> tuple[list, dict, list[str]]:
    notes: list[str] = []
    listed = read_image_list(out)
    rows, objects = read_csv(out / "per_image.csv"), read_csv(out / "objects.csv")
    return (*cards_and_crops(listed, rows, objects, {"good": "stain: far"}, notes), notes)


def test_every_image_has_a_card_with_its_errors_the_worst_first(tmp_path):
    cards, _, notes = read(scored(tmp_path))
    assert [card.name for card in cards][::3] == ["blind", "good"]
    assert notes == []
    reasons = {card.name: card.errors for card in cards}
    assert reasons == {
        "blind": "2 false negatives",
        "eager": "2 false positives, too much area",
        "coarse": "1 with poor overlap",
        "good": "",
    }
    assert {card.name: card.flags for card in cards if card.flags} == {"good": "stain: far"}


def test_galleries_contain_each_error_once(tmp_path):
    _, crops, _ = read(scored(tmp_path))
    assert {kind: [one.name for one in found] for kind, found in crops.items()} == {
        "false_negative": ["blind", "blind"],
        "false_positive": ["eager", "eager"],
        "outlines": ["coarse", "eager", "good", "good"],
    }
    assert all(one.thumbnail is not None for found in crops.values() for one in found)


def test_masks_alone_make_cards_without_thumbnails(tmp_path):
    cards, crops, _ = read(scored(tmp_path, images=False))
    assert [card.thumbnail for card in cards] == [None] * 4
    assert cards[0].layers[0].truth
    assert crops["false_negative"][0].thumbnail is None


def test_a_missing_image_is_named_and_the_others_are_shown(tmp_path):
    out = scored(tmp_path)
    (tmp_path / "images/blind.png").unlink()
    cards, _, (note,) = read(out)
    assert {card.name for card in cards} == {"good", "eager", "coarse"}
    assert note.startswith("blind: ")


def test_of_very_many_images_the_worst_are_shown(tmp_path, monkeypatch):
    out = scored(tmp_path)
    monkeypatch.setattr(module, "MOST_CARDS", 1)
    (card,), crops, (note,) = read(out)
    assert card.name == "blind"
    assert "3 best images" in note
    assert {one.name for found in crops.values() for one in found} == {"blind"}


def test_classes_and_ignored_pixels_have_paths_of_their_own(tmp_path):
    palette = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])
    truth = plane(A) + 2 * plane(B)
    layers = layers_of(truth, plane(A), palette)
    assert [(layer.name, bool(layer.truth), bool(layer.prediction)) for layer in layers] == [
        ("tuft", True, True),
        ("vessel", True, False),
    ]
    assert layers[1].colour == "#0000ff"
    assert mask_path(np.where(plane(C), IGNORE, 0) == IGNORE, 0.5) != ""


def test_previews_have_a_frame_for_each_epoch(tmp_path):
    write_png(tmp_path / "a.png", np.full((SIDE, SIDE, 3), 190, np.uint8))
    for epoch, labels in ((1, plane()), (5, plane(A))):
        write_mask(tmp_path / f"{epoch}.png", labels, GLOMERULI)
    frames = preview_frames(
        PreviewSeries("a", tmp_path / "a.png", ((1, tmp_path / "1.png"), (5, tmp_path / "5.png"))), GLOMERULI
    )
    assert [(frame.epoch, bool(frame.layers[0].prediction)) for frame in frames] == [(1, False), (5, True)]


def test_a_list_without_rows_has_no_cards():
    record = ImageRecord("a", None, Path("t.png"), Path("p.png"))
    assert cards_and_crops(ImageList(GLOMERULI, (record,)), [], [], {}, []) == ([], {})


def test_images_with_no_object_at_all_have_no_dice(tmp_path):
    for kind in ("truth", "predictions"):
        write_mask(tmp_path / kind / "empty.png", plane(), GLOMERULI)
        write_mask(tmp_path / kind / "full.png", plane(A), GLOMERULI)
    score(tmp_path / "predictions", tmp_path / "truth", tmp_path / "out", draws=10)
    cards, crops, _ = read(tmp_path / "out")
    assert [(card.name, card.dice) for card in cards] == [("full", pytest.approx(1)), ("empty", None)]
    assert list(crops) == ["outlines"]


# --- thumbnails ---


def rough(side: int, seed: int = 0, strength: float = 60.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side, 3))
    return np.clip(170 + strength * cv2.GaussianBlur(noise, (0, 0), 1.5), 0, 255).astype(np.uint8)


def decoded(image: Thumbnail) -> Image.Image:
    kind, _, data = image.source.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("strength", [5.0, 60.0, 400.0])
@pytest.mark.parametrize("count", [3, 40])
def test_a_budget_holds_for_any_content(strength, count):
    budget = ThumbnailBudget(count * 30_000, count, large=12)
    images = [budget.add(rough(512, seed, strength)) for seed in range(count)]
    total = sum(len(image.source) for image in images)
    assert total <= 1.1 * count * 30_000
    assert all(decoded(image).size == (image.width, image.height) for image in images)


def test_the_first_thumbnails_are_larger():
    budget = ThumbnailBudget(24 * 20_000, 24, large=12)
    widths = [budget.add(rough(512, seed)).width for seed in range(24)]
    assert min(widths[:12]) > max(widths[12:])


def test_small_images_are_not_enlarged_and_their_bytes_go_to_the_others():
    budget = ThumbnailBudget(60_000, 2)
    assert budget.add(rough(32)).width == 32
    alone = ThumbnailBudget(30_000, 1).add(rough(900, 1))
    assert budget.add(rough(900, 1)).width > alone.width


sizes = st.integers(1, 300)


@given(sizes, sizes, st.data())
def test_a_crop_is_inside_the_image_and_contains_its_box(height, width, data):
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    square = crop_around(box, (height, width))
    assert 0 <= square.top <= box.top < box.bottom <= square.bottom <= height
    assert 0 <= square.left <= box.left < box.right <= square.right <= width
    if square.height < height and square.width < width:
        assert square.height == square.width


# --- outlines ---


def rings(path: str) -> list[np.ndarray]:
    found = []
    for part in filter(None, path.split("z")):
        x, y, rest = re.fullmatch(r"M(\d+) (\d+)(.*)", part).groups()
        points = [(int(x), int(y))]
        if rest.startswith("h"):
            width, height, _ = map(int, re.fullmatch(r"h(\d+)v(\d+)h-(\d+)", rest).groups())
            points += [(points[0][0] + width, points[0][1]), (points[0][0] + width, points[0][1] + height)]
            points.append((points[0][0], points[0][1] + height))
        else:
            steps = [int(number) for number in rest[1:].split()]
            for dx, dy in zip(steps[::2], steps[1::2], strict=True):
                points.append((points[-1][0] + dx, points[-1][1] + dy))
        found.append(np.array(points, np.int32))
    return found


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    plane = np.zeros(shape, np.uint8)
    for ring in rings(path):  # one by one: the even-odd rule
        own = np.zeros(shape, np.uint8)
        cv2.fillPoly(own, [ring], 1)
        plane ^= own
    return plane


def test_a_path_encloses_its_mask_holes_left_out():
    mask = np.zeros((120, 120), np.uint8)
    cv2.circle(mask, (60, 60), 50, 1, -1)
    cv2.circle(mask, (60, 60), 20, 0, -1)
    drawn = filled(mask_path(mask > 0, 0.5), mask.shape)
    assert np.count_nonzero(drawn != mask) < 0.06 * np.count_nonzero(mask)
    assert drawn[60, 60] == 0


@given(arrays(np.bool_, (9, 9), elements=st.booleans()))
def test_every_mask_has_a_path_inside_the_image_and_only_the_empty_one_none(mask):
    path = mask_path(mask, 0.5)
    assert (path == "") == (not mask.any())
    for ring in rings(path):
        assert len(ring) > 2
        assert ring.min() >= 0
        assert ring.max() <= 9


def test_a_speck_is_drawn_as_its_pixels():
    mask = np.zeros((5, 5), bool)
    mask[2, 1:3] = True
    assert mask_path(mask, 0.5) == "M1 2h2v1h-2z"


@pytest.mark.parametrize("most", [2000, 300])
def test_a_mask_of_endless_detail_is_drawn_coarsely_and_its_largest_parts_first(most):
    mask = np.random.default_rng(0).random((200, 200)) > 0.7
    mask[20:60, 20:60] = True
    path = mask_path(mask, 0.5, most)
    assert 0 < len(path) <= most or len(rings(path)) == 1
