"""Colour and class statistics of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glomtile.objects.labelling import find_objects
from glomtile.types import UInt8

_SAMPLED_PX = 65_536
_GLASS = 235
"""Darkest channel above which a pixel is glass."""


@dataclass(frozen=True)
class ObjectSize:
    """One object: its class, its pixels, and whether the image border cuts it."""

    number: int
    area_px: int
    cut: bool


@dataclass(frozen=True)
class Stain:
    """Colour of tissue over a sample of pixels that are not glass.

    Attributes
    ----------
    rgb : tuple of float
        Mean red, green and blue, 0 to 255.
    brightness : float
        Mean of the three, 0 to 255.
    saturation : float
        Mean over pixels of ``1 − min/max`` of the three, 0 to 1.
    glass : float
        Share of the pixels that are glass, 0 to 1.
    """

    rgb: tuple[float, float, float]
    brightness: float
    saturation: float
    glass: float


def class_pixels(labels: UInt8, num_classes: int) -> list[int]:
    """Count the pixels of class 0, 1, … K − 1."""
    return [int(count) for count in np.bincount(labels.ravel(), minlength=num_classes)[:num_classes]]


def object_sizes(labels: UInt8, num_classes: int) -> list[ObjectSize]:
    """Measure every 8-connected object of every class but background, by class."""
    height, width = labels.shape
    found = []
    for number in range(1, num_classes):
        mask = labels == number
        if not mask.any():
            continue
        objects = find_objects(mask)
        for area, box in zip(objects.areas_px, objects.boxes, strict=True):
            cut = box.top == 0 or box.left == 0 or box.bottom == height or box.right == width
            found.append(ObjectSize(number, int(area), cut))
    return found


def stain_of(image: UInt8) -> Stain:
    """Measure the colour of tissue, or of glass where there is nothing else.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB, at least one pixel; rows and columns are sampled.
    """
    step = max(1, int((image.shape[0] * image.shape[1] / _SAMPLED_PX) ** 0.5))
    pixels = image[::step, ::step].reshape(-1, 3).astype(np.float64)
    is_glass = pixels.min(axis=1) > _GLASS
    tissue = pixels if is_glass.all() else pixels[~is_glass]
    red, green, blue = (float(part) for part in tissue.mean(axis=0))
    largest = np.maximum(tissue.max(axis=1), 1)
    return Stain(
        rgb=(red, green, blue),
        brightness=float(tissue.mean()),
        saturation=float((1 - tissue.min(axis=1) / largest).mean()),
        glass=float(is_glass.mean()),
    )
