"""How labels are to become objects, by the true objects that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from glomtile.config.card import ObjectSettings
from glomtile.config.schema import Config
from glomtile.core.objects import find_objects
from glomtile.core.palette import Palette
from glomtile.core.shaping import convex_hull
from glomtile.engine.sources import working_scale
from glomtile.files.masks import read_mask
from glomtile.files.pairs import Pair
from glomtile.types import IGNORE, UInt8

_MOST_MASKS = 200
_LEAST_OBJECTS = 5
_SMALL_SHARE, _OF_IT = 0.05, 0.25
_CONVEX_FROM = 0.95


def rules_of_truth(config: Config, pairs: Sequence[Pair], palette: Palette) -> ObjectSettings:
    """Object rules that fit the training masks: the smallest area, and whether outlines are convex.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 200 every so many is looked at.
    palette : Palette

    Returns
    -------
    ObjectSettings
        Of the true objects that no border cuts. Smallest area: a quarter of the area that 5 % of them stay
        below, at most the default, which suits glomeruli cut by a border. Convex: half of them fill at least
        0.95 of their convex hulls. The defaults where the model has no scale or fewer than five are seen.
    """
    if config.model.mpp is None:
        return ObjectSettings()
    step = -(-len(pairs) // _MOST_MASKS)
    whole = [true for pair in pairs[::step] for true in _whole_objects(config, pair, palette)]
    if len(whole) < _LEAST_OBJECTS:
        return ObjectSettings()
    areas, fullness = zip(*whole, strict=True)
    smallest = _OF_IT * float(np.quantile(areas, _SMALL_SHARE))
    return ObjectSettings(
        min_area_um2=round(min(smallest, ObjectSettings().min_area_um2), 2),
        convex=float(np.median(fullness)) >= _CONVEX_FROM,
    )


def _whole_objects(config: Config, pair: Pair, palette: Palette) -> Iterator[tuple[float, float]]:
    """Area (µm²) of each true object that the picture's border does not cut, and its share of its hull."""
    scale = working_scale(config, pair.image)
    assert scale is not None
    labels: UInt8 = read_mask(
        pair.mask, palette, datatype=config.mask.mask_datatype, tolerance=config.mask.tolerance
    )
    height, width = labels.shape
    for number in np.unique(labels):
        if number in (0, IGNORE):
            continue
        found = find_objects(labels == number)
        for i, (area_px, box) in enumerate(zip(found.areas_px, found.boxes, strict=True), start=1):
            if box.top > 0 and box.left > 0 and box.bottom < height and box.right < width:
                hull = convex_hull(found.ids[box.top : box.bottom, box.left : box.right] == i)
                yield float(area_px) * scale[0] ** 2, float(area_px) / int(np.count_nonzero(hull))
