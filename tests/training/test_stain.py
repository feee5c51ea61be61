"""Staining again: glass stays glass, strength 0 is nothing, dyes keep their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.training.stain import other_dyes, stain_vectors, vary_stain


def every_colour() -> np.ndarray:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 18, 3)


def test_strength_zero_changes_no_colour() -> None:
    colours = every_colour()
    same = vary_stain(colours, np.random.default_rng(0), 0.0)
    assert np.abs(same.astype(int) - colours).max() <= 1


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_glass_stays_nearly_white(seed: int) -> None:
    glass = np.full((4, 4, 3), 243, np.uint8)
    assert vary_stain(glass, np.random.default_rng(seed), 1.0).min() >= 228


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_more_dye_is_still_darker(seed: int) -> None:
    amounts = np.linspace(0, 1.5, 20)[:, None]
    for dye in stain_vectors()[:2]:
        ramp = np.rint(243 * np.exp(-amounts * dye)).astype(np.uint8)[None]
        stained = vary_stain(ramp, np.random.default_rng(seed), 1.0)[0].astype(int).sum(axis=1)
        assert np.all(np.diff(stained) < 0)


def test_nuclei_stay_bluer_than_membranes() -> None:
    haematoxylin, schiff, _ = stain_vectors()
    pair = np.rint(243 * np.exp(-1.2 * np.stack([haematoxylin, schiff]))).astype(np.uint8)[None]
    for seed in range(200):
        nucleus, membrane = vary_stain(pair, np.random.default_rng(seed), 1.0)[0].astype(int)
        assert membrane[0] - membrane[1] > nucleus[0] - nucleus[1] + 30


def test_the_change_is_linear_in_optical_density() -> None:
    light = np.array([[[200, 150, 190]]], np.uint8)
    density = -np.log((light.astype(float) + 1) / 256)
    twice = np.rint(256 * np.exp(-2 * density) - 1).astype(np.uint8)
    zero = np.full_like(light, 255)
    for seed in range(20):
        offset, once, double = (
            -np.log((vary_stain(p, np.random.default_rng(seed), 1.0).astype(float) + 1) / 256)
            for p in (zero, light, twice)
        )
        assert np.allclose(double - offset, 2 * (once - offset), atol=0.05)


def test_stronger_settings_change_more() -> None:
    colours = every_colour()
    change = [
        np.mean(
            [
                np.abs(vary_stain(colours, np.random.default_rng(s), strength).astype(int) - colours).mean()
                for s in range(10)
            ]
        )
        for strength in (0.1, 0.4, 1.0)
    ]
    assert change[0] < change[1] < change[2]


@pytest.mark.parametrize("height", [1, 31, 32, 33, 100])
def test_bands_leave_no_seam(height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, 5, 3), dtype=np.uint8)
    whole = vary_stain(image, np.random.default_rng(1), 1.0)
    rows = [vary_stain(image[i : i + 1], np.random.default_rng(1), 1.0) for i in range(height)]
    assert np.array_equal(whole, np.concatenate(rows))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_other_dyes_leave_glass_bright_and_more_dye_darker(seed: int) -> None:
    assert other_dyes(np.full((4, 4, 3), 243, np.uint8), np.random.default_rng(seed)).min() >= 215
    amounts = np.linspace(0, 1.5, 20)[:, None]
    for dye in stain_vectors()[:2]:
        ramp = np.rint(243 * np.exp(-amounts * dye)).astype(np.uint8)[None]
        stained = other_dyes(ramp, np.random.default_rng(seed))[0].astype(int).sum(axis=1)
        assert np.all(np.diff(stained) < 0)


def test_other_dyes_are_of_every_colour() -> None:
    """Each of the three primaries is the most absorbed for some seed, of both dyes."""
    pair = np.rint(243 * np.exp(-1.2 * stain_vectors()[:2])).astype(np.uint8)[None]
    darkest = np.array([other_dyes(pair, np.random.default_rng(s))[0].argmin(axis=1) for s in range(60)])
    for dye in (0, 1):
        assert set(darkest[:, dye]) == {0, 1, 2}
