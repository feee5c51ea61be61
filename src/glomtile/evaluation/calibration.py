"""Calibration of predicted probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glomtile.errors import InputError
from glomtile.io.tables import Cell, read_csv, write_csv
from glomtile.types import IGNORE, Float32, UInt8

if TYPE_CHECKING:
    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import Config
    from glomtile.inference.quality_control import QualityFlags
    from glomtile.palette import Palette

LEVELS = 256
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Pixels of similar probability.

    Attributes
    ----------
    said : float
        Their mean probability, 0 to 1.
    true : float
        Share of them that is of the class.
    pixels : int
        How many there are, at least 1.
    """

    said: float
    true: float
    pixels: int


def no_levels(num_classes: int) -> NDArray[np.int64]:
    """``(K - 1, 2, 256)`` zeros to add `count_levels` of images to."""
    return np.zeros((num_classes - 1, 2, LEVELS), np.int64)


def count_levels(probabilities: UInt8, truth: UInt8, class_number: int) -> NDArray[np.int64]:
    """How often each probability was said of a class, and how often it was right.

    Parameters
    ----------
    probabilities : (H, W) uint8 ndarray
        Of the class, 0 to 255 for 0 to 1.
    truth : (H, W) uint8 ndarray
        Class numbers; pixels labelled `IGNORE` do not count.
    class_number : int

    Returns
    -------
    (2, 256) int64 ndarray
        All pixels by probability, and those of the class among them.

    Raises
    ------
    InputError
        The two differ in size.
    """
    if probabilities.shape != truth.shape:
        raise InputError(
            "calibration", f"expected planes of one size, got {probabilities.shape} and {truth.shape}"
        )
    said, right = probabilities[truth != IGNORE], probabilities[truth == class_number]
    return np.stack([np.bincount(values, minlength=LEVELS) for values in (said, right)]).astype(np.int64)


def as_levels(probs: Float32) -> UInt8:
    """Probabilities of 0 to 1 as 0 to 255, of any shape."""
    return np.asarray(np.rint(probs * np.float32(LEVELS - 1)), np.uint8)


def reliability(counts: NDArray[np.int64], bins: int = BINS) -> tuple[list[Bin], float]:
    """Sum up what `count_levels` counted.

    Parameters
    ----------
    counts : (2, 256) int64 ndarray
    bins : int
        Of equal width.

    Returns
    -------
    list of Bin
        Those that hold a pixel, by rising probability.
    float
        Expected calibration error: the mean distance of `said` from `true`, weighted by pixels; NaN without
        a pixel.

    Notes
    -----
    Naeini et al. 2015, *Obtaining well calibrated probabilities using Bayesian binning*. In pictures that are
    mostly background the error is small whatever the network says of the rest: look at the bins.
    """
    levels = np.arange(LEVELS) / (LEVELS - 1)
    which = np.minimum((levels * bins).astype(np.intp), bins - 1)
    pixels = np.bincount(which, counts[0], bins)
    said, true = np.bincount(which, counts[0] * levels, bins), np.bincount(which, counts[1], bins)
    held = [number for number in range(bins) if pixels[number] > 0]
    found = [Bin(float(said[i] / pixels[i]), float(true[i] / pixels[i]), int(pixels[i])) for i in held]
    return found, _error(found)


def _error(bins: Sequence[Bin]) -> float:
    total = sum(one.pixels for one in bins)
    return sum(one.pixels * abs(one.said - one.true) for one in bins) / total if total else float("nan")


CALIBRATION, QUALITY = "calibration.csv", "quality.csv"


