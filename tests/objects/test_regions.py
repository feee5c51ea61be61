"""The regions of a picture are the same however it is cut into bands."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label, regionprops

from glomtile.errors import InputError
from glomtile.objects.regions import Region, Regions, own_pixels, regions_in_order
from glomtile.types import IGNORE, Box

sizes = st.tuples(st.integers(1, 16), st.integers(1, 12))
pictures = sizes.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 2)))


def found(labels: np.ndarray, cuts: list[int], num_classes: int = 3) -> list[Region]:
    regions = Regions(labels.shape[1], num_classes)
    edges = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    out: list[Region] = []
    for top, bottom in itertools.pairwise(edges):
        given_back = regions.add(labels[top:bottom])
        assert given_back == sorted(given_back, key=lambda region: region.seed)
        assert all(region.box.bottom < bottom for region in given_back)
        out += given_back
    return out + regions.finish()


def by_scikit_image(labels: np.ndarray, num_classes: int = 3) -> set[Region]:
    out = set()
    for class_number in range(1, num_classes):
        for region in regionprops(label(labels == class_number, connectivity=2)):
            first = min(map(tuple, region.coords.tolist()))
            out.add(Region(class_number, Box(*region.bbox), int(region.area), first))
    return out


@given(pictures, st.lists(st.integers(0, 16), max_size=6))
@settings(max_examples=300)
def test_any_cutting_into_bands_gives_the_regions_of_the_whole(labels, cuts):
    regions = found(labels, cuts)
    assert len(regions) == len(set(regions))
    assert set(regions) == by_scikit_image(labels)


@given(st.integers(0, 1000), st.floats(0.2, 0.8), st.lists(st.integers(0, 90), max_size=8))
@settings(max_examples=40)
def test_spirals_of_noise_are_joined_over_many_bands(seed, share, cuts):
    labels = (np.random.default_rng(seed).random((90, 70)) < share).astype(np.uint8)
    assert set(found(labels, cuts, 2)) == by_scikit_image(labels, 2)


def test_a_region_is_given_as_soon_as_it_cannot_grow():
    regions = Regions(4, 2)
    dot = np.zeros((2, 4), np.uint8)
    dot[1, 1] = 1
    assert regions.add(dot) == []
    assert regions.add(np.zeros((1, 4), np.uint8)) == [Region(1, Box(1, 1, 2, 2), 1, (1, 1))]
    assert regions.finish() == []


def test_the_arms_of_a_u_are_one_region_with_the_earlier_seed():
    labels = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    assert found(labels, [1, 2]) == [Region(1, Box(0, 0, 3, 3), 6, (0, 2))]


def test_background_and_ignored_pixels_are_no_region():
    labels = np.array([[0, IGNORE, 3]], np.uint8)
    assert found(labels, []) == []


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 4, 3)])
def test_a_band_of_another_width_is_refused(shape):
    with pytest.raises(InputError, match="expected a band"):
        Regions(4, 2).add(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(("width", "classes"), [(0, 2), (4, 0)])
def test_a_picture_without_columns_or_classes_is_refused(width, classes):
    with pytest.raises(InputError, match="at least 1"):
        Regions(width, classes)


@given(pictures, st.integers(1, 7))
@settings(max_examples=200)
def test_own_pixels_are_those_that_hang_on_the_seed(labels, step):
    for region in found(labels, []):
        box = labels[region.box.top : region.box.bottom, region.box.left : region.box.right]
        ids = label(box == region.class_number, connectivity=2)
        expected = ids == ids[0, region.seed[1] - region.box.left]
        bands = list(
            own_pixels(lambda b=box: (b[top : top + step] for top in range(0, len(b), step)), region)
        )
        np.testing.assert_array_equal(np.concatenate([own for _, own in bands]), expected)
        assert [top for top, _ in bands] == list(range(0, len(box), step))


@given(pictures, st.integers(1, 9))
def test_in_order_the_regions_are_those_of_the_whole_picture(picture: np.ndarray, rows: int) -> None:
    bands = (picture[top : top + rows] for top in range(0, len(picture), rows))
    in_order = list(regions_in_order(bands, picture.shape[1], 3))
    whole = Regions(picture.shape[1], 3)
    assert in_order == sorted([*whole.add(picture), *whole.finish()], key=lambda region: region.seed)


def test_a_region_is_given_as_soon_as_no_earlier_one_can_grow() -> None:
    picture = np.zeros((40, 9), np.uint8)
    picture[1:3, 1:3] = picture[5:30, 5] = picture[8:10, 1:3] = 1
    taken: list[int] = []

    def bands() -> Iterator[np.ndarray]:
        for top in range(0, 40, 4):
            taken.append(top)
            yield picture[top : top + 4]

    given_at = [(region.seed, taken[-1]) for region in regions_in_order(bands(), 9, 2)]
    # The third ends in the band of row 8, and waits for the second, whose first pixel is earlier.
    assert given_at == [((1, 1), 0), ((5, 5), 28), ((8, 1), 28)]
