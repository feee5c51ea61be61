"""Images inside the report page: thumbnails within a byte budget, outlines as SVG paths, scored images."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.errors import GlomtileError, InputError
from glomtile.io.image_list import ImageList, PreviewSeries
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.palette import Palette
from glomtile.report import text
from glomtile.report.text import Row
from glomtile.types import IGNORE, Box, UInt8

MIN_BYTES = 12_000
"""The least that a useful thumbnail takes; it limits the number of images in a page."""

CARD_BYTES = 9_500_000
PATH_CHARACTERS = 2_500_000
MAX_PATH_CHARACTERS = 40_000
"""Of one path. A mask of more detail is drawn more coarsely, and at last without its smallest parts."""

CROP_PX, FRAME_PX = 232, 320
MAX_CROPS = 12
_QUALITY = 80
_LARGEST_PX, _SMALLEST_PX = 1280, 160
_BYTES_PER_PX = 0.24
_MARGIN, _TRIES = 1.1, 3
_TOLERANCE = 0.6 / 1000
"""Tolerance of an outline, as a share of the image's longer side."""


# --- thumbnails ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thumbnail:
    """An image inside the page: a data URI and its size in pixels."""

    source: str
    width: int
    height: int


class ThumbnailBudget:
    """A byte budget that is shared among thumbnails of falling importance.

    Parameters
    ----------
    max_bytes : int
        Of all data URIs together.
    shares : sequence of float
        Relative share of each thumbnail, in the order in which they are added.
    largest_px : int
        Longest side of any thumbnail.

    Notes
    -----
    The bytes per pixel are estimated from the thumbnails so far, so that nearly every one is encoded once.
    What one leaves goes to those after it.
    """

    def __init__(self, max_bytes: int, shares: Sequence[float], largest_px: int = _LARGEST_PX) -> None:
        self._left, self._shares, self._largest = max_bytes, list(shares), largest_px
        self._bytes_per_px = _BYTES_PER_PX

    def add(self, rgb: UInt8) -> Thumbnail:
        """Encode the next image, ``(h, w, 3) uint8``."""
        most = max(MIN_BYTES, self._left * self._shares[0] / sum(self._shares)) * 3 / 4
        del self._shares[0]
        side = math.sqrt(rgb.shape[0] * rgb.shape[1])
        factor = min(1.0, self._largest / max(rgb.shape[:2]), math.sqrt(most / self._bytes_per_px) / side)
        small = shrink(rgb, factor)
        data = _jpeg(small)
        for _ in range(_TRIES):
            if len(data) <= most * _MARGIN or max(small.shape[:2]) <= _SMALLEST_PX:
                break
            small = shrink(small, 0.95 * math.sqrt(most / len(data)))
            data = _jpeg(small)
        self._bytes_per_px = 0.7 * self._bytes_per_px + 0.3 * len(data) / (small.shape[0] * small.shape[1])
        made = _thumbnail(data, small)
        self._left -= len(made.source)
        return made


def budget_shares(count: int, first: int = 12, times: float = 3.0) -> list[float]:
    """Return shares that favour the first thumbnails."""
    return [times if number < first else 1.0 for number in range(count)]


def max_thumbnails(max_bytes: int) -> int:
    """Return how many thumbnails fit into a budget."""
    return max(1, max_bytes // (MIN_BYTES * 4 // 3))


def shrink(rgb: UInt8, factor: float) -> UInt8:
    """Resize an image by averaging over areas; return it unchanged from a factor of 1 on."""
    if factor >= 1:
        return rgb
    height, width = rgb.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def thumbnail(rgb: UInt8, side_px: int) -> Thumbnail:
    """Encode an image at most `side_px` a side."""
    small = shrink(rgb, side_px / max(rgb.shape[:2]))
    return _thumbnail(_jpeg(small), small)


def crop_around(box: Box, size_px: tuple[int, int], min_px: float = 64.0, margin: float = 0.35) -> Box:
    """Return a square around a box, moved into the image, with a `margin` relative to the box's side."""
    side = max(min_px, (1 + 2 * margin) * max(box.height, box.width))
    edges = []
    for low, high, length in ((box.top, box.bottom, size_px[0]), (box.left, box.right, size_px[1])):
        span = min(round(side), length)
        start = min(max(0, round((low + high - span) / 2)), length - span)
        edges.append((start, start + span))
    return Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])


