"""Tests of images to labels: windows, sizes, scales and probabilities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from glomtile.config.load import make_config
from glomtile.errors import UsageError
from glomtile.inference.image import (
    TilingSettings,
    choose_class,
    enlarged_labels,
    image_margin,
    resized_probs,
    segment_image,
    segment_whole,
    tile_plan,
)
from glomtile.types import Predictor


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


def predictor(stride_px: int = 16, **facts: Any) -> Predictor:
    network = {"num_classes": 2, "stride_px": stride_px, "context_px": 0, "mpp": None, "local": True}
    return SimpleNamespace(**network | facts)  # type: ignore[return-value]


def largest(
    memory_mb: int, size_px: tuple[int, int], batch_size: int = 1, local: bool = True
) -> tuple[int, int]:
    settings = TilingSettings(window_px="auto", overlap_px=64, memory_mb=memory_mb, batch_size=batch_size)
    return tile_plan(size_px, predictor(bytes_per_px=1024.0, local=local), settings).window_px


@pytest.mark.parametrize(
    ("size_px", "stride_px", "settings", "window_px", "core_px"),
    [
        ((2048, 2048), 16, {"tile_px": 512, "overlap_px": 64}, (640, 640), (512, 512)),
        ((2048, 2048), 16, {"window_px": 512, "overlap_px": 64}, (512, 512), (384, 384)),
        ((1024, 1024), 128, {"tile_px": 512, "overlap_px": 64}, (768, 768), (512, 512)),
        ((40, 700), 16, {"tile_px": 512, "overlap_px": 64}, (176, 640), (48, 512)),
    ],
)
def test_windows_are_tiles_with_margins_no_larger_than_needed(
    size_px: tuple[int, int], stride_px: int, settings: dict[str, Any], window_px: object, core_px: object
) -> None:
    plan = tile_plan(size_px, predictor(stride_px), TilingSettings(**settings))
    assert (plan.window_px, plan.core_px) == (window_px, core_px)


@pytest.mark.parametrize(
    ("section", "window_px"), [({"split_size": 256, "overlapping": 32}, 320), ({"window": 256}, 256)]
)
def test_a_config_gives_tiling_settings(section: dict[str, int], window_px: int) -> None:
    config = make_config({"model": {"num_classes": 2}, "tiledinfer": section})
    assert (
        tile_plan((2048, 2048), predictor(), TilingSettings.of_config(config)).window_px == (window_px,) * 2
    )


def test_the_grid_moves_by_whole_strides() -> None:
    settings = TilingSettings(window_px=128, overlap_px=16)
    plan = tile_plan((300, 300), predictor(), settings, offset_px=(50, -1))
    assert [axis.offset_px for axis in (plan.rows, plan.columns)] == [48, -16]


def test_an_automatic_window_needs_a_known_memory_per_pixel() -> None:
    with pytest.raises(UsageError, match="known memory per pixel, got SimpleNamespace"):
        tile_plan((300, 200), predictor(), TilingSettings(window_px="auto"))


def test_the_largest_window_is_the_image_and_its_margins_if_memory_allows() -> None:
    assert largest(10_000, (1000, 500)) == (1136, 640)


def test_the_largest_window_fits_the_memory_and_the_next_would_not() -> None:
    height, width = largest(512, (20_000, 20_000))
    strip = 2 * 4 * 20_000 * 2
    assert height == width
    assert height % 16 == 0
    assert height * width * 1024 + height * strip <= 512 * 2**20
    assert (height + 16) * (width + 16) * 1024 + (height + 16) * strip > 512 * 2**20
    assert largest(512, (20_000, 20_000), batch_size=4)[0] < 0.6 * height


def test_too_little_memory_is_refused_with_the_least_that_suffices() -> None:
    words = r"expected at least (\d+) MiB for a window of 144 px, got 4 MiB"
    with pytest.raises(UsageError, match=words) as error:
        largest(4, (2000, 2000))
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
    assert largest(least, (2000, 2000)) == (144, 144)


def test_a_network_that_normalises_over_the_window_gets_no_automatic_window() -> None:
    with pytest.raises(UsageError, match="normalises over the whole window"):
        largest(512, (2000, 2000), local=False)


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [((256, 256), 64), ((896, 300), 64), ((897, 300), 112), ((300, 2000), 112)],
)
def test_an_image_in_one_window_has_a_smaller_margin(size_px: tuple[int, int], expected: int) -> None:
    assert image_margin(size_px, (1024, 112), TilingSettings(), 16) == expected


def test_a_margin_is_kept_if_given_and_never_exceeds_the_context() -> None:
    assert image_margin((256, 256), (1024, 96), TilingSettings(overlap_px=96), 16) == 96
    assert image_margin((256, 256), (1024, 256), TilingSettings(), 128) == 128
    assert image_margin((256, 256), (1024, 16), TilingSettings(), 16) == 16
