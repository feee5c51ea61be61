import time
import xml.etree.ElementTree as ET

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glomtile.errors import InputError, UsageError
from glomtile.io.images import image_mpp
from glomtile.io.masks import mask_size, read_mask
from glomtile.io.pyramids import TILE_PX, checked_sizes, halve, level_sizes, write_mask_pyramid
from glomtile.palette import Palette

THREE = Palette.from_rgb_map(
    {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2}, ["background", "tuft", "<a & b>"]
)


def planes(size_px=(1100, 1537), seed=3):
    """Return blocks of class numbers down to a side of 512."""
    small = np.random.default_rng(seed).integers(0, 3, (-(-size_px[0] // 7), -(-size_px[1] // 7)), np.uint8)
    levels = [np.ascontiguousarray(small.repeat(7, 0).repeat(7, 1)[: size_px[0], : size_px[1]])]
    for size in level_sizes(size_px)[1:]:
        levels.append(np.full(size, 9, np.uint8))
        halve(levels[-2], levels[-1], 256)
    return levels


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "mask.ome.tif"
    write_mask_pyramid(path, planes(), THREE, 0.4990, name="näme <1>", identity="a")
    return path


def test_tifffile_reads_the_class_numbers_of_every_level(written):
    with tifffile.TiffFile(written) as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        stored = tiff.series[0].levels
        assert len(stored) == len(planes()) == 3
        for level, plane in zip(stored, planes(), strict=True):
            assert np.array_equal(level.asarray(), plane)
            assert level.keyframe.tile == (TILE_PX, TILE_PX)
            assert level.keyframe.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        table = tiff.pages[0].colormap
        assert np.array_equal(table[:, :3].T // 257, [entry.rgb for entry in THREE.classes])
        assert not table[:, 3:].any()


def test_openslide_reads_level_0_in_the_palettes_colours(written):
    with openslide.OpenSlide(str(written)) as slide:
        assert slide.dimensions == (1537, 1100)
        rgba = np.array(slide.read_region((0, 0), 0, slide.dimensions))
    assert (rgba[..., 3] == 255).all()
    assert np.array_equal(rgba[..., :3], THREE.encode(planes()[0]))


@pytest.mark.parametrize("datatype", ["categorized", "indexed"])
def test_written_masks_are_read_as_masks(written, datatype):
    assert mask_size(written) == (1100, 1537)
    assert np.array_equal(read_mask(written, THREE, datatype=datatype), planes()[0])


def test_the_scale_is_in_ome_xml_and_tags(written):
    assert image_mpp(written) == pytest.approx(0.4990)
    with tifffile.TiffFile(written) as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert pixels["PhysicalSizeX"] == pixels["PhysicalSizeY"] == 0.4990
        assert pixels["PhysicalSizeXUnit"] == "µm"
        for number, level in enumerate(tiff.series[0].levels):
            over, under = level.keyframe.tags["XResolution"].value
            assert 1e4 * under / over == pytest.approx(0.4990 * 2**number, rel=1e-6)
            assert level.keyframe.tags["ResolutionUnit"].value == 3


def test_names_of_image_and_classes_are_in_the_ome_xml(written):
    with tifffile.TiffFile(written) as tiff:
        root = ET.fromstring(tiff.ome_metadata)
    space = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    assert root.find("o:Image", space).get("Name") == "näme <1>"
    entries = root.findall("o:StructuredAnnotations/o:MapAnnotation/o:Value/o:M", space)
    assert {entry.get("K"): entry.text for entry in entries} == {
        "0": "background",
        "1": "tuft",
        "2": "<a & b>",
    }


def test_the_same_input_gives_the_same_bytes_later(tmp_path):
    paths = [tmp_path / f"{number}" / f"{number}.ome.tif" for number in range(3)]
    write_mask_pyramid(paths[0], planes(), THREE, 0.5, name="n", identity="a")
    time.sleep(1.1)
    write_mask_pyramid(paths[1], planes(), THREE, 0.5, name="n", identity="a")
    write_mask_pyramid(paths[2], planes(), THREE, 0.5, name="n", identity="b")
    same, again, other = (path.read_bytes() for path in paths)
    assert same == again
    assert same != other


class Counting:
    """A plane that records the largest piece read."""

    def __init__(self, size_px):
        self.shape = size_px
        self.largest = 0

    def __getitem__(self, key):
        rows, columns = (range(*part.indices(side)) for part, side in zip(key, self.shape, strict=True))
        self.largest = max(self.largest, len(rows) * len(columns))
        return ((np.array(rows)[:, None] // 64 + np.array(columns) // 64) % 3).astype(np.uint8)

    def __setitem__(self, key, value):
        assert np.array_equal(self[key].shape, value.shape)


def test_memory_is_bounded_by_a_tile_whatever_the_size(tmp_path):
    import tracemalloc

    levels = [Counting(size) for size in level_sizes((9000, 7000))]
    tracemalloc.start()
    write_mask_pyramid(tmp_path / "a.ome.tif", levels, THREE, 0.5, name="n", identity="a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(level.largest for level in levels) == TILE_PX**2
    assert peak < 9000 * 7000 / 3
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert np.array_equal(tiff.series[0].levels[1].asarray(), levels[1][:, :])


def test_a_mask_without_a_scale_states_none(tmp_path):
    write_mask_pyramid(tmp_path / "a.ome.tif", planes((40, 50)), THREE, None, name="n", identity="a")
    assert image_mpp(tmp_path / "a.ome.tif") is None
    with Image.open(tmp_path / "a.ome.tif") as image:
        assert image.mode == "P"


def test_a_label_of_no_class_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="got 7"):
        write_mask_pyramid(
            tmp_path / "a.ome.tif", [np.full((20, 20), 7, np.uint8)], THREE, 1.0, name="n", identity="a"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_above_0_is_refused(tmp_path, mpp):
    with pytest.raises(UsageError, match="above 0"):
        write_mask_pyramid(tmp_path / "a.ome.tif", planes((9, 9)), THREE, mpp, name="n", identity="a")


def test_levels_that_are_no_halves_are_refused():
    with pytest.raises(UsageError, match=r"expected \(5, 6\)"):
        checked_sizes([np.zeros((9, 11)), np.zeros((4, 6))])
    with pytest.raises(UsageError):
        checked_sizes([])


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_levels_halve_until_small_enough(height, width, smallest):
    sizes = level_sizes((height, width), smallest)
    assert sizes[0] == (height, width)
    assert max(sizes[-1]) <= smallest
    assert all(max(size) > smallest for size in sizes[:-1])
    for number, size in enumerate(sizes):
        assert size == tuple(len(range(0, side, 2**number)) for side in (height, width))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_halving_takes_every_second_pixel_however_it_is_cut(height, width, half_band):
    source = np.random.default_rng(height * 71 + width).integers(0, 250, (height, width), np.uint8)
    target = np.full((-(-height // 2), -(-width // 2)), 255, np.uint8)
    halve(source, target, 2 * half_band)
    assert np.array_equal(target, source[::2, ::2])


def test_halving_reads_no_more_than_a_square_at_a_time():
    source, target = Counting((5000, 6000)), Counting((2500, 3000))
    halve(source, target, 512)
    assert source.largest == 512 * 512


def test_halving_refuses_another_size_and_an_odd_band():
    with pytest.raises(UsageError, match="target"):
        halve(np.zeros((9, 9), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(UsageError, match="even"):
        halve(np.zeros((9, 9), np.uint8), np.zeros((5, 5), np.uint8), 3)
