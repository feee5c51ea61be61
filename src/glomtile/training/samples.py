"""Training samples: augmented batches from images and masks.

Nothing holds the whole dataset: decoded images are kept in a cache of limited size, and because a sample's
randomness depends on nothing but its number, a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from glomtile.config.load import load_config
from glomtile.config.schema import Config
from glomtile.contact_sheets import draw_outlines, grid_sheet, legend_of
from glomtile.datasets.loading import read_pair, sample_size, split_pairs
from glomtile.datasets.pairing import Pair
from glomtile.datasets.statistics import charts_folder, dataset_name
from glomtile.errors import ConfigError, UsageError
from glomtile.io.images import write_png
from glomtile.training.augmentation import Augmentation, augment, augmentation_of
from glomtile.types import IGNORE, SILENT, Progress, UInt8

Sample = tuple[UInt8, UInt8]
"""Image ``(h, w, 3)`` and labels ``(h, w)``."""

Decode = Callable[[Pair], Sample]
"""Reads a pair at the working resolution."""


class SampleSource(Protocol):
    """Samples by number."""

    def __len__(self) -> int:
        """Return the number of samples per epoch."""
        ...

    def sample(self, epoch: int, index: int) -> Sample:
        """Sample `index` of `epoch`, the same at every call."""
        ...


class DecodedPairs:
    """Decoded images and labels, the latest used kept up to a memory cap.

    Parameters
    ----------
    pairs : sequence of Pair
    decode : callable
        ``pair -> (image, labels)``.
    cache_mb : int
        Cap in MiB over all kept arrays; the one being returned is not counted.
    """

    def __init__(self, pairs: Sequence[Pair], decode: Decode, cache_mb: int) -> None:
        self.pairs = list(pairs)
        self._decode = decode
        self._cap = cache_mb * 2**20
        self._held: OrderedDict[int, Sample] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def __getitem__(self, index: int) -> Sample:
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
                return self._held[index]
        image, labels = self._decode(self.pairs[index])
        size = image.nbytes + labels.nbytes
        with self._lock:
            if index not in self._held and size <= self._cap:
                self._held[index] = image, labels
                self._held_bytes += size
                while self._held_bytes > self._cap:
                    _, (old_image, old_labels) = self._held.popitem(last=False)
                    self._held_bytes -= old_image.nbytes + old_labels.nbytes
        return image, labels


@dataclass(frozen=True)
class TileSource:
    """Tiles, each once per pass in a new random order; an epoch is one pass unless `samples` is given.

    Parameters
    ----------
    decoded : DecodedPairs
    size_px : (int, int)
        Height and width of a sample; an image of another size is resampled to it.
    augmentation : Augmentation or None
        ``None``: images unchanged, in their own order (validation and test).
    seed : int
    samples : int, optional
        Return the number of samples per epoch.
    """

    decoded: DecodedPairs
    size_px: tuple[int, int]
    augmentation: Augmentation | None
    seed: int
    samples: int | None = None

    def __len__(self) -> int:
        return len(self.decoded) if self.samples is None else self.samples

    def sample(self, epoch: int, index: int) -> Sample:
        if self.augmentation is None:
            return fit_to(self.decoded[index], self.size_px)
        number = _shuffled(index, len(self.decoded), self.seed, epoch)
        image, labels = fit_to(self.decoded[number], self.size_px)
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        return augment(image, labels, rng=rng, settings=self.augmentation)


def _shuffled(index: int, count: int, seed: int, epoch: int) -> int:
    """Return the image of a sample where every lap over the images has an order of its own."""
    lap, place = divmod(index, count)
    return int(np.random.default_rng([seed, epoch, lap]).permutation(count)[place])


@dataclass(frozen=True)
class CropSource:
    """Random crops straight from whole images, a stated share of them centred near foreground.

    Each image gives as many crops an epoch as the others, give or take one, unless `weights` says
    otherwise. Geometry is composed with the crop, so that a rotated crop shows the tissue beside it
    and not its own mirror. Centres lie anywhere in the image: crops hang over its edge and see mirrored
    tissue there, as the windows of tiled inference do (docs/experiments.md has what that is worth).

    Parameters
    ----------
    decoded : DecodedPairs
        Whole images at the working resolution.
    size_px : (int, int)
    samples : int
        Crops in one epoch.
    foreground_share : float
        Share of crops, 0 to 1, whose centre is drawn near a pixel of a class above 0.
    augmentation : Augmentation
    seed : int
    edge_share : float
        Share of crops, 0 to 1, for which the image is cut off somewhere within the crop, and mirrored
        there as at its own edge: few objects are cut by the edges of a few images, and those are the hardest.
    weights : sequence of float, optional
        One number >= 0 an image, not all 0: its crops in proportion to the others', in every epoch to
        within one.
    """

    decoded: DecodedPairs
    size_px: tuple[int, int]
    samples: int
    foreground_share: float
    augmentation: Augmentation
    seed: int
    edge_share: float = 0.0
    weights: Sequence[float] | None = None

    def __len__(self) -> int:
        return self.samples

    def sample(self, epoch: int, index: int) -> Sample:
        image, labels = self.decoded[self._image_index(epoch, index)]
        rng = np.random.default_rng([self.seed, epoch, index, 1])
        centre = self._centre(labels, rng)
        if self.edge_share > 0 and rng.random() < self.edge_share:
            image, labels, centre = self._cut_off(image, labels, centre, rng)
        return augment(image, labels, rng=rng, settings=self.augmentation, window=centre, out_px=self.size_px)

    def _image_index(self, epoch: int, index: int) -> int:
        if self.weights is None:
            return _shuffled(index, len(self.decoded), self.seed, epoch)
        # Systematic sampling: evenly spaced points on the weights laid end to end, taken in random order.
        rng = np.random.default_rng([self.seed, epoch])
        place = (rng.random() + rng.permutation(self.samples)[index]) / self.samples
        ends = np.cumsum(self.weights)
        # The last weight above 0 has no end: a draw below 1 may be rounded to it, sums may fall short of it.
        ends = np.where(ends < ends[-1], ends / ends[-1], np.inf)
        return int(np.searchsorted(ends, place, side="right"))

    def _cut_off(
        self, image: UInt8, labels: UInt8, centre: tuple[float, float], rng: np.random.Generator
    ) -> tuple[UInt8, UInt8, tuple[float, float]]:
        """Cut the image at a line within half a crop of the centre, which is kept."""
        axis = int(rng.integers(2))
        away = rng.uniform(0, 0.5) * self.size_px[axis]
        if rng.random() < 0.5:
            kept = slice(min(max(int(centre[axis] - away), 0), labels.shape[axis] - 1), None)
        else:
            kept = slice(None, max(int(centre[axis] + away), 1))
        place = (kept, slice(None)) if axis == 0 else (slice(None), kept)
        moved = [centre[0], centre[1]]
        moved[axis] -= kept.start or 0
        return image[place], labels[place], (moved[0], moved[1])

    def _centre(self, labels: UInt8, rng: np.random.Generator) -> tuple[float, float]:
        """Draw the centre of a crop: anywhere, or within a quarter crop of a foreground pixel."""
        extent = np.array(labels.shape, dtype=np.float64)
        centre = rng.random(2) * extent
        if rng.random() < self.foreground_share:
            present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:IGNORE]) + 1
            if present.size:
                rows, columns = np.nonzero(labels == rng.choice(present))
                pick = int(rng.integers(len(rows)))
                jitter = rng.uniform(-0.25, 0.25, 2) * self.size_px
                centre = np.clip(np.array([rows[pick], columns[pick]]) + jitter, 0, extent)
        return float(centre[0]), float(centre[1])


class GridSource:
    """Evenly spaced windows over whole images, without chance: what validation sees in crops mode.

    Labels of a window's part beyond its image are `IGNORE`.
    """

    def __init__(self, decoded: DecodedPairs, size_px: tuple[int, int]) -> None:
        self._decoded = decoded
        self._size_px = size_px
        self._places: list[tuple[int, int, int]] = []
        for number in range(len(decoded)):
            height, width = decoded[number][1].shape
            self._places += [
                (number, top, left)
                for top in _even_starts(height, size_px[0])
                for left in _even_starts(width, size_px[1])
            ]

    def __len__(self) -> int:
        return len(self._places)

    def sample(self, epoch: int, index: int) -> Sample:
        number, top, left = self._places[index]
        image, labels = self._decoded[number]
        h, w = self._size_px
        image, labels = image[top : top + h, left : left + w], labels[top : top + h, left : left + w]
        below, beside = h - labels.shape[0], w - labels.shape[1]
        if below or beside:
            image = np.pad(image, ((0, below), (0, beside), (0, 0)), mode="symmetric")
            labels = np.pad(labels, ((0, below), (0, beside)), constant_values=IGNORE)
        return image, labels


def _even_starts(length: int, window: int) -> list[int]:
    count = -(-length // window)
    return [round(i * (length - window) / (count - 1)) for i in range(count)] if count > 1 else [0]


def fit_to(sample: Sample, size_px: tuple[int, int]) -> Sample:
    """Resample to `size_px`: the image by area when shrinking, labels by nearest neighbour."""
    image, labels = sample
    if labels.shape == tuple(size_px):
        return sample
    shrinks = size_px[0] <= labels.shape[0] and size_px[1] <= labels.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    target = (size_px[1], size_px[0])
    small = cv2.resize(image, target, interpolation=kind)
    small_labels = cv2.resize(labels, target, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(small, np.uint8), np.asarray(small_labels, np.uint8)


def batches(
    source: SampleSource, batch_size: int, epoch: int, *, start: int = 0, workers: int = 2, ahead: int = 3
) -> Iterator[tuple[UInt8, UInt8]]:
    """Yield the batches of one epoch in order, prepared ahead by threads.

    Parameters
    ----------
    source : SampleSource
    batch_size : int
        The last batch holds what is left.
    epoch : int
    start : int
        Batches to leave out at the beginning (a resumed epoch).
    workers : int
        Threads; the heavy parts of a sample release the interpreter's lock. 0: the calling thread makes
        each batch when it is needed.
    ahead : int
        Batches under way at most, which bounds the memory.

    Yields
    ------
    images : (N, h, w, 3) uint8
    labels : (N, h, w) uint8
    """
    count = -(-len(source) // batch_size)

    def numbers(batch: int) -> range:
        return range(batch * batch_size, min((batch + 1) * batch_size, len(source)))

    if workers == 0:
        for batch in range(start, count):
            yield _stacked([source.sample(epoch, i) for i in numbers(batch)])
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="samples") as pool:
        waiting: dict[int, list[Future[Sample]]] = {}

        def order(batch: int) -> None:
            waiting[batch] = [pool.submit(source.sample, epoch, i) for i in numbers(batch)]

        try:
            for batch in range(start, min(start + ahead, count)):
                order(batch)
            for batch in range(start, count):
                samples = [future.result() for future in waiting.pop(batch)]
                if batch + ahead < count:
                    order(batch + ahead)
                yield _stacked(samples)
        finally:
            pool.shutdown(cancel_futures=True)


def _stacked(samples: Sequence[Sample]) -> tuple[UInt8, UInt8]:
    return np.stack([image for image, _ in samples]), np.stack([labels for _, labels in samples])


def samples_that_cover(decoded: DecodedPairs, size_px: tuple[int, int], batch_size: int) -> int:
    """Crops whose area is that of all images together, in whole batches."""
    area = sum(decoded[i][1].size for i in range(len(decoded)))
    crops = max(1, round(area / (size_px[0] * size_px[1])))
    return -(-crops // batch_size) * batch_size


def training_source(config: Config) -> SampleSource:
    """Build the samples of ``[train]``: prepared tiles, or crops of whole images.

    Raises
    ------
    ConfigError
        When a folder is not given, or the scale is asked for but unknown.
    InputError
        When images and masks do not pair.
    """
    decoded = decoded_pairs(config, "train")
    size_px = sample_size(config)
    augmentation = augmentation_of(config) if config.augments else Augmentation()
    if config.dataset.sampling == "crops":
        batch = config.train.batch_size
        crops = config.dataset.samples_per_epoch or samples_that_cover(decoded, size_px, batch)
        return CropSource(
            decoded,
            size_px,
            crops,
            config.dataset.foreground_share,
            augmentation,
            config.train.seed,
            config.dataset.edge_share,
            image_weights(config, [pair.stem for pair in decoded.pairs]),
        )
    # The reference's generator draws so many steps, however many tiles there are.
    steps = config.train.steps_per_epoch if config.model.generator else None
    samples = None if steps is None else steps * config.train.batch_size
    return TileSource(decoded, size_px, augmentation, config.train.seed, samples)


def image_weights(config: Config, stems: Sequence[str]) -> list[float] | None:
    """Return the sampling weight of each image by ``[dataset] image_weights``, or ``None``.

    Parameters
    ----------
    config : Config
    stems : sequence of str
        Names of the images without their suffix. The first pattern that fits one counts; without any its
        weight is 1. A pattern may fit no image: a fold of a cross-validation lacks some.

    Raises
    ------
    ConfigError
        When every image would have the weight 0.
    """
    patterns = config.dataset.image_weights
    if not patterns:
        return None
    weights = [
        next((weight for pattern, weight in patterns.items() if fnmatchcase(stem, pattern)), 1.0)
        for stem in stems
    ]
    if not any(weights):
        raise ConfigError(
            f"{config.source or 'config'} [dataset] image_weights",
            f"expected some image of a weight above 0, got none among {len(stems)}",
        )
    return weights


def judging_source(config: Config, split: str) -> SampleSource:
    """Build the samples of ``[valid]`` or ``[test]``, not random; crops cover whole images."""
    decoded = decoded_pairs(config, split)
    if config.dataset.sampling == "crops":
        return GridSource(decoded, sample_size(config))
    return TileSource(decoded, sample_size(config), None, config.train.seed)


def decoded_pairs(config: Config, split: str) -> DecodedPairs:
    """Return the pairs of a split, each decoded when it is first needed."""
    decode = partial(read_pair, config=config, palette=config.palette())
    return DecodedPairs(split_pairs(config, split), decode, config.dataset.cache_mb)


_SHEET_SAMPLES, _SHEET_EPOCHS = 5, 6


def draw_augmented(target: Path, out: Path | None = None, *, progress: Progress = SILENT) -> Path:
    """Draw training samples as the network sees them: one row per sample, one column per epoch.

    Parameters
    ----------
    target : Path
        A config.
    out : Path, optional
        Folder of the sheet; by default that of the dataset's charts.
    progress : Progress
        Receives a warning when augmentation is off.

    Returns
    -------
    Path
        ``<Name>_Augmented.png``.

    Raises
    ------
    UsageError
        When `target` is a folder.
    """
    if Path(target).is_dir():
        raise UsageError("--augmented", f"expected a config, got the folder {target}")
    config = load_config(target)
    if not config.augments:
        progress.warn("augmentation is off: [augmentor] enabled, or the reference's [model] generator")
    source, palette = training_source(config), config.palette()
    rows = min(_SHEET_SAMPLES, len(source))
    cells, captions = [], []
    progress.start("drawing samples", rows * _SHEET_EPOCHS)
    for row in range(rows):
        index = (2 * row + 1) * len(source) // (2 * rows)
        for epoch in range(_SHEET_EPOCHS):
            image, labels = source.sample(epoch, index)
            rgb = image[..., ::-1] if config.image.color_order == "BGR" else image
            cells.append(draw_outlines(np.ascontiguousarray(rgb), labels, palette))
            captions.append(f"sample {index}, epoch {epoch}")
            progress.advance()
    name = dataset_name(config)
    title = f"{name}: training samples as the network sees them"
    title += "" if config.augments else ", not augmented"
    path = charts_folder(target, name, out) / f"{name}_Augmented.png"
    write_png(path, grid_sheet(cells, captions, _SHEET_EPOCHS, title=title, legend=legend_of(palette)))
    return path
