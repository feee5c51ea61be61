import numpy as np
import pytest

from glomtile.errors import ConfigError, InputError
from glomtile.palette import GLOMERULI, Palette, PaletteClass
from glomtile.types import IGNORE

SHUFFLED = {(0, 0, 255): 2, (0, 0, 0): 0, (0, 200, 0): 3, (255, 0, 0): 1}


def test_the_palette_follows_class_numbers_and_not_the_order_of_the_map():
    """Fault of reference §6.11: there the palette followed the order of rgb_map."""
    palette = Palette.from_rgb_map(SHUFFLED)
    assert palette.flat() == [0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 200, 0]
    assert [entry.number for entry in palette.classes] == [0, 1, 2, 3]
    assert list(palette.to_rgb_map().values()) == [0, 1, 2, 3]


def test_names_belong_to_class_numbers():
    palette = Palette.from_rgb_map(SHUFFLED, ["glass", "tuft", "tubule", "vessel"])
    assert palette.classes[2] == PaletteClass(2, "tubule", (0, 0, 255))
    assert Palette.from_rgb_map(SHUFFLED).names == ("background", "class 1", "class 2", "class 3")


def test_labels_come_back_from_their_colours():
    palette = Palette.from_rgb_map(SHUFFLED)
    labels = np.random.default_rng(0).integers(0, 4, (37, 41), dtype=np.uint8)
    assert np.array_equal(palette.decode(palette.encode(labels)), labels)


@pytest.mark.parametrize(
    ("rgb_map", "said"),
    [
        ({(0, 0, 0): 0, (255, 0, 0): 2}, "without a gap"),
        ({(0, 0, 0): 1}, "without a gap"),
        ({(0, 0, 0): 0, (255, 0, 0): 1, (254, 0, 0): 1}, "without a gap"),
        ({(0, 0, 0): 0, (256, 0, 0): 1}, "0 to 255"),
        ({(0, 0): 0}, "three numbers"),
        ({}, "without a gap"),
        ({0: 1}, "three numbers of 0 to 255 a colour, got 0"),
        ({"red": 1}, "three numbers of 0 to 255 a colour, got 'red'"),
        ({("0", 0, 0): 0}, "three numbers of 0 to 255 a colour, got"),
        ({(0.5, 0, 0): 0}, "three numbers of 0 to 255 a colour, got"),
        ({(0, 0, 0): 0, (255, 0, 0): "a"}, "a whole number a class, got 'a'"),
        ({(0, 0, 0): 0, (255, 0, 0): None}, "a whole number a class, got None"),
        ({(i // 16, i % 16, 0): i for i in range(255)}, "at most 254"),
    ],
)
def test_a_map_that_leaves_doubt_is_refused(rgb_map, said):
    with pytest.raises(ConfigError, match=said):
        Palette.from_rgb_map(rgb_map)


def test_two_classes_of_one_colour_or_name_are_refused():
    with pytest.raises(ConfigError, match="own colour"):
        Palette((PaletteClass(0, "a", (0, 0, 0)), PaletteClass(1, "b", (0, 0, 0))))
    with pytest.raises(ConfigError, match="own name"):
        Palette.from_rgb_map({(0, 0, 0): 0, (1, 1, 1): 1}, ["a", "a"])
    with pytest.raises(ConfigError, match="expected 2 names"):
        Palette.from_rgb_map({(0, 0, 0): 0, (1, 1, 1): 1}, ["a"])


def test_unknown_colours_are_named_with_their_share():
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[0, :5] = (0, 255, 0)
    rgb[1, :1] = (9, 9, 9)
    with pytest.raises(InputError) as caught:
        GLOMERULI.decode(rgb, where="mask7.png")
    text = str(caught.value)
    assert text.startswith("mask7.png: expected the colours (0,0,0), (255,0,0)")
    assert "(0,255,0) on 5 %" in text
    assert "(9,9,9) on 1 %" in text
    assert text.index("(0,255,0)") < text.index("(9,9,9)"), "the commonest comes first"


def test_many_unknown_colours_are_summed_up():
    rgb = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)
    with pytest.raises(InputError, match=r"and 95 more colours, together on 100 %"):
        GLOMERULI.decode(rgb)


def test_the_hint_names_the_tolerance_that_would_do_and_no_smaller_one_does():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[0, 0] = (243, 7, 2)
    with pytest.raises(InputError, match="tolerance = 12"):
        GLOMERULI.decode(rgb)
    with pytest.raises(InputError):
        GLOMERULI.decode(rgb, 11)
    assert GLOMERULI.decode(rgb, 12)[0, 0] == 1


def test_dozens_of_colours_near_the_known_ones_ask_for_a_tolerance_not_for_a_longer_map():
    rgb = np.zeros((1, 40, 3), np.uint8)
    rgb[0, :, 0] = np.arange(30, 110, 2)
    with pytest.raises(InputError, match=r"--tolerance 108 of prepare.*as PNG") as told:
        GLOMERULI.decode(rgb)
    assert "rgb_map" not in str(told.value)
    rgb[0, :, 1] = 200
    with pytest.raises(InputError, match="is this an image"):
        GLOMERULI.decode(rgb)


def test_of_several_classes_within_tolerance_the_nearest_is_taken():
    palette = Palette.from_rgb_map({(0, 0, 0): 0, (40, 0, 0): 1, (60, 0, 0): 2})
    rgb = np.array([[(49, 0, 0), (51, 0, 0), (3, 0, 0)]], np.uint8)
    assert palette.decode(rgb, 40).tolist() == [[1, 2, 0]]


def test_grey_class_numbers_read_as_colours_are_recognised():
    with pytest.raises(InputError, match="indexed"):
        GLOMERULI.decode(np.ones((4, 4, 3), np.uint8))


def test_an_image_in_the_place_of_a_mask_is_recognised():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="is this an image"):
        GLOMERULI.decode(image)


def test_ignored_pixels_are_painted_grey_and_other_strangers_refused():
    labels = np.array([[0, 1, IGNORE]], np.uint8)
    assert GLOMERULI.encode(labels)[0].tolist() == [[0, 0, 0], [255, 0, 0], [128, 128, 128]]
    with pytest.raises(InputError, match="2 on 50 %"):
        GLOMERULI.encode(np.array([[2, 0]], np.uint8))


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2, 1), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.full((2, 2, 3), -256, np.int16),
        np.zeros((2, 2, 3), np.float32),
    ],
)
def test_only_eight_bit_colours_are_read(mask):
    with pytest.raises(InputError, match=r"m\.png: expected \(H, W, 3\) uint8, got") as caught:
        GLOMERULI.decode(mask, where="m.png")
    assert f"{mask.shape} {mask.dtype}" in str(caught.value)


def test_an_empty_mask_has_no_unknown_colours():
    assert GLOMERULI.decode(np.zeros((0, 5, 3), np.uint8)).shape == (0, 5)
    assert GLOMERULI.encode(np.zeros((0, 5), np.uint8)).shape == (0, 5, 3)
