import numpy as np
import pytest

from glomtile.datasets.prepare import tile_boxes
from glomtile.errors import ArgumentError


def test_a_border_that_does_not_exist_is_refused():
    with pytest.raises(ArgumentError, match="border: expected one of reflect, even, got 'evn'"):
        next(tile_boxes((5, 5), 4, "evn"))


@pytest.mark.parametrize("size_px", [(1, 1), (64, 64), (65, 200), (70, 90), (5, 300)])
@pytest.mark.parametrize("border", ["reflect", "even"])
def test_tiles_cover_every_pixel_and_even_ones_stay_inside(size_px, border):
    covered = np.zeros(size_px, int)
    for box in tile_boxes(size_px, 64, border):
        assert (box.height, box.width) == (64, 64)
        assert box.top >= 0
        assert box.left >= 0
        if border == "even":
            assert box.bottom <= max(64, size_px[0])
            assert box.right <= max(64, size_px[1])
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert covered.min() >= 1
    assert border == "even" or covered.max() == 1
