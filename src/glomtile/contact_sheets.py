"""Contact sheets: many small images on one page, with captions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glomtile.errors import InputError
from glomtile.formatting import printable
from glomtile.io.masks import resize_labels
from glomtile.objects.labelling import find_objects
from glomtile.palette import RGB, Palette
from glomtile.types import IGNORE, UInt8

PANEL_PX = 512
CELL_PX = 256

# Okabe and Ito's colours: colour-blind readers can distinguish them, and none is a colour of PAS tissue.
BOTH: RGB = (0, 158, 115)
ONLY_PREDICTED: RGB = (230, 120, 0)
ONLY_TRUE: RGB = (0, 90, 200)
OTHER_CLASS: RGB = (150, 60, 160)
IGNORED: RGB = (128, 128, 128)

_PAPER: RGB = (255, 255, 255)
_INK: RGB = (33, 37, 41)
_QUIET: RGB = (96, 103, 110)
_FRAME: RGB = (205, 209, 214)
_MARGIN = 16
_GAP = 10
_TINT = 0.5
_SPECK_PX = 14


def comparison_sheet(
    image: UInt8,
    truth: UInt8,
    prediction: UInt8,
    palette: Palette,
    title: str,
    *,
    panel_px: int = PANEL_PX,
) -> UInt8:
    """Draw image, truth, prediction and difference side by side.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    truth, prediction : (H, W) uint8 ndarray
        Class numbers; `IGNORE` in the truth is shown grey.
    palette : Palette
        Colours and names of the classes.
    title : str
        The line above; cut when it is too long for the sheet.
    panel_px : int
        Longest side of a panel. Larger images are shrunk; small ones are enlarged, pixel by pixel.

    Returns
    -------
    (h, w, 3) uint8 ndarray
        RGB. Objects too small to be seen in the difference are ringed.

    Raises
    ------
    InputError
        When the three do not have one size, or are empty.
    """
    if image.shape[:2] != truth.shape or truth.shape != prediction.shape or truth.size == 0:
        sizes = f"{image.shape[:2]}, {truth.shape}, {prediction.shape}"
        raise InputError("comparison sheet", f"expected image and masks of one size, got {sizes}")
    scale = panel_px / max(truth.shape)
    # Grey and light, so that a colour on it can only be a class.
    light = np.rint(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * 0.65 + 255 * 0.35).astype(np.uint8)
    pale = np.repeat(light[..., None], 3, axis=2)
    panels = [
        ("image", _fit(image, scale)),
        ("truth", _fit(_overlay(pale, truth, palette, scale), scale)),
        ("prediction", _fit(_overlay(pale, prediction, palette, scale), scale)),
        ("difference", _difference(pale, truth, prediction, scale)),
    ]
    legend = legend_of(palette)
    legend += [(BOTH, "in both"), (ONLY_PREDICTED, "only predicted"), (ONLY_TRUE, "only in truth")]
    legend += [(OTHER_CLASS, "another class")] if palette.num_classes > 2 else []
    legend += [(IGNORED, "not counted")] if (truth == IGNORE).any() else []
    return _lay_out(panels, title, len(panels), legend)


def grid_sheet(
    images: Sequence[UInt8],
    captions: Sequence[str],
    columns: int,
    *,
    title: str = "",
    cell_px: int = CELL_PX,
    legend: Sequence[tuple[RGB, str]] = (),
) -> UInt8:
    """Lay images out in rows, each with its caption above.

    Parameters
    ----------
    images : sequence of (h, w, 3) uint8 ndarray
        RGB, of any sizes, at least one.
    captions : sequence of str
        One an image.
    columns : int
        Images a row, at least 1.
    title : str
        Line above all.
    cell_px : int
        Longest side of an image on the sheet.
    legend : sequence of (RGB, str)
        Colours and what they mean, below all.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        RGB.

    Raises
    ------
    InputError
        When there is no image, or not one caption for each.
    """
    if not images or len(images) != len(captions) or columns < 1:
        raise InputError(
            "grid sheet",
            f"expected images and as many captions in at least one column, got {len(images)} images, "
            f"{len(captions)} captions, {columns} columns",
        )
    cells = [
        (caption, _fit(image, cell_px / max(image.shape[:2])))
        for image, caption in zip(images, captions, strict=True)
    ]
    return _lay_out(cells, title, min(columns, len(cells)), legend)


def _overlay(pale: UInt8, labels: UInt8, palette: Palette, scale: float) -> UInt8:
    image = pale.copy()
    for number, colour in [*((entry.number, entry.rgb) for entry in palette.classes[1:]), (IGNORE, IGNORED)]:
        mask = labels == number
        _tint(image, mask, colour, _TINT)
        # The outline is about two pixels wide on the sheet.
        cv2.drawContours(image, _contours(mask), -1, colour, max(1, round(2 / scale)))
    return image


def _difference(pale: UInt8, truth: UInt8, prediction: UInt8, scale: float) -> UInt8:
    counted = truth != IGNORE
    only_predicted = (truth == 0) & (prediction > 0)
    only_true = counted & (truth > 0) & (prediction == 0)
    both = counted & (truth > 0) & (prediction > 0)
    image = pale.copy()
    _tint(image, both & (truth == prediction), BOTH, 0.35)
    for mask, colour in (
        (only_predicted, ONLY_PREDICTED),
        (only_true, ONLY_TRUE),
        (both & (truth != prediction), OTHER_CLASS),
        (~counted, IGNORED),
    ):
        _tint(image, mask, colour, 0.75)
    image = _fit(image, scale)
    for mask, other, colour in (
        ((prediction > 0) & counted, truth > 0, ONLY_PREDICTED),
        ((truth > 0) & counted, prediction > 0, ONLY_TRUE),
    ):
        # Objects that the other mask does not touch and that are tiny on the sheet are ringed.
        objects = find_objects(mask)
        touched = np.unique(objects.ids[other])
        for number, box in enumerate(objects.boxes, start=1):
            if number not in touched and max(box.height, box.width) * scale < _SPECK_PX:
                x, y = (box.left + box.right) / 2 * scale, (box.top + box.bottom) / 2 * scale
                cv2.circle(image, (round(x), round(y)), _SPECK_PX // 2 + 2, colour, 1, cv2.LINE_AA)
    return image


def _tint(image: UInt8, mask: NDArray[np.bool_], colour: RGB, strength: float) -> None:
    mixed = image[mask] * (1 - strength) + np.array(colour) * strength
    image[mask] = np.rint(mixed).astype(np.uint8)


def _fit(image: UInt8, scale: float) -> UInt8:
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def _lay_out(
    cells: Sequence[tuple[str, UInt8]], title: str, columns: int, legend: Sequence[tuple[RGB, str]]
) -> UInt8:
    cell_h = max(image.shape[0] for _, image in cells)
    cell_w = max(image.shape[1] for _, image in cells)
    text_px = max(11, min(18, cell_w // 20))
    title_font, font = _font(round(text_px * 1.25)), _font(text_px)
    head = 2 * title_font.size if title else 0
    caption_h = round(text_px * 1.7)
    rows = -(-len(cells) // columns)
    width = 2 * _MARGIN + columns * cell_w + (columns - 1) * _GAP
    row_h = caption_h + cell_h
    legend_lines = _legend_lines(legend, width - 2 * _MARGIN, font)
    foot = len(legend_lines) * 2 * text_px
    height = 2 * _MARGIN + head + rows * row_h + (rows - 1) * _GAP + foot
    sheet = Image.new("RGB", (width, round(height)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((_MARGIN, _MARGIN), _shorten(title, title_font, width - 2 * _MARGIN), _INK, title_font)
    for i, (caption, image) in enumerate(cells):
        top = round(_MARGIN + head) + i // columns * (row_h + _GAP)
        left = _MARGIN + i % columns * (cell_w + _GAP)
        pen.text((left, top), _shorten(caption, font, cell_w), _QUIET, font)
        sheet.paste(Image.fromarray(image), (left, top + caption_h))
        corner = left + image.shape[1] - 1, top + caption_h + image.shape[0] - 1
        pen.rectangle((left, top + caption_h, *corner), outline=_FRAME)
    top = sheet.height - _MARGIN - foot + text_px
    for line in legend_lines:
        for x, colour, name in line:
            pen.rectangle((_MARGIN + x, top, _MARGIN + x + text_px, top + text_px), fill=colour)
            pen.text((_MARGIN + x + round(1.5 * text_px), top - text_px // 8), name, _INK, font)
        top += 2 * text_px
    return np.asarray(sheet, np.uint8)


def _legend_lines(
    legend: Sequence[tuple[RGB, str]], width: int, font: ImageFont.FreeTypeFont
) -> list[list[tuple[int, RGB, str]]]:
    lines: list[list[tuple[int, RGB, str]]] = []
    x = width + 1
    for colour, name in legend:
        needed = round(1.5 * font.size + font.getlength(name))
        if not lines or x + needed > width:
            lines.append([])
            x = 0
        lines[-1].append((x, colour, name))
        x += needed + round(2 * font.size)
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    line = printable(" ".join(text.split()))
    if font.getlength(line) <= width:
        return line
    fits = bisect_right(range(len(line)), width, key=lambda end: int(font.getlength(line[:end] + "…")))
    return line[: max(0, fits - 1)] + "…"


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with Matplotlib."""
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size_px)