def crop(rgb: UInt8, box: Box, side_px: int) -> Thumbnail:
    """Encode a part of an image at most `side_px` a side."""
    return thumbnail(rgb[box.top : box.bottom, box.left : box.right], side_px)


def _jpeg(rgb: UInt8) -> bytes:
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise InputError("report", f"expected an image that JPEG can store, got {rgb.shape}")
    return data.tobytes()


def _thumbnail(data: bytes, rgb: UInt8) -> Thumbnail:
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return Thumbnail(source, rgb.shape[1], rgb.shape[0])


# --- outlines -----------------------------------------------------------------------------------------------


def mask_path(mask: NDArray[np.bool_], tolerance_px: float, most: int = MAX_PATH_CHARACTERS) -> str:
    """Trace the outlines of a mask, holes included, as an SVG path for the even-odd rule.

    Parameters
    ----------
    mask : (H, W) bool ndarray
    tolerance_px : float
        Largest distance of a line from the pixels' centres.
    most : int
        Largest number of characters.

    Returns
    -------
    str
        In pixels of the mask; empty for an empty mask. Specks of less than three points are drawn as
        rectangles of their pixels.
    """
    if not mask.any():
        return ""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts: list[str] = []
    for coarser in (1, 2, 4, 8):
        parts = [_contour_path(contour, tolerance_px * coarser) for contour in contours]
        if sum(map(len, parts)) <= most:
            return "".join(parts)
    parts = [part for _, part in sorted(zip(contours, parts, strict=True), key=lambda one: -len(one[0]))]
    ends = np.cumsum([len(part) for part in parts])
    return "".join(parts[: int(np.searchsorted(ends, most, side="right"))])


def ring_path(rings: Sequence[NDArray[np.float64]]) -> str:
    """Write closed rings ``(N, 2)``, x and y, as an SVG path, rounded to whole pixels."""
    return "".join(_path(np.rint(ring).astype(np.int64)) for ring in rings)


def _contour_path(contour: Any, tolerance_px: float) -> str:
    points = cv2.approxPolyDP(contour, tolerance_px, closed=True)[:, 0]
    if len(points) < 3:
        x, y, width, height = cv2.boundingRect(contour)
        return f"M{x} {y}h{width}v{height}h-{width}z"
    return _path(points.astype(np.int64))


def _path(points: NDArray[np.int64]) -> str:
    # Relative steps are shorter than positions.
    body = " ".join(f"{dx} {dy}" for dx, dy in np.diff(points, axis=0).tolist())
    return f"M{points[0][0]} {points[0][1]}l{body}z" if len(points) > 1 else ""


# --- scored images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One class of an image: its true and its predicted outlines as SVG paths."""

    name: str
    colour: str
    truth: str
    prediction: str


@dataclass(frozen=True)
class Card:
    """One scored image; without a thumbnail where only masks are known.

    `layers` and `ignored`, the path of pixels that do not count, are in pixels of the image, `size_px` its
    ``(H, W)``. `counts` are numbers of objects, `errors` and `flags` texts that may be empty.
    """

    key: str
    name: str
    thumbnail: Thumbnail | None
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]
    ignored: str
    dice: float | None
    counts: Mapping[str, int]
    errors: str
    flags: str


@dataclass(frozen=True)
class Crop:
    """One object of a gallery: a square cut out of a card's image."""

    card: str
    name: str
    caption: str
    box: Box
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class Frame:
    """The prediction of one epoch on a preview image."""

    epoch: int
    thumbnail: Thumbnail
    size_px: tuple[int, int]
    layers: tuple[Layer, ...]


