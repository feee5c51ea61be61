"""Loading of image and mask pairs at a given resolution."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from glomtile.config.schema import Config
from glomtile.datasets.pairing import Pair, pair, whole_pairs
from glomtile.errors import ConfigError, GlomtileError, InputError
from glomtile.formatting import printable
from glomtile.io.images import image_mpp, read_image, resize_to_mpp
from glomtile.io.masks import read_mask, resize_labels
from glomtile.palette import Palette
from glomtile.types import IGNORE, SILENT, Progress, UInt8

_MOST_REASONS = 10
_T = TypeVar("_T")
_R = TypeVar("_R")


def sample_size(config: Config) -> tuple[int, int]:
    """Return height and width of a training sample, in working pixels."""
    return config.model.image_height, config.model.image_width


def split_pairs(config: Config, split: str) -> list[Pair]:
    """Return the pairs of a split; for crops the whole images its tiles were cut from, where recorded."""
    images, masks = config.folder(split, "images_dir"), config.folder(split, "masks_dir")
    whole = whole_pairs(images, masks) if config.dataset.sampling == "crops" else None
    return whole or pair(images, masks, mask_suffix_of(config))


def mask_suffix_of(config: Config) -> str | None:
    """Return the suffix that masks must have, where the config names one."""
    return config.mask.mask_file_format if config.mask.is_set("mask_file_format") else None


def read_labels(pair: Pair, config: Config, palette: Palette) -> UInt8:
    """Read the mask of a pair as class numbers, ``(H, W) uint8``."""
    return read_mask(pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance)


def read_pair(pair: Pair, config: Config, palette: Palette) -> tuple[UInt8, UInt8]:
    """Read image and class numbers at the model's scale, channels in the config's order.

    Raises
    ------
    ConfigError
        See `working_scale`.
    InputError
        A file cannot be read.
    """
    image = read_image(pair.image)
    scale = working_scale(config, pair.image)
    if scale is not None:
        image = resize_to_mpp(image, *scale)
    labels = read_labels(pair, config, palette)
    if labels.shape != image.shape[:2]:
        labels = resize_labels(labels, image.shape[:2])
    return image[..., ::-1] if config.image.color_order == "BGR" else image, labels


def working_scale(config: Config, path: Path) -> tuple[float, float] | None:
    """Return ``(mpp of the image, mpp of the model)``; None when the model has no scale of its own.

    Raises
    ------
    ConfigError
        The model has a scale and the image's is unknown.
    """
    wanted = config.model.mpp
    if wanted is None:
        return None
    known = scale_of_image(config, path)
    if known is None:
        raise ConfigError(
            path,
            f"expected a known scale, since [model] mpp = {wanted}, got an image without one",
            "set [dataset] image_mpp: usual values are 0.5 (20x) and 0.25 (40x)",
        )
    return known, wanted


def scale_of_image(config: Config, path: Path) -> float | None:
    """Return the mpp of the file, else ``[dataset] image_mpp``; None if neither is given."""
    return image_mpp(path) or config.dataset.image_mpp


def mpp_range(config: Config) -> tuple[float, float] | None:
    """Return the lowest and the highest mpp of training, those made by augmentation included.

    Notes
    -----
    An image enlarged by 1.25 shows tissue as a scanner of ``mpp / 1.25`` would.
    """
    if config.model.mpp is None:
        return None
    factors = [1.0]
    if config.augments:
        factors += [*(config.augmentor.scales or ()), *config.augmentor.shrinks]
    return config.model.mpp / max(factors), config.model.mpp / min(factors)


def require_every_class(pairs: Sequence[Pair], config: Config, palette: Palette) -> np.ndarray:
    """Count the pixels of each class in training masks, at the masks' own resolution.

    Returns
    -------
    (K,) int64 ndarray
        All above 0.

    Raises
    ------
    InputError
        A class of ``[mask] rgb_map`` is in no training mask: it could not be learnt.
    """

    def count(one: Pair) -> np.ndarray:
        labels = read_labels(one, config, palette)
        return np.bincount(labels.ravel(), minlength=IGNORE + 1)[: palette.num_classes]

    each = map_files(count, pairs, lambda one: one.mask, threads=max(1, config.dataset.workers))
    counts = np.sum(each, axis=0)
    absent = [palette.classes[k] for k in np.flatnonzero(counts == 0)]
    if absent:
        names = ", ".join(f"{c.number} {c.name} {c.rgb}" for c in absent)
        raise InputError(
            config.folder("train", "masks_dir"),
            f"expected pixels of all {palette.num_classes} classes of [mask] rgb_map, got none of {names}",
            "remove the class from rgb_map, or add masks that hold it",
        )
    return np.asarray(counts)


def map_files(
    function: Callable[[_T], _R],
    items: Sequence[_T],
    path_of: Callable[[_T], Path],
    progress: Progress = SILENT,
    *,
    threads: int | None = None,
) -> list[_R]:
    """Apply a function that reads a file to each item, and name all unusable files at once.

    Parameters
    ----------
    function : callable
        Called in threads.
    items : sequence
    path_of : callable
        Returns the file of an item, for the error.
    progress : Progress
        Advanced by 1 for each item.
    threads : int, optional
        2 to 8, by the number of cores, by default.

    Returns
    -------
    list
        Results in the order of `items`.

    Raises
    ------
    InputError
        Of the only unusable file, or one that names all of them with their reasons.
    """

    def usable(item: _T) -> _R | InputError:
        try:
            return function(item)
        except Exception as error:
            return input_error(path_of(item), error)

    results: list[_R] = []
    errors: list[InputError] = []
    with ThreadPoolExecutor(threads or min(8, max(2, os.cpu_count() or 2))) as pool:
        try:
            for result in pool.map(usable, items):
                progress.advance()
                if isinstance(result, InputError):
                    errors.append(result)
                else:
                    results.append(result)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = [f"\n  {printable(error)}" for error in errors[:_MOST_REASONS]]
        more = len(errors) - _MOST_REASONS
        lines += [f"\n  and {more} more"] if more > 0 else []
        raise InputError(
            path_of(items[0]).parent,
            f"expected {len(items)} usable files, got {len(errors)} that are not:{''.join(lines)}",
        )
    return results


def input_error(path: Path, error: Exception) -> InputError:
    """Return an error that occurred on reading a file as an InputError; log an unforeseen one.

    Raises
    ------
    GlomtileError, MemoryError
        `error` itself, where the file is not at fault.
    """
    if isinstance(error, InputError):
        return error
    if isinstance(error, GlomtileError | MemoryError):
        raise error
    logging.getLogger("glomtile").error("%s", printable(path), exc_info=error)
    return InputError(path, f"expected a usable file, got {type(error).__name__}: {error}")
