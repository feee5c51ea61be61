"""What a tissue map says of boxes, against looking at every cell."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glomtile.slides.tissue import TissueMap
from glomtile.types import Box


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.5, 7.3, 16.0]), st.data())
def test_near_tissue_is_what_the_cells_under_a_box_say(seed: int, zoom: float, data: st.DataObject) -> None:
    near = np.random.default_rng(seed).random((9, 12)) < 0.05
    height, width = int(9 * zoom), int(12 * zoom)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    rows = np.unique((np.arange(top, bottom) // zoom).astype(int).clip(0, 8))
    columns = np.unique((np.arange(left, right) // zoom).astype(int).clip(0, 11))
    seen = TissueMap(near, near, zoom, 16.0).near_tissue(Box(top, left, bottom, right))
    # A box's last pixel may reach into the cell behind its corner, which counts too: never fewer than these.
    assert seen or not near[np.ix_(rows, columns)].any()
    if seen:
        wider = near[rows[0] : rows[-1] + 2, columns[0] : columns[-1] + 2]
        assert wider.any()


def test_area_counts_tissue_and_not_its_margin() -> None:
    tissue = np.zeros((10, 10), np.bool_)
    tissue[2:4, 2:7] = True
    assert TissueMap(tissue, np.ones_like(tissue), 4.0, 100.0).area_mm2 == 10 * 0.01
