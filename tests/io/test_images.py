import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glomtile.errors import InputError
from glomtile.io.images import (
    ArrayReader,
    image_mpp,
    image_size,
    list_images,
    mirrored_indices,
    natural_key,
    read_image,
    resize_to_mpp,
    write_png,
)
from glomtile.types import Box, Reader


def noise(height=7, width=11, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_rgb_comes_back_unchanged(tmp_path, suffix):
    Image.fromarray(noise()).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), noise())
    assert image_size(tmp_path / f"a{suffix}") == (7, 11)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_compressed_tiff_comes_back_unchanged(tmp_path, compression):
    Image.fromarray(noise()).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read_image(tmp_path / "a.tif"), noise())


def test_jpeg_comes_close(tmp_path):
    smooth = np.tile(np.linspace(80, 120, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 3


def test_grey_one_bit_and_palette_become_rgb(tmp_path):
    grey = noise()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey > 128).save(tmp_path / "bit.png")
    painted = Image.fromarray(grey % 3)
    painted.putpalette([1, 2, 3, 40, 50, 60, 200, 210, 220])
    painted.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_image(tmp_path / "bit.png")[..., 1], (grey > 128) * np.uint8(255))
    table = np.array([[1, 2, 3], [40, 50, 60], [200, 210, 220]], np.uint8)
    assert np.array_equal(read_image(tmp_path / "palette.png"), table[grey % 3])


def test_transparency_is_blended_with_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[0, 0, 3], rgba[0, 1, 3] = 255, 51
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read[0, 0].tolist() == [200, 0, 0]
    assert read[0, 1].tolist() == [244, 204, 204]
    assert read[1, 1].tolist() == [255, 255, 255]
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "grey.png", transparency=0)
    assert read_image(tmp_path / "grey.png").min() == 255


def test_an_orientation_tag_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(4, 6)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), noise(4, 6))


def test_a_pyramid_is_read_and_a_stack_refused(tmp_path):
    big, small = Image.fromarray(noise(8, 8)), Image.fromarray(noise(4, 4))
    big.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    big.save(tmp_path / "stack.tif", save_all=True, append_images=[big, big])
    assert np.array_equal(read_image(tmp_path / "pyramid.tif"), noise(8, 8))
    with pytest.raises(InputError, match="stack of 3 pages"):
        read_image(tmp_path / "stack.tif")


def test_png_keeps_pixels_and_scale(tmp_path):
    write_png(tmp_path / "a.png", noise(), 0.4991)
    assert np.array_equal(read_image(tmp_path / "a.png"), noise())
    assert image_mpp(tmp_path / "a.png") == pytest.approx(0.4991, rel=1e-5)
    write_png(tmp_path / "b.png", noise()[..., 0])
    assert image_mpp(tmp_path / "b.png") is None


def test_images_are_listed_in_natural_order_without_hidden_and_other_files(tmp_path):
    for name in ("t10.png", "t9.png", "T1.JPG", ".hidden.png", "notes.txt", "t9b.tif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["T1.JPG", "t9.png", "t9b.tif", "t10.png"]


@given(st.lists(st.text(alphabet="ab10._-²é", max_size=6)))
def test_any_names_can_be_sorted(texts):
    assert sorted(sorted(texts, reverse=True), key=natural_key) == sorted(
        sorted(texts), key=natural_key
    ) or len({natural_key(text) for text in texts}) < len(set(texts))


@given(st.integers(1, 9), st.integers(-40, 40), st.integers(0, 40))
def test_mirrored_indices_equal_numpys_reflection(size, start, length):
    wanted = np.pad(np.arange(size), 90, mode="reflect") if size > 1 else np.zeros(200, int)
    assert np.array_equal(
        mirrored_indices(start, start + length, size), wanted[90 + start : 90 + start + length]
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(-15, 15), st.integers(-15, 15), st.integers(1, 20))
def test_tissue_is_mirrored_over_the_edge(height, width, top, left, side):
    image = noise(height, width)
    read = ArrayReader(image).read(Box(top, left, top + side, left + side))
    rows = np.pad(np.arange(height), 50, mode="reflect" if height > 1 else "edge")
    columns = np.pad(np.arange(width), 50, mode="reflect" if width > 1 else "edge")
    wanted = image[rows[50 + top : 50 + top + side]][:, columns[50 + left : 50 + left + side]]
    assert np.array_equal(read, wanted)


def test_an_array_is_a_reader_and_an_empty_one_is_refused():
    reader = ArrayReader(noise(), 0.5)
    assert isinstance(reader, Reader)
    assert (reader.size_px, reader.mpp) == ((7, 11), 0.5)
    with pytest.raises(InputError, match="at least one pixel"):
        ArrayReader(np.zeros((0, 4, 3), np.uint8))


def test_tissue_keeps_its_size_in_micrometres():
    image = noise(40, 60)
    assert resize_to_mpp(image, 0.25, 0.5).shape == (20, 30, 3)
    assert resize_to_mpp(image, 0.5, 0.25).shape == (80, 120, 3)
    assert resize_to_mpp(image, 0.5, 0.5) is image
    assert resize_to_mpp(image[:1, :1], 0.5, 20.0).shape == (1, 1, 3)
    halves = resize_to_mpp(image, 0.25, 0.5)[3, 5].astype(float)
    assert np.abs(halves - image[6:8, 10:12].mean(axis=(0, 1))).max() <= 0.5
