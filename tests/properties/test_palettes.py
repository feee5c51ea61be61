"""What holds for every palette: class numbers, colours and configs give it back as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.config.load import load_config, make_config
from glomtile.config.toml import to_toml
from glomtile.errors import InputError
from glomtile.palette import Palette
from glomtile.types import IGNORE

CHANNELS = st.integers(0, 255)
COLOURS = st.lists(st.tuples(CHANNELS, CHANNELS, CHANNELS), min_size=1, max_size=254, unique=True)
MAPS = COLOURS.flatmap(lambda rgbs: st.permutations(list(zip(rgbs, range(len(rgbs)), strict=True)))).map(dict)


def some_labels(palette: Palette, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, palette.num_classes, rng.integers(1, 40, 2), np.uint8)


@given(MAPS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_class_numbers_come_back_from_their_colours(rgb_map, seed):
    palette = Palette.from_rgb_map(rgb_map)
    labels = some_labels(palette, seed)
    painted = palette.encode(labels)
    assert all(
        rgb_map[tuple(map(int, rgb))] == number for rgb, number in zip(painted[0], labels[0], strict=True)
    )
    for tolerance in (0, 40, 255):
        assert np.array_equal(palette.decode(painted, tolerance), labels)


@given(MAPS)
@settings(deadline=None, max_examples=60)
def test_a_palette_comes_back_from_its_map_and_from_its_flat_list(rgb_map):
    palette = Palette.from_rgb_map(rgb_map)
    assert palette.to_rgb_map() == rgb_map
    assert Palette.from_rgb_map(palette.to_rgb_map(), palette.names) == palette
    assert list(zip(*[iter(palette.flat())] * 3, strict=True)) == list(palette.to_rgb_map())


@given(MAPS, st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_smoothed_colours_are_their_class_again_where_no_other_is_as_near(rgb_map, seed, most):
    palette = Palette.from_rgb_map(rgb_map)
    labels = some_labels(palette, seed)
    noise = np.random.default_rng(seed).integers(-most, most + 1, (*labels.shape, 3))
    shown = np.clip(palette.encode(labels) + noise, 0, 255).astype(np.uint8)
    read = palette.decode(shown, most)
    colours = np.array(list(palette.to_rgb_map()))
    away = ((colours[read].astype(int) - shown) ** 2).sum(axis=2)
    assert (away <= ((colours[labels].astype(int) - shown) ** 2).sum(axis=2)).all()
    assert np.abs(colours[read].astype(int) - shown).max() <= most


@given(MAPS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_pixels_that_are_not_counted_are_painted_and_never_read_as_a_class(rgb_map, seed):
    rgb_map.pop((128, 128, 128), None)
    if not rgb_map:
        return
    palette = Palette.from_rgb_map({rgb: number for number, rgb in enumerate(rgb_map)})
    labels = some_labels(palette, seed)
    labels[0, 0] = IGNORE
    painted = palette.encode(labels)
    with pytest.raises(InputError, match=r"\(128,128,128\)"):
        palette.decode(painted)


@given(MAPS)
@settings(deadline=None, max_examples=20)
def test_a_palette_comes_back_from_a_config(tmp_path_factory, rgb_map):
    path = tmp_path_factory.mktemp("palette") / "x.toml"
    config = make_config({"mask": {"rgb_map": rgb_map}, "model": {"num_classes": len(rgb_map)}})
    path.write_text(to_toml(config), "utf-8", newline="")
    again = load_config(path)
    assert again.model_dump() == config.model_dump()
    assert Palette.from_rgb_map(again.mask.rgb_map) == Palette.from_rgb_map(rgb_map)
