import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glomtile.errors import InputError
from glomtile.io.images import image_mpp
from glomtile.io.masks import mask_size, read_mask, resize_labels, write_mask
from glomtile.palette import GLOMERULI, Palette
from glomtile.types import IGNORE

THREE = Palette.from_rgb_map({(0, 0, 255): 2, (0, 0, 0): 0, (255, 0, 0): 1})


def some_labels(classes=3, size_px=(9, 13)):
    return np.random.default_rng(4).integers(0, classes, size_px, dtype=np.uint8)


def test_a_mask_is_written_in_the_order_of_class_numbers_and_comes_back(tmp_path):
    """Fault of reference §6.11: there the palette followed the order of rgb_map."""
    write_mask(tmp_path / "a.png", some_labels(), THREE, 0.5)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
        assert stored.getpalette()[:9] == [0, 0, 0, 255, 0, 0, 0, 0, 255]
        assert np.array_equal(np.array(stored), some_labels())
    assert np.array_equal(read_mask(tmp_path / "a.png", THREE), some_labels())
    assert np.array_equal(read_mask(tmp_path / "a.png", THREE, datatype="indexed"), some_labels())
    assert image_mpp(tmp_path / "a.png") == pytest.approx(0.5)
    bgr = cv2.imread(str(tmp_path / "a.png"))
    assert np.array_equal(bgr[..., ::-1], THREE.encode(some_labels())), "colours in another program"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_colour_mask_is_read(tmp_path, suffix):
    Image.fromarray(THREE.encode(some_labels())).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"a{suffix}", THREE), some_labels())


def test_a_palette_in_another_order_is_read_by_its_colours(tmp_path):
    image = Image.fromarray(2 - some_labels())
    image.putpalette([0, 0, 255, 255, 0, 0, 0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", THREE), some_labels()), "an unused colour is accepted"


def test_an_unknown_colour_of_a_palette_is_named_with_its_share(tmp_path):
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :3] = 1
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: .*got \(9,8,7\) on 3 %"):
        read_mask(tmp_path / "a.png", THREE)


def test_class_numbers_are_read_from_grey_and_equal_channels(tmp_path):
    Image.fromarray(some_labels()).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(some_labels()[..., None], 3, 2)).save(tmp_path / "rgb.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png", THREE, datatype="indexed"), some_labels())
    assert np.array_equal(read_mask(tmp_path / "rgb.png", THREE, datatype="indexed"), some_labels())
    with pytest.raises(InputError, match="indexed"):
        read_mask(tmp_path / "grey.png", THREE)


def test_numbers_of_no_class_are_refused_255_included(tmp_path):
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"255 on 50 % .*rgb_map = \{\(0,0,0\):0, \(255,255,255\):1\}"):
        read_mask(tmp_path / "a.png", GLOMERULI, datatype="indexed")
    Image.fromarray(THREE.encode(some_labels())).save(tmp_path / "colours.png")
    with pytest.raises(InputError, match="got colours"):
        read_mask(tmp_path / "colours.png", THREE, datatype="indexed")


def test_transparent_pixels_are_background_and_half_transparent_ones_refused(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[0, :, 3] = 255, 255
    rgba[3] = (255, 255, 255, 0)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", GLOMERULI).tolist() == [[1] * 4, [0] * 4, [0] * 4, [0] * 4]
    rgba[1, 0, 3] = 100
    Image.fromarray(rgba).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"opaque or transparent, got 6.25 % in between"):
        read_mask(tmp_path / "b.png", GLOMERULI)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_of_indexed_masks_are_background(tmp_path, mode):
    pixels = np.ones((4, 4, len(mode)), np.uint8)
    pixels[..., -1] = 255
    pixels[0, :, -1] = 0
    pixels[1, :, :-1] = 2
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    expected = [[0] * 4, [2] * 4, [1] * 4, [1] * 4]
    assert read_mask(tmp_path / "a.png", THREE, datatype="indexed").tolist() == expected
    pixels[3, 3, -1] = 100
    Image.fromarray(pixels, mode).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"opaque or transparent, got 6.25 % in between"):
        read_mask(tmp_path / "b.png", THREE, datatype="indexed")


