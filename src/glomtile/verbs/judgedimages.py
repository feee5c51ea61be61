"""What is noted of a judged image beside its score: whether its probabilities keep their word, its doubts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glomtile.core.calibration import LEVELS, as_levels, count_levels, no_levels
from glomtile.files.tables import Cell, read_csv, write_csv
from glomtile.types import Float32, UInt8

if TYPE_CHECKING:
    from glomtile.config.card import ModelCard
    from glomtile.config.schema import Config
    from glomtile.core.palette import Palette
    from glomtile.engine.doubts import Doubts

CALIBRATION, DOUBTS = "calibration.csv", "doubts.csv"


@dataclass
class Judged:
    """Adds up what all judged images say; `write` puts it beside the figures.

    Attributes
    ----------
    palette : Palette
    levels : (K - 1, 2, 256) int64 ndarray
        See `glomtile.core.calibration.count_levels`.
    doubts : dict of str to Doubts
        By stem.
    """

    palette: Palette
    levels: NDArray[np.int64] = field(init=False)
    doubts: dict[str, Doubts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels = no_levels(self.palette.num_classes)

    def add_probs(self, rows: Iterable[tuple[int, Float32]], truth: UInt8) -> None:
        """Count the probabilities of an image, given in bands of rows from top to bottom.

        Parameters
        ----------
        rows : iterable of (int, (h, W, K) float32 ndarray)
            As of `glomtile.engine.pictures.resized_probs`, at the truth's size.
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
        """Write ``calibration.csv`` and ``doubts.csv``, each only where there is something to tell.

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
                write_csv(out / DOUBTS, columns, [[row[name] for name in columns] for row in rows])
            )
        remove_judged(out, written)
        return tuple(written)


def join_judged(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Write what `Judged.write` wrote into `folders` into one: pixels added up, images in their order."""
    written = []
    pixels: dict[tuple[str, ...], list[int]] = {}
    for row in _rows_of(folders, CALIBRATION):
        sums = pixels.setdefault(tuple(row[name] for name in _LEVEL_COLUMNS[:3]), [0, 0])
        for place, name in enumerate(_LEVEL_COLUMNS[3:]):
            sums[place] += int(row[name])
    if pixels:
        lines: list[list[Cell]] = [[*level, *sums] for level, sums in pixels.items()]
        written.append(write_csv(out / CALIBRATION, _LEVEL_COLUMNS, lines))
    doubts = list(_rows_of(folders, DOUBTS))
    if doubts:
        columns = list(doubts[0])
        written.append(write_csv(out / DOUBTS, columns, [[row[name] for name in columns] for row in doubts]))
    remove_judged(out, written)
    return tuple(written)


def remove_judged(out: Path, written: Sequence[Path] = ()) -> None:
    """Remove what an earlier run told of probabilities, but for what this one has `written`."""
    for path in (out / CALIBRATION, out / DOUBTS):
        if path not in written:
            path.unlink(missing_ok=True)


def _rows_of(folders: Sequence[Path], name: str) -> Iterator[dict[str, str]]:
    for folder in folders:
        if (folder / name).is_file():
            yield from read_csv(folder / name)


def doubted_below(config: Config) -> float | None:
    """The Dice below which results are doubted, where the config says it; ``None`` leaves the model's own.

    A model's card holds what the config said when it was trained; who judges its answers may have changed
    their mind.
    """
    asked = config.tiledinfer
    return asked.least_expected_dice if asked.given("least_expected_dice") else None


def doubts_of_picture(
    path: Path, mpp: float | None, card: ModelCard, labels: UInt8, confidence: UInt8
) -> Doubts | None:
    """What there is to doubt of a segmented picture; ``None`` where its scale or the model's is not known.

    Parameters
    ----------
    path : Path
        The picture.
    mpp : float or None
        Its micrometres per pixel.
    card : ModelCard
    labels, confidence : (H, W) uint8 ndarray
        See `glomtile.engine.doubts.doubts_of`.
    """
    from glomtile.engine.doubts import doubts_of
    from glomtile.engine.slidelook import look_at
    from glomtile.files.slides import open_slide

    if mpp is None or card.mpp is None or card.familiar is None:
        return None
    with open_slide(path, mpp=mpp) as slide:
        if slide.size_px != labels.shape:
            return None
        tissue = look_at(slide, mpp, 1.0).tissue
        return doubts_of(card, slide, tissue, 1.0, labels, confidence)


_LEVEL_COLUMNS = ("class", "name", "probability", "pixels", "true_pixels")


def _level_rows(levels: NDArray[np.int64], palette: Palette) -> Iterable[list[Cell]]:
    for number, counts in enumerate(levels.tolist(), start=1):
        for level in range(LEVELS):
            said, true = counts[0][level], counts[1][level]
            yield [number, palette.classes[number].name, level / (LEVELS - 1), said, true]
