from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glomtile.errors import InputError
from glomtile.report.pictures import (
    LEAST_BYTES,
    Picture,
    ThumbnailBudget,
    crop_around,
    crop_picture,
    most_pictures,
    shares_of,
)
from glomtile.types import Box


def rough(side: int, seed: int = 0, strength: float = 60.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side, 3))
    return np.clip(170 + strength * cv2.GaussianBlur(noise, (0, 0), 1.5), 0, 255).astype(np.uint8)


def decoded(picture: Picture) -> Image.Image:
    kind, _, data = picture.source.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("strength", [5.0, 60.0, 400.0])
@pytest.mark.parametrize("count", [3, 40])
def test_an_album_keeps_below_its_size_whatever_is_in_the_pictures(strength, count):
    album = ThumbnailBudget(count * 30_000, shares_of(count))
    pictures = [album.add(rough(512, seed, strength)) for seed in range(count)]
    total = sum(len(picture.source) for picture in pictures)
    assert total <= 1.1 * count * 30_000
    assert all(decoded(picture).size == (picture.width, picture.height) for picture in pictures)


def test_the_first_pictures_are_larger():
    album = ThumbnailBudget(24 * 20_000, shares_of(24))
    widths = [album.add(rough(512, seed)).width for seed in range(24)]
    assert min(widths[:12]) > max(widths[12:])


def test_small_pictures_are_not_enlarged_and_their_room_goes_to_the_others():
    album = ThumbnailBudget(60_000, [1.0, 1.0])
    assert album.add(rough(32)).width == 32
    alone = ThumbnailBudget(30_000, [1.0]).add(rough(900, 1))
    assert album.add(rough(900, 1)).width > alone.width


def test_more_pictures_than_announced_are_refused():
    album = ThumbnailBudget(10_000, [1.0])
    album.add(rough(32))
    with pytest.raises(InputError, match="no more pictures than announced"):
        album.add(rough(32))


def test_a_page_holds_only_pictures_that_show_something():
    assert most_pictures(1_600_000) * LEAST_BYTES * 4 / 3 <= 1_600_000
    assert most_pictures(1) == 1


sizes = st.integers(1, 300)


@given(sizes, sizes, st.data())
def test_a_crop_lies_in_the_picture_and_holds_its_box(height, width, data):
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    crop = crop_around(box, (height, width))
    assert 0 <= crop.top <= box.top < box.bottom <= crop.bottom <= height
    assert 0 <= crop.left <= box.left < box.right <= crop.right <= width
    if crop.height < height and crop.width < width:
        assert crop.height == crop.width


def test_a_crop_shows_that_part_of_the_picture():
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:40, 60:80] = (250, 0, 0)
    picture = crop_picture(image, Box(20, 60, 40, 80), 50)
    assert (picture.width, picture.height) == (20, 20)
    assert decoded(picture).getpixel((10, 10)) == pytest.approx((250, 0, 0), abs=4)
