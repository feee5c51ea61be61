"""The page of scores in a real browser, by mouse and by keyboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glomtile.evaluation.score import score
from glomtile.report.build import write_report

DESK, PHONE = (1280, 900), (390, 844)
HOSTILE = "\"><img src=x onerror=alert(1)>&'"
STEMS = [f"kidney {number}" for number in range(1, 8)]
WHEN_PAINTED = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) window.painted = entry.startTime;
}).observe({ type: "paint", buffered: true });
"""
LAST_DECODED = """
async () => {
  const last = [...document.images].at(-1);
  const before = last.complete;
  last.scrollIntoView();
  await last.decode();
  return [before, performance.now()];
}
"""


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, scored_set: Callable[..., Any]) -> Path:
    root = tmp_path_factory.mktemp("scored")
    predictions, truth, images = scored_set(root, STEMS)
    return write_report(score(predictions, truth, root / "out", images=images, mpp=1.0, draws=50).folder)


@pytest.fixture
def watched(page_path: Path, open_page: Callable[..., Any]) -> Any:
    return open_page(page_path)


def names(page: Any) -> list[str]:
    return page.locator(".card:visible h3").all_text_contents()


def wait_until(page: Any, expression: str) -> None:
    """Playwright's own waiting needs eval, which the page forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def visible_layers(page: Any, within: str) -> set[str]:
    return set(
        page.evaluate(
            """(within) => [...document.querySelectorAll(`${within} .marks > g`)]
                .filter((g) => getComputedStyle(g).display !== "none").map((g) => g.getAttribute("class"))""",
            within,
        )
    )


def test_the_page_makes_no_request_and_logs_no_error(watched: Any, page_path: Path) -> None:
    watched.page.locator(".card .open").first.click()
    watched.page.keyboard.press("Escape")
    assert [url for url in watched.requests if not url.startswith("data:")] == [page_path.as_uri()]
    assert watched.errors == []


def test_the_page_names_the_worst_image_and_its_errors(watched: Any) -> None:
    verdict = watched.page.locator(".verdict").inner_text()
    worst = names(watched.page)[0]
    assert f"The worst image is {worst}" in verdict
    assert "1 false negative" in watched.page.locator(".card .why").first.inner_text()


def test_a_toggle_changes_what_every_image_shows(watched: Any) -> None:
    page = watched.page
    assert visible_layers(page, "#image-0") == {"errors"}
    for label, layers in (("Truth", {"truth"}), ("Both outlines", {"truth", "prediction"}), ("Image", set())):
        page.locator("#images .modes").get_by_label(label, exact=True).check()
        assert visible_layers(page, "#image-0") == layers == visible_layers(page, "#image-3")


def test_images_are_searched_filtered_and_ordered(watched: Any) -> None:
    page = watched.page
    assert len(names(page)) == len(STEMS)
    page.get_by_label("Order").select_option("name")
    assert names(page) == STEMS
    page.locator("#card-only").select_option("fp")
    assert names(page) == ["kidney 1", "kidney 4", "kidney 7"]
    page.locator("#card-find").fill("7")
    assert names(page) == ["kidney 7"]
    assert page.locator("#card-count").inner_text() == f"1 of {len(STEMS)}"


def test_an_image_is_viewed_by_keyboard_alone(watched: Any) -> None:
    page = watched.page
    first, second = names(page)[:2]
    page.locator(".card .open").first.focus()
    page.keyboard.press("Enter")
    stage = page.locator("#viewer-stage")
    assert page.locator("#viewer-title").inner_text() == first
    assert page.evaluate("document.activeElement.id") == "viewer-stage"
    for _ in range(3):
        page.keyboard.press("+")
    assert float(stage.get_attribute("data-scale")) == pytest.approx(1.4**3, abs=0.01)
    before = page.locator("#viewer-stage .canvas").bounding_box()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-stage .canvas").bounding_box()["x"] < before["x"]
    page.keyboard.press("0")
    assert stage.get_attribute("data-scale") == "1.00"
    page.keyboard.press("3")
    assert visible_layers(page, "#viewer-stage") == {"truth"}
    page.keyboard.press("PageDown")
    assert page.locator("#viewer-title").inner_text() == second
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


def test_the_slider_parts_truth_from_prediction(watched: Any) -> None:
    page = watched.page
    page.locator(".card .open").first.click()
    assert not page.locator("#wipe").is_visible()
    page.locator("#viewer .modes").get_by_label("Slider").check()
    assert visible_layers(page, "#viewer-stage") == {"truth", "prediction"}
    page.locator("#wipe").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelector('#viewer-stage').style.getPropertyValue('--wipe')") == "0%"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('#viewer-stage').style.getPropertyValue('--wipe')") == "1%"


def test_the_wheel_zooms_around_the_pointer_and_a_drag_moves(watched: Any) -> None:
    page = watched.page
    page.locator(".card .open").first.click()
    canvas = page.locator("#viewer-stage .canvas")
    box = canvas.bounding_box()
    x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    wait_until(page, "Number(document.querySelector('#viewer-stage').dataset.scale) > 2")
    zoomed = canvas.bounding_box()
    assert (x - zoomed["x"]) / zoomed["width"] == pytest.approx(0.25, abs=0.02)
    page.mouse.down()
    page.mouse.move(x - 60, y - 30, steps=3)
    page.mouse.up()
    moved = canvas.bounding_box()
    assert (moved["x"] - zoomed["x"], moved["y"] - zoomed["y"]) == pytest.approx((-60, -30), abs=1)


def test_an_object_of_a_gallery_is_shown_in_its_image(watched: Any) -> None:
    page = watched.page
    crop = page.locator(".crop").first
    name = crop.locator("strong").inner_text()
    crop.click()
    assert page.locator("#viewer-title").inner_text() == name
    assert float(page.locator("#viewer-stage").get_attribute("data-scale")) > 1.5
    assert visible_layers(page, "#viewer-stage") == {"truth", "prediction"}


def test_a_table_sorts_filters_and_downloads_the_rows_shown(watched: Any) -> None:
    page = watched.page
    table = page.locator("#table")
    head = table.get_by_role("button", name="Dice")
    head.click()
    rising = [float(cell) for cell in table.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert rising == sorted(rising)
    assert table.locator("th[aria-sort=ascending]").count() == 1
    head.press("Enter")
    falling = [float(cell) for cell in table.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert falling == sorted(rising, reverse=True)
    table.get_by_label("Find").fill("kidney 3")
    assert table.locator("tbody tr:visible").count() == 1
    with page.expect_download() as download:
        table.get_by_role("button", name="Download as CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["image"] for row in rows] == ["kidney 3"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_no_serious_accessibility_fault(
    page_path: Path,
    open_page: Callable[..., Any],
    serious_faults: Callable[[Any], list[str]],
    scheme: str,
    size: tuple[int, int],
) -> None:
    page = open_page(page_path, size, scheme).page
    assert serious_faults(page) == []
    page.locator(".card .open").first.click()
    assert serious_faults(page) == []


def test_a_phone_scrolls_down_only(page_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_path, PHONE).page
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    page.locator(".card .open").first.click()
    assert page.locator("#viewer").bounding_box()["width"] <= PHONE[0]
    assert page.evaluate(wide) == 0


def test_dark_is_dark_and_paper_is_white(page_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_path, scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()


def test_the_page_can_be_read_without_the_script(page_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_path, java_script_enabled=False).page
    assert len(names(page)) == len(STEMS)
    assert page.locator("#images .modes").is_visible()
    assert not page.locator("#card-find").is_visible()
    assert page.locator("#table tbody tr").count() == len(STEMS)


def test_the_first_paint_does_not_wait_for_the_last_image(
    tmp_path: Path, open_page: Callable[..., Any], scored_set: Callable[..., Any]
) -> None:
    predictions, truth, images = scored_set(tmp_path, [f"i{n}" for n in range(30)], side_px=640)
    path = write_report(score(predictions, truth, tmp_path / "out", images=images, draws=10).folder)
    page = open_page(path, script=WHEN_PAINTED).page
    wait_until(page, "window.painted > 0")
    ready, decoded = page.evaluate(LAST_DECODED)
    assert not ready
    assert page.evaluate("window.painted") < decoded


def test_a_hostile_name_is_only_a_name(
    tmp_path: Path, open_page: Callable[..., Any], scored_set: Callable[..., Any]
) -> None:
    predictions, truth, images = scored_set(tmp_path, [HOSTILE, "<script>alert(2)"])
    path = write_report(
        score(predictions, truth, tmp_path / f"out {HOSTILE}", images=images, draws=10).folder
    )
    watched = open_page(path)
    page = watched.page
    assert HOSTILE in names(page)
    page.locator("#card-find").fill(HOSTILE)
    assert names(page) == [HOSTILE]
    page.locator(".card:visible .open").click()
    assert page.locator("#viewer-title").inner_text() == HOSTILE
    page.wait_for_timeout(100)
    assert watched.errors == []