def draw_outlines(image: UInt8, labels: UInt8, palette: Palette, cell_px: int = CELL_PX) -> UInt8:
    """Resize an image to a sheet's cell and outline its classes in their colours.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB.
    labels : (H, W) uint8 ndarray
    palette : Palette
    cell_px : int
        Longest side afterwards.

    Returns
    -------
    (h, w, 3) uint8 ndarray
        RGB. A light line under the coloured one keeps dark and tissue-like colours visible.
    """
    cell = _fit(image, cell_px / max(labels.shape))
    small = resize_labels(labels, (cell.shape[0], cell.shape[1]))
    lines = [(entry.rgb, _contours(small == entry.number)) for entry in palette.classes[1:]]
    for _, contours in lines:
        cv2.drawContours(cell, contours, -1, _PAPER, 4, cv2.LINE_AA)
    for colour, contours in lines:
        cv2.drawContours(cell, contours, -1, colour, 2, cv2.LINE_AA)
    return cell


def legend_of(palette: Palette) -> list[tuple[RGB, str]]:
    """Return colour and name of every class but background."""
    return [(entry.rgb, entry.name) for entry in palette.classes[1:]]


def _contours(mask: NDArray[np.bool_]) -> Sequence[NDArray[np.int32]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cast("Sequence[NDArray[np.int32]]", found)
