"""Comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glomtile.errors import GlomtileError
from glomtile.io.image_list import ImageRecord, PictureList, PreviewSeries
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.palette import Palette
from glomtile.report import text
from glomtile.report.pictures import (
    Picture,
    ThumbnailBudget,
    as_picture,
    crop_around,
    crop_picture,
    jpeg,
    most_pictures,
    shares_of,
    shrunk,
)
from glomtile.report.shapes import MOST_CHARACTERS, mask_path
from glomtile.types import IGNORE, Box, UInt8

CARD_BYTES = 9_500_000
PATH_CHARACTERS = 2_500_000
CROP_PX, FRAME_PX = 232, 320
MOST_CROPS = 12
_TOLERANCE = 0.6 / 1000
"""How far an outline may be off, as a share of the picture's longer side."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Layer:
    """One class of an image: its true and its predicted outlines as SVG paths."""

    name: str
    colour: str
    truth: str
    prediction: str


@dataclass(frozen=True)
class Card:
    """One image with what is said of it.

    Attributes
    ----------
    key : str
        Its name inside the page.
    name : str
    picture : Picture or None
        None where only masks are known.
    size_px : (int, int)
        ``(H, W)`` of the image: the layers' coordinates.
    layers : tuple of Layer
    ignored : str
        Path of what does not count.
    dice : float or None
    counts : dict of str to int
        ``truth predicted found missed invented``.
    reason : str
        In plain words what went wrong, empty where nothing did.
    doubt : str
    """

    key: str
    name: str
    picture: Picture | None
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]
    ignored: str
    dice: float | None
    counts: Mapping[str, int]
    reason: str
    doubt: str


@dataclass(frozen=True)
class Crop:
    """One object of a gallery: a square cut out of a card's image."""

    card: str
    name: str
    caption: str
    box: Box
    picture: Picture | None


@dataclass(frozen=True)
class Frame:
    """One epoch of a film."""

    epoch: int
    picture: Picture
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]


