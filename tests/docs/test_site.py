"""Documentation site: built in strict mode, with all links and anchors, and without network access."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
LARGEST_KB = 250


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed: pip install 'glomtile[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, text=True, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)=["']?(https?:)?//[^"'> ]+"""
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    found = [match[0] for page in pages for match in fetched.finditer(page.read_text("utf-8"))]
    assert not [match for match in found if 'rel="canonical"' not in match]


@pytest.mark.slow
def test_the_generated_pages_are_there(site: Path) -> None:
    assert 'id="train.epochs"' in (site / "settings.html").read_text("utf-8")
    assert "tiled-infer" in (site / "commands.html").read_text("utf-8")
    python = (site / "python.html").read_text("utf-8")
    assert "Segment one slide or image" in python
    assert not list(site.rglob("*.py"))


def _pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        made = target in ("settings.md", "commands.md", "python.md") or target in (
            "../settings.md", "../commands.md", "../python.md",
        )  # fmt: skip
        if not made and not target.startswith("https://"):
            assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("image", sorted(IMAGES.iterdir()), ids=lambda path: path.name)
def test_images_are_small_and_shown_somewhere(image: Path) -> None:
    assert 0 < image.stat().st_size < LARGEST_KB * 1024
    assert any(f"images/{image.name}" in page.read_text("utf-8") for page in _pages())


def test_every_image_has_a_caption() -> None:
    for page in _pages():
        for words in re.findall(r"!\[([^\]]*)\]\(", page.read_text("utf-8")):
            assert len(words.split()) >= 4, f"{page.name}: {words!r}"


def test_the_readme_can_be_read_at_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
