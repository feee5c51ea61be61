import numpy as np
import pytest

from glomtile.datasets.image_statistics import class_pixels, object_sizes, stain_of


def test_objects_are_counted_by_class_and_border():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:8, 5:9] = 1
    labels[0:2, 10:12] = 1
    labels[12:15, 12:15] = 2
    labels[15, 15] = 2  # touches at a corner: one object
    found = [(size.number, size.area_px, size.cut) for size in object_sizes(labels, 3)]
    assert sorted(found) == [(1, 4, True), (1, 12, False), (2, 10, False)]
    assert class_pixels(labels, 4) == [400 - 26, 16, 10, 0]


def test_glass_is_no_tissue():
    image = np.full((40, 40, 3), 250, np.uint8)
    image[:, :10] = (200, 100, 150)
    stain = stain_of(image)
    assert stain.rgb == (200, 100, 150)
    assert stain.glass == pytest.approx(0.75)
    assert stain.brightness == pytest.approx(150)
    assert stain.saturation == pytest.approx(0.5)


def test_a_picture_of_glass_or_black_has_a_colour_too():
    assert stain_of(np.full((3, 3, 3), 255, np.uint8)).rgb == (255, 255, 255)
    assert stain_of(np.zeros((1, 1, 3), np.uint8)).saturation == 1.0
