"""Screenshots of reports for the documentation: of a demo, and of a painted slide that was segmented.

python benchmarks/report_screenshots.py DEMO [--slides SEGMENTED] [-o docs/images]

DEMO is what `glomtile demo` wrote; SEGMENTED what `glomtile segment` wrote. Needs Playwright and Chromium.
`--paint DIR` paints the slides to be segmented, with exact truth and no patient.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

DESK, PHONE = (1200, 800), (390, 844)
SHARPER, QUALITY = 1.25, 80


def paint_slides(folder: Path) -> None:
    import tifffile

    from glomtile.synthetic import PhantomSlide
    from glomtile.types import Box

    folder.mkdir(parents=True, exist_ok=True)
    for name, seed, size, preset in (
        ("biopsy A", 5, (3000, 5200), "plain"),
        ("biopsy B", 9, (2600, 4200), "hard"),
    ):
        tifffile.imwrite(
            folder / f"{name}.ome.tif",
            PhantomSlide(seed, size, 0.6, preset).read(Box(0, 0, *size)),
            photometric="rgb",
            tile=(512, 512),
            compression="jpeg",
            metadata={"axes": "YXS", "PhysicalSizeX": 0.6, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.6,
                      "PhysicalSizeYUnit": "µm"},
        )  # fmt: skip


def keep(page: Any, path: Path) -> None:
    """A screenshot of what is seen, as WebP."""
    from PIL import Image

    page.wait_for_timeout(400)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    print(path)


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> Any:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, device_scale_factor=SHARPER
    )
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    return page


def top(page: Any, selector: str, above_px: int = 12) -> None:
    page.evaluate(
        """([s, above]) => {
            const place = document.querySelector(s).getBoundingClientRect().top + scrollY - above;
            scrollTo({ top: place, behavior: "instant" });
        }""",
        [selector, above_px],
    )


def of_scores(browser: Any, path: Path, out: Path) -> None:
    page = opened(browser, path, DESK)
    keep(page, out / "report.webp")
    top(page, "#images")
    keep(page, out / "report-images.webp")
    top(page, "#mistakes")
    keep(page, out / "report-mistakes.webp")
    top(page, "#calibration" if page.locator("#calibration").count() else "#distributions")
    keep(page, out / "report-calibration.webp")
    top(page, "#training")
    keep(page, out / "report-training.webp")
    top(page, "#images")
    page.locator(".card .open").first.click()
    page.keyboard.press("2")
    keep(page, out / "report-viewer.webp")
    dark = opened(browser, path, DESK, "dark")
    top(dark, "#images")
    keep(dark, out / "report-dark.webp")
    phone = opened(browser, path, PHONE)
    keep(phone, out / "report-phone.webp")


def of_slides(browser: Any, path: Path, out: Path) -> None:
    page = opened(browser, path, DESK)
    page.locator(".slide .stage").first.focus()
    for _ in range(8):
        page.keyboard.press("n")
    top(page, "#slides")
    keep(page, out / "report-slides.webp")
    top(page, "#objects")
    keep(page, out / "report-objects.webp")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--slides", type=Path)
    parser.add_argument("--paint", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if options.paint is not None:
        paint_slides(options.paint)
    if options.demo is None and options.slides is None:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        if options.demo is not None:
            of_scores(browser, options.demo / "evaluation" / "report.html", options.out)
        if options.slides is not None:
            of_slides(browser, options.slides / "report.html", options.out)
        browser.close()


if __name__ == "__main__":
    main()
