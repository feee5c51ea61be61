from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glomtile.report.shapes import mask_path, ring_path


def rings(path: str) -> list[np.ndarray]:
    found = []
    for part in filter(None, path.split("z")):
        x, y, rest = re.fullmatch(r"M(\d+) (\d+)(.*)", part).groups()
        points = [(int(x), int(y))]
        if rest.startswith("h"):
            width, height, _ = map(int, re.fullmatch(r"h(\d+)v(\d+)h-(\d+)", rest).groups())
            points += [(points[0][0] + width, points[0][1]), (points[0][0] + width, points[0][1] + height)]
            points.append((points[0][0], points[0][1] + height))
        else:
            steps = [int(number) for number in rest[1:].split()]
            for dx, dy in zip(steps[::2], steps[1::2], strict=True):
                points.append((points[-1][0] + dx, points[-1][1] + dy))
        found.append(np.array(points, np.int32))
    return found


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    plane = np.zeros(shape, np.uint8)
    for ring in rings(path):  # one by one: the even-odd rule
        own = np.zeros(shape, np.uint8)
        cv2.fillPoly(own, [ring], 1)
        plane ^= own
    return plane


def test_a_path_encloses_its_mask_holes_left_out():
    mask = np.zeros((120, 120), np.uint8)
    cv2.circle(mask, (60, 60), 50, 1, -1)
    cv2.circle(mask, (60, 60), 20, 0, -1)
    drawn = filled(mask_path(mask > 0, 0.5), mask.shape)
    assert np.count_nonzero(drawn != mask) < 0.06 * np.count_nonzero(mask)
    assert drawn[60, 60] == 0


@given(arrays(np.bool_, (9, 9), elements=st.booleans()))
def test_every_mask_has_a_path_inside_the_picture_and_only_the_empty_one_none(mask):
    path = mask_path(mask, 0.5)
    assert (path == "") == (not mask.any())
    for ring in rings(path):
        assert len(ring) > 2
        assert ring.min() >= 0
        assert ring.max() <= 9


def test_a_speck_is_drawn_as_its_pixels():
    mask = np.zeros((5, 5), bool)
    mask[2, 1:3] = True
    assert mask_path(mask, 0.5) == "M1 2h2v1h-2z"


@pytest.mark.parametrize("most", [2000, 300])
def test_a_mask_of_endless_detail_is_drawn_coarsely_and_its_largest_parts_first(most):
    mask = np.random.default_rng(0).random((200, 200)) > 0.7
    mask[20:60, 20:60] = True
    path = mask_path(mask, 0.5, most)
    assert 0 < len(path) <= most or len(rings(path)) == 1


def test_rings_of_a_slide_are_rounded_to_its_pixels():
    ring = np.array([[10.4, 20.6], [30.0, 20.6], [30.0, 41.2], [10.4, 20.6]])
    assert ring_path([ring]) == "M10 21l20 0 0 20 -20 -20z"
