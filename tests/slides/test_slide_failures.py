import os

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from glomtile.errors import InputError
from glomtile.slides.slide import open_slide
from glomtile.types import Box

GOOD = ["CMU-1-Small-Region.svs", "small.svs", "boxes.tiff", "test3-DAPI.ndpi"]


def tissue(height, width):
    small = np.random.default_rng(0).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_pyramid(path, **how):
    image = tissue(600, 800)
    how = {"tile": (128, 128), "photometric": "rgb"} | how
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5}, **how)
        writer.write(image[::2, ::2], subfiletype=1, metadata=None, **how)


WRITERS = {
    "jpeg.ome.tif": lambda path: write_pyramid(path, compression="jpeg"),
    "deflate.ome.tif": lambda path: write_pyramid(path, compression="deflate"),
    "raw.ome.tif": write_pyramid,
    "strips.tif": lambda path: tifffile.imwrite(path, tissue(64, 4200), rowsperstrip=8, photometric="rgb"),
    "tiles.tif": lambda path: tifffile.imwrite(path, tissue(512, 512), tile=(128, 128), photometric="rgb"),
    "image.png": lambda path: Image.fromarray(tissue(300, 400)).save(path),
    "image.jpg": lambda path: Image.fromarray(tissue(300, 400)).save(path),
    "image.bmp": lambda path: Image.fromarray(tissue(300, 400)).save(path),
}


def thumbnail(path):
    """Return a thumbnail, or None after an InputError that names the file."""
    try:
        with open_slide(path) as slide:
            return slide.thumbnail(256)[0]
    except InputError as problem:
        if problem.where != str(path) or "expected" not in problem.message:
            raise
        return None


def truncated(whole, folder):
    for n, length in enumerate(np.linspace(0, len(whole), 10, endpoint=False).astype(int)):
        path = folder / f"{n}{''.join(folder.suffixes)}"
        path.write_bytes(whole[:length])
        yield path


@pytest.mark.parametrize("name", WRITERS)
def test_a_slide_cut_off_anywhere_is_whole_or_refused(tmp_path, name):
    WRITERS[name](tmp_path / name)
    good = thumbnail(tmp_path / name)
    assert good is not None
    folder = tmp_path / f"cut {name}"
    folder.mkdir()
    for path in truncated((tmp_path / name).read_bytes(), folder):
        cut = thumbnail(path)
        assert cut is None or np.array_equal(cut, good), path.name


@pytest.mark.shared
@pytest.mark.parametrize("name", GOOD)
def test_a_scanned_slide_cut_off_anywhere_is_whole_or_refused(shared_data, tmp_path, name):
    good = thumbnail(shared_data / "slides" / name)
    assert good is not None
    folder = tmp_path / f"cut {name}"
    folder.mkdir()
    for path in truncated((shared_data / "slides" / name).read_bytes(), folder):
        cut = thumbnail(path)
        assert cut is None or np.array_equal(cut, good), path.name


@pytest.mark.parametrize("name", WRITERS)
def test_a_slide_with_damaged_bytes_is_read_or_refused(tmp_path, name):
    WRITERS[name](tmp_path / name)
    whole = bytearray((tmp_path / name).read_bytes())
    random = np.random.default_rng(0)
    for n in range(30):
        damaged = bytearray(whole)
        reach = 400 if n % 2 else len(whole)  # every other time where the header is
        for place in random.integers(0, min(reach, len(whole)), 8):
            damaged[place] = random.integers(256)
        path = tmp_path / f"{n}-{name}"
        path.write_bytes(damaged)
        thumbnail(path)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["broken.svs", "unreadable.svs", "unopenable.tiff"])
def test_a_broken_slide_is_refused_by_name(shared_data, name):
    path = shared_data / "slides" / name
    with pytest.raises(InputError, match=rf"{name}: expected .*got"), open_slide(path) as slide:
        slide.thumbnail(256)


def test_a_path_that_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "empty.svs").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "lost.svs").symlink_to(tmp_path / "nowhere")
    for name, got in {
        "missing.svs": "the file does not exist",
        "lost.svs": "the file does not exist",
        "folder.svs": "a folder",
        "empty.svs": "an empty file",
        "pipe.svs": "a pipe",
    }.items():
        with pytest.raises(InputError, match=rf"{name}: expected .*{got}"):
            open_slide(tmp_path / name)
    with pytest.raises(InputError, match="expected"):
        open_slide(tmp_path / "empty.svs" / "below.svs")


@pytest.mark.parametrize(
    "name", ["a.svs", "a.tif", "a.ndpi", "a.png", "a.ome.tif", "a.mrxs", "a.dcm", "a", "a.xyz"]
)
def test_text_under_a_slides_name_is_refused(tmp_path, name):
    (tmp_path / name).write_text("This is no slide.\n" * 50)
    with pytest.raises(InputError, match=rf"{name}: expected .*got"):
        open_slide(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_slide_without_read_permission_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    Image.fromarray(tissue(64, 64)).save(closed / "a.png")
    closed.chmod(0)
    try:
        with pytest.raises(InputError, match="expected a file that can be read"):
            open_slide(closed / "a.png")
    finally:
        closed.chmod(0o700)


def test_a_set_of_ome_files_is_refused_rather_than_read_wrongly(tmp_path):
    words = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="3" SizeZ="1"'
        ' SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">'
        '<UUID FileName="b.ome.tif">urn:uuid:00000000-0000-0000-0000-000000000002</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    for name in "ab":
        pixels = np.full((64, 64, 3), ord(name), np.uint8)
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", pixels, photometric="rgb", description=words, metadata=None
        )
    with pytest.raises(InputError, match="expected all pixels in one file"):
        open_slide(tmp_path / "a.ome.tif")


def test_a_slide_deleted_while_it_is_read_continues_or_is_refused(tmp_path):
    write_pyramid(tmp_path / "a.ome.tif", compression="jpeg")
    with open_slide(tmp_path / "a.ome.tif") as slide:
        expected = slide.thumbnail(100)[0]
    with open_slide(tmp_path / "a.ome.tif") as slide:
        slide.read_level(0, Box(0, 0, 10, 10))
        (tmp_path / "a.ome.tif").unlink()
        assert np.array_equal(slide.thumbnail(100)[0], expected)
    Image.fromarray(tissue(64, 64)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        (tmp_path / "a.png").unlink()
        with pytest.raises(InputError, match=r"a\.png: expected"):
            slide.thumbnail(100)
