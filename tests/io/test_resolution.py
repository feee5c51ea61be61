import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.fakes import RecordingProgress

from glomtile.errors import InputError
from glomtile.io.images import description_of_page, image_mpp
from glomtile.slides.slide import open_slide

PLAIN = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_the_dots_per_inch_of_plain_images_are_no_scale(tmp_path, dpi, suffix):
    Image.fromarray(PLAIN).save(tmp_path / f"a{suffix}", dpi=(dpi, dpi))
    assert image_mpp(tmp_path / f"a{suffix}") is None


@pytest.mark.parametrize(
    ("mpp", "accepted"), [(0.04, False), (0.06, True), (0.5, True), (19, True), (21, False)]
)
def test_only_a_plausible_scale_is_accepted(tmp_path, mpp, accepted):
    Image.fromarray(PLAIN).save(tmp_path / "a.png", dpi=(25400 / mpp, 25400 / mpp))
    assert image_mpp(tmp_path / "a.png") == (pytest.approx(mpp, rel=1e-4) if accepted else None)


def test_a_tiff_states_its_scale_in_inches_or_centimetres(tmp_path):
    tifffile.imwrite(tmp_path / "cm.tif", PLAIN, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "inch.tif", PLAIN, resolution=(50800, 50800), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "none.tif", PLAIN, resolution=(2, 2), resolutionunit="NONE")
    assert image_mpp(tmp_path / "cm.tif") == pytest.approx(0.5)
    assert image_mpp(tmp_path / "inch.tif") == pytest.approx(0.5)
    assert image_mpp(tmp_path / "none.tif") is None


def test_imagej_ome_and_aperio_state_their_scale_in_the_description(tmp_path):
    tifffile.imwrite(tmp_path / "ij.tif", PLAIN, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        PLAIN,
        ome=True,
        photometric="rgb",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )
    words = "Aperio Image Library|AppMag = 20|MPP = 0.4990"
    tifffile.imwrite(tmp_path / "svs.tif", PLAIN, description=words, metadata=None)
    assert image_mpp(tmp_path / "ij.tif") == pytest.approx(0.25)
    assert image_mpp(tmp_path / "a.ome.tif") == pytest.approx(0.5)
    assert image_mpp(tmp_path / "svs.tif") == pytest.approx(0.499)


def test_a_damaged_tag_is_no_scale(tmp_path):
    tifffile.imwrite(tmp_path / "zero.tif", PLAIN, resolution=(0, 0), resolutionunit="CENTIMETER")
    words = '<OME PhysicalSizeX="1.2.3e+" PhysicalSizeY="0.5"/>'
    tifffile.imwrite(tmp_path / "ome.tif", PLAIN, description=words, metadata=None)
    assert image_mpp(tmp_path / "zero.tif") is None
    assert image_mpp(tmp_path / "ome.tif") is None


@pytest.mark.parametrize("value", [".", "..", "1.2.3"])
def test_an_unreadable_aperio_scale_is_none_and_the_tags_count(tmp_path, value):
    words = f"Aperio Image Library|MPP = {value}|x"
    how = {"description": words, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, **how)
    tifffile.imwrite(tmp_path / "b.tif", PLAIN, resolution=(20000, 20000), resolutionunit="CENTIMETER", **how)
    assert image_mpp(tmp_path / "a.tif") is None
    assert image_mpp(tmp_path / "b.tif") == pytest.approx(0.5)


def test_pixels_that_are_not_square_are_warned_of_or_refused(tmp_path):
    progress = RecordingProgress()
    for name, x, y in (("square", 0.5, 0.502), ("warned", 0.5, 0.52), ("refused", 0.5, 0.56)):
        Image.fromarray(PLAIN).save(tmp_path / f"{name}.png", dpi=(25400 / x, 25400 / y))
    assert image_mpp(tmp_path / "square.png", progress) == pytest.approx(0.501, rel=1e-3)
    assert progress.warnings == []
    assert image_mpp(tmp_path / "warned.png", progress) == pytest.approx(0.51, rel=1e-3)
    assert "warned.png" in progress.warnings[0]
    with pytest.raises(InputError, match=r"expected square pixels, got 0.5 x 0.56"):
        image_mpp(tmp_path / "refused.png")


def test_a_resolution_unit_of_another_type_is_no_scale(tmp_path):
    """An exception for it ended whole runs."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLAIN, extratags=[(296, 2, 0, "inches", True)], metadata=None)
    assert image_mpp(path) is None
    with open_slide(path) as slide:
        assert slide.mpp is None


def pixels(mpp, size_px, data=""):
    return (
        f'<ome:Image><ome:Pixels SizeX="{size_px[1]}" SizeY="{size_px[0]}" PhysicalSizeX="{mpp}">'
        f"{data}</ome:Pixels></ome:Image>"
    )


def test_of_several_ome_images_the_one_at_the_page_counts():
    first, second = '<ome:TiffData PlaneCount="1"/>', '<ome:TiffData IFD="1" PlaneCount="1"/>'
    words = "<OME>" + pixels(8.0, (3, 4), first) + pixels(0.25, (30, 40), second) + "</OME>"
    assert '"0.25"' in description_of_page(words, 1, (30, 40))
    assert '"8.0"' not in description_of_page(words, 1, (30, 40))
    assert '"8.0"' in description_of_page(words, 0, (3, 4))


def test_ome_images_without_a_page_are_identified_by_their_size():
    words = pixels(8.0, (3, 4)) + pixels(0.25, (30, 40))
    assert '"0.25"' in description_of_page(words, 1, (30, 40))
    assert description_of_page(words, 1, (5, 5)) == ""
    assert description_of_page(words + pixels(0.5, (30, 40)), 1, (30, 40)) == ""


def test_the_description_of_a_single_image_is_returned_as_it_is():
    for words in ("", "Aperio|MPP = 0.5", pixels(0.5, (3, 4))):
        assert description_of_page(words, 7, (1, 1)) == words
