"""What several tests of `segment` ask for: a network that finds what is purple, a bucket in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import disk
from tests.purple import Purple, purple_card

from glomtile.engine.asking import with_asking
from glomtile.engine.segmenter import Segmenter
from glomtile.engine.windows import Settings
from glomtile.files.images import write_png


@pytest.fixture
def purple_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model folder holds a network that takes purple for glomeruli."""
    card = purple_card()

    def load(
        folder: Any,
        settings: Settings | None = None,
        tta: Any = None,
        *,
        threshold: float | None = None,
        runtime: str = "auto",
    ) -> Segmenter:
        return Segmenter(Purple(), with_asking(card, tta, threshold, None), settings)

    monkeypatch.setattr(Segmenter, "load", load)


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in this process's memory."""
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'glomtile[remote]'")
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures with a purple disc."""
    (tmp_path / "here").mkdir()
    made = []
    for name, row in (("a", 150), ("ein Schnitt [ü]", 120)):
        pixels = np.full((300, 400, 3), (200, 120, 170), np.uint8)
        pixels[disk((row, 220), 40)] = (120, 40, 120)
        made.append(tmp_path / "here" / f"{name}.png")
        write_png(made[-1], pixels)
    return made
