import numpy as np
import pytest
import shapely
from PIL import Image

from glomtile.errors import UsageError
from glomtile.io.images import draw_overlay, write_jpeg

MAGENTA = np.full((80, 100, 3), (190, 70, 150), np.uint8)
RED = (255, 0, 0)


def redness(image):
    return image[..., 0].astype(int) - image[..., 1] - image[..., 2]


def test_a_line_is_drawn_on_the_outline_only():
    square = shapely.box(200, 160, 600, 480)
    drawn = draw_overlay(MAGENTA, 8.0, [(square, RED)], 2)
    rows, columns = np.indices(MAGENTA.shape[:2]) + 0.5
    apart = shapely.distance(square.exterior, shapely.points(columns * 8, rows * 8)) / 8
    assert (redness(drawn)[apart < 0.6] > 150).all()
    assert np.array_equal(drawn[apart > 4], MAGENTA[apart > 4])


def test_lines_are_placed_to_a_quarter_of_a_pixel():
    drawn = draw_overlay(
        np.full((60, 60, 3), 255, np.uint8), 1.0, [(shapely.box(-50, -50, 30.5, 110), RED)], 1
    )
    dark = (255 - drawn[30, :, 1].astype(float))[25:37]
    assert (dark * np.arange(25, 37)).sum() / dark.sum() == pytest.approx(30, abs=0.25)


@pytest.mark.parametrize("points", [16, 400, 4000])
@pytest.mark.parametrize("line_px", [1.0, 2.0, 3.5])
def test_a_line_has_its_thickness_however_close_its_points_are(points, line_px):
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    ring = shapely.Polygon(np.column_stack([100.3 + 60 * np.cos(turn), 99.8 + 60 * np.sin(turn)]))
    drawn = draw_overlay(np.zeros((200, 200, 3), np.uint8), 1.0, [(ring, (255, 255, 255))], line_px)
    assert drawn[..., 0].sum() / 255 / ring.length == pytest.approx(line_px, abs=0.4)


def test_a_dark_halo_separates_the_line_from_tissue():
    drawn = draw_overlay(MAGENTA, 1.0, [(shapely.box(20, 20, 60, 60), RED)], 2)
    row = drawn[40, 14:26].astype(int).sum(axis=-1)
    assert row.min() < 0.5 * MAGENTA[0, 0].astype(int).sum()


def test_holes_and_parts_are_drawn_on_a_copy():
    ring = shapely.box(10, 10, 50, 50).difference(shapely.box(25, 25, 35, 35))
    both = shapely.MultiPolygon([ring, shapely.box(70, 60, 90, 75)])
    before = MAGENTA.copy()
    drawn = draw_overlay(MAGENTA, 1.0, [(both, (0, 255, 0))], 1)
    assert np.array_equal(MAGENTA, before)
    green = drawn[..., 1] > 150
    assert green[25, 30]
    assert green[60, 80]
    assert not green[30, 30]


def test_outlines_may_extend_over_the_edge():
    assert np.array_equal(draw_overlay(MAGENTA, 4.0, []), MAGENTA)
    drawn = draw_overlay(MAGENTA, 1.0, [(shapely.box(-1000, -1000, 5000, 40.5), RED)])
    assert (redness(drawn)[40] > 150).all()


@pytest.mark.parametrize(("zoom", "line_px"), [(0, 1), (1, 0), (float("nan"), 1)])
def test_a_zoom_or_line_that_is_not_above_0_is_refused(zoom, line_px):
    with pytest.raises(UsageError):
        draw_overlay(MAGENTA, zoom, [], line_px)


def test_a_jpeg_has_the_same_bytes_every_time(tmp_path):
    drawn = draw_overlay(MAGENTA, 1.0, [(shapely.box(20, 20, 60, 60), RED)], 3)
    write_jpeg(tmp_path / "a.jpg", drawn)
    write_jpeg(tmp_path / "b.jpg", drawn)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.format == "JPEG"
        assert np.abs(np.array(stored).astype(int) - drawn).mean() < 6


def test_an_image_too_large_for_jpeg_is_refused(tmp_path):
    with pytest.raises(UsageError, match="65,535"):
        write_jpeg(tmp_path / "a.jpg", np.zeros((1, 70_000, 3), np.uint8))
    assert not list(tmp_path.iterdir())
