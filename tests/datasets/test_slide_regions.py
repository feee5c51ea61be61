from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
import tifffile
from skimage.measure import label
from tests.fakes import RecordingProgress

from glomtile.datasets import annotations
from glomtile.datasets.pairing import changed_since_prepared, whole_pairs
from glomtile.datasets.prepare import prepare
from glomtile.datasets.splitting import SPLITS
from glomtile.errors import InputError, UsageError
from glomtile.io.geojson import Annotation, write_annotations
from glomtile.io.images import image_mpp, read_image, write_png
from glomtile.io.masks import read_mask
from glomtile.objects.contours import outline_polygon
from glomtile.palette import GLOMERULI
from glomtile.synthetic import SyntheticSlide
from glomtile.types import Box

WHOLE = Box(0, 0, 700, 900)


def shapes_of(labels, smooth_px=0.0):
    regions = label(labels == 1, connectivity=2)
    return [outline_polygon(regions == n, smooth_px=smooth_px) for n in range(1, regions.max() + 1)]


def outlined(path, shapes, *regions):
    found = [Annotation(shape, "glomerulus") for shape in shapes]
    found += [Annotation(region, "Region*") for region in regions]
    write_annotations(path, found, identity=path.stem)


def write_slide(path, picture, mpp):
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    path.parent.mkdir(exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        how = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        writer.write(picture, **how, **resolution)
        writer.write(picture[::2, ::2], subfiletype=1, **how)


@pytest.fixture(scope="module")
def biopsies():
    made = [SyntheticSlide(seed, (WHOLE.bottom, WHOLE.right), 2.0) for seed in (3, 4, 5)]
    return [(one.read(WHOLE), one.read_labels(WHOLE)) for one in made]


@pytest.fixture
def slides(tmp_path, biopsies):
    (tmp_path / "json").mkdir()
    for number, (picture, labels) in enumerate(biopsies):
        write_slide(tmp_path / "slides" / f"s{number}.tif", picture, 2.0)
        outlined(tmp_path / "json" / f"s{number}.geojson", shapes_of(labels))
    return tmp_path / "slides", tmp_path / "json"


def put_together(dataset, slide, size_px):
    record = json.loads((dataset / "prepare.json").read_text())
    labels, seen = np.zeros(size_px, np.uint8), np.zeros(size_px, bool)
    for cut in record["regions"]:
        if cut["slide"].startswith(f"{slide}."):
            where = np.s_[cut["box"][0] : cut["box"][2], cut["box"][1] : cut["box"][3]]
            assert not seen[where].any(), "no pixel is cut twice"
            labels[where] = read_mask(dataset / "regions" / "masks" / f"{cut['stem']}.png", GLOMERULI)
            seen[where] = True
    return labels, seen


def test_what_was_outlined_comes_back_pixel_for_pixel(tmp_path, slides, biopsies):
    result = prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0, mini_test=tmp_path / "mini")
    for number, (_, truth) in enumerate(biopsies):
        labels, _ = put_together(tmp_path / "set", f"s{number}", truth.shape)
        assert truth.any()
        assert np.array_equal(labels, truth)
    assert all(result.tiles[split] for split in SPLITS)
    for split in SPLITS:
        pairs = whole_pairs(tmp_path / "set" / split / "images", tmp_path / "set" / split / "masks")
        assert pairs
        assert all(image_mpp(found.image) == pytest.approx(2.0, rel=1e-3) for found in pairs)
        assert len({found.stem.split("_")[0] for found in pairs}) == 1, "a split has whole slides"
    assert list((tmp_path / "mini" / "images").iterdir())


def test_outlines_that_changed_since_they_were_cut_are_found(tmp_path, slides):
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0)
    splits = {split: [tmp_path / "set" / split / kind for kind in ("images", "masks")] for split in SPLITS}
    assert all(changed_since_prepared(*folders) == [] for folders in splits.values())
    file = slides[1] / "s0.geojson"
    file.write_text(file.read_text() + "\n")
    found = {split: changed_since_prepared(*folders) for split, folders in splits.items()}
    assert sorted(map(len, found.values())) == [0, 0, 1]
    assert [path for paths in found.values() for path in paths] == [file]


