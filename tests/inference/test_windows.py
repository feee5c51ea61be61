"""A margin is the network's reach, or less where a picture has only its own mirror image to show."""

from __future__ import annotations

import pytest

from glomtile.inference.window_size import Settings, picture_margin


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [((256, 256), 64), ((896, 300), 64), ((897, 300), 112), ((300, 2000), 112)],
)
def test_a_picture_that_one_window_sees_whole_gets_less(size_px: tuple[int, int], expected: int) -> None:
    assert picture_margin(size_px, (1024, 112), Settings(), 16) == expected


def test_a_given_margin_is_kept() -> None:
    assert picture_margin((256, 256), (1024, 96), Settings(overlap_px=96), 16) == 96


def test_a_margin_is_whole_strides_and_never_more_than_the_networks_reach() -> None:
    assert picture_margin((256, 256), (1024, 256), Settings(), 128) == 128
    assert picture_margin((256, 256), (1024, 16), Settings(), 16) == 16
