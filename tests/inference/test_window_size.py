"""Tests of tiling settings: windows follow from settings, network and memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from glomtile.config.load import make_config
from glomtile.errors import UsageError
from glomtile.inference.image import TilingSettings, image_margin, tile_plan
from glomtile.types import Predictor


def predictor(stride_px: int = 16, **facts: Any) -> Predictor:
    network = {"num_classes": 2, "stride_px": stride_px, "context_px": 0, "mpp": None, "local": True}
    return SimpleNamespace(**network | facts)  # type: ignore[return-value]


def largest(
    memory_mb: int, size_px: tuple[int, int], batch_size: int = 1, local: bool = True
) -> tuple[int, int]:
    settings = TilingSettings(window_px="auto", overlap_px=64, memory_mb=memory_mb, batch_size=batch_size)
    return tile_plan(size_px, predictor(bytes_per_px=1024.0, local=local), settings).window_px


@pytest.mark.parametrize(
    ("size_px", "stride_px", "settings", "window_px", "core_px"),
    [
        ((2048, 2048), 16, {"tile_px": 512, "overlap_px": 64}, (640, 640), (512, 512)),
        ((2048, 2048), 16, {"window_px": 512, "overlap_px": 64}, (512, 512), (384, 384)),
        ((1024, 1024), 128, {"tile_px": 512, "overlap_px": 64}, (768, 768), (512, 512)),
        ((40, 700), 16, {"tile_px": 512, "overlap_px": 64}, (176, 640), (48, 512)),
    ],
)
def test_windows_are_tiles_with_margins_no_larger_than_needed(
    size_px: tuple[int, int], stride_px: int, settings: dict[str, Any], window_px: object, core_px: object
) -> None:
    plan = tile_plan(size_px, predictor(stride_px), TilingSettings(**settings))
    assert (plan.window_px, plan.core_px) == (window_px, core_px)


@pytest.mark.parametrize(
    ("section", "window_px"), [({"split_size": 256, "overlapping": 32}, 320), ({"window": 256}, 256)]
)
def test_a_config_gives_tiling_settings(section: dict[str, int], window_px: int) -> None:
    config = make_config({"model": {"num_classes": 2}, "tiledinfer": section})
    assert (
        tile_plan((2048, 2048), predictor(), TilingSettings.of_config(config)).window_px == (window_px,) * 2
    )


def test_the_grid_moves_by_whole_strides() -> None:
    settings = TilingSettings(window_px=128, overlap_px=16)
    plan = tile_plan((300, 300), predictor(), settings, offset_px=(50, -1))
    assert [axis.offset_px for axis in (plan.rows, plan.columns)] == [48, -16]


def test_an_automatic_window_needs_a_known_memory_per_pixel() -> None:
    with pytest.raises(UsageError, match="known memory per pixel, got SimpleNamespace"):
        tile_plan((300, 200), predictor(), TilingSettings(window_px="auto"))


def test_the_largest_window_is_the_image_and_its_margins_if_memory_allows() -> None:
    assert largest(10_000, (1000, 500)) == (1136, 640)


def test_the_largest_window_fits_the_memory_and_the_next_would_not() -> None:
    height, width = largest(512, (20_000, 20_000))
    strip = 2 * 4 * 20_000 * 2
    assert height == width
    assert height % 16 == 0
    assert height * width * 1024 + height * strip <= 512 * 2**20
    assert (height + 16) * (width + 16) * 1024 + (height + 16) * strip > 512 * 2**20
    assert largest(512, (20_000, 20_000), batch_size=4)[0] < 0.6 * height


def test_too_little_memory_is_refused_with_the_least_that_suffices() -> None:
    words = r"expected at least (\d+) MiB for a window of 144 px, got 4 MiB"
    with pytest.raises(UsageError, match=words) as error:
        largest(4, (2000, 2000))
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
    assert largest(least, (2000, 2000)) == (144, 144)


def test_a_network_that_normalises_over_the_window_gets_no_automatic_window() -> None:
    with pytest.raises(UsageError, match="normalises over the whole window"):
        largest(512, (2000, 2000), local=False)


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [((256, 256), 64), ((896, 300), 64), ((897, 300), 112), ((300, 2000), 112)],
)
def test_an_image_in_one_window_has_a_smaller_margin(size_px: tuple[int, int], expected: int) -> None:
    assert image_margin(size_px, (1024, 112), TilingSettings(), 16) == expected


def test_a_margin_is_kept_if_given_and_never_exceeds_the_context() -> None:
    assert image_margin((256, 256), (1024, 96), TilingSettings(overlap_px=96), 16) == 96
    assert image_margin((256, 256), (1024, 256), TilingSettings(), 128) == 128
    assert image_margin((256, 256), (1024, 16), TilingSettings(), 16) == 16
