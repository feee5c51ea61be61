"""Painted biopsies by the number that names them; a module of its own, so that processes can import it."""

from __future__ import annotations

from glomtile.datasets.pairing import Pair
from glomtile.synthetic import paint
from glomtile.training.samples import Sample

SIDE_PX = 768


def painted(pair: Pair) -> Sample:
    phantom = paint(int(pair.stem), (SIDE_PX, SIDE_PX), 1.0)
    return phantom.image, phantom.labels
