"""The page of segmented slides in a real browser: outlines and the table of objects."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import disk
from tests.fakes import ThresholdNetwork, threshold_card

from glomtile.inference.batch import SegmentOptions, segment
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import write_png
from glomtile.report.build import write_report

PHONE = 390, 844
NAMES = ("slide <b>one</b> & 'co'", "slide two")
PLACES = (((60, 80), 40), ((200, 300), 30), ((290, 395), 25))
"""Of discs; the last one is cut by the edge."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = threshold_card()
    root = tmp_path_factory.mktemp("slides")
    for name in NAMES:
        pixels = np.full((300, 400, 3), (200, 120, 170), np.uint8)
        for place, radius in PLACES:
            pixels[disk(place, radius, shape=(300, 400))] = (120, 40, 120)
        write_png(root / "in" / f"{name}.png".replace("/", "|"), pixels)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Segmenter, "load", lambda *_, **__: Segmenter(ThresholdNetwork(), card))
        result = segment([root / "in"], root / "out", SegmentOptions(root, mpp=2.0))
    assert not result.failed
    return write_report(root / "out").parent


@pytest.fixture
def watched(folder: Path, open_page: Callable[..., Any]) -> Any:
    return open_page(folder / "report.html")


def chosen(page: Any, slide: int = 0) -> str:
    return page.locator(".slide").nth(slide).locator(".measures h4").inner_text()


def test_every_slide_has_its_overview_and_an_outline_for_each_object(watched: Any) -> None:
    page = watched.page
    assert page.locator(".slide h3").all_inner_texts() == [name.replace("/", "|") for name in NAMES]
    for number in range(2):
        assert page.locator(".slide").nth(number).locator(".stage path.object").count() == len(PLACES)
    assert "6 glomeruli in 2 slides" in page.locator(".verdict").inner_text()
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith("data:")] == [page.url]


def test_a_click_on_an_object_shows_its_crop_and_measures(watched: Any) -> None:
    page = watched.page
    slide = page.locator(".slide").first
    slide.locator(".stage").scroll_into_view_if_needed()
    stage = slide.locator(".stage").bounding_box()
    (row, column), radius = PLACES[1]
    page.mouse.click(stage["x"] + stage["width"] * column / 400, stage["y"] + stage["height"] * row / 300)
    assert chosen(page) == "Object 2, glomerulus"
    measures = slide.locator(".measures")
    area = dict(
        zip(measures.locator("dt").all_inner_texts(), measures.locator("dd").all_inner_texts(), strict=True)
    )
    assert float(area["area, µm²"]) == pytest.approx(np.pi * (2 * radius) ** 2, rel=0.03)
    crop = measures.locator("img")
    assert crop.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 50
    outline = measures.locator("path.object").bounding_box()
    frame = measures.locator(".frame").bounding_box()
    assert outline["x"] + outline["width"] / 2 == pytest.approx(frame["x"] + frame["width"] / 2, abs=6)


def test_objects_are_selected_by_keyboard(watched: Any) -> None:
    page = watched.page
    stage = page.locator(".slide .stage").nth(1)
    stage.focus()
    for key, expected in (("n", 1), ("n", 2), ("p", 1), ("p", 3)):
        page.keyboard.press(key)
        assert chosen(page, 1) == f"Object {expected}, glomerulus"
    page.keyboard.press("+")
    assert float(stage.get_attribute("data-scale")) > 1


def test_a_row_of_the_table_leads_to_its_place(watched: Any) -> None:
    page = watched.page
    button = page.get_by_role("button", name="Show object 2 of slide two")
    button.focus()
    page.keyboard.press("Enter")
    assert chosen(page, 1) == "Object 2, glomerulus"
    stage = page.locator(".slide .stage").nth(1)
    assert float(stage.get_attribute("data-scale")) > 1
    assert page.evaluate("document.activeElement.classList.contains('stage')")


def test_the_table_sorts_filters_and_downloads(watched: Any) -> None:
    page = watched.page
    part = page.locator("#objects")
    part.get_by_role("button", name="area, µm²").click()
    areas = [float(cell) for cell in part.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert areas == sorted(areas)
    part.locator(".table-slide").select_option("slide two")
    assert part.locator("tbody tr:visible").count() == 3
    part.get_by_label("Uncut objects only").check()
    assert part.locator("tbody tr:visible").count() == 2
    part.get_by_label("Minimum area").fill("15000")
    assert part.locator("tbody tr:visible").count() == 1
    with page.expect_download() as download:
        part.get_by_role("button", name="Download as CSV").click()
    (row,) = csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))
    assert (row["slide"], row["id"]) == ("slide two", "1")
    assert float(row["area_um2"]) == pytest.approx(np.pi * 80**2, rel=0.03)


def test_outlines_can_be_hidden(watched: Any) -> None:
    page = watched.page
    opacity = "getComputedStyle(document.querySelector('.slide path.object')).strokeOpacity"
    assert page.evaluate(opacity) == "1"
    page.locator(".slide").first.get_by_label("Outlines").uncheck()
    assert page.evaluate(opacity) == "0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(
    folder: Path,
    open_page: Callable[..., Any],
    serious_faults: Callable[[Any], list[str]],
    scheme: str,
) -> None:
    page = open_page(folder / "report.html", scheme=scheme).page
    page.locator(".slide .stage").first.focus()
    page.keyboard.press("n")
    assert serious_faults(page) == []


def test_a_phone_scrolls_down_only(folder: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(folder / "report.html", PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_page_is_made_again_without_the_slides_from_the_overlays(
    folder: Path, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "out")
    for note in (tmp_path / "out/.glomtile").glob("*.json"):
        note.write_text(note.read_text("utf-8").replace(str(folder.parent / "in"), str(tmp_path / "gone")))
    page = open_page(write_report(tmp_path / "out")).page
    assert page.locator(".slide .stage img").count() == 2
    assert page.locator(".slide .stage path.object.drawn").count() == 6
    assert page.get_by_label("Outlines").count() == 0
    page.locator(".slide .stage").first.focus()
    page.keyboard.press("n")
    assert chosen(page) == "Object 1, glomerulus"