def test_a_transparent_palette_index_is_its_class_number(tmp_path):
    """Viewers write such masks to show them over an image."""
    for mode in ("P", "L"):
        image = Image.fromarray(some_labels())
        if mode == "P":
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
        image.save(tmp_path / "a.png", transparency=1)
        assert np.array_equal(read_mask(tmp_path / "a.png", THREE, datatype="indexed"), some_labels())


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_an_npz_of_class_numbers_is_read(tmp_path, kind):
    labels = some_labels(2)
    np.savez_compressed(tmp_path / "a.npz", mask=labels.astype(kind), other=np.zeros(3))
    np.savez(tmp_path / "b.npz", labels.astype(kind)[..., None])
    for name in ("a", "b"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.npz", GLOMERULI), labels)
        assert mask_size(tmp_path / f"{name}.npz") == (9, 13)


def test_an_npz_of_colours_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", THREE.encode(some_labels()))
    assert np.array_equal(read_mask(tmp_path / "a.npz", THREE), some_labels())


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "got a.npy, b.npy"),
        ({"mask": np.zeros((2, 2))}, "float64"),
        ({"mask": np.zeros((2, 2, 5), int)}, r"\(2, 2, 5\)"),
        ({"mask": np.full((2, 2), -1)}, "got -1 to -1"),
        ({"mask": np.full((2, 2), 7)}, "7 on 100 %"),
        ({"mask": np.zeros((0, 2), int)}, r"\(0, 2\)"),
        ({"mask": np.array([[None]])}, "object"),
        ({}, "got none"),
    ],
)
def test_an_npz_of_anything_else_is_refused(tmp_path, arrays, expected):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=expected):
        read_mask(tmp_path / "a.npz", GLOMERULI)


def test_an_npz_whose_packed_bytes_are_damaged_is_refused_by_name(tmp_path):
    """Some damage is detected in the header, some later, some not at all."""
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "a.npz", mask=rng.integers(0, 2, (300, 300)).astype(np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    messages = set()
    for start in range(0, len(whole) - 20, 61):
        torn = bytearray(whole)
        torn[start : start + 20] = bytes(255 - byte for byte in torn[start : start + 20])
        (tmp_path / "b.npz").write_bytes(torn)
        for read in (mask_size, lambda path: read_mask(path, GLOMERULI)):
            try:
                read(tmp_path / "b.npz")
            except InputError as error:
                messages.add(str(error))
    assert any("b.npz: expected an .npz of one array, got: Error" in text for text in messages)
    assert all("b.npz: expected" in text for text in messages)


def test_an_encrypted_npz_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.zeros((2, 2), np.uint8))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(data)
    for read in (mask_size, lambda path: read_mask(path, GLOMERULI)):
        with pytest.raises(InputError, match=r"a\.npz: expected an \.npz of one array, got: .*encrypted"):
            read(tmp_path / "a.npz")


def test_a_mask_of_ignored_or_unknown_labels_is_not_written(tmp_path):
    for label in (2, IGNORE):
        with pytest.raises(InputError, match=f"got {label} on"):
            write_mask(tmp_path / "a.png", np.full((2, 2), label, np.uint8), GLOMERULI)
    assert list(tmp_path.iterdir()) == []


def test_a_mask_keeps_its_classes_when_resized():
    """Fault of reference §6.7: there one-hot planes were interpolated and classes mixed at borders."""
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 3
    for size_px in ((200, 150), (20, 90), (13, 17), (64, 64)):
        resized = resize_labels(labels, size_px)
        assert resized.shape == size_px
        assert set(np.unique(resized)) == {0, 3}, "no new class"
        assert abs((resized == 3).mean() - 0.25) < 0.05


def test_a_mask_enlarged_and_shrunk_again_is_the_same():
    labels = some_labels(3, (12, 10))
    for factor in (2, 3, 5):
        larger = resize_labels(labels, (12 * factor, 10 * factor))
        assert np.array_equal(larger, np.kron(labels, np.ones((factor, factor), np.uint8)))
        assert np.array_equal(resize_labels(larger, (12, 10)), labels)


def test_the_class_of_most_area_wins_and_the_lower_in_a_tie():
    assert resize_labels(np.array([[2, 2], [2, 0]], np.uint8), (1, 1)) == [[2]]
    assert resize_labels(np.array([[2, 2], [1, 1]], np.uint8), (1, 1)) == [[1]]
    assert resize_labels(np.array([[1, 2, 3], [2, 0, 0]], np.uint8), (1, 1)) == [[0]]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_no_new_class_appears(height, width, new_height, new_width, seed):
    labels = np.random.default_rng(seed).choice(np.array([0, 1, 7, 255], np.uint8), (height, width))
    resized = resize_labels(labels, (new_height, new_width))
    assert resized.shape == (new_height, new_width)
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(labels))


def test_shrinking_agrees_with_counting_pixels():
    labels = some_labels(4, (60, 80))
    blocks = labels.reshape(12, 5, 16, 5).swapaxes(1, 2).reshape(12, 16, 25)
    wanted = np.apply_along_axis(lambda block: np.bincount(block, minlength=4).argmax(), 2, blocks)
    assert np.array_equal(resize_labels(labels, (12, 16)), wanted)
