import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from tests.fakes import RecordingProgress

from glomtile.errors import InputError, UsageError
from glomtile.slides.backends import OpenSlidePixels, TiffPixels, levels_of
from glomtile.slides.slide import SLIDE_SUFFIXES, Slide, list_slides, open_slide
from glomtile.types import Box, Reader

TILED = {"tile": (256, 256), "photometric": "rgb", "metadata": None}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tissue(height, width, seed=0):
    """Smooth colours, which JPEG keeps."""
    small = noise(height // 16 + 2, width // 16 + 2, seed)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def scale(mpp):
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


def write_ome(path, image, levels=3, mpp=0.5, **how):
    how = {"tile": (128, 128), "photometric": "rgb"} | how
    words = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=levels - 1, metadata=words, **how)
        for n in range(1, levels):
            smaller = image[:: 2**n, :: 2**n]
            writer.write(smaller, subfiletype=1, metadata=None, **how)
    return path


def whole(slide, level=0):
    height, width = slide.levels[level].size_px
    return slide.read_level(level, Box(0, 0, height, width))


def openslide_whole(path, level=0):
    with openslide.OpenSlide(path) as slide:
        size = slide.level_dimensions[level]
        image = slide.read_region((0, 0), level, size)
    glass = Image.new("RGBA", size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(glass, image).convert("RGB"))


def edge_positions(lines, expected, zoom):
    """Measure the positions of edges from dark to light near the expected ones."""
    found = []
    for place in expected:
        middle = int(place / zoom)
        near = slice(middle - 4, middle + 5)
        dark = (255.0 - lines[near]).sum() / 255
        found.append((near.start + dark) * zoom)
    return np.array(found)


