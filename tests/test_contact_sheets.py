from __future__ import annotations

import numpy as np
import pytest

from glomtile.contact_sheets import BOTH, ONLY_PREDICTED, ONLY_TRUE, comparison_sheet, grid_sheet
from glomtile.errors import InputError
from glomtile.palette import GLOMERULI, Palette
from glomtile.types import IGNORE

THREE = Palette.from_rgb_map({(0, 0, 0): 0, (255, 0, 0): 1, (0, 0, 255): 2}, ["none", "tuft", "vessel"])


def near(sheet: np.ndarray, colour: tuple[int, int, int], within: int = 90) -> int:
    return int((np.abs(sheet.astype(int) - colour).max(axis=2) < within).sum())


def scene(size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.full((*size, 3), 230, np.uint8)
    truth, prediction = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    truth[20:60, 20:80] = 1
    prediction[20:60, 50:110] = 1
    return image, truth, prediction


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    edge = (sheet.shape[1] - 2 * 16 - 3 * 10) // 4
    return [sheet[:, 16 + i * (edge + 10) :][:, :edge] for i in range(4)]


def test_a_sheet_shows_image_truth_prediction_and_difference_in_that_order():
    image, truth, prediction = scene()
    image[:, :] = (200, 40, 200)
    image[70:, :] = (10, 200, 10)
    sheet = comparison_sheet(image, truth, prediction, GLOMERULI, "a title", panel_px=160)
    first, second, third, fourth = panels(sheet)
    assert near(first, (10, 200, 10), 5) > 5000
    assert all(near(panel, (10, 200, 10), 5) == 0 for panel in (second, third, fourth))
    # 2,400 pixels of the class each; half of them are in both
    assert near(second[:, :80], (255, 0, 0), 150) > 2000 > near(third[:, :50], (255, 0, 0), 150)
    for colour, expected in ((BOTH, 1200), (ONLY_PREDICTED, 1200), (ONLY_TRUE, 1200)):
        assert near(fourth, colour, 130) >= expected


def test_equal_masks_leave_no_difference_colours_but_in_the_legend():
    image, truth, _ = scene()
    fourth = panels(comparison_sheet(image, truth, truth, GLOMERULI, "t", panel_px=160))[3]
    assert near(fourth, ONLY_PREDICTED, 30) == near(fourth, ONLY_TRUE, 30) == 0


def test_a_false_speck_of_one_pixel_is_ringed():
    image = np.full((1000, 1000, 3), 230, np.uint8)
    truth, prediction = np.zeros((1000, 1000), np.uint8), np.zeros((1000, 1000), np.uint8)
    plain = comparison_sheet(image, truth, prediction, GLOMERULI, "t", panel_px=250)
    prediction[500, 500] = 1
    ringed = comparison_sheet(image, truth, prediction, GLOMERULI, "t", panel_px=250)
    assert near(panels(ringed)[3], ONLY_PREDICTED) > near(panels(plain)[3], ONLY_PREDICTED) + 20


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 1200), (2000, 90)])
def test_any_size_of_image_makes_a_sheet(size):
    image = np.full((*size, 3), 200, np.uint8)
    ones = np.ones(size, np.uint8)
    sheet = comparison_sheet(image, ones, ones * 2, THREE, "näme µ 名", panel_px=128)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3


def test_ignored_pixels_are_named_in_the_legend_only_when_there_are_some():
    image, truth, prediction = scene()
    without = comparison_sheet(image, truth, prediction, GLOMERULI, "t")
    truth[100:] = IGNORE
    assert near(comparison_sheet(image, truth, prediction, GLOMERULI, "t")[-60:], (128, 128, 128), 3) > near(
        without[-60:], (128, 128, 128), 3
    )


def test_inputs_are_not_changed_and_the_sheet_repeats():
    image, truth, prediction = scene()
    copies = [part.copy() for part in (image, truth, prediction)]
    first = comparison_sheet(image, truth, prediction, GLOMERULI, "t")
    np.testing.assert_array_equal(first, comparison_sheet(image, truth, prediction, GLOMERULI, "t"))
    for part, copy in zip((image, truth, prediction), copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_a_title_longer_than_the_sheet_is_cut():
    short = comparison_sheet(*scene(), GLOMERULI, "x")
    space = slice(16, short.shape[1] - 16)
    short_ink, long_ink = (
        np.flatnonzero((sheet[16:36] < 128).all(axis=2).any(axis=0))
        for sheet in (short, comparison_sheet(*scene(), GLOMERULI, "x" * 5000))
    )
    assert short_ink.max() < 40
    assert long_ink.min() >= space.start
    assert space.stop - 30 < long_ink.max() < space.stop
    one_less = comparison_sheet(*scene(), GLOMERULI, "x" * 4999)
    np.testing.assert_array_equal(one_less, comparison_sheet(*scene(), GLOMERULI, "x" * 5000))


def test_masks_of_another_size_are_refused():
    image, truth, prediction = scene()
    with pytest.raises(InputError, match="image and masks of one size"):
        comparison_sheet(image, truth, prediction[:-1], GLOMERULI, "t")


def test_a_grid_sheet_fills_rows_from_the_left():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((50, 50, 3), colour, np.uint8) for colour in colours]
    sheet = grid_sheet(images, ["a", "b", "c"], 2, cell_px=100)
    where = [np.argwhere((sheet == colour).all(axis=2)).mean(axis=0) for colour in colours]
    assert where[0][0] == pytest.approx(where[1][0])
    assert where[0][1] < where[1][1]
    assert where[2][0] > where[0][0]
    assert where[2][1] == pytest.approx(where[0][1])


def test_a_grid_sheet_of_nothing_is_refused():
    with pytest.raises(InputError, match="got 0 images"):
        grid_sheet([], [], 3)
