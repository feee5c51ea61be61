"""Images, masks and folders that cannot be used: each is named, with what was expected and what came."""

import contextlib
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from glomtile.datasets.pairing import pair
from glomtile.datasets.prepare import prepare
from glomtile.datasets.statistics import stats
from glomtile.errors import GlomtileError, InputError
from glomtile.io.images import image_size, list_images, read_image, readable_size, write_png
from glomtile.io.masks import mask_size, read_mask, write_mask
from glomtile.palette import GLOMERULI


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *, depth=8, colour=2, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def noise(side=40):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Four good pairs to spoil."""
    labels = np.zeros((40, 40), np.uint8)
    labels[5:20, 5:20] = 1
    for stem in "abcd":
        write_png(tmp_path / "images" / f"{stem}.png", noise())
        write_mask(tmp_path / "masks" / f"{stem}.png", labels, GLOMERULI)
    return tmp_path


def refused(folders, *said):
    """Prepare refuses, says where, what was expected and what came, and leaves the folder as it was."""
    before = sorted(path for path in folders.rglob("*"))
    with pytest.raises(GlomtileError) as caught:
        prepare(folders / "images", folders / "masks", folders / "set", tile_px=16)
    for text in ("expected", *said):
        assert text in str(caught.value)
    assert caught.value.exit_code in (1, 2)
    assert sorted(path for path in folders.rglob("*")) == before, "nothing deleted, nothing left behind"


def test_a_missing_mask(folders):
    (folders / "masks" / "b.png").unlink()
    refused(folders, "masks", "none for b.png")


def test_a_missing_image(folders):
    (folders / "images" / "b.png").unlink()
    refused(folders, "images", "none for b.png")


def test_a_stem_twice(folders):
    Image.fromarray(noise()).save(folders / "images" / "b.jpg")
    refused(folders, "b.jpg and b.png")


def test_an_image_and_mask_of_different_size(folders):
    write_png(folders / "images" / "b.png", noise(41))
    refused(folders, "b.png (41 x 41 px and 40 x 40 px)")


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_png(folders, kind, share):
    path = folders / kind / "b.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * (len(whole) - 16))])
    refused(folders, "b.png")


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".bmp", ".png"])
def test_a_file_cut_anywhere_is_refused_or_read_never_crashes(tmp_path, suffix):
    whole_path, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    Image.fromarray(noise()).save(whole_path)
    whole, good = whole_path.read_bytes(), read_image(whole_path)
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        try:
            read = read_image(path)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 (some cuts leave every pixel)
        else:
            assert np.array_equal(read, good), f"cut at {length} of {len(whole)} and read wrong"


@pytest.mark.parametrize("seed", range(40))
def test_a_file_with_flipped_bytes_is_refused_or_read_never_crashes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    suffix = (".png", ".tif", ".bmp", ".jpg")[seed % 4]
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise()).save(path)
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, min(len(data), 200), 6):
        data[at] = rng.integers(0, 256)
    path.write_bytes(bytes(data))
    for look in (read_image, image_size, lambda file: read_mask(file, GLOMERULI)):
        try:
            look(path)
        except InputError as error:
            assert "expected" in str(error)  # noqa: PT017 (some bytes do not matter)


def test_a_bomb_is_refused_from_its_header(folders):
    (folders / "images" / "b.png").write_bytes(png(60_000, 60_000))
    (folders / "masks" / "b.png").write_bytes(png(60_000, 60_000, depth=1, colour=0))
    assert image_size(folders / "images" / "b.png") == (60_000, 60_000)
    began = time.process_time()
    for look in (read_image, lambda path: read_mask(path, GLOMERULI)):
        with pytest.raises(InputError, match=r"at most 500 Mpx, got 60,000 x 60,000 px \(3,600 Mpx\)"):
            look(folders / "images" / "b.png")
    assert time.process_time() - began < 5
    refused(folders, "b.png", "3,600 Mpx")


def test_a_bomb_takes_no_memory(tmp_path):
    """60,000 x 60,000 px of zeros that really inflate: 10.8 GB if anyone decoded them."""
    path = tmp_path / "bomb.png"
    packer = zlib.compressobj(9)
    row = packer.compress(bytes(1 + 3 * 60_000) * 500)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", row + packer.flush()) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    look = (
        "import resource, sys\n"
        "from glomtile.io.images import read_image\n"
        "from glomtile.errors import InputError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_image(sys.argv[1])\n"
        "except InputError:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < 50e6


def test_an_npz_bomb_is_refused_from_its_header(folders):
    (folders / "masks" / "b.png").unlink()
    bomb = folders / "masks" / "b.npz"
    np.savez_compressed(bomb, mask=np.broadcast_to(np.uint8(0), (30_000, 17_000)))
    assert mask_size(bomb) == (30_000, 17_000)
    with pytest.raises(InputError, match="at most 500 Mpx, got 17,000 x 30,000 px"):
        read_mask(bomb, GLOMERULI)


def test_an_npz_that_would_run_code_is_refused_unrun(tmp_path):
    class Danger:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    np.savez(tmp_path / "a.npz", mask=np.array([[Danger()]], dtype=object))
    with pytest.raises(InputError, match="object"):
        read_mask(tmp_path / "a.npz", GLOMERULI)
    assert not (tmp_path / "ran").exists()


def test_colours_outside_the_map_are_named_with_their_share(folders):
    rgb = GLOMERULI.encode(read_mask(folders / "masks" / "b.png", GLOMERULI))
    rgb[:4] = (0, 255, 0)
    write_png(folders / "masks" / "b.png", rgb)
    refused(folders, "b.png", "(0,0,0), (255,0,0)", "(0,255,0) on 10 % of the pixels", "rgb_map")


def test_a_jpeg_mask_is_refused_and_read_with_a_tolerance(folders):
    labels = read_mask(folders / "masks" / "b.png", GLOMERULI)
    (folders / "masks" / "b.png").unlink()
    path = folders / "masks" / "b.jpg"
    Image.fromarray(GLOMERULI.encode(labels)).save(path, quality=98, subsampling=0)
    refused(folders, "b.jpg", "tolerance = ")
    assert (read_mask(path, GLOMERULI, tolerance=100) == labels).mean() > 0.98


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_an_empty_folder(folders, kind):
    for path in (folders / kind).iterdir():
        path.unlink()
    refused(folders, kind, "at least one of .png", "got none")


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_folder_that_is_not_there(folders, kind):
    (folders / kind).rename(folders / "elsewhere")
    refused(folders, kind, "folder not found")


def test_a_folder_that_is_a_file(folders):
    with pytest.raises(InputError, match="expected a folder of images, got a file"):
        list_images(folders / "images" / "a.png")


def test_an_unreadable_folder(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    if os.geteuid() == 0:  # nothing is closed to root: the system's refusal is decreed

        def closed(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    else:
        (tmp_path / "closed").chmod(0)
    with pytest.raises(
        InputError, match="closed: expected a folder that can be read, got: Permission denied"
    ):
        list_images(tmp_path / "closed")
    (tmp_path / "closed").chmod(0o700)


def test_an_unreadable_file(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", noise())
    if os.geteuid() == 0:

        def closed(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(tmp_path / "a.png"))

        monkeypatch.setattr(Image, "open", closed)
    else:
        (tmp_path / "a.png").chmod(0)
    with pytest.raises(InputError, match=r"a\.png: expected PNG, JPEG, TIFF or BMP, got: Permission denied"):
        read_image(tmp_path / "a.png")


def test_sixteen_bits_are_refused_in_every_guise(tmp_path):
    deep = noise().astype(np.uint16) * 257
    Image.fromarray(deep[..., 0]).save(tmp_path / "grey.png")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    (tmp_path / "rgb.png").write_bytes(png(40, 40, depth=16, rows=rows))
    tifffile.imwrite(tmp_path / "grey.tif", deep[..., 0])
    tifffile.imwrite(tmp_path / "rgb.tif", deep, photometric="rgb")
    for name in ("grey.png", "rgb.png", "grey.tif", "rgb.tif"):
        with pytest.raises(InputError, match=r"expected 8 bits a sample, got 16 \(convert it"):
            read_image(tmp_path / name)
        with pytest.raises(InputError, match="got 16"):
            read_mask(tmp_path / name, GLOMERULI, datatype="indexed")


def test_floating_point_and_other_colour_spaces_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((8, 8), np.float32))
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    Image.new("LAB", (8, 8)).save(tmp_path / "lab.tif")
    with pytest.raises(InputError, match="expected 8 bits a sample, got 32"):
        read_image(tmp_path / "float.tif")
    for name, mode in (("print.jpg", "CMYK"), ("lab.tif", "LAB")):
        with pytest.raises(InputError, match=f"expected RGB, RGBA, grey or palette, got {mode}"):
            read_image(tmp_path / name)


def test_a_text_called_png_and_a_picture_by_another_name(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"a\.png: expected PNG, JPEG, TIFF or BMP, got a damaged file"):
        read_image(tmp_path / "a.png")
    Image.fromarray(noise()).save(tmp_path / "b.bmp")
    (tmp_path / "b.bmp").rename(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png"), noise()), "the content tells the format"


def test_a_file_that_vanishes_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: expected an image, the file does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"gone\.npz: expected a mask, the file does not exist"):
        read_mask(tmp_path / "gone.npz", GLOMERULI)


def test_pairs_are_checked_without_decoding(folders):
    for kind in ("images", "masks"):
        (folders / kind / "b.png").write_bytes(png(60_000, 60_000))
    assert len(pair(folders / "images", folders / "masks")) == 4


def test_stats_of_a_broken_dataset_name_the_file(folders):
    prepare(folders / "images", folders / "masks", folders / "set", tile_px=16)
    tile = next((folders / "set" / "train" / "images").iterdir())
    tile.write_bytes(tile.read_bytes()[:60])
    with pytest.raises(InputError, match=tile.name):
        stats(folders / "set", folders / "out")
    assert not (folders / "out").exists()


def test_a_two_page_tiff_cut_anywhere_is_read_or_refused(tmp_path):
    """Pillow meets a second page that is cut off with a TypeError of its own."""
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.tif", save_all=True, append_images=[picture.resize((20, 16))])
    whole = (tmp_path / "a.tif").read_bytes()
    for length in range(1, len(whole), 37):
        (tmp_path / "a.tif").write_bytes(whole[:length])
        with contextlib.suppress(InputError):
            readable_size(tmp_path / "a.tif")
