"""Torn samples: glass on one side, untouched tissue on the other, labels that went with the tissue."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.synthetic import paint
from glomtile.training.augmentation import Augmentation, augment, tear
from glomtile.types import IGNORE


def tissue(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Dark noise: nothing in it passes for glass."""
    return np.random.default_rng(seed).integers(20, 180, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 120), width=st.integers(1, 120))
def test_labels_go_with_the_tissue_and_what_is_far_from_the_edge_stays(
    seed: int, height: int, width: int
) -> None:
    image = tissue(height, width, seed)
    labels = np.full((height, width), 3, np.uint8)
    labels[: height // 3] = IGNORE
    before = image.copy(), labels.copy()
    torn, truth = tear(image, labels, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])
    assert torn.shape == image.shape
    assert torn.dtype == truth.dtype == np.uint8
    np.testing.assert_array_equal(truth == IGNORE, labels == IGNORE)
    assert set(np.unique(truth)) <= {0, 3, IGNORE}
    # Where labels are known they tell what is lost; some pixels from the edge nothing is mixed any more.
    known = np.s_[height // 3 :]
    lost = (truth[known] == 0).astype(np.uint8)
    near = np.ones((9, 9), np.uint8)
    kept = cv2.dilate(lost, near) == 0
    kept[:4] = False  # lost pixels above them are not told
    np.testing.assert_array_equal(torn[known][kept], image[known][kept])
    glass = torn[known][cv2.erode(lost, near, borderValue=0) == 1]
    if len(glass):
        assert (glass == glass[0]).all()
        assert glass[0].min() >= 225


def test_between_a_tenth_and_a_half_is_lost_in_every_direction() -> None:
    image, labels = tissue(96, 96), np.ones((96, 96), np.uint8)
    shares, middles = [], []
    for seed in range(200):
        lost = tear(image, labels, np.random.default_rng(seed))[1] == 0
        shares.append(lost.mean())
        middles.append(np.argwhere(lost).mean(axis=0) - 47.5)
    assert min(shares) == pytest.approx(0.1, abs=0.02)
    assert max(shares) == pytest.approx(0.5, abs=0.02)
    down, right = np.array(middles).T
    for axis in (down, right):
        assert 0.3 < (axis > 0).mean() < 0.7
    assert np.hypot(down, right).min() > 10  # one side, not speckles everywhere


def test_glass_has_the_sample_s_own_colour_where_it_shows_any() -> None:
    image, labels = tissue(64, 64), np.ones((64, 64), np.uint8)
    image[:8] = (244, 236, 240)
    seen = 0
    for seed in range(20):
        torn, truth = tear(image, labels, np.random.default_rng(seed))
        deep = cv2.erode((truth == 0).astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) == 1
        seen += np.count_nonzero(deep)
        assert (torn[deep] == (244, 236, 240)).all()
    assert seen > 2000


def test_only_the_share_that_was_asked_for_is_torn_and_recoloured_afterwards() -> None:
    scene = paint(5, (96, 96), 2.0)
    labels = np.ones((96, 96), np.uint8)

    def torn(share: float, **more: float) -> list[bool]:
        on = Augmentation(tears=share, **more)  # type: ignore[arg-type]
        return [
            bool((augment(scene.image, labels, rng=np.random.default_rng(seed), settings=on)[1] == 0).any())
            for seed in range(200)
        ]

    assert not any(torn(0.0, stain=1.0))
    assert all(torn(1.0))
    assert 0.3 < np.mean(torn(0.4)) < 0.5
    dark = Augmentation(tears=1.0, stain=1.0)
    colours = set()
    for seed in range(10):
        image, truth = augment(scene.image, labels, rng=np.random.default_rng(seed), settings=dark)
        deep = cv2.erode((truth == 0).astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) == 1
        colours.add(tuple(np.median(image[deep], axis=0)))
    assert len(colours) > 5  # glass takes a tinge with the stain, as the camera's white balance does