def cards_and_crops(
    pictures: PictureList,
    rows: Sequence[Row],
    objects: Sequence[Row],
    doubts: Mapping[str, str],
    notes: list[str],
) -> tuple[list[Card], dict[str, list[Crop]]]:
    """Read every image and its masks once; make its card, and crops of the objects worth a look.

    Parameters
    ----------
    pictures : PictureList
    rows : sequence of mapping
        ``per_image.csv``, the worst image first.
    objects : sequence of mapping
        ``objects.csv``.
    doubts : mapping of str to str
        By stem.
    notes : list of str
        Takes what had to be left out, and why.

    Returns
    -------
    list of Card
        The worst first.
    dict of str to list of Crop
        By kind of mistake.
    """
    by_stem = {trio.stem: trio for trio in pictures.trios}
    stems = [stem for stem in dict.fromkeys(row["image"] for row in rows) if stem in by_stem]
    room = most_pictures(CARD_BYTES)
    if len(stems) > room:
        notes.append(f"pictures of the {len(stems) - room} best images: only the {room} worst are shown")
        stems = stems[:room]
    rows_of, objects_of = _grouped(rows), _grouped(objects)
    wanted = worth_a_look(objects, set(stems))
    album = ThumbnailBudget(CARD_BYTES, shares_of(len(stems)))
    paths = max(1, len(stems)) * (2 * pictures.palette.num_classes - 1)
    most = min(MOST_CHARACTERS, PATH_CHARACTERS // paths)
    cards: list[Card] = []
    crops: dict[str, list[tuple[int, Crop]]] = defaultdict(list)
    for number, stem in enumerate(stems):
        key = f"image-{number}"
        try:
            image, truth, prediction = _read(pictures, by_stem[stem])
        except GlomtileError as error:
            notes.append(f"{stem}: {error.message}")
            continue
        cards.append(
            Card(
                key,
                stem,
                None if image is None else album.add(image),
                truth.shape,
                layers_of(truth, prediction, pictures.palette, most),
                mask_path(truth == IGNORE, _TOLERANCE * max(truth.shape), most),
                **_said(rows_of[stem], objects_of[stem]),
                doubt=doubts.get(stem, ""),
            )
        )
        for kind, rank, row in wanted.get(stem, ()):
            crops[kind].append((rank, _crop(key, stem, image, truth.shape, kind, row)))
    ordered = {
        kind: [crop for _, crop in sorted(found, key=lambda one: one[0])] for kind, found in crops.items()
    }
    return cards, {kind: ordered[kind] for kind in text.GALLERIES if kind in ordered}


def worth_a_look(objects: Sequence[Row], stems: set[str]) -> dict[str, list[tuple[str, int, Row]]]:
    """Which objects the galleries show: by image, the kind of mistake, its rank there, and the row.

    The largest missed, invented, split and merged ones, and the found ones whose outlines are farthest off.
    """
    chosen: dict[str, list[tuple[str, int, Row]]] = defaultdict(list)
    for kind, (outcomes, side) in text.GALLERY_OF.items():
        found = [
            row
            for row in objects
            if row["outcome"] in outcomes and row["side"] == side and row["image"] in stems
        ]
        found.sort(key=lambda row: _severity(kind, row), reverse=True)
        for rank, row in enumerate(_unlike(found)[:MOST_CROPS]):
            chosen[row["image"]].append((kind, rank, row))
    return chosen


def film_frames(film: PreviewSeries, palette: Palette) -> list[Frame]:
    """The frames of a film, its picture made small.

    Raises
    ------
    InputError
        The picture or a mask cannot be read.
    """
    image = read_image(film.image)
    small = shrunk(image, FRAME_PX / max(image.shape[:2]))
    picture = as_picture(jpeg(small), small)
    frames = []
    for epoch, path in film.frames:
        labels = read_mask(path, palette)
        frames.append(Frame(epoch, picture, labels.shape, layers_of(None, labels, palette)))
    return frames


def layers_of(
    truth: UInt8 | None, prediction: UInt8, palette: Palette, most: int = MOST_CHARACTERS
) -> tuple[Layer, ...]:
    """Outlines of every class above 0, each of at most so many characters."""
    tolerance = max(0.5, _TOLERANCE * max(prediction.shape))
    return tuple(
        Layer(
            entry.name,
            text.colour(entry.rgb),
            "" if truth is None else mask_path(truth == entry.number, tolerance, most),
            mask_path(prediction == entry.number, tolerance, most),
        )
        for entry in palette.classes[1:]
    )


def _read(pictures: PictureList, trio: ImageRecord) -> tuple[UInt8 | None, UInt8, UInt8]:
    truth, prediction = pictures.labels(trio)
    image = None if trio.image is None else read_image(trio.image)
    return image, truth, prediction


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["image"]].append(row)
    return grouped


def _said(rows: Sequence[Row], objects: Sequence[Row]) -> dict[str, Any]:
    """Dice, counts and the reason of an image, over its classes."""
    dice = [float(row["dice"]) for row in rows if row["dice"]]
    columns = {"truth": "truth_objects", "predicted": "predicted_objects", "found": "true_positive",
               "missed": "false_negative", "invented": "false_positive"}  # fmt: skip
    return {
        "dice": float(np.mean(dice)) if dice else None,
        "counts": {key: sum(int(row[column]) for row in rows) for key, column in columns.items()},
        "reason": text.reason(rows, objects),
    }


def _severity(kind: str, row: Row) -> float:
    if kind == "outlines":
        return (1.0 - float(row["iou"])) + (1.0 if row["outcome"] == "poor_overlap" else 0.0)
    return float(row["area_px"])


def _unlike(rows: Iterable[Row]) -> list[Row]:
    """One row for what is the same place: two true objects merged into one are one mistake."""
    seen = {
        (row["image"], row["top"], row["left"], row["bottom"], row["right"]): row for row in reversed([*rows])
    }
    return [*seen.values()][::-1]


def _crop(key: str, stem: str, image: UInt8 | None, size_px: tuple[int, int], kind: str, row: Row) -> Crop:
    box = Box(*(int(row[edge]) for edge in Box._fields))
    square = crop_around(box, size_px)
    picture = None if image is None else crop_picture(image, square, CROP_PX)
    return Crop(key, stem, text.crop_caption(kind, row), square, picture)