def bars(length):
    """Return black and white bars with edges at odd positions."""
    edges = np.arange(117, length - 100, 331)
    profile = np.zeros(length, np.uint8)
    for n, edge in enumerate(edges):
        profile[edge:] = 255 if n % 2 == 0 else 0
    return edges, profile


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("pyramid", [False, True])
def test_edges_stay_in_place_along_50000_px(tmp_path, upright, pyramid):
    length = 50_001
    edges, profile = bars(length)
    strip = np.ascontiguousarray(np.broadcast_to(profile[None, :, None], (64, length, 3)))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for factor in (1, 4) if pyramid else (1,):
            # Four to one, the rest dropped: 12,500 px below 50,001.
            kept = strip[:, : length // factor * factor].reshape(64, length // factor, factor, 3)
            level = kept.mean(axis=2)[::factor].round().astype(np.uint8)
            turned = level.transpose(1, 0, 2) if upright else level
            writer.write(np.ascontiguousarray(turned), compression="deflate", **TILED, **scale(0.4990))
    with open_slide(tmp_path / "a.tif") as slide:
        assert not slide.plain
        assert slide.mpp == pytest.approx(0.499, rel=1e-9)
        assert len(slide.levels) == (2 if pyramid else 1)
        reader = slide.at(2.0)
        assert reader.zoom == pytest.approx(2.0 / 0.4990, rel=1e-9)
        height, width = reader.size_px
        got = reader.read(Box(0, 0, height, width))
    lines = got[:, 4, 0] if upright else got[4, :, 0]
    rising = edges[::2]
    apart = edge_positions(lines, rising, reader.zoom) - rising
    assert np.abs(apart).max() < 0.5
    assert abs(apart[-20:].mean() - apart[:20].mean()) < 0.1


def test_a_level_rounded_down_keeps_its_whole_factor():
    levels = levels_of([(50_001, 1563), (12_500, 390), (48, 1)])
    assert [level.downsample for level in levels] == [(1.0, 1.0), (4.0, 4.0), (1024.0, 1024.0)]
    assert levels_of([(1000, 800), (300, 240)])[1].downsample == pytest.approx((10 / 3, 10 / 3))


@pytest.mark.parametrize("mpp", [0.2, 0.5, 1.0, 1.85, 2.004])
def test_pieces_equal_the_whole(tmp_path, mpp):
    write_ome(tmp_path / "a.ome.tif", noise(700, 901) // 100)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        reader = slide.at(mpp)
        assert isinstance(reader, Reader)
        height, width = reader.size_px
        assert (height, width) == (round(700 * 0.5 / mpp), round(901 * 0.5 / mpp))
        everything = reader.read(Box(0, 0, height, width))
        for top in range(0, height, 97):
            for left in range(0, width, 131):
                box = Box(top, left, min(top + 97, height), min(left + 131, width))
                piece = reader.read(box)
                assert np.array_equal(piece, everything[top : box.bottom, left : box.right])


@pytest.mark.parametrize("mpp", [None, 1.0, 1.4])
def test_tissue_is_mirrored_outside_the_slide(tmp_path, mpp):
    write_ome(tmp_path / "a.ome.tif", noise(300, 260))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        reader = slide.at(mpp)
        height, width = reader.size_px
        everything = reader.read(Box(0, 0, height, width))
        far = 3 * max(height, width)
        padded = np.pad(everything, ((far, far), (far, far), (0, 0)), mode="reflect")
        for box in (
            Box(-7, -9, 20, 30),
            Box(height - 5, width - 5, height + 40, width + 30),
            Box(-3, 10, height + 3, 20),
            Box(-far, -far, 10 - far, 12 - far),
            Box(height + far - 30, 5, height + far, 25),
            Box(height + 20, width + 20, height + 21, width + 21),
        ):
            expected = padded[box.top + far : box.bottom + far, box.left + far : box.right + far]
            assert np.array_equal(reader.read(box), expected), box


@pytest.mark.parametrize("packing", [None, "jpeg", "deflate", "lzw"])
def test_every_level_of_an_ome_tiff_equals_tifffile(tmp_path, packing):
    write_ome(tmp_path / "a.ome.tif", tissue(700, 901), compression=packing)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file, open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.kind == "OME-TIFF"
        assert slide.mpp == 0.5
        assert slide.mpp_source == "OME-XML"
        pages = [level.keyframe for level in file.series[0].levels]
        assert [level.size_px for level in slide.levels] == [page.shape[:2] for page in pages]
        assert len(slide.levels) == 3
        for n, page in enumerate(pages):
            assert np.array_equal(whole(slide, n), page.asarray())
            box = Box(100, 90, 160, 222)
            assert np.array_equal(slide.read_level(n, box), page.asarray()[100:160, 90:222])


WAYS = {
    "rgb": {"photometric": "rgb"},
    "planar": {"photometric": "rgb", "planarconfig": "separate"},
    "tiled-planar": {"photometric": "rgb", "planarconfig": "separate", "tile": (128, 256)},
    "deflate": {"photometric": "rgb", "compression": "deflate", "predictor": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_big_flat_tiff_is_read_in_pieces(tmp_path, way):
    image = tissue(300, 4200)
    stored = np.moveaxis(image, -1, 0) if "planar" in way else image
    how = {"rowsperstrip": 70} if "tile" not in WAYS[way] else {}
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata=None, **WAYS[way], **how)
    with open_slide(tmp_path / "a.tif") as slide:
        assert not slide.plain
        assert slide.kind == "TIFF"
        assert np.array_equal(whole(slide), image)
        assert np.array_equal(slide.read_level(0, Box(60, 4000, 150, 4111)), image[60:150, 4000:4111])
        small, zoom = slide.thumbnail(420)
        assert np.abs(small.astype(int) - cv2.resize(image, (420, 30), interpolation=3)).max() <= 1
        assert zoom == 10


def test_grey_palette_and_white_is_zero_become_rgb(tmp_path):
    grey = tissue(80, 4200)[..., 0]
    table = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite", metadata=None)
    tifffile.imwrite(
        tmp_path / "palette.tif", grey, photometric="palette", colormap=table * 257, metadata=None
    )
    expected = {
        "grey": np.repeat(grey[..., None], 3, 2),
        "white": np.repeat(255 - grey[..., None], 3, 2),
        "palette": table.T.astype(np.uint8)[grey],
    }
    for name, image in expected.items():
        with open_slide(tmp_path / f"{name}.tif") as slide:
            assert slide.kind == "TIFF"
            assert not slide.plain
            assert np.array_equal(whole(slide), image), name


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified"])
def test_transparency_is_blended_with_white(tmp_path, extra):
    image = tissue(80, 4200)
    alpha = tissue(80, 4200, seed=1)[..., :1]
    colours = np.rint(image * (alpha / 255)).astype(np.uint8) if extra == "assocalpha" else image
    rgba = np.concatenate([colours, alpha], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[extra], metadata=None)
    share = 1.0 if extra == "unspecified" else alpha / 255
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.abs(whole(slide) - (image * share + 255 * (1 - share))).max() <= 1


def test_missing_tiles_are_white(tmp_path):
    image = tissue(256, 4352)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        tiles = (None if n == 3 else image[:, 256 * n : 256 * n + 256] for n in range(17))
        writer.write(tiles, shape=image.shape, dtype=np.uint8, compression="deflate", **TILED)
    image[:, 768:1024] = 255
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(whole(slide), image)


REFUSED = {
    "16-bit": (np.zeros((64, 4200, 3), np.uint16), {"photometric": "rgb"}),
    "16-bit-tiled": (np.zeros((512, 512, 3), np.uint16), {"photometric": "rgb", "tile": (256, 256)}),
    "float": (np.zeros((64, 4200), np.float32), {"photometric": "minisblack"}),
    "stack": (np.zeros((5, 64, 4200), np.uint8), {"photometric": "minisblack"}),
    "stack-tiled": (np.zeros((5, 512, 512), np.uint8), {"photometric": "minisblack", "tile": (256, 256)}),
    "stack-small": (np.zeros((5, 64, 64), np.uint8), {"photometric": "minisblack"}),
    "two-channels": (np.zeros((2, 64, 4200), np.uint8), {"photometric": "minisblack"}),
    "cmyk": (np.zeros((64, 4200, 4), np.uint8), {"photometric": "separated"}),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ome", [False, True])
def test_an_image_that_is_not_8_bit_is_refused(tmp_path, name, ome):
    pixels, how = REFUSED[name]
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    tifffile.imwrite(path, pixels, ome=ome, **how)
    with pytest.raises(InputError, match=r"a\.(ome\.)?tif: expected"):
        open_slide(path)


def test_plain_images_open_as_slides(tmp_path):
    image = noise(70, 90)
    for suffix, kind in ((".png", "PNG"), (".bmp", "BMP"), (".tif", "TIFF")):
        Image.fromarray(image).save(tmp_path / f"a{suffix}", dpi=(50800, 50800))
        with open_slide(tmp_path / f"a{suffix}") as slide:
            assert (slide.kind, slide.plain, slide.size_px) == (kind, True, (70, 90))
            assert slide.mpp == pytest.approx(0.5, rel=1e-3)
            assert np.array_equal(slide.at(None).read(Box(0, 0, 70, 90)), image)
    Image.fromarray(image[..., 0] > 99).save(tmp_path / "bit.tif")
    with open_slide(tmp_path / "bit.tif") as slide:
        assert slide.plain
        assert np.array_equal(whole(slide)[..., 0], (image[..., 0] > 99) * np.uint8(255))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "small.svs", "boxes.tiff"])
def test_full_resolution_equals_openslide(shared_data, name):
    path = shared_data / "slides" / name
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), openslide_whole(path))
        assert slide.mpp == (0.499 if name.endswith("svs") else None)
        for most in (1, 7, 100, 5000):
            small, zoom = slide.thumbnail(most)
            assert max(small.shape[:2]) == min(most, max(slide.size_px))
            assert zoom == max(1, max(slide.size_px) / most)


