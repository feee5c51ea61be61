"""What a model remembers of how the images looked that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glomtile.config.card import FamiliarAspect, FamiliarTissue
from glomtile.config.schema import Config
from glomtile.core.augment import augment
from glomtile.core.doubt import EDITION, appearance, familiar_of
from glomtile.core.tissuemap import TissueMap
from glomtile.engine.doubts import sampled_boxes
from glomtile.engine.sources import augmentation_of, read_for
from glomtile.files.pairs import Pair
from glomtile.files.planes import crop
from glomtile.types import UInt8

_MOST_IMAGES, _MOST_SAMPLES, _MOST_DRAWS = 64, 128, 6
_SEED = 4


def familiar_tissue(config: Config, pairs: Sequence[Pair]) -> FamiliarTissue | None:
    """How the training images look, and the changes of them that augmentation makes.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 64 every so many is looked at.

    Returns
    -------
    FamiliarTissue or None
        ``None`` where fewer than 4 images have tissue.

    Notes
    -----
    What augmentation does belongs to what the network has seen: it need not doubt a dye that it was taught.
    """
    chosen = pairs[:: -(-len(pairs) // _MOST_IMAGES)]
    draws = min(_MOST_DRAWS, max(1, _MOST_SAMPLES // len(chosen) - 1)) if config.augments else 0
    appearances, owners = [], []
    for number, pair in enumerate(chosen):
        image = read_for(config, pair.image)
        windows = _windows(image if config.image.color_order == "RGB" else image[..., ::-1])
        for draw in range(draws + 1):
            seen = appearance(_changed(window, config, number, draw) for window in windows)
            if seen is not None:
                appearances.append(seen)
                owners.append(number)
    found = familiar_of(appearances, owners)
    if found is None:
        return None
    aspects = {name: FamiliarAspect(**vars(one)) for name, one in found.items()}
    return FamiliarTissue(edition=EDITION, images=len(set(owners)), aspects=aspects)


def _windows(image: UInt8) -> list[UInt8]:
    """A training image as `sampled_boxes` would look at it, were it all tissue."""
    size = (image.shape[0], image.shape[1])
    everything = np.ones((1, 1), np.bool_)
    whole = TissueMap(everything, everything, max(size), 1.0)
    return [crop(image, box) for box in sampled_boxes(size, whole)]


def _changed(window: UInt8, config: Config, number: int, draw: int) -> UInt8:
    """A window as it is, then as training changes it; windows of one image all in the same way."""
    if draw == 0:
        return window
    rng = np.random.default_rng([config.train.seed, _SEED, number, draw])
    return augment(window, np.zeros(window.shape[:2], np.uint8), rng=rng, settings=augmentation_of(config))[0]