def cards_and_crops(
    images: ImageList,
    rows: Sequence[Row],
    objects: Sequence[Row],
    flags: Mapping[str, str],
    notes: list[str],
) -> tuple[list[Card], dict[str, list[Crop]]]:
    """Read every image and its masks once; make its card, and crops of the objects in error.

    `rows` are those of ``per_image.csv``, the worst image first, `objects` of ``objects.csv``, `flags` the
    quality flags by stem. `notes` receives what is left out, and why. The crops are sorted into the galleries
    of `glomtile.report.text.GALLERIES`.
    """
    by_stem = {record.stem: record for record in images.images}
    stems = [stem for stem in dict.fromkeys(row["image"] for row in rows) if stem in by_stem]
    most = max_thumbnails(CARD_BYTES)
    if len(stems) > most:
        notes.append(f"the {len(stems) - most} best images: only the {most} worst are shown")
        stems = stems[:most]
    rows_of, objects_of = _by_image(rows), _by_image(objects)
    wanted = _gallery_objects(objects, set(stems))
    budget = ThumbnailBudget(CARD_BYTES, budget_shares(len(stems)))
    paths = max(1, len(stems)) * (2 * images.palette.num_classes - 1)
    characters = min(MAX_PATH_CHARACTERS, PATH_CHARACTERS // paths)
    cards: list[Card] = []
    crops: dict[str, list[tuple[int, Crop]]] = defaultdict(list)
    for number, stem in enumerate(stems):
        key, record = f"image-{number}", by_stem[stem]
        try:
            truth, prediction = images.labels(record)
            image = None if record.image is None else read_image(record.image)
        except GlomtileError as error:
            notes.append(f"{stem}: {error.message}")
            continue
        cards.append(
            Card(
                key,
                stem,
                None if image is None else budget.add(image),
                truth.shape,
                layers_of(truth, prediction, images.palette, characters),
                mask_path(truth == IGNORE, _TOLERANCE * max(truth.shape), characters),
                _mean_dice(rows_of[stem]),
                text.object_counts(rows_of[stem]),
                text.errors_in_words(rows_of[stem], objects_of[stem]),
                flags.get(stem, ""),
            )
        )
        for kind, rank, row in wanted.get(stem, ()):
            box = crop_around(Box(*(int(row[edge]) for edge in Box._fields)), truth.shape)
            cut = None if image is None else crop(image, box, CROP_PX)
            crops[kind].append((rank, Crop(key, stem, text.crop_caption(kind, row), box, cut)))
    ordered = {
        kind: [made for _, made in sorted(crops[kind], key=lambda one: one[0])]
        for kind in text.GALLERIES
        if kind in crops
    }
    return cards, ordered


def preview_frames(series: PreviewSeries, palette: Palette) -> list[Frame]:
    """Read the previews of a training."""
    small = thumbnail(read_image(series.image), FRAME_PX)
    frames = []
    for epoch, path in series.frames:
        labels = read_mask(path, palette)
        frames.append(Frame(epoch, small, labels.shape, layers_of(None, labels, palette)))
    return frames


def layers_of(
    truth: UInt8 | None, prediction: UInt8, palette: Palette, most: int = MAX_PATH_CHARACTERS
) -> tuple[Layer, ...]:
    """Trace the outlines of every class above 0, each in at most `most` characters."""
    tolerance = max(0.5, _TOLERANCE * max(prediction.shape))
    return tuple(
        Layer(
            entry.name,
            text.css_colour(entry.rgb),
            "" if truth is None else mask_path(truth == entry.number, tolerance, most),
            mask_path(prediction == entry.number, tolerance, most),
        )
        for entry in palette.classes[1:]
    )


def _gallery_objects(objects: Sequence[Row], stems: set[str]) -> dict[str, list[tuple[str, int, Row]]]:
    """Choose the objects of the galleries; by image: gallery, rank and row.

    The largest errors of each kind come first, and of the outlines those of least overlap.
    """
    chosen: dict[str, list[tuple[str, int, Row]]] = defaultdict(list)
    for kind, gallery in text.GALLERIES.items():
        found = [
            row
            for row in objects
            if row["outcome"] in gallery.outcomes and row["side"] == gallery.side and row["image"] in stems
        ]
        found.sort(key=lambda row: text.severity(kind, row), reverse=True)
        # Two true objects merged into one are one error.
        places = {tuple(row[key] for key in ("image", *Box._fields)): row for row in reversed(found)}
        for rank, row in enumerate([*places.values()][::-1][:MAX_CROPS]):
            chosen[row["image"]].append((kind, rank, row))
    return chosen


def _by_image(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["image"]].append(row)
    return grouped


def _mean_dice(rows: Sequence[Row]) -> float | None:
    dice = [float(row["dice"]) for row in rows if row["dice"]]
    return float(np.mean(dice)) if dice else None
