"""Tests of images to labels: sizes, scales and probabilities."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from glomtile.inference.image import (
    TilingSettings,
    choose_class,
    enlarged_labels,
    resized_probs,
    segment_image,
    segment_whole,
    tile_plan,
)


class Red:
    """p(class 1) = red / 255; remembers what it was shown."""

    num_classes, context_px = 2, 0

    def __init__(self, mpp=None, stride_px=1):
        self.mpp, self.stride_px = mpp, stride_px
        self.seen = []

    def __call__(self, batch):
        self.seen.append(batch)
        p = batch[..., 0].astype(np.float32) / 255
        return np.stack([1 - p, p], axis=-1)


class Measured(Red):
    bytes_per_px, local = 512.0, True


def disc(size, diameter, red=(255, 0, 0)):
    image = np.full((size, size, 3), 20, np.uint8)
    cv2.circle(image, (size // 2, size // 2), diameter // 2, red, -1)
    return image


def test_labels_and_probabilities_have_the_pictures_size():
    image = disc(100, 50)
    network = Red()
    result = segment_image(image, network, TilingSettings(tile_px=32, overlap_px=8), keep_probs=True)
    assert (result.labels == (image[..., 0] > 127)).all()
    assert result.probs.shape == (100, 100, 2)
    assert {batch.shape for batch in network.seen} == {(1, 48, 48, 3)}
    assert segment_image(image, network).probs is None


def test_reference_fault_6_2_the_network_sees_tissue_at_its_own_scale_only():
    network = Red(mpp=1.0)
    image = disc(200, 100)
    same = segment_image(image, network, TilingSettings(tile_px=64, overlap_px=16), image_mpp=1.0)
    assert same.labels.sum() == (image[..., 0] > 127).sum()
    assert {batch.shape[1:3] for batch in network.seen} == {(96, 96)}
    # Every window is a cut of the mirrored picture, pixel by pixel, the outer ones too.
    mirrored = np.pad(image, ((96, 96), (96, 96), (0, 0)), mode="reflect")
    for window, batch in zip(
        tile_plan((200, 200), network, TilingSettings(tile_px=64, overlap_px=16)), network.seen, strict=True
    ):
        top, left = window.read.top + 96, window.read.left + 96
        assert (batch[0] == mirrored[top : top + 96, left : left + 96]).all()


def test_a_picture_of_another_scale_is_brought_to_the_networks_and_its_mask_back():
    network = Red(mpp=1.0)
    image = disc(200, 100)
    result = segment_image(
        image, network, TilingSettings(tile_px=512, overlap_px=0), image_mpp=0.5, keep_probs=True
    )
    assert result.probs.shape == (100, 100, 2)
    assert (network.seen[0][0, :100, :100, 0] > 127).sum() == pytest.approx(np.pi * 25**2, rel=0.03)
    assert result.labels.shape == (200, 200)
    assert (result.labels != (image[..., 0] > 127)).mean() < 0.01


@pytest.mark.parametrize(("model_mpp", "image_mpp"), [(None, 0.5), (0.5, None), (None, None)])
def test_without_both_scales_the_picture_is_seen_as_it_is(model_mpp, image_mpp):
    network = Red(mpp=model_mpp)
    result = segment_image(
        disc(60, 30), network, TilingSettings(tile_px=64, overlap_px=0), image_mpp, keep_probs=True
    )
    assert result.probs.shape == (60, 60, 2)


def test_a_whole_picture_is_seen_once_at_the_networks_input_size():
    network = Red()
    image = disc(300, 150)
    labels = segment_whole(image, network, (128, 96))
    assert [batch.shape for batch in network.seen] == [(1, 128, 96, 3)]
    assert labels.shape == (300, 300)
    assert (labels != (image[..., 0] > 127)).mean() < 0.01


@pytest.mark.parametrize("new", [(37, 80), (80, 37), (600, 70), (1, 1), (9, 300)])
@pytest.mark.parametrize("old", [(20, 31), (1, 7), (50, 1)])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_enlarged_labels_agree_with_opencvs_linear_interpolation(classes, old, new):
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(classes), old).astype(np.float32)
    planes = [cv2.resize(probs[..., k], new[::-1], interpolation=cv2.INTER_LINEAR) for k in range(classes)]
    first, second = np.sort(np.stack(planes, axis=-1), axis=-1)[..., ::-1].transpose(2, 0, 1)[:2]
    clear = first - second > 1e-4
    expected = np.stack(planes, axis=-1).argmax(axis=-1)
    labels = enlarged_labels(probs, new)
    assert labels.shape == new
    assert (labels == expected)[clear].all()


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_probabilities_at_another_size_are_means_of_their_neighbours_and_bands_do_not_show(classes):
    """Against SciPy, by pixel centres; more rows than a band holds."""
    old, new = (90, 70), (611, 233)
    probs = np.random.default_rng(5).random((*old, classes), np.float32)
    found = np.concatenate([rows for _, rows in resized_probs(probs, new)])
    assert found.dtype == np.float32
    places = [(np.arange(n) + 0.5) * o / n - 0.5 for n, o in zip(new, old, strict=True)]
    at = np.meshgrid(*places, indexing="ij")
    for number in range(classes):
        expected = map_coordinates(probs[..., number].astype(float), at, order=1, mode="nearest")
        np.testing.assert_allclose(found[..., number], expected, atol=2e-5)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_chosen_class_is_the_most_probable_and_of_equals_the_lower(classes):
    probs = np.random.default_rng(0).integers(0, 3, (20, 20, classes)).astype(np.float32)
    assert (choose_class(probs) == probs.argmax(axis=-1)).all()
    assert choose_class(probs).dtype == np.uint8
