"""Tissue detection: no tissue is lost; bare glass, ink and black rims are left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.errors import InputError
from glomtile.slides.tissue import TissueMap, find_tissue
from glomtile.synthetic import SyntheticSlide
from glomtile.types import Box

SIZE = (200, 300)
MPP = 16.0
INKS = {
    "blue": (30, 60, 160),
    "navy": (25, 30, 90),
    "sky": (60, 90, 200),
    "green": (30, 140, 80),
    "dark green": (10, 90, 60),
    "black": (35, 35, 38),
}


def ellipse(row: int, column: int, half: tuple[int, int]) -> np.ndarray:
    return cv2.ellipse(np.zeros(SIZE, np.uint8), (column, row), half, 10, 0, 360, 1, -1) > 0


STAINED, PALE = ellipse(110, 150, (60, 30)), ellipse(150, 245, (30, 20))


def section() -> np.ndarray:
    image = np.full((*SIZE, 3), 243, np.uint8)
    image[STAINED] = (200, 140, 190)
    image[PALE] = (240, 231, 238)
    return image


def as_scanned(image: np.ndarray, noise: float = 1.5, quality: int = 70) -> np.ndarray:
    rng = np.random.default_rng(0)
    soft = cv2.GaussianBlur(image, (0, 0), 0.8)
    noisy = np.clip(soft + rng.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


def lamp(depth: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    away = ((rows - 100) / 100) ** 2 + ((columns - 150) / 150) ** 2
    return (1 - depth * away / 2)[..., None]


def lost(truth: np.ndarray, tissue: np.ndarray) -> float:
    return np.count_nonzero(truth & ~tissue) / np.count_nonzero(truth)


@pytest.mark.parametrize("preset", ["plain", "hard"])
def test_no_glomerulus_of_a_biopsy_is_lost_and_its_glass_is_left_out(preset):
    shares = []
    for seed in range(20):
        slide, whole = SyntheticSlide(seed, (512, 512), 2.0, preset), Box(0, 0, 512, 512)
        thumbnail = cv2.resize(slide.read(whole), (64, 64), interpolation=cv2.INTER_AREA)
        tissue = find_tissue(thumbnail, MPP)
        assert not np.any((slide.read_labels(whole) > 0) & ~np.kron(tissue, np.ones((8, 8), bool)))
        shares.append(tissue.mean())
    assert min(shares) < 0.6


@pytest.mark.parametrize("mpp", [8.0, 16.0, 32.0])
def test_no_labelled_pixel_of_a_real_image_is_lost(shared_data, mpp):
    found = sorted((shared_data / "glomeruli" / "images").glob("*.png"))
    assert len(found) == 16
    factor = int(mpp / 0.5)
    for path in found:
        image = cv2.imread(str(path))[..., ::-1]
        truth = cv2.imread(str(path.parents[1] / "masks" / path.name)).max(axis=2) > 0
        small = cv2.resize(image, (1024 // factor, 1024 // factor), interpolation=cv2.INTER_AREA)
        tissue = np.kron(find_tissue(small, mpp), np.ones((factor, factor), bool))
        assert not np.any(truth & ~tissue), path.name


def test_glass_around_real_sections_is_left_out(shared_data):
    image = cv2.imread(str(shared_data / "glomeruli" / "images" / "10170.png"))[..., ::-1]
    small = cv2.resize(np.ascontiguousarray(image), (64, 64), interpolation=cv2.INTER_AREA)
    assert 0.02 < find_tissue(small, 8.0).mean() < 0.3


def test_stained_and_pale_tissue_are_found_and_glass_is_not():
    tissue = find_tissue(as_scanned(section()), MPP)
    assert lost(STAINED, tissue) == 0
    assert lost(PALE, tissue) < 0.03
    assert not tissue[:50].any()
    assert not tissue[:, :60].any()


def test_the_margin_reaches_beyond_the_tissue():
    tight, wide = (find_tissue(section(), MPP, margin_um=margin) for margin in (0.0, 96.0))
    far = cv2.distanceTransform((~tight).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    np.testing.assert_array_equal(wide[far <= 5], True)
    np.testing.assert_array_equal(wide[far > 8], False)


@pytest.mark.parametrize("ink", INKS)
def test_pen_marks_are_left_out_and_the_tissue_beside_them_kept(ink):
    image = section()
    cv2.line(image, (20, 20), (280, 40), INKS[ink], 9, cv2.LINE_AA)
    cv2.line(image, (15, 170), (90, 185), INKS[ink], 6, cv2.LINE_AA)
    tissue = find_tissue(as_scanned(image), MPP)
    assert lost(STAINED, tissue) == 0
    assert lost(PALE, tissue) < 0.03
    assert tissue[:55].mean() < 0.05
    assert tissue[155:, :105].mean() < 0.05


@pytest.mark.parametrize("colour", [(90, 60, 140), (80, 50, 110), (150, 40, 130), (120, 110, 180)])
def test_dark_haematoxylin_and_magenta_are_no_ink(colour):
    image = section()
    image[STAINED] = colour
    assert lost(STAINED, find_tissue(as_scanned(image), MPP)) == 0


def test_black_borders_are_left_out():
    image = section()
    image[:20], image[:, :15], image[:, -6:] = 8, 12, 20
    tissue = find_tissue(as_scanned(image), MPP)
    assert lost(STAINED, tissue) == 0
    assert tissue[:22].mean() < 0.02
    assert tissue[:, :17].mean() < 0.02


@pytest.mark.parametrize("depth", [0.1, 0.25])
def test_an_uneven_lamp_makes_no_tissue(depth):
    bare = np.clip(243 * lamp(depth) * np.ones((*SIZE, 3)), 0, 255).astype(np.uint8)
    assert not find_tissue(as_scanned(bare, 2.0, 40), MPP).any()
    tissue = find_tissue(as_scanned((section() * lamp(depth)).astype(np.uint8)), MPP)
    assert lost(STAINED, tissue) == 0
    assert lost(PALE, tissue) < 0.05
    assert not tissue[:50].any()


@pytest.mark.parametrize("glass", [(243, 243, 243), (250, 248, 240), (225, 225, 230)])
def test_bare_glass_of_any_tint_is_no_tissue(glass):
    assert not find_tissue(as_scanned(np.full((*SIZE, 3), glass, np.uint8), 2.0, 40), MPP).any()


@pytest.mark.parametrize("colour", [(225, 205, 222), (200, 140, 190), (90, 60, 140)])
def test_tissue_that_fills_the_image_is_all_tissue(colour):
    assert find_tissue(as_scanned(np.full((*SIZE, 3), colour, np.uint8)), MPP).mean() > 0.99


def test_specks_are_left_out_and_lumina_filled():
    image = section()
    image[20, 20:22] = (200, 140, 190)
    image[105:115, 140:150] = 243
    tissue = find_tissue(image, MPP, margin_um=0.0)
    assert not tissue[:40].any()
    assert tissue[105:115, 140:150].all()


@pytest.mark.parametrize(
    ("thumbnail", "mpp", "expected"),
    [
        (np.zeros((4, 4), np.uint8), 8.0, "uint8"),
        (np.zeros((4, 4, 3), np.float32), 8.0, "uint8"),
        (np.zeros((4, 4, 3), np.uint8), 0.0, "above 0"),
    ],
)
def test_a_wrong_thumbnail_is_refused(thumbnail, mpp, expected):
    with pytest.raises(InputError, match=expected):
        find_tissue(thumbnail, mpp)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.5, 7.3, 16.0]), st.data())
def test_near_tissue_equals_the_cells_under_a_box(seed: int, zoom: float, data: st.DataObject) -> None:
    near = np.random.default_rng(seed).random((9, 12)) < 0.05
    height, width = int(9 * zoom), int(12 * zoom)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    rows = np.unique((np.arange(top, bottom) // zoom).astype(int).clip(0, 8))
    columns = np.unique((np.arange(left, right) // zoom).astype(int).clip(0, 11))
    near_tissue = TissueMap(near, near, zoom, 16.0).near_tissue(Box(top, left, bottom, right))
    # A box's last pixel may reach into the cell behind its corner, which counts too: never fewer than these.
    assert near_tissue or not near[np.ix_(rows, columns)].any()
    if near_tissue:
        wider = near[rows[0] : rows[-1] + 2, columns[0] : columns[-1] + 2]
        assert wider.any()


def test_area_counts_tissue_and_not_its_margin() -> None:
    tissue = np.zeros((10, 10), np.bool_)
    tissue[2:4, 2:7] = True
    assert TissueMap(tissue, np.ones_like(tissue), 4.0, 100.0).area_mm2 == 10 * 0.01
