"""Calibration of predicted probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glomtile.io.tables import Cell, read_csv, write_csv
from glomtile.types import IGNORE, Float32, UInt8

if TYPE_CHECKING:
    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import Config
    from glomtile.inference.quality_control import QualityFlags
    from glomtile.palette import Palette

LEVELS = 256
BINS = 10
CALIBRATION, QUALITY = "calibration.csv", "quality.csv"
_COLUMNS = ("class", "name", "probability", "pixels", "true_pixels")


def count_levels(probabilities: UInt8, truth: UInt8, class_number: int) -> NDArray[np.int64]:
    """Count the pixels of each probability, and those of the class among them.

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
        All pixels by probability, and those of the class.
    """
    counted, right = probabilities[truth != IGNORE], probabilities[truth == class_number]
    return np.stack([np.bincount(values, minlength=LEVELS) for values in (counted, right)]).astype(np.int64)


def reliability(counts: NDArray[np.int64], bins: int = BINS) -> tuple[list[tuple[float, float, int]], float]:
    """Sum up the counts of `count_levels`.

    Parameters
    ----------
    counts : (2, 256) int64 ndarray
    bins : int
        Of equal width.

    Returns
    -------
    list of (float, float, int)
        Mean probability, share that is of the class, and number of pixels of each bin that holds a pixel, by
        rising probability.
    float
        Expected calibration error: the mean distance of predicted and observed, weighted by pixels; NaN
        without a pixel.

    Notes
    -----
    Naeini et al. 2015, *Obtaining well calibrated probabilities using Bayesian binning*. In images that are
    mostly background the error is small whatever the rest is like: the bins show it.
    """
    levels = np.arange(LEVELS) / (LEVELS - 1)
    which = np.minimum((levels * bins).astype(np.intp), bins - 1)
    pixels = np.bincount(which, counts[0], bins)
    predicted, true = np.bincount(which, counts[0] * levels, bins), np.bincount(which, counts[1], bins)
    held = np.flatnonzero(pixels)
    result = [(float(predicted[i] / pixels[i]), float(true[i] / pixels[i]), int(pixels[i])) for i in held]
    total = sum(count for _, _, count in result)
    off = sum(count * abs(expected - observed) for expected, observed, count in result)
    return result, off / total if total else float("nan")


class CalibrationAccumulator:
    """Counts of probabilities and quality flags of all images; `write` puts them beside the scores.

    Attributes
    ----------
    levels : (K - 1, 2, 256) int64 ndarray
        Sums of `count_levels` for each class above 0.
    quality : dict of str to QualityFlags
        By stem.
    """

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        self.levels = np.zeros((palette.num_classes - 1, 2, LEVELS), np.int64)
        self.quality: dict[str, QualityFlags] = {}

    def add_probs(self, rows: Iterable[tuple[int, Float32]], truth: UInt8) -> None:
        """Count the probabilities of an image, given in bands of rows from top to bottom.

        Parameters
        ----------
        rows : iterable of (int, (h, W, K) float32 ndarray)
            As of `glomtile.inference.image.resized_probs`, at the truth's size.
        truth : (H, W) uint8 ndarray
        """
        for top, band in rows:
            labels = truth[top : top + band.shape[0]]
            for number in range(1, self.palette.num_classes):
                probabilities = np.asarray(np.rint(band[..., number] * np.float32(LEVELS - 1)), np.uint8)
                self.levels[number - 1] += count_levels(probabilities, labels, number)

    def add_confidence(self, confidence: UInt8, truth: UInt8) -> None:
        """Count an image with the probability of class 1 only, where there are two classes."""
        if self.palette.num_classes == 2:
            self.levels[0] += count_levels(confidence, truth, 1)

    def write(self, out: Path) -> tuple[Path, ...]:
        """Write ``calibration.csv`` and ``quality.csv``, each where there is something to write.

        Files of an earlier run are removed: they would belong to other scores.
        """
        rows: list[list[Cell]] = []
        if self.levels.any():
            for number, (counted, right) in enumerate(self.levels.tolist(), start=1):
                name = self.palette.classes[number].name
                rows += [
                    [number, name, level / (LEVELS - 1), counted[level], right[level]]
                    for level in range(LEVELS)
                ]
        flags: list[dict[str, Cell]] = []
        if any(one.distances for one in self.quality.values()):
            flags = [{"image": stem, **one.figures()} for stem, one in self.quality.items()]
        return _write(out, rows, flags)


def join_calibration(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Join the calibration files of folders: pixel counts are summed, images keep their order."""
    pixels: dict[tuple[str, ...], list[int]] = {}
    for row in _read(folders, CALIBRATION):
        sums = pixels.setdefault(tuple(row[name] for name in _COLUMNS[:3]), [0, 0])
        for place, name in enumerate(_COLUMNS[3:]):
            sums[place] += int(row[name])
    return _write(out, [[*level, *sums] for level, sums in pixels.items()], list(_read(folders, QUALITY)))


def remove_calibration(out: Path) -> None:
    """Remove the calibration files of an earlier run."""
    for name in (CALIBRATION, QUALITY):
        (out / name).unlink(missing_ok=True)


def _write(
    out: Path, rows: Sequence[Sequence[Cell]], flags: Sequence[Mapping[str, Cell]]
) -> tuple[Path, ...]:
    remove_calibration(out)
    written = []
    if rows:
        written.append(write_csv(out / CALIBRATION, _COLUMNS, rows))
    if flags:
        columns = list(flags[0])
        written.append(write_csv(out / QUALITY, columns, [[row[name] for name in columns] for row in flags]))
    return tuple(written)


def _read(folders: Sequence[Path], name: str) -> Iterator[dict[str, str]]:
    for folder in folders:
        if (folder / name).is_file():
            yield from read_csv(folder / name)


def min_expected_dice(config: Config) -> float | None:
    """Return the expected Dice below which results are flagged; ``None`` leaves the model's own.

    The card holds the config's value from training; the config of an evaluation may set another.
    """
    settings = config.tiledinfer
    return settings.min_expected_dice if settings.is_set("min_expected_dice") else None


def quality_of_image(
    path: Path, mpp: float | None, card: ModelCard, labels: UInt8, confidence: UInt8
) -> QualityFlags | None:
    """Assess the quality of a segmented image; ``None`` where its scale or the model's is not known.

    Parameters
    ----------
    path : Path
    mpp : float or None
        Micrometres per pixel of the image.
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