@dataclass
class CalibrationAccumulator:
    """Adds up what all judged images say; `write` puts it beside the figures.

    Attributes
    ----------
    palette : Palette
    levels : (K - 1, 2, 256) int64 ndarray
        See `glomtile.evaluation.calibration.count_levels`.
    doubts : dict of str to Doubts
        By stem.
    """

    palette: Palette
    levels: NDArray[np.int64] = field(init=False)
    doubts: dict[str, QualityFlags] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels = no_levels(self.palette.num_classes)

    def add_probs(self, rows: Iterable[tuple[int, Float32]], truth: UInt8) -> None:
        """Count the probabilities of an image, given in bands of rows from top to bottom.

        Parameters
        ----------
        rows : iterable of (int, (h, W, K) float32 ndarray)
            As of `glomtile.inference.image.resized_probs`, at the truth's size.
        truth : (H, W) uint8 ndarray
        """
        for top, band in rows:
            beside = truth[top : top + band.shape[0]]
            for number in range(1, self.palette.num_classes):
                self.levels[number - 1] += count_levels(as_levels(band[..., number]), beside, number)

    def add_confidence(self, confidence: UInt8, truth: UInt8) -> None:
        """Count an image of which only the probability of class 1 is known; only with two classes."""
        if self.palette.num_classes == 2:
            self.levels[0] += count_levels(confidence, truth, 1)

    def write(self, out: Path) -> tuple[Path, ...]:
        """Write ``calibration.csv`` and ``quality.csv``, each only where there is something to tell.

        An earlier run's goes where there is nothing: it would be read beside other figures.
        """
        written = []
        if self.levels.any():
            written.append(
                write_csv(out / CALIBRATION, _LEVEL_COLUMNS, _level_rows(self.levels, self.palette))
            )
        if any(one.distances for one in self.doubts.values()):
            rows: Sequence[dict[str, Cell]] = [
                {"image": stem, **one.figures()} for stem, one in self.doubts.items()
            ]
            columns = list(rows[0])
            written.append(
                write_csv(out / QUALITY, columns, [[row[name] for name in columns] for row in rows])
            )
        remove_judged(out, written)
        return tuple(written)


def join_judged(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Join the calibration files of `folders`: pixel counts are summed, images keep their order."""
    written = []
    pixels: dict[tuple[str, ...], list[int]] = {}
    for row in _rows_of(folders, CALIBRATION):
        sums = pixels.setdefault(tuple(row[name] for name in _LEVEL_COLUMNS[:3]), [0, 0])
        for place, name in enumerate(_LEVEL_COLUMNS[3:]):
            sums[place] += int(row[name])
    if pixels:
        lines: list[list[Cell]] = [[*level, *sums] for level, sums in pixels.items()]
        written.append(write_csv(out / CALIBRATION, _LEVEL_COLUMNS, lines))
    doubts = list(_rows_of(folders, QUALITY))
    if doubts:
        columns = list(doubts[0])
        written.append(write_csv(out / QUALITY, columns, [[row[name] for name in columns] for row in doubts]))
    remove_judged(out, written)
    return tuple(written)


def remove_judged(out: Path, written: Sequence[Path] = ()) -> None:
    """Remove what an earlier run told of probabilities, but for what this one has `written`."""
    for path in (out / CALIBRATION, out / QUALITY):
        if path not in written:
            path.unlink(missing_ok=True)


def _rows_of(folders: Sequence[Path], name: str) -> Iterator[dict[str, str]]:
    for folder in folders:
        if (folder / name).is_file():
            yield from read_csv(folder / name)


def min_expected_dice(config: Config) -> float | None:
    """Return the expected Dice below which results are flagged; ``None`` leaves the model's own.

    The card holds the config's value from training; the config of an evaluation may set another.
    """
    asked = config.tiledinfer
    return asked.min_expected_dice if asked.is_set("min_expected_dice") else None


def quality_of_image(
    path: Path, mpp: float | None, card: ModelCard, labels: UInt8, confidence: UInt8
) -> QualityFlags | None:
    """Assess the quality of a segmented image; ``None`` where its scale or the model's is not known.

    Parameters
    ----------
    path : Path
        The picture.
    mpp : float or None
        Its micrometres per pixel.
    card : ModelCard
    labels, confidence : (H, W) uint8 ndarray
        See `glomtile.inference.quality_control.assess_quality`.
    """
    from glomtile.inference.quality_control import assess_quality
    from glomtile.slides.slide import open_slide
    from glomtile.slides.tissue import make_overview

    if mpp is None or card.mpp is None or card.reference_statistics is None:
        return None
    with open_slide(path, mpp=mpp) as slide:
        if slide.size_px != labels.shape:
            return None
        tissue = make_overview(slide, mpp, 1.0).tissue
        return assess_quality(card, slide, tissue, 1.0, labels, confidence)


_LEVEL_COLUMNS = ("class", "name", "probability", "pixels", "true_pixels")


def _level_rows(levels: NDArray[np.int64], palette: Palette) -> Iterable[list[Cell]]:
    for number, counts in enumerate(levels.tolist(), start=1):
        for level in range(LEVELS):
            said, true = counts[0][level], counts[1][level]
            yield [number, palette.classes[number].name, level / (LEVELS - 1), said, true]
