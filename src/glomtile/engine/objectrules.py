"""How labels are to become objects, by the true objects that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from glomtile.config.card import ObjectSettings
from glomtile.config.schema import Config
from glomtile.core.objects import find_objects
from glomtile.core.palette import Palette
from glomtile.engine.sources import working_scale
from glomtile.files.masks import read_mask
from glomtile.files.pairs import Pair
from glomtile.types import IGNORE, UInt8

_MOST_MASKS = 200
_LEAST_OBJECTS = 5
_SMALL_SHARE, _OF_IT = 0.05, 0.25


def rules_of_truth(config: Config, pairs: Sequence[Pair], palette: Palette) -> ObjectSettings:
    """Object rules whose smallest area fits the training masks.

    Parameters
    ----------
    config : Config
    pairs : sequence of Pair
        Training pairs; of more than 200 every so many is looked at.
    palette : Palette

    Returns
    -------
    ObjectSettings
        Smallest area: a quarter of the area that 5 % of the whole true objects stay below, at most the
        default, which suits glomeruli cut by a border. The default where the model has no scale or fewer
        than five whole objects are seen.
    """
    if config.model.mpp is None:
        return ObjectSettings()
    step = -(-len(pairs) // _MOST_MASKS)
    areas = [area for pair in pairs[::step] for area in _whole_areas_um2(config, pair, palette)]
    if len(areas) < _LEAST_OBJECTS:
        return ObjectSettings()
    smallest = _OF_IT * float(np.quantile(areas, _SMALL_SHARE))
    return ObjectSettings(min_area_um2=round(min(smallest, ObjectSettings().min_area_um2), 2))


def _whole_areas_um2(config: Config, pair: Pair, palette: Palette) -> Iterator[float]:
    """Areas of the true objects that the picture's border does not cut."""
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
        for area_px, box in zip(found.areas_px, found.boxes, strict=True):
            if box.top > 0 and box.left > 0 and box.bottom < height and box.right < width:
                yield float(area_px) * scale[0] ** 2
