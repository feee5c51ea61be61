from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from glomtile.io.tables import write_csv
from glomtile.report import slides as module
from glomtile.report.build import read_results, render

SUMMARY = (
    "image",
    "kind",
    "width_px",
    "height_px",
    "mpp",
    "tissue_mm2",
    "tuft_count",
    "tuft_per_mm2",
    "tuft_total_area_mm2",
)


def square(place: int) -> dict[str, object]:
    ring = [[x + 20 * place, y] for x, y in ((0, 0), (9, 0), (9, 9), (0, 9), (0, 0))]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "tuft", "color": [255, 0, 0]}},
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three slides of three, two and no objects, as `segment` lays them out."""
    counts = {"a": 3, "b": 2, "c": 0}
    write_csv(
        tmp_path / "summary.csv",
        SUMMARY,
        [[name, "PNG", 100, 50, 0.5, 0.01, n, n / 0.01, n * 25e-6] for name, n in counts.items()],
    )
    for folder in ("objects", "geojson", "overlays"):
        (tmp_path / folder).mkdir()
    for name, n in counts.items():
        Image.new("RGB", (100, 50), "white").save(tmp_path / f"overlays/{name}.jpg")
        rows = [[i + 1, "tuft", 25.0 * 4**i] for i in range(n)]
        write_csv(tmp_path / f"objects/{name}.csv", ["id", "class", "area_um2"], rows)
        collection = {"type": "FeatureCollection", "features": [square(i) for i in range(n)]}
        (tmp_path / f"geojson/{name}.geojson").write_text(json.dumps(collection))
    return tmp_path


def test_slides_print_the_number_of_objects_that_are_not_listed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    results = read_results(study)
    assert [(slide.count, len(slide.objects)) for slide in results.slides] == [(3, 2), (2, 0), (0, 0)]
    assert results.notes == [
        "a: 1 more object, see objects/a.csv", "b: 2 objects, see objects/b.csv",
    ]  # fmt: skip
    page = render(results)
    assert "3 objects, 2 of them listed here" in page
    assert "2 objects, none of them listed here" in page
    assert page.count("No object was found in this slide.") == 1
    assert page.count("Its objects are listed in objects/b.csv.") == 1


def test_outlines_are_drawn_in_whole_pixels_of_the_slide(study: Path) -> None:
    first = read_results(study).slides[0].objects[1]
    assert (first.path, first.colour) == ("M20 0l9 0 0 9 -9 0 0 -9z", "#ff0000")


@pytest.mark.parametrize(
    "content",
    ["{}", '{"features": [1]}', '{"features": [{"geometry": {"type": "Polygon"}, "properties": {}}]}'],
)
def test_outlines_in_an_edited_file_are_left_out_with_a_note(study: Path, content: str) -> None:
    (study / "geojson/a.geojson").write_text(content)
    results = read_results(study)
    assert [len(slide.objects) for slide in results.slides] == [0, 2, 0]
    assert results.notes[0].startswith("a: expected outlines as glomtile writes them, got: ")


def test_areas_are_of_all_objects(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_results(study).distributions
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    assert read_results(study).distributions == whole
    assert len(whole) == 1


def test_objects_are_counted_without_their_outlines(study: Path) -> None:
    (study / "geojson/a.geojson").write_text("{")
    page = render(read_results(study))
    assert "3 objects, none of them listed here" in page


@pytest.mark.parametrize(
    ("table", "cell", "note"),
    [
        ("summary.csv", "0.01", "summary.csv: expected a number under tissue_mm2 in row 1, got '0,01'"),
        ("objects/b.csv", "25.0", "b: expected a number under area_um2 in row 1, got '0,01'"),
    ],
)
def test_a_number_with_a_decimal_comma_is_named(study: Path, table: str, cell: str, note: str) -> None:
    path = study / table
    path.write_text(path.read_text().replace(cell, '"0,01"', 1))
    (study / "train_losses.csv").write_text("epoch,loss\n0,1\n1,0.5\n")  # so that there is a page at all
    assert read_results(study).notes.count(note) == 1


def test_a_renamed_column_of_areas_is_named(study: Path) -> None:
    path = study / "objects/b.csv"
    path.write_text(path.read_text().replace("area_um2", "flaeche"))
    note = "b: expected the columns class, area_um2, got id, class, flaeche"
    assert read_results(study).notes == [note]