def test_smooth_outlines_come_back_nearly(tmp_path, slides, biopsies):
    for number, (_, truth) in enumerate(biopsies):
        outlined(slides[1] / f"s{number}.geojson", shapes_of(truth, smooth_px=1.0))
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0)
    for number, (_, truth) in enumerate(biopsies):
        labels, _ = put_together(tmp_path / "set", f"s{number}", truth.shape)
        regions = label(truth == 1, connectivity=2)
        for region in range(1, regions.max() + 1):
            mine = regions == region
            if mine.sum() < 400:
                continue
            rows, columns = np.nonzero(mine)
            near = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            got = (labels == 1)[near] & ((regions == region) | (regions == 0))[near]
            assert (got & mine[near]).sum() / (got | mine[near]).sum() > 0.98


def test_at_another_scale_areas_stay(tmp_path, slides, biopsies):
    prepare(*slides, tmp_path / "set", tile_px=64, mpp=3.1)
    for number, (_, truth) in enumerate(biopsies):
        labels, _ = put_together(tmp_path / "set", f"s{number}", (452, 581))
        assert labels.sum() * 3.1**2 == pytest.approx(truth.sum() * 2.0**2, rel=0.02)


def test_only_regions_of_interest_are_cut(tmp_path, slides, biopsies):
    picture, truth = biopsies[0]
    outlined(slides[1] / "s0.geojson", shapes_of(truth), shapely.box(100, 50, 400, 350))
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0)
    labels, seen = put_together(tmp_path / "set", "s0", truth.shape)
    assert seen.sum() == 300 * 300
    assert np.array_equal(labels[50:350, 100:400], truth[50:350, 100:400])
    cut = read_image(tmp_path / "set" / "regions" / "images" / "s0_y50_x100.png")
    assert np.array_equal(cut, picture[50:350, 100:400])


def test_a_region_that_is_no_rectangle_is_refused(tmp_path, slides):
    outlined(slides[1] / "s0.geojson", [], shapely.Point(200, 200).buffer(90))
    with pytest.raises(InputError, match="expected rectangles"):
        prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0)
    assert not (tmp_path / "set").exists()


def test_glass_is_not_cut_but_what_is_outlined_on_it_is(tmp_path, slides):
    picture = np.full((1500, 1500, 3), 244, np.uint8)
    write_slide(slides[0] / "s0.tif", picture, 2.0)
    outlined(slides[1] / "s0.geojson", [shapely.box(1100, 1100, 1150, 1150)])
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0)
    labels, seen = put_together(tmp_path / "set", "s0", (1500, 1500))
    assert labels.sum() == 50 * 50
    assert seen.mean() < 0.05


def test_an_empty_file_is_a_picture_without_objects_and_pictures_keep_their_scale(tmp_path):
    (tmp_path / "json").mkdir()
    for number in range(3):
        write_png(tmp_path / "p" / f"k{number}.png", np.full((70, 90, 3), 90 + number, np.uint8), 0.7)
        outlined(tmp_path / "json" / f"k{number}.geojson", [shapely.box(3, 3, 20, 20)] if number else [])
    prepare(tmp_path / "p", tmp_path / "json", tmp_path / "set", tile_px=64)
    labels, seen = put_together(tmp_path / "set", "k0", (70, 90))
    assert seen.all()
    assert not labels.any()
    [image] = (tmp_path / "set" / "regions" / "images").glob("k1_*")
    assert image_mpp(image) == pytest.approx(0.7, rel=1e-3)


def test_a_slide_needs_a_scale_and_masks_none(tmp_path, slides):
    with pytest.raises(UsageError, match="is a slide, got none"):
        prepare(*slides, tmp_path / "set")
    with pytest.raises(UsageError, match=r"^mpp: .* with GeoJSON files only"):
        prepare(slides[0], slides[0], tmp_path / "set", mpp=2.0)


