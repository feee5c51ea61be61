import json

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.fakes import RecordingProgress

from glomtile.datasets.annotations import Outlines, holds_annotations, pair_annotations, read_outlines
from glomtile.errors import InputError
from glomtile.io.geojson import Annotation, write_annotations
from glomtile.io.images import write_png
from glomtile.objects.contours import outline_polygon
from glomtile.palette import GLOMERULI, Palette
from glomtile.types import Box

TWO = Palette.from_rgb_map(
    {(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2}, ["background", "glomerulus", "tuft"]
)


def centres(box, zoom):
    rows, columns = np.mgrid[box.top : box.bottom, box.left : box.right]
    return (columns + 0.5) * zoom, (rows + 0.5) * zoom


def written(path, *shapes):
    write_annotations(path, [Annotation(shape, name) for name, shape in shapes], identity="test")
    return path


@given(
    points=st.lists(st.tuples(st.floats(-20, 90), st.floats(-20, 90)), min_size=3, max_size=12),
    zoom=st.floats(0.5, 5),
    top=st.integers(-3, 8),
    left=st.integers(-3, 8),
)
def test_a_pixel_belongs_to_the_polygon_its_centre_lies_in(points, zoom, top, left):
    """Oracle: shapely, but for centres within rounding of an edge."""
    shape = shapely.convex_hull(shapely.MultiPoint(points))
    assume(shape.geom_type == "Polygon" and shape.area > 1)
    hole = shapely.affinity.scale(shape, 0.5, 0.5)
    shape = shape.difference(hole)
    box = Box(top, left, top + 30, left + 25)
    labels = Outlines((shape,), (1,)).labels(box, zoom)
    x, y = centres(box, zoom)
    clear = shapely.distance(shape.boundary, shapely.points(x, y)) > 1e-6
    assert np.array_equal(labels[clear] == 1, shapely.contains_xy(shape, x, y)[clear])


@given(mask=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=7, max_size=7))
def test_the_exact_outline_of_pixels_gives_the_pixels_back(mask):
    from skimage.measure import label

    regions = label(np.array(mask), connectivity=2)
    shapes = [outline_polygon(regions == number) for number in range(1, regions.max() + 1)]
    labels = Outlines(tuple(shapes), (1,) * len(shapes)).labels(Box(0, 0, 7, 9), 1.0)
    assert np.array_equal(labels == 1, np.array(mask))


@given(cut=st.integers(1, 39), zoom=st.sampled_from([1.0, 2.0, 4.0, 3.3]))
def test_neighbours_share_the_pixels_between_them_without_gap_or_overlap(cut, zoom):
    halves = shapely.box(0, 0, cut, 40), shapely.box(cut, 0, 40, 40)
    box = Box(0, 0, int(40 / zoom), int(40 / zoom))
    one, two = (Outlines((half,), (1,)).labels(box, zoom) for half in halves)
    assert (one + two == 1).all()


def test_pieces_put_together_are_the_whole():
    shape = shapely.Point(40, 37).buffer(31).difference(shapely.Point(45, 40).buffer(9))
    outlines = Outlines((shape,), (1,))
    whole = outlines.labels(Box(0, 0, 80, 80), 1.0)
    parts = [[outlines.labels(Box(t, c, t + 20, c + 40), 1.0) for c in (0, 40)] for t in range(0, 80, 20)]
    assert np.array_equal(np.block(parts), whole)


def test_of_overlapping_outlines_the_smaller_wins_whatever_the_order(tmp_path):
    big, small = ("glomerulus", shapely.box(0, 0, 20, 20)), ("tuft", shapely.box(5, 5, 10, 10))
    for number, order in enumerate([(big, small), (small, big)]):
        labels = read_outlines(written(tmp_path / f"{number}.geojson", *order), TWO).labels(
            Box(0, 0, 20, 20), 1.0
        )
        assert (labels[5:10, 5:10] == 2).all()
        assert (labels == 1).sum() == 400 - 25


