"""What several tests of `segment` ask for: a network that finds what is purple, a bucket in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import disk

from glomtile.config.card import ModelCard, ObjectSettings
from glomtile.config.schema import ModelSettings
from glomtile.core.palette import GLOMERULI
from glomtile.engine.segmenter import Segmenter
from glomtile.engine.windows import Settings
from glomtile.files.images import write_png
from glomtile.types import Float32, UInt8


class Purple:
    num_classes, stride_px, context_px, mpp = 2, 16, 0, 2.0

    def __call__(self, batch: UInt8) -> Float32:
        hit = (batch[..., 1] < 80).astype(np.float32)
        return np.stack([1 - hit, hit], -1)


@pytest.fixture
def purple_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model folder holds a network that takes purple for glomeruli."""
    card = ModelCard(
        network=ModelSettings(num_classes=2, mpp=2.0),
        classes=ModelCard.classes_of(GLOMERULI),
        mpp=2.0,
        tile_px=(256, 256),
        stride_px=16,
        context_px=0,
        objects=ObjectSettings(split=False, smooth_um=0),
    )

    def load(
        folder: Any, settings: Settings | None = None, tta: Any = None, *, runtime: str = "auto"
    ) -> Segmenter:
        return Segmenter(Purple(), card, settings)

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
