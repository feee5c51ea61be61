"""Geometry composed into one map: checked against NumPy, SciPy and the closed form of each part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from glomtile.training.augmentation import Lens, Warp, affine, enlarge, resample, smooth_field


def smooth_picture(size: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (size, size, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    return np.clip((smooth - 127) * 8 + 127, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90, 450])
@pytest.mark.parametrize("size", [(20, 20), (21, 21), (20, 24), (15, 21)])
def test_flips_and_quarter_turns_move_whole_pixels(
    hflip: bool, vflip: bool, angle: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 61, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (60, 61), dtype=np.uint8)
    warp = Warp(affine(hflip=hflip, vflip=vflip, angle_deg=angle))
    shown, truth = resample(image, labels, warp, (22, 18), size)
    height, width = size
    if angle % 180:  # a turned window covers a region as wide as it is high
        top, left = 22 + (height - width) // 2, 18 + (width - height) // 2
        height, width = width, height
    else:
        top, left = 22, 18

    def expected(plane: np.ndarray) -> np.ndarray:
        cut = np.rot90(plane[top : top + height, left : left + width], angle // 90)
        return cut[:: -1 if vflip else 1, :: -1 if hflip else 1]

    assert np.array_equal(shown, expected(image))
    assert np.array_equal(truth, expected(labels))


@given(
    angle=st.floats(0, 360),
    scale=st.floats(0.6, 1.8),
    shear=st.floats(-0.3, 0.3),
    corner=st.tuples(st.integers(-60, 130), st.integers(-60, 130)),
)
@settings(max_examples=25, deadline=None)
def test_any_affine_map_agrees_with_scipy_to_the_mirrored_pixel(
    angle: float, scale: float, shear: float, corner: tuple[int, int]
) -> None:
    image = smooth_picture(110)
    labels = (image[:, :, 0] > 127).astype(np.uint8)
    matrix = affine(angle_deg=angle, scale=scale, shear=shear)
    shown, truth = resample(image, labels, Warp(matrix), corner, (48, 40))
    middle = np.array([corner[0] + 23.5, corner[1] + 19.5])
    offset = middle - matrix @ np.array([23.5, 19.5])
    for channel in range(3):
        oracle = ndimage.affine_transform(
            image[:, :, channel].astype(float), matrix, offset, (48, 40), order=1, mode="mirror"
        )
        assert np.abs(shown[:, :, channel] - oracle).max() < 4  # OpenCV interpolates in 1/32 of a pixel
    nearest = ndimage.affine_transform(labels, matrix, offset, (48, 40), order=0, mode="mirror")
    assert np.mean(nearest != truth) < 0.01


@given(angle=st.floats(-720, 720), scale=st.floats(0.2, 5), shear=st.floats(-2, 2))
@settings(deadline=None)
def test_a_change_and_its_opposite_cancel(angle: float, scale: float, shear: float) -> None:
    one = np.eye(2)
    assert np.allclose(affine(angle_deg=angle) @ affine(angle_deg=-angle), one)
    assert np.allclose(affine(angle_deg=angle) @ affine(angle_deg=90 - angle), affine(angle_deg=90))
    assert np.allclose(affine(scale=scale) @ affine(scale=1 / scale), one)
    assert np.allclose(affine(shear=shear) @ affine(shear=-shear), one)
    for flip in ({"hflip": True}, {"vflip": True}):
        assert np.array_equal(affine(**flip) @ affine(**flip), one)
        # Seen in a mirror, a turn and a shear go the other way.
        mirrored = affine(**flip) @ affine(angle_deg=angle, scale=scale, shear=shear) @ affine(**flip)
        assert np.allclose(mirrored, affine(angle_deg=-angle, scale=scale, shear=-shear))


@given(amount=st.floats(-0.9, 0.9), radius=st.floats(0.05, 1.0), x=st.floats(0, 1), y=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_lens_never_folds_tissue_over(amount: float, radius: float, x: float, y: float) -> None:
    columns = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    image = np.repeat(columns[:, :, None], 3, axis=2)
    # The window lies so far inside that no read is mirrored: that would turn the ramp round.
    shown, _ = resample(image, columns, Warp(affine(), (Lens((x, y), radius, amount),)), (0, 78), (64, 100))
    middle_row = min(63, int(y * 64))
    assert np.all(np.diff(shown[middle_row, :, 0].astype(int)) >= 0)


def test_a_barrel_enlarges_its_centre_and_a_pincushion_shrinks_it() -> None:
    rows, columns = np.mgrid[:201, :201]
    labels = (np.hypot(rows - 100, columns - 100) < 20).astype(np.uint8)
    image = np.repeat(labels[:, :, None], 3, axis=2)
    areas = [
        resample(image, labels, Warp(affine(), (Lens((0.5, 0.5), 0.5, a),)), (0, 0), (201, 201))[1].sum()
        for a in (-0.5, 0.0, 0.5)
    ]
    assert areas[0] < 0.6 * areas[1]
    assert areas[2] > 2 * areas[1]


def test_a_lens_leaves_tissue_outside_its_circle_alone() -> None:
    image = smooth_picture(100)
    labels = (image[:, :, 0] > 127).astype(np.uint8)
    shown, truth = resample(image, labels, Warp(affine(), (Lens((0.5, 0.5), 0.3, 0.6),)), (0, 0), (100, 100))
    rows, columns = np.mgrid[:100, :100]
    outside = np.hypot(rows - 49.5, columns - 49.5) > 31
    assert np.array_equal(shown[outside], image[outside])
    assert np.array_equal(truth[outside], labels[outside])
    assert not np.array_equal(shown, image)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 8.0, 40.0])
def test_a_random_field_has_unit_spread_and_the_smoothness_asked_for(sigma: float) -> None:
    fields = [
        enlarge(smooth_field(np.random.default_rng(s), (400, 300), sigma), (400, 300)) for s in range(8)
    ]
    assert fields[0].shape == (2, 400, 300)
    power = np.mean([np.mean(field**2) for field in fields])
    assert power == pytest.approx(1.0, rel=0.3 if sigma == 40 else 0.08)
    if sigma >= 3:
        slope = np.mean([np.mean(np.diff(field, axis=1) ** 2) for field in fields])
        assert slope == pytest.approx(power / (2 * sigma**2), rel=0.3)


def test_pictures_larger_than_opencv_can_map_are_read_all_the_same() -> None:
    labels = np.zeros((3, 40_000), np.uint8)
    labels[:, 39_000:] = 7
    image = np.repeat(labels[:, :, None], 3, axis=2)
    shown, truth = resample(image, labels, Warp(affine(scale=1.01)), (0, 38_990), (3, 20))
    assert set(truth[1]) == {0, 7}
    assert shown[1, -1, 0] == 7


def test_a_map_far_past_the_edge_mirrors_again_and_again() -> None:
    line = np.arange(5, dtype=np.uint8)[None, :]
    image = np.repeat(line[:, :, None], 3, axis=2)
    shown, truth = resample(image, line, Warp(affine(scale=0.999999)), (0, -17), (1, 40))
    expected = np.pad(line[0], (24, 24), mode="reflect")[24 - 17 : 24 - 17 + 40]
    assert np.array_equal(truth[0], expected)
    assert np.array_equal(shown[0, :, 0], expected)