@pytest.mark.parametrize("name", ["glomerulus", "Glomerulus", "GLOMERULI", " glomeruli "])
def test_a_class_is_known_in_singular_and_plural(tmp_path, name):
    found = read_outlines(written(tmp_path / "a.geojson", (name, shapely.box(0, 0, 5, 5))), GLOMERULI)
    assert found.numbers == (1,)


def test_unknown_classes_are_all_named_with_counts(tmp_path):
    box = shapely.box(0, 0, 5, 5)
    path = written(tmp_path / "a.geojson", ("Tumor", box), ("Tumor", box), ("Vein", box))
    with pytest.raises(InputError, match=r"glomerulus, got 2 'Tumor', 1 'Vein'"):
        read_outlines(path, GLOMERULI)


def test_regions_are_told_apart_and_starred_classes_passed_over_aloud(tmp_path):
    box, heard = shapely.box(0, 0, 5, 5), RecordingProgress()
    path = written(tmp_path / "a.geojson", ("Region*", box), ("ROI", box), ("Ignore*", box))
    found = read_outlines(path, GLOMERULI, heard)
    assert len(found.regions) == 2
    assert not found.polygons
    assert "1 'Ignore*'" in heard.warnings[0]


def test_outlines_without_a_class_are_the_only_class_or_refused(tmp_path):
    heard = RecordingProgress()
    path = written(tmp_path / "a.geojson", (None, shapely.box(0, 0, 5, 5)))
    assert read_outlines(path, GLOMERULI, heard).numbers == (1,)
    assert "without a class count as glomerulus" in heard.warnings[0]
    with pytest.raises(InputError, match="a class for every outline"):
        read_outlines(path, TWO)


def test_an_outline_without_a_class_around_others_is_no_glomerulus(tmp_path):
    around, object_ = shapely.box(0, 0, 50, 50), shapely.box(5, 5, 10, 10)
    with pytest.raises(InputError, match="around 1 others"):
        read_outlines(written(tmp_path / "a.geojson", (None, around), ("glomerulus", object_)), GLOMERULI)


def test_a_crossed_outline_is_repaired_aloud(tmp_path):
    ring = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    feature["properties"] = {"classification": {"name": "glomerulus"}}
    (tmp_path / "a.geojson").write_text(json.dumps([feature]))
    heard = RecordingProgress()
    labels = read_outlines(tmp_path / "a.geojson", GLOMERULI, heard).labels(Box(0, 0, 10, 10), 1.0)
    assert "crossed themselves" in heard.warnings[0]
    assert labels[1, 5] == labels[8, 5] == 0
    assert labels[5, 1] == labels[5, 8] == 1


def test_partners_share_a_name_and_nothing_is_left_over(tmp_path):
    for stem in ("s1", "s2"):
        write_png(tmp_path / "slides" / f"{stem}.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "json").mkdir()
    written(tmp_path / "json" / "s1.geojson")
    with pytest.raises(InputError, match=r"got none for s2\.png"):
        pair_annotations(tmp_path / "slides", tmp_path / "json")
    written(tmp_path / "json" / "s2.geojson")
    assert [found.stem for found in pair_annotations(tmp_path / "slides", tmp_path / "json")] == ["s1", "s2"]
    written(tmp_path / "json" / "s3.geojson")
    with pytest.raises(InputError, match=r"got none for s3\.geojson"):
        pair_annotations(tmp_path / "slides", tmp_path / "json")
    write_png(tmp_path / "slides" / "s3.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "slides" / "s1.svs").touch()
    with pytest.raises(InputError, match="every name once"):
        pair_annotations(tmp_path / "slides", tmp_path / "json")


def test_masks_and_annotations_in_one_folder_are_refused(tmp_path):
    written(tmp_path / "a.geojson")
    assert holds_annotations(tmp_path)
    (tmp_path / "b.png").touch()
    with pytest.raises(InputError, match="1 masks and 1 GeoJSON"):
        holds_annotations(tmp_path)
    (tmp_path / "a.geojson").unlink()
    assert not holds_annotations(tmp_path)