@pytest.mark.shared
def test_an_aperio_slide_at_two_micrometres(shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert slide.kind == "OpenSlide aperio"
        assert not slide.plain
        reader = slide.at(2.0)
        assert reader.size_px == (round(2967 * 0.499 / 2), round(2220 * 0.499 / 2))
        got = reader.read(Box(0, 0, 100, 120)).astype(int)
    wide = round(120 * reader.zoom), round(100 * reader.zoom)
    part = openslide_whole(path)[: wide[1], : wide[0]]
    expected = cv2.resize(part, (120, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(got - expected).mean() < 0.5


@pytest.mark.shared
def test_a_generic_pyramid_has_the_levels_of_openslide(shared_data):
    path = shared_data / "slides" / "boxes.tiff"
    with open_slide(path) as slide, openslide.OpenSlide(path) as known:
        assert [level.size_px[::-1] for level in slide.levels] == list(known.level_dimensions)
        assert [level.downsample for level in slide.levels] == [(f, f) for f in (1.0, 2.0, 4.0, 8.0)]
        for n in range(4):
            assert np.array_equal(whole(slide, n), openslide_whole(path, n))


@pytest.mark.shared
def test_a_hamamatsu_slide_reads_a_coarse_level(shared_data):
    path = shared_data / "slides" / "test3-DAPI.ndpi"
    with open_slide(path) as slide:
        assert slide.kind == "OpenSlide hamamatsu"
        assert slide.mpp == pytest.approx(0.2281750559)
        assert [level.downsample for level in slide.levels] == [(2.0**n, 2.0**n) for n in range(7)]
        reader = slide.at(slide.mpp * 8)
        got = reader.read(Box(100, 50, 300, 250))
        small, zoom = slide.thumbnail(152)
    assert np.array_equal(got, openslide_whole(path, 3)[100:300, 50:250])
    assert np.array_equal(small, openslide_whole(path, 5))
    assert zoom == 32


def test_a_thumbnail_is_small_and_never_enlarged(tmp_path):
    image = noise(200, 333)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        small, zoom = slide.thumbnail(1000)
        assert (zoom, np.array_equal(small, image)) == (1.0, True)
        for most in (1, 10, 100, 332):
            small, zoom = slide.thumbnail(most)
            assert small.shape == (max(1, int(200 * most / 333)), most, 3)
            assert zoom == 333 / most


def test_eight_threads_read_what_one_reads(tmp_path):
    write_ome(tmp_path / "a.ome.tif", tissue(900, 1100), compression="jpeg")
    random = np.random.default_rng(0)
    places = [Box(t, f, t + 60, f + 80) for t, f in random.integers(-40, 500, (120, 2)).tolist()]
    with open_slide(tmp_path / "a.ome.tif") as slide:
        readers = [slide.at(0.5), slide.at(0.9), slide.at(2.0)]
        alone = [readers[n % 3].read(box) for n, box in enumerate(places)]
    with open_slide(tmp_path / "a.ome.tif") as slide, ThreadPoolExecutor(8) as pool:
        readers = [slide.at(0.5), slide.at(0.9), slide.at(2.0)]
        together = list(pool.map(lambda n: readers[n % 3].read(places[n]), range(len(places))))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.shared
def test_eight_threads_read_what_one_reads_through_openslide(shared_data):
    random = np.random.default_rng(0)
    places = [Box(t, f, t + 50, f + 70) for t, f in random.integers(-40, 1000, (80, 2)).tolist()]
    with (
        open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide,
        ThreadPoolExecutor(8) as pool,
    ):
        reader = slide.at(0.7)
        alone = [reader.read(box) for box in places]
        together = list(pool.map(reader.read, places))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_given_scale_is_used_with_a_note(tmp_path):
    write_ome(tmp_path / "a.ome.tif", noise(64, 64), mpp=0.499)
    progress = RecordingProgress()
    with open_slide(tmp_path / "a.ome.tif", mpp=0.25, progress=progress) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "given")
        assert slide.at(0.5).zoom == 2
    assert len(progress.notes) == 1
    assert "0.25" in progress.notes[0]
    assert "0.499" in progress.notes[0]
    with open_slide(tmp_path / "a.ome.tif", mpp=0.499, progress=progress):
        assert len(progress.notes) == 1


@pytest.mark.parametrize("mpp", [0, -1, 0.04, 21, float("nan"), float("inf")])
def test_an_implausible_given_scale_is_refused(tmp_path, mpp):
    write_ome(tmp_path / "a.ome.tif", noise(64, 64))
    with pytest.raises(UsageError, match="mpp: expected"):
        open_slide(tmp_path / "a.ome.tif", mpp=mpp)


@pytest.mark.parametrize("width", [64, 4200])
def test_an_implausible_scale_in_the_file_is_ignored(tmp_path, width):
    tifffile.imwrite(tmp_path / "a.tif", noise(64, width), resolution=(300, 300), resolutionunit="INCH")
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp is None
        assert slide.mpp_source is None
        assert slide.at(None).read(Box(0, 0, 9, 9)).shape == (9, 9, 3)
        with pytest.raises(InputError, match=r"a\.tif: expected micrometres per pixel.*20x"):
            slide.at(0.5)


@pytest.mark.parametrize("width", [64, 4200])
def test_pixels_that_are_not_square_are_warned_of_or_refused(tmp_path, width):
    for name, y in (("warned", 0.525), ("refused", 0.6)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            noise(64, width),
            resolution=(1e4 / 0.5, 1e4 / y),
            resolutionunit="CENTIMETER",
        )
    progress = RecordingProgress()
    with open_slide(tmp_path / "warned.tif", progress=progress) as slide:
        assert slide.mpp == pytest.approx(0.5125)
    assert len(progress.warnings) == 1
    with pytest.raises(InputError, match="expected square pixels"):
        open_slide(tmp_path / "refused.tif")


def test_a_box_outside_a_level_is_refused(tmp_path):
    write_ome(tmp_path / "a.ome.tif", noise(64, 80), levels=2)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        for level, box in (
            (0, Box(0, 0, 65, 80)),
            (0, Box(-1, 0, 5, 5)),
            (1, Box(0, 0, 33, 9)),
            (0, Box(5, 5, 5, 9)),
        ):
            with pytest.raises(UsageError, match="expected a box inside"):
                slide.read_level(level, box)
        for level in (-1, 2):
            with pytest.raises(UsageError, match="expected a level from 0 to 1"):
                slide.read_level(level, Box(0, 0, 1, 1))


def test_slides_of_a_folder_are_listed_in_natural_order(tmp_path):
    names = ["s2.svs", "s10.NDPI", "s11.mrxs", "s12.ome.tif", "s13.png", "s14.dcm", "s15.czi", "s16.tf8"]
    for name in [*names, ".hidden.svs", "._s2.svs", "notes.txt", "a.geojson"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "s11").mkdir()
    (tmp_path / "s11" / "Data0000.png").write_bytes(b"x")
    (tmp_path / "folder.svs").mkdir()
    assert [path.name for path in list_slides(tmp_path)] == names
    assert len(set(SLIDE_SUFFIXES)) == len(SLIDE_SUFFIXES)
    with pytest.raises(InputError, match="expected a folder"):
        list_slides(tmp_path / "s2.svs")


def test_the_largest_image_of_a_tiff_is_the_slide(tmp_path):
    """A label or an overview may be stored first."""
    rng = np.random.default_rng(3)
    label, slide = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((100, 100), (600, 800)))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(label, **TILED)
        file.write(slide, **TILED)
    with open_slide(tmp_path / "a.tif") as opened:
        assert opened.size_px == (600, 800)
        assert (opened.at(None).read(Box(0, 0, 600, 800)) == slide).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_scale_is_that_of_the_largest_image(tmp_path, order):
    """OME-XML describes every image; an overview before the slide has another scale."""
    images = [((300, 400), 8.0), ((1200, 1600), 0.25), ((150, 200), None)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for size, mpp in (images[which] for which in order):
            words = {"axes": "YXS"} | ({"PhysicalSizeX": mpp, "PhysicalSizeY": mpp} if mpp else {})
            file.write(noise(*size), **TILED | {"metadata": words})
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.size_px, slide.mpp, slide.mpp_source) == ((1200, 1600), 0.25, "OME-XML")


def test_the_scale_of_an_overview_is_not_used_for_the_slide(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        words = {"axes": "YXS", "PhysicalSizeX": 8.0, "PhysicalSizeY": 8.0}
        file.write(noise(300, 400), **TILED | {"metadata": words})
        file.write(noise(1200, 1600), **TILED | {"metadata": {"axes": "YXS"}})
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.mpp, slide.mpp_source) == (None, None)


def waves(size_px, full_px, wave_px=97.0):
    """Waves of `wave_px` full-resolution pixels, across in red, down in green."""
    (height, width), places = size_px, []
    for count, full in zip(size_px, full_px, strict=True):
        places.append((np.arange(count) + 0.5) * full / count)
    down, across = (128 + 100 * np.sin(2 * np.pi * at / wave_px) for at in places)
    image = np.full((height, width, 3), 128, np.uint8)
    image[..., 0], image[..., 1] = np.rint(across)[None, :], np.rint(down)[:, None]
    return image


def shift_of_waves(line, places, wave_px=97.0):
    """Measure the displacement of a profile in full-resolution pixels by the best-fitting wave."""
    angle = 2 * np.pi * places / wave_px
    parts = np.stack([np.sin(angle), np.cos(angle), np.ones_like(angle)], axis=1)
    sine, cosine, _ = np.linalg.lstsq(parts, line.astype(float), rcond=None)[0]
    assert np.hypot(sine, cosine) > 50, "there are waves to be measured"
    return np.arctan2(cosine, sine) * wave_px / (2 * np.pi)


@pytest.mark.parametrize(
    ("full_px", "level_px"),
    [((4003, 9001), (1231, 2768)), ((3004, 9010), (1000, 2999)), ((2576, 9032), (1128, 3955))],
    ids=["3.25", "3.00", "2.28, nearly half a pixel rounded"],
)
def test_a_level_whose_factor_is_not_whole_is_placed_within_half_a_pixel(tmp_path, full_px, level_px):
    """OpenSlide takes whole full-resolution pixels: only the rounding may be off."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(waves(full_px, full_px), **TILED, **scale(0.5))
        writer.write(waves(level_px, full_px), subfiletype=1, **TILED)
    with Slide(path, OpenSlidePixels(path)) as slide:
        assert slide.kind == "OpenSlide generic-tiff"
        factor = slide.levels[1].downsample[1]
        assert factor % 1 > 1e-4
        reader = slide.at(slide.mpp * factor * 1.21)
        assert reader._level == 1
        image, apart = reader.read(Box(0, 0, *reader.size_px)), []
        for axis, channel in ((1, 0), (0, 1)):
            line = image[..., channel].mean(axis=1 - axis)
            places = (np.arange(len(line)) + 0.5) * reader.zoom
            # Blocks of 1,024 px of the level are placed one by one.
            for start in range(0, level_px[axis], 1024):
                edges = np.array([start + 4, min(start + 1024, level_px[axis]) - 4]) * factor
                block = (places > edges[0]) & (places < edges[1])
                if block.sum() * reader.zoom > 97:
                    apart.append(shift_of_waves(line[block], places[block]))
    assert len(apart) >= 4
    assert np.abs(apart).max() < 0.5
    assert np.abs(apart).max() > 0.1, "the measurement can show a displacement"


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_threads_that_start_at_once_read_what_one_reads(tmp_path, monkeypatch, compression):
    """With so many tiles, their positions are read at the first access, not with the directory."""
    path, side, tile, threads = tmp_path / "a.tif", 1024, 64, 8
    pixels = noise(side // 16, side // 16).repeat(16, 0).repeat(16, 1)
    tifffile.imwrite(path, pixels, tile=(tile, tile), compression=compression, photometric="rgb")
    boxes = [Box(row, 0, row + tile, side) for row in range(0, side, side // threads)]
    alone = TiffPixels(path)
    expected = [alone.read(0, box) for box in boxes]
    alone.close()

    seek = tifffile.FileHandle.seek

    def slow_seek(self, *arguments):
        position = seek(self, *arguments)
        time.sleep(0.0005)  # long enough for another thread to move the file's position
        return position

    monkeypatch.setattr(tifffile.FileHandle, "seek", slow_seek)
    for _ in range(5):
        pixels = TiffPixels(path)
        start = threading.Barrier(threads)

        def read(box, pixels=pixels, start=start):
            start.wait()
            return pixels.read(0, box)

        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(read, boxes))
        pixels.close()
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
