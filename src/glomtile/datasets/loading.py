"""Loading of image and mask pairs at a given resolution."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from glomtile.config.schema import Config
from glomtile.datasets.pairing import Pair, pair, whole_pairs
from glomtile.errors import ConfigError, InputError
from glomtile.io.images import image_mpp, read_image, resize_to_mpp
from glomtile.io.masks import read_mask, resize_labels
from glomtile.palette import Palette
from glomtile.types import IGNORE, UInt8


def sample_size(config: Config) -> tuple[int, int]:
    """Height and width of a training sample, in working pixels."""
    return config.model.image_height, config.model.image_width


def split_pairs(config: Config, split: str) -> list[Pair]:
    """The pairs of a split: for crops the whole images its tiles were cut from, where that is on record."""
    images, masks = config.folder(split, "images_dir"), config.folder(split, "masks_dir")
    if config.dataset.sampling == "crops":
        whole = whole_pairs(images, masks)
        if whole is not None:
            return whole
    return pair(images, masks, mask_suffix_of(config))


def mask_suffix_of(config: Config) -> str | None:
    """The suffix that masks must have, where the config names one."""
    return config.mask.mask_file_format if config.mask.given("mask_file_format") else None


def read_pair(pair: Pair, config: Config, palette: Palette) -> tuple[UInt8, UInt8]:
    """A pair at the model's scale, channels in the config's order."""
    image = read_for(config, pair.image)
    labels = read_mask(
        pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance
    )
    if labels.shape != image.shape[:2]:
        labels = resize_labels(labels, image.shape[:2])
    return image, labels


def read_for(config: Config, path: Path) -> np.ndarray:
    """An image at the model's scale, channels in the config's order."""
    image = read_image(path)
    scale = working_scale(config, path)
    if scale is not None:
        image = resize_to_mpp(image, *scale)
    return image[..., ::-1] if config.image.color_order == "BGR" else image


def working_scale(config: Config, path: Path) -> tuple[float, float] | None:
    """``(mpp of the file, mpp of the model)``; ``None`` when the model has no scale of its own.

    Raises
    ------
    ConfigError
        When the model has a scale and the picture's is unknown.
    """
    wanted = config.model.mpp
    if wanted is None:
        return None
    known = scale_of_picture(config, path)
    if known is None:
        raise ConfigError(
            path,
            f"expected a known scale, since [model] mpp = {wanted}, got a picture without one",
            "set [dataset] image_mpp: usual values are 0.5 (20x) and 0.25 (40x)",
        )
    return known, wanted


def scale_of_picture(config: Config, path: Path) -> float | None:
    """Micrometres per pixel as the file says, else as ``[dataset] image_mpp`` does; ``None`` if neither."""
    return image_mpp(path) or config.dataset.image_mpp


def mpp_range(config: Config) -> tuple[float, float] | None:
    """The scales the network meets in training, those made by augmentation included.

    A picture enlarged by 1.25 shows tissue as a scanner of ``mpp / 1.25`` would.
    """
    if config.model.mpp is None:
        return None
    factors = [1.0]
    if config.augments:
        factors += [*(config.augmentor.scales or ()), *config.augmentor.shrinks]
    return config.model.mpp / max(factors), config.model.mpp / min(factors)


def class_counts(pairs: Sequence[Pair], config: Config, palette: Palette) -> np.ndarray:
    """Pixels of each class in all masks, at the masks' own resolution: ``(K,) int64``."""

    def count(one: Pair) -> np.ndarray:
        labels = read_mask(
            one.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance
        )
        return np.bincount(labels.ravel(), minlength=IGNORE + 1)[: palette.num_classes]

    with ThreadPoolExecutor(max(1, config.dataset.workers)) as pool:
        return np.asarray(np.sum(list(pool.map(count, pairs)), axis=0))


def require_every_class(pairs: Sequence[Pair], config: Config, palette: Palette) -> np.ndarray:
    """The class counts of training masks, all above 0.

    Raises
    ------
    InputError
        When a class of ``[mask] rgb_map`` is in no training mask: it could not be learnt.
    """
    counts = class_counts(pairs, config, palette)
    absent = [palette.classes[k] for k in np.flatnonzero(counts == 0)]
    if absent:
        names = ", ".join(f"{c.number} {c.name} {c.rgb}" for c in absent)
        raise InputError(
            config.folder("train", "masks_dir"),
            f"expected pixels of all {palette.num_classes} classes of [mask] rgb_map, found none of {names}",
            "take the class out of rgb_map, or add masks that show it",
        )
    return counts