def test_unusable_files_are_all_named_and_nothing_is_written(tmp_path, slides):
    (slides[1] / "s0.geojson").write_text("{")
    with pytest.raises(InputError, match="expected GeoJSON"):
        prepare(*slides, tmp_path / "set", mpp=2.0)
    write_slide(slides[0] / "s1.tif", np.zeros((300, 300, 3), np.uint8), None)
    with pytest.raises(InputError, match=r"got 2 that are not:\n.*s0\.geojson: .*\n.*s1\.tif: "):
        prepare(*slides, tmp_path / "set", mpp=2.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["json", "slides"]


def test_a_table_names_slides(tmp_path, slides):
    table = tmp_path / "groups.csv"
    table.write_text("stem,group,split\ns0,a,train\ns1,b,test\ns2,c,out\n")
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0, groups=table, split=(0.5, 0, 0.5))
    record = json.loads((tmp_path / "set" / "prepare.json").read_text())
    assert {(source["group"], source["split"]) for source in record["sources"]} == {
        ("a", "train"),
        ("b", "test"),
    }
    assert record["settings"]["images_left_out"] == ["s2"]


@pytest.mark.parametrize("bare", [False, True])
def test_too_few_groups_are_refused_before_a_region_is_cut(tmp_path, slides, monkeypatch, bare):
    """Of a table, or because a slide without tissue is left out."""
    table = None
    if bare:
        write_slide(slides[0] / "s0.tif", np.full((1500, 1500, 3), 244, np.uint8), 2.0)
        outlined(slides[1] / "s0.geojson", [])
    else:
        table = tmp_path / "groups.csv"
        table.write_text("stem,group\ns0,a\ns1,a\ns2,b\n")
    looked, cut = [], []
    monkeypatch.setattr(annotations, "write_png", lambda *given: cut.append(given))
    read = annotations.read_outlines
    monkeypatch.setattr(annotations, "read_outlines", lambda *given: looked.append(given) or read(*given))
    with pytest.raises(UsageError, match="expected at least 3 groups for train, valid, test, got 2"):
        prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0, groups=table)
    assert cut == []
    assert len(looked) == (3 if bare else 0)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("mpp", "warned"), [(0.5, True), (1.99, True), (2.0, False), (4.0, False)])
def test_a_scale_finer_than_the_slides_is_warned_of(tmp_path, slides, mpp, warned):
    heard = RecordingProgress()
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=mpp, progress=heard)
    told = [text for text in heard.warnings if "adds no detail" in text]
    assert len(told) == (3 if warned else 0)
    if warned:
        assert told[0].startswith(f"{slides[0] / 's0.tif'}: --mpp {mpp:g} is finer than its own 2: ")


def test_outlines_beside_the_slide_are_counted_and_named_with_their_file(tmp_path, slides, biopsies):
    heard = RecordingProgress()
    near = shapely.box(890, 10, 905, 20)  # ten of its fifteen columns lie on the slide
    gone = [
        shapely.box(890, 30, 940, 60),
        shapely.box(1e6, 1e6, 1e6 + 50, 1e6 + 50),
        shapely.box(-60, 0, -10, 9),
    ]
    outlined(slides[1] / "s1.geojson", [*shapes_of(biopsies[1][1]), near, *gone])
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0, progress=heard)
    count = len(shapes_of(biopsies[1][1])) + 4
    told = [text for text in heard.warnings if "beside" in text]
    assert told == [
        f"{slides[1] / 's1.geojson'}: 3 of {count} outlines are mostly or wholly beside s1.tif of "
        "900 x 700 px; is it the right slide, and are they in its full-resolution pixels?"
    ]


def test_outlines_in_pixels_of_another_scale_are_counted(tmp_path, slides, biopsies):
    """The usual mistake: coordinates of 40x on a slide of 20x. Half of them still lie on it."""
    heard = RecordingProgress()
    doubled = [shapely.transform(shape, lambda at: at * 4) for shape in shapes_of(biopsies[2][1])]
    outlined(slides[1] / "s2.geojson", doubled)
    prepare(*slides, tmp_path / "set", tile_px=128, mpp=2.0, progress=heard)
    assert any(str(slides[1] / "s2.geojson") in text and "beside s2.tif" in text for text in heard.warnings)
