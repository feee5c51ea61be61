"""A slide that several threads begin to read at once gives each its own pixels."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from glomtile.slides.backends import TiffPixels
from glomtile.types import Box

SIDE_PX, TILE_PX, THREADS = 1024, 64, 8


@pytest.fixture(scope="module", params=["jpeg", "deflate"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many tiles that their places do not fit the directory and are read when they are first asked for."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (SIDE_PX // 16, SIDE_PX // 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    path = tmp_path_factory.mktemp("threads") / f"{request.param}.tif"
    tifffile.imwrite(
        path, pixels, tile=(TILE_PX, TILE_PX), compression=request.param, photometric="rgb"
    )  # fmt: skip
    return path


def test_threads_that_begin_at_once_read_what_one_reads(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [Box(row, 0, row + TILE_PX, SIDE_PX) for row in range(0, SIDE_PX, SIDE_PX // THREADS)]
    alone = TiffPixels(slide)
    expected = [alone.read(0, box) for box in boxes]
    alone.close()

    seek = tifffile.FileHandle.seek

    def slow_seek(self: Any, *places: Any) -> Any:
        found = seek(self, *places)
        time.sleep(0.0005)  # long enough for another thread to move the file's place
        return found

    monkeypatch.setattr(tifffile.FileHandle, "seek", slow_seek)
    for _ in range(5):
        pixels = TiffPixels(slide)
        start = threading.Barrier(THREADS)

        def read(box: Box, pixels: TiffPixels = pixels, start: threading.Barrier = start) -> np.ndarray:
            start.wait()
            return pixels.read(0, box)

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(read, boxes))
        pixels.close()
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
