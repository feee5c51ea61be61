"""A real browser for the pages; its tests are skipped without one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI

CHROMIUM = os.environ.get("GLOMTILE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DESK, PHONE = (1280, 900), (390, 844)
HOSTILE = "\"><img src=x onerror=alert(1)></script>&'"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium found: install it, or name it in GLOMTILE_CHROMIUM")
    with playwright.sync_playwright() as running:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Watched:
    """An open page, its requests and its errors."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(10_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.errors.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Watched]]:
    contexts = []

    def opened(path: Path, size: tuple[int, int] = DESK, scheme: str = "light", **more: Any) -> Watched:
        viewport = {"width": size[0], "height": size[1]}
        script = more.pop("script", None)
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True, **more)
        contexts.append(context)
        watched = Watched(context.new_page())
        if script is not None:
            watched.page.add_init_script(script)
        watched.page.goto(path.as_uri())
        return watched

    yield opened
    for context in contexts:
        context.close()


def tissue(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Something of the roughness of tissue, so that JPEG has work to do."""
    rough = cv2.GaussianBlur(rng.normal(0, 1, (side_px, side_px, 3)), (0, 0), 2.0)
    return np.clip(np.array((205, 150, 190)) + 90 * rough, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def scored_set() -> Callable[..., tuple[Path, Path, Path]]:
    return _scored_set


def _scored_set(root: Path, stems: list[str], side_px: int = 256) -> tuple[Path, Path, Path]:
    """Images in which one of three discs is found, the second missed, the third merged or moved."""
    rng = np.random.default_rng(5)
    for number, stem in enumerate(stems):
        truth, prediction = (np.zeros((side_px, side_px), np.uint8) for _ in range(2))
        unit = side_px // 8
        cv2.circle(truth, (2 * unit, 2 * unit), unit, 1, -1)
        cv2.circle(prediction, (2 * unit + number % 5, 2 * unit), unit, 1, -1)
        cv2.circle(truth, (6 * unit, 2 * unit), unit, 1, -1)
        if number % 2:
            cv2.circle(prediction, (6 * unit, 2 * unit), unit, 1, -1)
        if number % 3 == 0:
            cv2.circle(prediction, (4 * unit, 6 * unit), unit, 1, -1)
        write_png(root / "images" / f"{stem}.png", tissue(rng, side_px))
        write_mask(root / "truth" / f"{stem}.png", truth, GLOMERULI)
        write_mask(root / "predictions" / f"{stem}.png", prediction, GLOMERULI)
    return root / "predictions", root / "truth", root / "images"


@pytest.fixture
def serious_faults() -> Callable[[Any], list[str]]:
    """What axe-core finds serious or critical in a page, one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

    def found(page: Any) -> list[str]:
        return [
            f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
            for fault in axe.Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    return found
