"""What a model remembers of how the images looked that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from glomtile.config.card import FamiliarAspect, FamiliarScale, FamiliarTissue
from glomtile.config.schema import Config
from glomtile.core.augment import Augmentation, augment
from glomtile.core.doubt import EDITION, appearance, familiar_of, ruler_of
from glomtile.core.tissuemap import TissueMap
from glomtile.engine.doubts import sampled_boxes
from glomtile.engine.sources import augmentation_of, mpp_range, working_scale
from glomtile.files.images import read_image
from glomtile.files.pairs import Pair
from glomtile.files.planes import crop
from glomtile.files.scale import resize_to_mpp, size_at_mpp
from glomtile.types import Box, UInt8

_MOST_IMAGES, _MOST_SAMPLES, _MOST_DRAWS = 48, 128, 6
_ENLARGEMENTS = (0.5, 0.7, 1.0, 1.4, 2.0)
_BLURS_PX = (0.0, 0.75)
_SEED = 4


def familiar_tissue(config: Config, pairs: Sequence[Pair]) -> FamiliarTissue | None:
    """How the training images look, and the changes of them that augmentation makes.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 48 every so many is looked at.

    Returns
    -------
    FamiliarTissue or None
        ``None`` where fewer than 4 images have tissue.

    Notes
    -----
    What augmentation does belongs to what the network has seen: it need not doubt a dye that it was taught.
    How tissue looks that is drawn larger is learned only from files finer than the model's scale: enlarging
    coarse ones would show blur, not detail.
    """
    chosen = pairs[:: -(-len(pairs) // _MOST_IMAGES)]
    seen, seen_in, scaled, scaled_in, octaves = [], [], [], [], []
    for number, pair in enumerate(chosen):
        image, (known, wanted) = read_image(pair.image), working_scale(config, pair.image) or (1.0, 1.0)
        windows = list(_windows(image, known, wanted))
        for settings, seed in _changes(config, len(chosen), number):
            found = appearance(_changed(window, settings, seed) for window in windows)
            if found is not None:
                seen.append(found)
                seen_in.append(number)
        for factor in _ENLARGEMENTS:
            if factor > 1 and wanted / factor < known:
                continue
            windows = list(_windows(image, known, wanted / factor))
            for blur in _BLURS_PX:
                found = appearance(_blurred(window, blur) for window in windows)
                if found is not None:
                    scaled.append(found)
                    scaled_in.append(number)
                    octaves.append(math.log2(factor))
    aspects = familiar_of(seen, seen_in)
    ruler = ruler_of(scaled, scaled_in, octaves, _taught_octaves(config))
    if aspects is None or ruler is None:
        return None
    records = {name: FamiliarAspect(**vars(one)) for name, one in aspects.items()}
    images = len(set(seen_in))
    return FamiliarTissue(edition=EDITION, images=images, scale=FamiliarScale(**vars(ruler)), **records)


def _windows(image: UInt8, known_mpp: float, wanted_mpp: float) -> Iterator[UInt8]:
    """A training image at a scale, as segmenting would look at it, were it all tissue."""
    size = size_at_mpp((image.shape[0], image.shape[1]), known_mpp, wanted_mpp)
    everything = np.ones((1, 1), np.bool_)
    zoom = wanted_mpp / known_mpp
    for box in sampled_boxes(size, TissueMap(everything, everything, max(size), 1.0)):
        part = crop(image, Box(*(round(at * zoom) for at in box)))
        yield resize_to_mpp(part, known_mpp, wanted_mpp)


def _changes(
    config: Config, images: int, number: int
) -> Iterator[tuple[Augmentation | None, tuple[int, ...]]]:
    """Image `number` as it is, then as training changes it."""
    yield None, ()
    if config.augments:
        settings = augmentation_of(config)
        for draw in range(min(_MOST_DRAWS, max(1, _MOST_SAMPLES // images - 1))):
            yield settings, (config.train.seed, _SEED, number, draw)


def _changed(window: UInt8, settings: Augmentation | None, seed: tuple[int, ...]) -> UInt8:
    """A window changed as its seed says, so that windows of one image are changed alike."""
    if settings is None:
        return window
    unlabelled = np.zeros(window.shape[:2], np.uint8)
    return augment(window, unlabelled, rng=np.random.default_rng(seed), settings=settings)[0]


def _blurred(window: UInt8, sigma_px: float) -> UInt8:
    if not sigma_px:
        return window
    return np.asarray(cv2.GaussianBlur(window, (0, 0), sigma_px), np.uint8)


def _taught_octaves(config: Config) -> tuple[float, float]:
    """Least and most enlarged that tissue was shown in training."""
    scales = mpp_range(config)
    if scales is None or config.model.mpp is None:
        return 0.0, 0.0
    return math.log2(config.model.mpp / scales[1]), math.log2(config.model.mpp / scales[0])
