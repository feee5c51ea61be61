"""Take screenshots of reports for the documentation: of the demo and of segmented painted slides.

python benchmarks/report_screenshots.py DEMO [--slides SEGMENTED] [-o docs/images]
python benchmarks/report_screenshots.py --paint DIR

DEMO is the output folder of `glomtile demo`, SEGMENTED that of `glomtile segment`. `--paint DIR` paints
slides for `glomtile segment`. Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

DESKTOP, PHONE = (1200, 800), (390, 844)
PIXEL_RATIO, QUALITY = 1.25, 80


def paint_slides(folder: Path) -> None:
    import tifffile

    from glomtile.synthetic import SyntheticSlide
    from glomtile.types import Box

    folder.mkdir(parents=True, exist_ok=True)
    for name, seed, size, preset in (
        ("biopsy A", 5, (3000, 5200), "plain"),
        ("biopsy B", 9, (2600, 4200), "hard"),
    ):
        tifffile.imwrite(
            folder / f"{name}.ome.tif",
            SyntheticSlide(seed, size, 0.6, preset).read(Box(0, 0, *size)),
            photometric="rgb",
            tile=(512, 512),
            compression="jpeg",
            metadata={"axes": "YXS", "PhysicalSizeX": 0.6, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.6,
                      "PhysicalSizeYUnit": "µm"},
        )  # fmt: skip


def save_screenshot(page: Any, path: Path) -> None:
    """Save the visible part of the page as WebP."""
    from PIL import Image

    page.wait_for_timeout(400)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    print(path)


def open_page(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> Any:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, device_scale_factor=PIXEL_RATIO
    )
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    return page


def scroll_to(page: Any, selector: str, above_px: int = 12) -> None:
    page.evaluate(
        """([s, above]) => {
            const place = document.querySelector(s).getBoundingClientRect().top + scrollY - above;
            scrollTo({ top: place, behavior: "instant" });
        }""",
        [selector, above_px],
    )


def capture_scores(browser: Any, path: Path, out: Path) -> None:
    page = open_page(browser, path, DESKTOP)
    save_screenshot(page, out / "report.webp")
    scroll_to(page, "#images")
    save_screenshot(page, out / "report-images.webp")
    scroll_to(page, "#mistakes")
    save_screenshot(page, out / "report-mistakes.webp")
    scroll_to(page, "#calibration" if page.locator("#calibration").count() else "#distributions")
    save_screenshot(page, out / "report-calibration.webp")
    scroll_to(page, "#training")
    save_screenshot(page, out / "report-training.webp")
    scroll_to(page, "#images")
    page.locator(".card .open").first.click()
    page.keyboard.press("2")
    save_screenshot(page, out / "report-viewer.webp")
    dark = open_page(browser, path, DESKTOP, "dark")
    scroll_to(dark, "#images")
    save_screenshot(dark, out / "report-dark.webp")
    phone = open_page(browser, path, PHONE)
    save_screenshot(phone, out / "report-phone.webp")


def capture_slides(browser: Any, path: Path, out: Path) -> None:
    page = open_page(browser, path, DESKTOP)
    page.locator(".slide .stage").first.focus()
    for _ in range(8):
        page.keyboard.press("n")
    scroll_to(page, "#slides")
    save_screenshot(page, out / "report-slides.webp")
    scroll_to(page, "#objects")
    save_screenshot(page, out / "report-objects.webp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--slides", type=Path, metavar="SEGMENTED")
    parser.add_argument("--paint", type=Path, metavar="DIR")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    if args.paint is not None:
        paint_slides(args.paint)
    if args.demo is None and args.slides is None:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        if args.demo is not None:
            capture_scores(browser, args.demo / "evaluation" / "report.html", args.out)
        if args.slides is not None:
            capture_slides(browser, args.slides / "report.html", args.out)
        browser.close()


if __name__ == "__main__":
    main()
