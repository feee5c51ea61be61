"""Sheet of training samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.config.schema import Config
from glomtile.contact_sheets import CELL_PX, grid_sheet
from glomtile.io.masks import resize_labels
from glomtile.palette import RGB, Palette
from glomtile.types import SILENT, Progress, UInt8

_SAMPLES, _EPOCHS = 5, 6
_LIGHT = (255, 255, 255)


def outlined(image: UInt8, labels: UInt8, palette: Palette, cell_px: int = CELL_PX) -> UInt8:
    """A picture brought to a sheet's cell, its classes outlined in their colours.

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
    height, width = labels.shape
    scale = cell_px / max(height, width)
    size_px = max(1, round(height * scale)), max(1, round(width * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = cv2.resize(image, size_px[::-1], interpolation=way)
    small = resize_labels(labels, size_px)
    lines = [(entry.rgb, _contours(small == entry.number)) for entry in palette.classes[1:]]
    for _, contours in lines:
        cv2.drawContours(picture, contours, -1, _LIGHT, 4, cv2.LINE_AA)
    for colour, contours in lines:
        cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def legend_of(palette: Palette) -> list[tuple[RGB, str]]:
    """Colour and name of every class but background."""
    return [(entry.rgb, entry.name) for entry in palette.classes[1:]]


def _contours(mask: NDArray[np.bool_]) -> Sequence[NDArray[np.int32]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cast("Sequence[NDArray[np.int32]]", found)


def augmented_sheet(config: Config, name: str, progress: Progress = SILENT) -> UInt8:
    """Training samples as the network will see them: a row a sample, a column an epoch.

    Parameters
    ----------
    config : Config
    name : str
        Of the dataset, for the title.
    progress : Progress
        Is warned when augmentation is off.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        RGB.
    """
    from glomtile.datasets.loading import training_source

    if not config.augments:
        progress.warn("augmentation is off: [augmentor] enabled, or the reference's [model] generator")
    source, palette = training_source(config), config.palette()
    rows = min(_SAMPLES, len(source))
    pictures, captions = [], []
    progress.start("drawing samples", rows * _EPOCHS)
    for row in range(rows):
        index = (2 * row + 1) * len(source) // (2 * rows)
        for epoch in range(_EPOCHS):
            image, labels = source.sample(epoch, index)
            rgb = image[..., ::-1] if config.image.color_order == "BGR" else image
            pictures.append(outlined(np.ascontiguousarray(rgb), labels, palette))
            captions.append(f"sample {index}, epoch {epoch}")
            progress.advance()
    title = f"{name}: training samples as the network sees them" + (
        "" if config.augments else ", not augmented"
    )
    return grid_sheet(pictures, captions, _EPOCHS, title=title, legend=legend_of(palette))
