"""A training sample: image and labels move together, only the image is recoloured, chance is the rng's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.config.load import make_config
from glomtile.config.schema import (
    BarrDistortionSettings,
    BrighteningSettings,
    DeformationSettings,
    DistortionSettings,
    PincDistortionSettings,
)
from glomtile.errors import ConfigError
from glomtile.training.augmentation import Augmentation, augment, augmentation_of, draw_warp, recolour

GEOMETRY = Augmentation(
    hflip=True,
    vflip=True,
    free_rotation=True,
    scales=(0.7, 1.4),
    shrinks=(0.8,),
    shears=(-0.2, 0.2),
    elastic=DeformationSettings(),
    distortion=DistortionSettings(),
    barrel=BarrDistortionSettings(),
    pincushion=PincDistortionSettings(centers=((0.3, 0.6), (0.5, 0.5))),
    probability=0.7,
)
COLOUR = Augmentation(
    sharpening=1.0,
    brightening=BrighteningSettings(),
    stain=1.0,
    blur=1.5,
    noise=6.0,
    jpeg=(30, 90),
    probability=1.0,
)
EVERYTHING = replace(
    GEOMETRY,
    sharpening=1.0,
    brightening=BrighteningSettings(),
    stain=1.0,
    blur=1.5,
    noise=6.0,
    jpeg=(30, 90),
)


def picture(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 3, 255], np.uint8), (height, width))
    return image, labels


def sampled(
    image: np.ndarray, labels: np.ndarray, on: Augmentation, seed: int, **place: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    return augment(image, labels, rng=np.random.default_rng(seed), settings=on, **place)  # type: ignore[arg-type]


def blobs(size: int) -> np.ndarray:
    """Labels with regions some tens of pixels wide, on a grid of 0 and 200 so that an image can show them."""
    rows, columns = np.mgrid[:size, :size]
    return (
        ((np.hypot(rows - size * 0.4, columns - size * 0.55) < size * 0.25) | (rows > size * 0.8)) * 200
    ).astype(np.uint8)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_nothing_switched_on_changes_nothing(size: tuple[int, int], seed: int) -> None:
    image, labels = picture(*size)
    picture_out, labels_out = sampled(image, labels, Augmentation(), seed)
    assert np.array_equal(picture_out, image)
    assert np.array_equal(labels_out, labels)


@given(
    top=st.integers(-150, 150),
    left=st.integers(-150, 150),
    out_px=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=120, deadline=None)
def test_a_window_is_the_exact_crop_mirrored_past_the_edge(
    top: int, left: int, out_px: tuple[int, int], size: tuple[int, int]
) -> None:
    image, labels = picture(*size)
    window = (top + out_px[0] / 2, left + out_px[1] / 2)
    cut, truth = sampled(image, labels, Augmentation(), 0, window=window, out_px=out_px)
    far = 220
    around = ((far, far), (far, far))
    # A picture one pixel wide has nothing to mirror; NumPy then repeats the pixel, as we do.
    whole_labels = np.pad(labels, around, mode="reflect")
    whole_image = np.pad(image, (*around, (0, 0)), mode="reflect")
    box = (slice(far + top, far + top + out_px[0]), slice(far + left, far + left + out_px[1]))
    assert np.array_equal(truth, whole_labels[box])
    assert np.array_equal(cut, whole_image[box])


@given(seed=st.integers(0, 2**32 - 1), out=st.integers(8, 90))
@settings(max_examples=40, deadline=None)
def test_labels_never_hold_a_value_that_was_not_there(seed: int, out: int) -> None:
    image, labels = picture(80, 70)
    _, truth = sampled(image, labels, EVERYTHING, seed, window=(10, 60), out_px=(out, out + 3))
    assert truth.dtype == np.uint8
    assert truth.shape == (out, out + 3)
    assert set(np.unique(truth)) <= {0, 1, 3, 255}


def sides_changed(seed: int) -> float:
    """Pixels that linear and nearest reading call differently, as a share of those along outlines."""
    labels = blobs(300)
    image = np.repeat(labels[:, :, None], 3, axis=2)
    shown, truth = sampled(image, labels, GEOMETRY, seed, window=(140, 160), out_px=(128, 128))
    # Linear and nearest reading of one map: the nearest of four pixels always weighs at least a quarter.
    assert np.all(np.abs(shown[:, :, 0].astype(int) - truth) <= 157)
    inside, around = (truth > 100).astype(np.uint8), np.ones((3, 3), np.uint8)
    outline = cv2.dilate(inside, around) != cv2.erode(inside, around)
    return float(np.sum((shown[:, :, 0] > 100) != (truth > 100)) / max(1, outline.sum()))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_image_and_labels_go_through_the_same_geometry(seed: int) -> None:
    """Half a pixel of shift between them would be a quarter of the outline; at corners they may differ."""
    assert sides_changed(seed) < 1 / 8


def test_image_and_labels_are_not_shifted_on_average() -> None:
    """A twentieth of a pixel would show: the mean over many samples hardly varies."""
    assert np.mean([sides_changed(seed) for seed in range(60)]) < 0.03


def test_the_same_rng_gives_the_same_sample_on_any_thread() -> None:
    image, labels = picture(200, 220)

    def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return sampled(image, labels, EVERYTHING, seed, window=(90, 90), out_px=(96, 96))

    alone = [sample(seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(sample, range(16)))
    for (image_a, labels_a), (image_b, labels_b) in zip(alone, together, strict=True):
        assert np.array_equal(image_a, image_b)
        assert np.array_equal(labels_a, labels_b)
    assert len({image_a.tobytes() for image_a, _ in alone}) == 16


def test_the_source_pictures_are_left_as_they_were() -> None:
    image, labels = picture(64, 64)
    before = image.copy(), labels.copy()
    for seed in range(8):
        sampled(image, labels, EVERYTHING, seed)
        sampled(image, labels, COLOUR, seed)
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])


def test_flips_and_listed_angles_give_every_arrangement_and_no_other() -> None:
    image, labels = picture(17, 17)
    symmetric = Augmentation(hflip=True, vflip=True, rotation=True)
    seen = {sampled(image, labels, symmetric, seed)[1].tobytes() for seed in range(200)}
    eight = {np.rot90(side, k).tobytes() for side in (labels, labels[:, ::-1]) for k in range(4)}
    assert seen == eight


def test_a_listed_angle_turns_counter_clockwise() -> None:
    image, labels = picture(20, 20)
    quarter = Augmentation(rotation=True, angles=(90.0,))
    results = [sampled(image, labels, quarter, s)[0] for s in range(20)]
    turned = [result for result in results if not np.array_equal(result, image)]
    assert turned
    assert all(np.array_equal(result, np.rot90(image)) for result in turned)


@pytest.mark.parametrize("shrink", [0.5, 0.8])
def test_shrinks_make_tissue_smaller_by_the_factor(shrink: float) -> None:
    labels = np.zeros((401, 401), np.uint8)
    labels[150:251, 150:251] = 1
    image = np.repeat(labels[:, :, None], 3, axis=2)
    _, truth = sampled(image, labels, Augmentation(shrinks=(shrink,), probability=1.0), 1, out_px=(201, 201))
    assert np.sqrt(truth.sum()) == pytest.approx(101 * shrink, abs=1.1)


def test_a_shrunk_sample_shows_the_real_tissue_around_it() -> None:
    image, labels = picture(200, 200)
    labels[:] = 0
    labels[:45] = 1
    _, plain = sampled(image, labels, Augmentation(), 0, window=(100, 100), out_px=(100, 100))
    _, shrunk = sampled(
        image, labels, Augmentation(shrinks=(0.5,), probability=1.0), 0, window=(100, 100), out_px=(100, 100)
    )
    assert plain.sum() == 0
    assert np.array_equal(np.flatnonzero(shrunk[:, 50]), np.arange(0, 23))


def test_scales_stay_between_their_ends() -> None:
    scaled = Augmentation(scales=(0.5, 2.0))
    sizes = [
        1 / np.sqrt(abs(np.linalg.det(draw_warp(scaled, np.random.default_rng(s), (8, 8)).matrix)))
        for s in range(300)
    ]
    assert min(sizes) >= 0.5
    assert max(sizes) <= 2.0
    assert np.mean(np.log(sizes)) == pytest.approx(0, abs=0.1)


def test_elastic_moves_pixels_as_far_as_alpha_says() -> None:
    spread = []
    for seed in range(6):
        warp = draw_warp(
            Augmentation(elastic=DeformationSettings(), probability=1.0),
            np.random.default_rng(seed),
            (512, 512),
        )
        assert warp.displacement is not None
        spread.append(warp.displacement.std())
    assert np.mean(spread) == pytest.approx(1300 / (2 * np.sqrt(2) * np.pi * 64), rel=0.12)


@pytest.mark.parametrize("size", [(200, 300), (64, 64)])
@pytest.mark.parametrize("rsigma", [3.0, 40.0])
def test_distortion_moves_rows_and_columns_by_its_share_and_pixels_no_further_than_both(
    size: tuple[int, int], rsigma: float
) -> None:
    distortion = DistortionSettings(distortions=(0.05,), gaussian_filter_rsigma=rsigma)
    share_px, beyond = 0.05 * max(size), []
    for seed in range(12):
        drawn = draw_warp(
            Augmentation(distortion=distortion, probability=1.0), np.random.default_rng(seed), size
        ).displacement
        assert drawn is not None
        assert 0.99 * share_px < np.abs(drawn).max() < 1.1 * share_px
        beyond.append(np.hypot(*drawn).max() / share_px)
    assert 1.1 < max(beyond) < 1.1 * np.sqrt(2)


def test_a_probability_of_zero_leaves_out_what_it_governs() -> None:
    image, labels = picture(60, 60)
    never = Augmentation(
        shrinks=(0.8,),
        shears=(0.2,),
        elastic=DeformationSettings(),
        distortion=DistortionSettings(),
        barrel=BarrDistortionSettings(),
        pincushion=PincDistortionSettings(),
        sharpening=1.0,
        brightening=BrighteningSettings(),
        blur=2.0,
        noise=9.0,
        jpeg=(30, 60),
        probability=0.0,
    )
    shown, truth = sampled(image, labels, never, 5)
    assert np.array_equal(shown, image)
    assert np.array_equal(truth, labels)


def test_brightening_is_gain_times_value_plus_offset() -> None:
    image, _ = picture(30, 30)
    brighter = recolour(
        image,
        np.random.default_rng(0),
        Augmentation(brightening=BrighteningSettings(), probability=1.0),
    )
    assert np.array_equal(brighter, np.clip(np.rint(image * 1.2 + 10), 0, 255))


def test_sharpening_adds_k_times_the_difference_to_the_local_mean() -> None:
    image = np.full((9, 9, 3), 100, np.uint8)
    image[4, 4] = 118
    sharp = recolour(image, np.random.default_rng(0), Augmentation(sharpening=1.0, probability=1.0))
    assert sharp[4, 4, 0] == 118 + 16
    assert sharp[4, 5, 0] == 98
    assert sharp[0, 0, 0] == 100


def test_noise_has_the_spread_it_was_given_and_no_drift() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    spreads = [
        (recolour(image, np.random.default_rng(s), Augmentation(noise=8.0, probability=1.0)) - 128.0)
        for s in range(12)
    ]
    assert max(grain.std() for grain in spreads) <= 8.2
    assert max(grain.std() for grain in spreads) > 4
    assert all(abs(grain.mean()) < 0.1 for grain in spreads)


def test_jpeg_keeps_red_red() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :, 0] = 200
    packed = recolour(image, np.random.default_rng(0), Augmentation(jpeg=(90, 90), probability=1.0))
    assert np.abs(packed.astype(int) - image).max() < 12


def test_reference_fault_6_7_one_elastic_field_serves_image_labels_and_every_colour() -> None:
    labels = blobs(160)
    image = np.repeat(labels[:, :, None], 3, axis=2)
    strong = Augmentation(elastic=DeformationSettings(alpha=2500, sigmoids=(9.0,)), probability=1.0)
    for seed in range(5):
        shown, truth = sampled(image, labels, strong, seed)
        assert not np.array_equal(truth, labels)
        assert np.array_equal(shown[:, :, 0], shown[:, :, 1])
        assert np.array_equal(shown[:, :, 0], shown[:, :, 2])
        assert np.mean((shown[:, :, 0] > 100) != (truth > 100)) < 0.002


def test_reference_fault_6_7_labels_are_never_sharpened_brightened_or_stained() -> None:
    image, labels = picture(90, 90)
    for seed in range(10):
        shown, truth = sampled(image, labels, COLOUR, seed)
        assert np.array_equal(truth, labels)
        assert not np.array_equal(shown, image)


def test_reference_fault_6_7_a_sample_is_one_variant_of_the_image_not_all() -> None:
    """There a sample came with all its variants; here it is one picture that has gone through all changes."""
    image, labels = picture(40, 40)
    image[:] = 100
    image[:20, :20] = 180
    brighter = Augmentation(brightening=BrighteningSettings(alpha=1.0, beta=10.0), probability=1.0)
    turned_too = replace(brighter, rotation=True, angles=(90.0,) * 99, sharpening=0.0)
    shown, truth = sampled(image, labels, turned_too, 3)
    assert np.array_equal(shown, np.rot90(image) + 10)
    assert np.array_equal(truth, np.rot90(labels))
    seen = {sampled(image, labels, EVERYTHING, seed)[0].tobytes() for seed in range(20)}
    assert len(seen) == 20


def test_reference_fault_6_11_brightening_leaves_the_elastic_strength_alone() -> None:
    elastic = Augmentation(elastic=DeformationSettings(alpha=900.0), probability=1.0)
    both = replace(elastic, brightening=BrighteningSettings(alpha=1.7))
    one = draw_warp(elastic, np.random.default_rng(4), (64, 64)).displacement
    other = draw_warp(both, np.random.default_rng(4), (64, 64)).displacement
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"deformation": {"sigmoids": (0.1,)}}, "elastic sigmas"),
        ({"deformation": {"sigmoids": (), "sigmoid": 0.1}}, "elastic sigmas"),
        ({"distortion": {"distortions": ()}}, "distortion distortions"),
        ({"distortion": {"gaussian_filter_rsigma": 0.1}}, "distortion rsigma"),
        ({"barrdistortion": {"amount": 1.0}}, "barrel amount"),
        ({"pincdistortion": {"amount": -1.0}}, "pincushion amount"),
        ({"pincdistortion": {"centers": ()}}, "pincushion centers"),
    ],
)
def test_settings_that_cannot_be_drawn_from_are_refused_only_where_switched_on(
    sections: dict[str, dict[str, object]], name: str
) -> None:
    augmentation_of(make_config(sections))
    on = make_config(sections | {"augmentor": dict.fromkeys(sections, True)})
    with pytest.raises(ConfigError, match=f"augmentation {name}"):
        augmentation_of(on)


@pytest.mark.shared
def test_real_glomeruli_keep_their_masks_when_turned_back(shared_data) -> None:  # type: ignore[no-untyped-def]
    cv2 = pytest.importorskip("cv2")
    folder = shared_data / "glomeruli"
    image = cv2.imread(str(folder / "images" / "10164.png"))[:, :, ::-1].copy()
    labels = (cv2.imread(str(folder / "masks" / "10164.png"))[:, :, 2] > 127).astype(np.uint8)
    half_turn = Augmentation(rotation=True, angles=(180.0,))
    for seed in range(6):
        shown, truth = sampled(image, labels, half_turn, seed, window=(500, 500), out_px=(256, 256))
        crop = (slice(372, 628), slice(372, 628))
        if np.array_equal(truth, labels[crop]):
            assert np.array_equal(shown, image[crop])
        else:
            assert np.array_equal(truth, labels[crop][::-1, ::-1])
            assert np.array_equal(shown, image[crop][::-1, ::-1])
