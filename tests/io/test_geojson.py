import json
import math
import uuid

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import RecordingProgress

from glomtile.errors import InputError
from glomtile.io.geojson import Annotation, annotation_id, read_annotations, write_annotations

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
BOWTIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]


def feature(coordinates=(SQUARE,), kind="Polygon", **properties):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": list(coordinates)},
        "properties": properties,
    }


def read(tmp_path, data):
    progress = RecordingProgress()
    path = tmp_path / "in.geojson"
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return read_annotations(path, progress), progress.warnings


@st.composite
def blobs(draw):
    """Draw valid polygons, some with a hole, and pairs of them, far from and near to the origin."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    parts = []
    for number in range(draw(st.integers(1, 2))):
        count = draw(st.integers(3, 40))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count)) + rng.uniform(0, 7)
        radius = draw(st.sampled_from([0.05, 1.0, 300.0])) * rng.uniform(0.3, 1, count)
        centre = rng.uniform(-10, 200_000, 2) + 1000 * number
        ring = centre + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        shape = shapely.make_valid(shapely.Polygon(ring))
        inner = shapely.affinity.scale(shape, 0.2, 0.2, origin=tuple(centre))
        shape = shape.difference(inner) if draw(st.booleans()) else shape
        parts += [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    union = shapely.union_all(parts)
    return union if union.area > 0 else shapely.box(1, 2, 3, 4)


annotations = st.builds(
    Annotation,
    polygon=blobs(),
    name=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    rgb=st.none() | st.tuples(*[st.integers(0, 255)] * 3),
    measurements=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.floats(), max_size=3),
    object_type=st.sampled_from(["annotation", "detection"]),
)


@given(st.lists(annotations, max_size=4))
def test_annotations_come_back_valid_and_rounded(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("written") / "a.geojson"
    count = write_annotations(path, iter(items), identity="slide")
    back = read_annotations(path)
    assert len(back) == count
    big = [item for item in items if item.polygon.area > 0.1]
    assert count >= len(big)
    if count < len(items):
        return
    for number, (item, read_back) in enumerate(zip(items, back, strict=True), 1):
        assert read_back.polygon.is_valid
        assert read_back.polygon.area > 0
        near = item.polygon.buffer(0.03)
        assert near.covers(read_back.polygon)
        assert abs(read_back.polygon.area - item.polygon.area) <= 0.02 * item.polygon.length + 0.001
        assert read_back.name == item.name
        assert read_back.rgb == (item.rgb if item.name is not None else None)
        assert read_back.object_type == item.object_type
        assert read_back.measurements == {k: v for k, v in item.measurements.items() if math.isfinite(v)}
        assert read_back.id == annotation_id("slide", number)


@given(st.lists(annotations, min_size=1, max_size=3))
def test_the_file_is_standard_geojson(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("standard") / "a.geojson"
    write_annotations(path, items, identity="slide")
    text = path.read_text("utf-8")
    parsed = geojson.loads(text)
    assert parsed.is_valid
    assert parsed["type"] == "FeatureCollection"
    for entry in parsed["features"]:
        assert str(uuid.UUID(entry["id"])) == entry["id"]
        shape = shapely.geometry.shape(entry["geometry"])
        assert shape.is_valid
        for part in shapely.get_parts(shape):
            assert part.exterior.is_ccw
            assert not any(hole.is_ccw for hole in part.interiors)
        numbers = shapely.get_coordinates(shape)
        assert np.array_equal(numbers, np.round(numbers, 2))
        assert not (np.signbit(numbers) & (numbers == 0)).any()
        rings = entry["geometry"]["coordinates"]
        for ring in rings if entry["geometry"]["type"] == "Polygon" else [r for part in rings for r in part]:
            assert ring[0] == ring[-1]


def test_properties_have_qupaths_names(tmp_path):
    item = Annotation(
        shapely.box(0, 0, 5, 5),
        "glomerulus",
        (255, 0, 0),
        {"Area µm²": np.float32(2.5), "none": float("nan")},
    )
    write_annotations(tmp_path / "a.geojson", [item], identity="s")
    (entry,) = json.loads((tmp_path / "a.geojson").read_text("utf-8"))["features"]
    assert entry["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "glomerulus", "color": [255, 0, 0]},
        "measurements": {"Area µm²": 2.5},
    }
    assert set(entry) == {"type", "id", "geometry", "properties"}


def test_an_outline_that_rounding_makes_cross_itself_is_repaired(tmp_path):
    """A sliver of 4 thousandths of a pixel between two bodies closes when it is rounded."""
    bodies = shapely.box(0, 0, 10, 4.996).union(shapely.box(0, 5.004, 10, 10)).union(shapely.box(0, 0, 1, 10))
    needle = shapely.Polygon([(0, 0), (10, 0), (10, 10), (5.004, 0.0012), (5.001, 0.0049), (0, 10)])
    for shape in (bodies, needle):
        assert shape.is_valid
    assert not shapely.transform(needle, lambda points: np.round(points, 2)).is_valid
    write_annotations(tmp_path / "a.geojson", [Annotation(bodies), Annotation(needle)], identity="s")
    for found, shape in zip(read_annotations(tmp_path / "a.geojson"), (bodies, needle), strict=True):
        assert found.polygon.is_valid
        assert found.polygon.symmetric_difference(shape).area < 0.3


def test_the_same_input_gives_the_same_bytes_and_other_input_other_ids(tmp_path):
    items = [Annotation(shapely.box(n, 0, n + 1, 1)) for n in range(5)]
    for name, identity in (("a", "x"), ("b", "x"), ("c", "y")):
        write_annotations(tmp_path / name, items, identity=identity)
    same, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert same == again
    assert same != other
    assert len({found.id for found in read_annotations(tmp_path / "a")}) == 5


def test_annotations_are_consumed_one_by_one(tmp_path):
    alive = []

    def many():
        import gc
        import weakref

        for number in range(2000):
            item = Annotation(shapely.box(number, 0, number + 0.5, 1))
            alive.append(weakref.ref(item))
            yield item
            del item
            if number % 500 == 499:
                gc.collect()
                assert sum(reference() is not None for reference in alive) <= 2

    assert write_annotations(tmp_path / "a.geojson", many(), identity="s") == 2000


def test_no_annotation_is_an_empty_collection(tmp_path):
    assert write_annotations(tmp_path / "a.geojson", [], identity="s") == 0
    assert geojson.loads((tmp_path / "a.geojson").read_text())["features"] == []
    assert read_annotations(tmp_path / "a.geojson") == []


def test_an_outline_that_vanishes_is_left_out(tmp_path):
    items = [Annotation(shapely.box(0, 0, 0.001, 0.001)), Annotation(shapely.box(0, 0, 1, 1))]
    assert write_annotations(tmp_path / "a.geojson", items, identity="s") == 1
    assert len(read_annotations(tmp_path / "a.geojson")) == 1


def test_a_coordinate_that_is_not_finite_leaves_no_file(tmp_path):
    bad = shapely.Polygon([(0, 0), (1, 0), (1, float("inf"))])
    with pytest.raises(InputError, match="annotation 2: expected finite"):
        write_annotations(
            tmp_path / "a.geojson", [Annotation(shapely.box(0, 0, 1, 1)), Annotation(bad)], identity="s"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrap",
    [lambda f: {"type": "FeatureCollection", "features": f}, lambda f: f, lambda f: f[0]],
    ids=["collection", "list", "feature"],
)
def test_the_three_forms_of_qupaths_export_are_read(tmp_path, wrap):
    (found,), warnings = read(tmp_path, wrap([feature(classification={"name": "a", "color": [1, 2, 3]})]))
    assert (found.name, found.rgb, found.polygon.area) == ("a", (1, 2, 3), 100)
    assert not warnings


@pytest.mark.parametrize(
    ("value", "name", "rgb"),
    [
        (None, None, None),
        ("Tumor", "Tumor", None),
        ({"names": ["Tumor", "Positive"], "color": [9, 8, 7]}, "Tumor: Positive", (9, 8, 7)),
        ({"name": "a", "colorRGB": -3657166}, "a", (200, 50, 50)),
        ({"parentClass": {"name": "T"}, "name": "P", "colorRGB": -16777216}, "T: P", (0, 0, 0)),
        ({"name": None}, None, None),
    ],
)  # fmt: skip
def test_classifications_of_every_qupath_version_are_read(tmp_path, value, name, rgb):
    (found,), _ = read(tmp_path, feature(classification=value))
    assert (found.name, found.rgb) == (name, rgb)


def test_measurements_of_every_qupath_version_are_read(tmp_path):
    old = feature(measurements=[{"name": "a", "value": 1.5}, {"name": "b", "value": "NaN"}])
    new = feature(measurements={"a": 1.5, "b": float("nan"), "c": 10**400})
    found, _ = read(tmp_path, [old, new])
    assert [item.measurements for item in found] == [{"a": 1.5}, {"a": 1.5}]


def test_other_geometries_are_skipped_with_one_warning(tmp_path):
    point = feature([1, 2], "Point")
    line = feature([[1, 2], [3, 4]], "LineString")
    collection = {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": []}}
    bare = {"type": "Feature", "geometry": None, "properties": None}
    found, (warning,) = read(tmp_path, [point, line, feature(), point, collection, bare])
    assert len(found) == 1
    for part in ("2 Point", "1 LineString", "1 GeometryCollection", "1 feature without a geometry"):
        assert part in warning
    assert read(tmp_path, {"type": "GeometryCollection", "geometries": []})[0] == []


def test_a_self_crossing_ring_is_repaired_with_a_warning(tmp_path):
    (found,), (warning,) = read(tmp_path, feature([BOWTIE]))
    assert found.polygon.is_valid
    assert found.polygon.area == pytest.approx(50)
    assert "1 outlines crossed" in warning


def test_overlapping_parts_are_united_not_cut_out(tmp_path):
    other = [[x + 5, y] for x, y in SQUARE]
    (found,), _ = read(tmp_path, feature([[SQUARE], [other]], "MultiPolygon"))
    assert found.polygon.is_valid
    assert found.polygon.area == pytest.approx(150)


@pytest.mark.parametrize("ring", [[], [[1, 1]], [[1, 1], [2, 2], [1, 1]], [[0, 0], [1, 1], [2, 2], [0, 0]]])
def test_a_ring_without_area_is_dropped_with_a_warning(tmp_path, ring):
    found, (warning,) = read(tmp_path, [feature([ring]), feature([SQUARE, ring])])
    assert [item.polygon.area for item in found] == [100]
    assert "2 rings without area" in warning


def test_an_open_ring_is_closed_and_a_height_dropped(tmp_path):
    (found,), warnings = read(tmp_path, feature([[[0, 0, 7], [10, 0, 7], [10, 10, 7], [0, 10, 7]]]))
    assert found.polygon.equals(shapely.box(0, 0, 10, 10))
    assert not warnings


@pytest.mark.parametrize(
    "bad",
    [
        7,
        {"type": "Polygon"},
        feature([[["a", 0], [1, 0], [1, 1]]]),
        feature([[[None, 0], [1, 0], [1, 1]]]),
        feature([[[True, 0], [1, 0], [1, 1]]]),
        feature([[[float("nan"), 0], [1, 0], [1, 1]]]),
        feature([[[10**400, 0], [1, 0], [1, 1]]]),
        feature([[[0], [1, 0], [1, 1]]]),
        feature([[0, 1, 2]]),
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": "x"}},
        {"type": "Feature", "geometry": {"type": ["Polygon"]}},
        {"type": "Feature", "geometry": "x"},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [SQUARE]}, "properties": []},
        feature(classification=4),
        feature(classification={"name": 4}),
        feature(classification={"name": "a", "color": [1, 2]}),
        feature(classification={"name": "a", "color": [1, 2, 300]}),
        feature(measurements="x"),
        feature(objectType=3),
    ],
)
def test_a_wrong_feature_is_named_by_its_number(tmp_path, bad):
    with pytest.raises(InputError, match=r"in\.geojson: feature 2: expected"):
        read(tmp_path, [feature(), bad])


@pytest.mark.parametrize("text", ["", "{", "7", '"x"', "null", "{}", '{"type": "Topology"}', "[" * 100_000])
def test_text_that_is_no_geojson_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="expected"):
        read(tmp_path, text)


def test_a_missing_file_a_folder_and_binary_data_are_refused(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "b"):
        with pytest.raises(InputError, match="expected"):
            read_annotations(path)


def test_a_byte_order_mark_is_accepted(tmp_path):
    assert len(read(tmp_path, "\ufeff" + json.dumps(feature()))[0]) == 1
