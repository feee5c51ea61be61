"""Painted biopsies: pixels depend on seed and place only, truth is exact, colour alone finds little."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import InputError
from glomtile.synthetic import PRESETS, Dyes, SyntheticBiopsy, SyntheticSlide, draw_dyes, paint
from glomtile.synthetic.biopsy import paint_raster, paint_structure
from glomtile.synthetic.scene import Noise, Raster, draws, glomeruli, inside_um, vessels
from glomtile.types import Box, Reader

SIZE = (700, 1200)


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, np.ndarray]:
    biopsy = paint(1, SIZE)
    return biopsy.image, biopsy.labels


@pytest.fixture(scope="module")
def slide() -> SyntheticSlide:
    return SyntheticSlide(1, SIZE)


@given(
    top=st.integers(0, 699),
    left=st.integers(0, 1199),
    size=st.tuples(st.integers(1, 700), st.integers(1, 1200)),
)
@settings(max_examples=80, deadline=None)
def test_any_box_equals_the_same_cut_of_the_whole(
    whole: tuple[np.ndarray, np.ndarray],
    slide: SyntheticSlide,
    top: int,
    left: int,
    size: tuple[int, int],
) -> None:
    box = Box(top, left, min(SIZE[0], top + size[0]), min(SIZE[1], left + size[1]))
    image, labels = whole
    assert np.array_equal(slide.read(box), image[box.top : box.bottom, box.left : box.right])
    assert np.array_equal(slide.read_labels(box), labels[box.top : box.bottom, box.left : box.right])


@given(
    top=st.integers(-3000, 3000),
    left=st.integers(-3000, 3000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
@settings(max_examples=40, deadline=None)
def test_a_box_over_the_edge_is_mirrored(
    whole: tuple[np.ndarray, np.ndarray],
    slide: SyntheticSlide,
    top: int,
    left: int,
    size: tuple[int, int],
) -> None:
    image, _ = whole
    rows, columns = (np.arange(start, start + n) for start, n in zip((top, left), size, strict=True))
    rows, columns = (
        np.abs((index + side - 1) % (2 * side - 2) - (side - 1))
        for index, side in zip((rows, columns), SIZE, strict=True)
    )
    box = Box(top, left, top + size[0], left + size[1])
    assert np.array_equal(slide.read(box), image[rows[:, None], columns])


def test_a_slide_of_another_size_or_reading_order_holds_the_same_pixels(
    whole: tuple[np.ndarray, np.ndarray],
) -> None:
    image, labels = whole
    huge = SyntheticSlide(1, (400_000, 300_000), chunks_kept=1)
    for box in (Box(500, 900, 620, 1100), Box(0, 0, 90, 40), Box(510, 500, 520, 530)):
        cut = (slice(box.top, box.bottom), slice(box.left, box.right))
        assert np.array_equal(huge.read(box), image[cut])
        assert np.array_equal(huge.read_labels(box), labels[cut])


def test_far_places_of_a_huge_slide_can_be_read() -> None:
    huge = SyntheticSlide(4, (400_000, 300_000), chunks_kept=4)
    assert huge.size_px == (400_000, 300_000)
    assert huge.read(Box(399_990, 299_980, 400_010, 300_010)).shape == (20, 30, 3)


def test_one_pixel_is_a_slide() -> None:
    tiny = SyntheticSlide(3, (1, 1))
    assert np.array_equal(
        tiny.read(Box(-4, -4, 5, 5)), np.broadcast_to(tiny.read(Box(0, 0, 1, 1)), (9, 9, 3))
    )


def test_threads_read_what_one_reader_reads(whole: tuple[np.ndarray, np.ndarray]) -> None:
    slide = SyntheticSlide(1, SIZE, chunks_kept=2)
    boxes = [Box(r, c, r + 100, c + 120) for r in range(0, 600, 200) for c in range(0, 1080, 270)]
    with ThreadPoolExecutor(4) as threads:
        pieces = list(threads.map(slide.read, boxes))
    for box, piece in zip(boxes, pieces, strict=True):
        assert np.array_equal(piece, whole[0][box.top : box.bottom, box.left : box.right])


def test_a_biopsy_slide_is_a_reader(slide: SyntheticSlide) -> None:
    assert isinstance(slide, Reader)
    assert slide.mpp == 0.5


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_pieces_join_without_a_seam(preset: str) -> None:
    across = Raster(300, 400, 260, 260, 0.5)
    dyes = draw_dyes(5, PRESETS[preset].dye_spread)
    image, labels = paint_raster(5, across, PRESETS[preset], dyes, paint_structure)
    slide = SyntheticSlide(5, (1024, 1024), preset=preset)
    box = Box(300, 400, 560, 660)
    assert np.array_equal(slide.read(box), image)
    assert np.array_equal(slide.read_labels(box), labels)


def test_truth_is_where_the_scene_has_glomeruli(whole: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels = whole
    assert set(np.unique(labels)) == {0, 1}
    frame = Raster(0, 0, *SIZE, 0.5)
    structures = glomeruli(1, frame)
    inside = inside_um(1, frame) > 0
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] * 0.5 + 0.25
    near, within = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    for structure in structures:
        away = np.hypot(rows - structure.row_um, columns - structure.column_um)
        near |= away < 1.2 * structure.radius_um
        within |= away < 0.8 * structure.radius_um
    assert within.any()
    assert not np.any(labels[~near])
    assert np.all(labels[within & inside] == 1)
    assert not np.any(labels[~inside])


def test_structures_keep_clear_of_each_other() -> None:
    frame = Raster(0, 0, 7_000, 7_000, 0.5)
    found, tubes = glomeruli(7, frame), vessels(7, frame)
    assert len(found) > 20
    assert len(tubes) > 2
    for i, structure in enumerate(found):
        for other in found[:i]:
            apart = math.hypot(structure.row_um - other.row_um, structure.column_um - other.column_um)
            assert apart > structure.radius_um + other.radius_um
        for vessel in tubes:
            apart = math.hypot(structure.row_um - vessel.row_um, structure.column_um - vessel.column_um)
            assert apart > structure.radius_um + vessel.radius_um


@pytest.mark.parametrize("mpp", [0.25, 1.0, 2.0])
def test_the_truth_is_the_same_tissue_at_every_scale(mpp: float) -> None:
    reference = paint(6, (512, 512), mpp=0.5).labels
    size = round(256 / mpp)
    other = paint(6, (size, size), mpp=mpp).labels
    enlarged = cv2.resize(other, (512, 512), interpolation=cv2.INTER_NEAREST)
    assert reference.mean() > 0.05
    overlap = 2 * np.sum((enlarged == 1) & (reference == 1)) / (np.sum(enlarged) + np.sum(reference))
    assert overlap > 0.97


def test_seeds_differ_and_repeat() -> None:
    first, again, other = paint(11, (200, 200)), paint(11, (200, 200)), paint(12, (200, 200))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)


def test_the_origin_is_in_tissue_and_glass_is_never_far() -> None:
    for seed in range(30):
        assert inside_um(seed, Raster(500, 500, 24, 24, 0.5)).max() > 0
        depth = inside_um(seed, Raster(0, 0, 300, 300, 8.0))
        assert (depth < 0).any()


def test_glass_is_the_dyes_glass_and_tissue_is_stained() -> None:
    dyes = Dyes((0.8, 0.9, 0.5), (0.3, 1.3, 0.5), (240.0, 238.0, 236.0))
    biopsy = paint(1, (512, 512), stain=dyes)
    depth = inside_um(1, Raster(0, 0, 512, 512, 0.5))
    glass = biopsy.image[depth < -5]
    assert len(glass) > 100
    assert np.abs(glass.mean(axis=0) - (240, 238, 236)).max() < 1
    assert biopsy.image[depth > 5].mean() < 215


def test_presets_differ_in_stain_variation() -> None:
    spread = {
        name: np.std([draw_dyes(seed, preset.dye_spread).pas for seed in range(40)], axis=0).mean()
        for name, preset in PRESETS.items()
    }
    assert spread["hard"] > 2 * spread["plain"]


@lru_cache(maxsize=2)
def six_biopsies(preset: str) -> list[SyntheticBiopsy]:
    return [paint(seed, (512, 512), preset=preset) for seed in (1, 3, 5, 6, 8, 9)]


def best_threshold_dice(preset: str, blur_px: float) -> float:
    """Best Dice of any threshold, either way round, on any of nine colour channels over six biopsies."""
    counts = np.zeros((9, 2, 256))
    for biopsy in six_biopsies(preset):
        image = cv2.GaussianBlur(biopsy.image, (0, 0), blur_px) if blur_px else biopsy.image
        channels = np.concatenate(
            [image, cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.cvtColor(image, cv2.COLOR_RGB2LAB)], axis=2
        )
        for channel in range(9):
            for value in (0, 1):
                values = channels[:, :, channel][biopsy.labels == value]
                counts[channel, value] += np.bincount(values, minlength=256)
    below = np.concatenate([np.zeros((9, 2, 1)), counts.cumsum(axis=2)], axis=2)
    total = below[:, :, -1:]
    return max(
        float(np.max(2 * side[:, 1] / (side[:, 1] + side[:, 0] + total[:, 1])))
        for side in (below, total - below)
    )


@pytest.mark.parametrize("blur_px", [0.0, 4.0, 10.0])
def test_colour_alone_does_not_find_glomeruli_in_hard_biopsies(blur_px: float) -> None:
    assert best_threshold_dice("hard", blur_px) < 0.45


def test_colour_helps_more_in_plain_biopsies_than_in_hard_ones() -> None:
    assert best_threshold_dice("plain", 10.0) > best_threshold_dice("hard", 10.0) + 0.15


@pytest.mark.shared
def test_biopsies_have_the_colours_of_real_biopsies(shared_data) -> None:  # type: ignore[no-untyped-def]
    def tissue(image: np.ndarray) -> np.ndarray:
        return image[image.min(axis=2) < 225]

    names = ("10003", "10063", "10149", "10164", "10169")
    folder = shared_data / "glomeruli" / "images"
    real = np.concatenate([tissue(cv2.imread(str(folder / f"{n}.png"))[:, :, ::-1])[::50] for n in names])
    painted = np.concatenate([tissue(paint(seed, (512, 512)).image)[::20] for seed in range(1, 6)])
    for share in (5, 50, 95):
        assert np.abs(np.percentile(real, share, 0) - np.percentile(painted, share, 0)).max() < 32


def test_noise_is_centred_and_of_unit_spread() -> None:
    field = Noise(5, 1, 7.0).over(Raster(-300, 200, 600, 700, 1.0))
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1.0, rel=0.08)


def test_noise_at_a_point_is_the_noise_of_the_raster() -> None:
    noise = Noise(5, 1, 7.3)
    field = noise.over(Raster(-20, -30, 40, 50, 0.5))
    assert noise.at((-20 + 0.5 + 13) * 0.5, (-30 + 0.5 + 44) * 0.5) == pytest.approx(field[13, 44], abs=1e-5)


def test_draws_are_uniform_and_independent_between_channels_and_neighbours() -> None:
    rows, columns = np.mgrid[-100:100, -100:100].reshape(2, -1)
    first, second = draws(3, 1, rows, columns), draws(3, 2, rows, columns)
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))
    grid = first.reshape(200, 200)
    pairs = [
        (first, second),
        (grid[1:].ravel(), grid[:-1].ravel()),
        (grid[:, 1:].ravel(), grid[:, :-1].ravel()),
    ]
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.03 for a, b in pairs)
    assert len(np.unique(draws(4, 1, rows, columns))) == rows.size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size_px": (0, 5)}, "at least 1 x 1, got 0 x 5"),
        ({"seed": -1}, "seed of at least 0, got -1"),
        ({"mpp": 0.0}, "mpp between 0.05 and 20, got 0.0"),
        ({"mpp": float("nan")}, "mpp between 0.05 and 20"),
        ({"preset": "easy"}, "a preset of plain, hard, got 'easy'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SyntheticSlide(**{"seed": 1, "size_px": (10, 10), **arguments})  # type: ignore[arg-type]


def test_an_empty_box_is_refused(slide: SyntheticSlide) -> None:
    with pytest.raises(InputError, match="box of at least 1 x 1"):
        slide.read(Box(5, 5, 5, 9))
