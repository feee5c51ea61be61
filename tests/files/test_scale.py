import numpy as np
import pytest
import tifffile
from PIL import Image

from glomtile.errors import InputError
from glomtile.files.images import image_mpp
from glomtile.types import _Silent

PLAIN = np.zeros((8, 8, 3), np.uint8)


class Listening(_Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_the_dots_per_inch_of_plain_pictures_are_no_scale(tmp_path, dpi, suffix):
    Image.fromarray(PLAIN).save(tmp_path / f"a{suffix}", dpi=(dpi, dpi))
    assert image_mpp(tmp_path / f"a{suffix}") is None


@pytest.mark.parametrize(
    ("mpp", "believed"), [(0.04, False), (0.06, True), (0.5, True), (19, True), (21, False)]
)
def test_only_a_plausible_scale_is_believed(tmp_path, mpp, believed):
    Image.fromarray(PLAIN).save(tmp_path / "a.png", dpi=(25400 / mpp, 25400 / mpp))
    assert image_mpp(tmp_path / "a.png") == (pytest.approx(mpp, rel=1e-4) if believed else None)


def test_a_tiff_tells_in_inches_or_centimetres(tmp_path):
    tifffile.imwrite(tmp_path / "cm.tif", PLAIN, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "inch.tif", PLAIN, resolution=(50800, 50800), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "none.tif", PLAIN, resolution=(2, 2), resolutionunit="NONE")
    assert image_mpp(tmp_path / "cm.tif") == pytest.approx(0.5)
    assert image_mpp(tmp_path / "inch.tif") == pytest.approx(0.5)
    assert image_mpp(tmp_path / "none.tif") is None


def test_imagej_ome_and_aperio_tell_in_words(tmp_path):
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


def test_pixels_a_little_out_of_square_are_told_and_far_out_refused(tmp_path):
    listening = Listening()
    for name, x, y in (("square", 0.5, 0.502), ("told", 0.5, 0.52), ("refused", 0.5, 0.56)):
        Image.fromarray(PLAIN).save(tmp_path / f"{name}.png", dpi=(25400 / x, 25400 / y))
    assert image_mpp(tmp_path / "square.png", listening) == pytest.approx(0.501, rel=1e-3)
    assert listening.warnings == []
    assert image_mpp(tmp_path / "told.png", listening) == pytest.approx(0.51, rel=1e-3)
    assert "told.png" in listening.warnings[0]
    with pytest.raises(InputError, match=r"expected square pixels, got 0.5 x 0.56"):
        image_mpp(tmp_path / "refused.png")
