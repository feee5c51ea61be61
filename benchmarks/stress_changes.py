"""What may go wrong with a picture on its way to a model: other dyes, light, optics, files, scales, seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.io.resolution import resize_to_mpp
from glomtile.synthetic import Dyes, draw_dyes, paint
from glomtile.training.stain import stain_vectors
from glomtile.types import UInt8

MPP = 0.5
"""Scale of the pictures that the changes are made to; blur is told in its pixels."""

PHANTOM_SEED = 200_000
"""Seeds below may have been seen in pre-training."""

PHANTOM_PX = 1024
_GLASS = 243
"""What bare glass is in these pictures: it takes no dye, so it keeps its colour."""

Vector = tuple[float, float, float]

# Unit optical densities: Ruifrok and Johnston 2001 and their successors' tables for other dyes.
EOSIN: Vector = (0.072, 0.990, 0.105)
METHYL_BLUE: Vector = (0.800, 0.591, 0.105)
PONCEAU: Vector = (0.100, 0.737, 0.668)
SILVER: Vector = (0.577, 0.577, 0.577)
PALE_GREEN: Vector = (0.750, 0.350, 0.560)


@dataclass(frozen=True)
class Change:
    """One condition.

    Attributes
    ----------
    name, family : str
        As in the table.
    make : callable
        ``(image, truth, rng) -> (image, truth)``.
    """

    name: str
    family: str
    make: Callable[[UInt8, UInt8, np.random.Generator], tuple[UInt8, UInt8]]


def changes() -> list[Change]:
    """All conditions that begin with a real picture, the unchanged one first."""
    found = [Change("unchanged", "unchanged", lambda image, truth, _: (image, truth))]
    for degrees in (-20, -10, 10, 20):
        mixing = _turned(degrees)
        found.append(_image_only(f"stain turned {degrees:+d}°", "stain", _densities(mixing)))
    for name, mixing in (
        ("H&E-like", _redyed(stain_vectors()[0], np.array(EOSIN), 1.0, 0.7)),
        ("trichrome-like", _redyed(np.array(PONCEAU), np.array(METHYL_BLUE), 0.9, 0.9)),
        ("silver-like", _redyed(np.array(PALE_GREEN), np.array(SILVER), 0.6, 1.5)),
    ):
        found.append(_image_only(name, "stain", _densities(mixing)))
    for gain in (0.6, 1.5):
        found.append(_image_only(f"density x {gain}", "intensity", _densities(gain * np.eye(3))))
    for sigma in (1, 2, 3):
        found.append(_image_only(f"blur {sigma} px", "blur", _blur(sigma)))
    for quality in (50, 20):
        found.append(_image_only(f"JPEG {quality}", "JPEG", _jpeg(quality)))
    for steps in (10, 25):
        found.append(Change(f"noise {steps}", "noise", _noise(steps)))
    for factor in (0.5, 0.7, 1.4, 2.0):
        found.append(Change(f"scale x {factor:g}", "scale", _scale(factor)))
    return found


def phantom_dyes(seed: int) -> dict[str, Dyes]:
    """What the unseen phantoms are dyed with, by name: a laboratory of PAS, and three other stains."""
    rng = np.random.default_rng([seed, 5])

    def dye(vector: Vector, strength: float) -> Vector:
        drawn = np.abs(np.array(vector) + rng.uniform(-0.04, 0.04, 3))
        drawn *= strength * np.exp(rng.uniform(-0.2, 0.2)) / np.linalg.norm(drawn)
        return tuple(drawn.tolist())  # type: ignore[return-value]

    violet: Vector = tuple(stain_vectors()[0].tolist())  # type: ignore[assignment]
    return {
        "PAS": draw_dyes(seed, 1.0),
        "H&E": Dyes(dye(violet, 1.3), dye(EOSIN, 1.0)),
        "trichrome": Dyes(dye(PONCEAU, 1.2), dye(METHYL_BLUE, 1.3)),
        "silver": Dyes(dye(PALE_GREEN, 0.7), dye(SILVER, 2.0)),
    }


def phantoms(count: int) -> list[tuple[str, int, UInt8, UInt8]]:
    """``(condition, seed, image, truth)`` of `count` hard phantoms for each stain, seeds from 200,000 on."""
    found = []
    for seed in range(PHANTOM_SEED, PHANTOM_SEED + count):
        for name, dyes in phantom_dyes(seed).items():
            painted = paint(seed, (PHANTOM_PX, PHANTOM_PX), MPP, "hard", dyes)
            found.append((f"phantom {name}", seed, painted.image, painted.labels))
    return found


def _image_only(name: str, family: str, change: Callable[[UInt8], UInt8]) -> Change:
    return Change(name, family, lambda image, truth, _: (change(image), truth))


def _densities(mixing: NDArray[np.float64]) -> Callable[[UInt8], UInt8]:
    """Optical densities of red, green and blue become sums of one another: ``density @ mixing``."""

    def change(image: UInt8) -> UInt8:
        density = -np.log((image.astype(np.float32) + 1) / (_GLASS + 1))
        light = np.exp(-density @ mixing.astype(np.float32))
        return np.clip(np.rint(light * (_GLASS + 1) - 1), 0, 255).astype(np.uint8)

    return change


def _redyed(
    first: NDArray[np.float64], second: NDArray[np.float64], first_gain: float, second_gain: float
) -> NDArray[np.float64]:
    """Haematoxylin and periodic acid-Schiff taken apart and put together again in two other dyes."""
    vectors = stain_vectors()
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    others = np.stack([first_gain * first, second_gain * second, 0.3 * vectors[2]])
    return np.linalg.inv(vectors) @ others


def _turned(degrees: float) -> NDArray[np.float64]:
    """All hues turned about the axis of grey: densities stay, dyes change."""
    axis, angle = np.full(3, 3**-0.5), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turn.T


def _blur(sigma: float) -> Callable[[UInt8], UInt8]:
    return lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _jpeg(quality: int) -> Callable[[UInt8], UInt8]:
    def change(image: UInt8) -> UInt8:
        _, stream = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(decoded[..., ::-1], np.uint8)

    return change


def _noise(steps: float) -> Callable[[UInt8, UInt8, np.random.Generator], tuple[UInt8, UInt8]]:
    def change(image: UInt8, truth: UInt8, rng: np.random.Generator) -> tuple[UInt8, UInt8]:
        grain = rng.normal(0, steps, image.shape)
        return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8), truth

    return change


def _scale(factor: float) -> Callable[[UInt8, UInt8, np.random.Generator], tuple[UInt8, UInt8]]:
    """Really `factor` times as large, and the mpp goes on to say what it said."""

    def change(image: UInt8, truth: UInt8, _: np.random.Generator) -> tuple[UInt8, UInt8]:
        resized = resize_to_mpp(image, factor, 1.0)
        size = (resized.shape[1], resized.shape[0])
        return resized, np.asarray(cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    return change
