import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glomtile.slides.slide import resample, source_span
from glomtile.tiling.grid import Span
from glomtile.types import Box

ZOOMS = (0.4, 1.0, 2.0, 3.7, 2.0 / 0.4990, 16.0, 49.0)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(image, box, zoom):
    wanted = Span(box.top, box.bottom), Span(box.left, box.right)
    spans = tuple(source_span(wanted[i], zoom[i], image.shape[i]) for i in (0, 1))
    part = image[spans[0].start : spans[0].stop, spans[1].start : spans[1].stop]
    return resample(part, spans, wanted, zoom)


def integral(lines, position):
    """Integrate each column from its start to a position."""
    whole = int(position)
    total = lines[:whole].sum(axis=0)
    return total + (position - whole) * lines[whole] if whole < len(lines) else total


def averaged(lines, zoom, count):
    """Means of columns over [c * zoom, (c + 1) * zoom), in double precision."""
    ends = [min(c * zoom, len(lines)) for c in range(count + 1)]
    return np.stack(
        [(integral(lines, b) - integral(lines, a)) / (b - a) for a, b in itertools.pairwise(ends)]
    )


def interpolated(lines, zoom, count):
    centres = (np.arange(count) + 0.5) * zoom - 0.5
    flat = lines.reshape(len(lines), -1)
    columns = [np.interp(centres, np.arange(len(lines)), flat[:, k]) for k in range(flat.shape[1])]
    return np.stack(columns, axis=-1).reshape(count, *lines.shape[1:])


def oracle(image, zoom, size):
    result = image.astype(np.float64)
    for axis in (0, 1):
        way = averaged if zoom[axis] >= 1 else interpolated
        result = np.moveaxis(way(np.moveaxis(result, axis, 0), zoom[axis], size[axis]), 0, axis)
    return result


def size_of(image, zoom):
    return tuple(max(1, round(image.shape[i] / zoom[i])) for i in (0, 1))


a_zoom = st.sampled_from(ZOOMS) | st.floats(0.3, 20)


@given(st.integers(1, 90), st.integers(1, 90), a_zoom, a_zoom, st.integers(0, 9))
@example(101, 50, 2.0, 2.0, 0)
@example(1, 1, 16.0, 0.4, 0)
@settings(max_examples=150)
def test_a_pixel_is_the_mean_of_exactly_what_it_covers(height, width, down, across, seed):
    image = noise(height, width, seed)
    size = size_of(image, (down, across))
    got = read(image, Box(0, 0, *size), (down, across))
    assert got.dtype == np.uint8
    assert np.abs(got - oracle(image, (down, across), size)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("shape", [(160, 224), (203, 175)])
def test_pieces_equal_the_whole_to_the_bit(zoom, shape):
    image = noise(*shape)
    image[:100] //= 64  # few grey levels: many means half-way between two
    height, width = size_of(image, (zoom, zoom))
    whole = read(image, Box(0, 0, height, width), (zoom, zoom))
    random = np.random.default_rng(1)
    for _ in range(40):
        top, left = random.integers(height), random.integers(width)
        bottom, right = random.integers(top, height) + 1, random.integers(left, width) + 1
        piece = read(image, Box(top, left, bottom, right), (zoom, zoom))
        assert np.array_equal(piece, whole[top:bottom, left:right]), (top, left, bottom, right)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 30),
    st.integers(1, 30),
    a_zoom,
    st.integers(0, 99),
)
@settings(max_examples=100)
def test_pieces_equal_the_whole_wherever_they_are_cut(height, width, row, column, zoom, seed):
    image = noise(height, width, seed) // 100
    size = size_of(image, (zoom, zoom))
    row, column = min(row, size[0]), min(column, size[1])
    whole = read(image, Box(0, 0, *size), (zoom, zoom))
    boxes = [Box(0, 0, row, column), Box(size[0] - row, size[1] - column, *size)]
    for box in boxes:
        assert np.array_equal(
            read(image, box, (zoom, zoom)), whole[box.top : box.bottom, box.left : box.right]
        )


@pytest.mark.parametrize("zoom", [2, 3, 4, 16, 49])
def test_whole_factors_agree_with_factors_beside_them(zoom):
    image = noise(zoom * 12, zoom * 9)
    fast = read(image, Box(0, 0, 12, 9), (float(zoom), float(zoom)))
    general = read(image, Box(0, 0, 12, 9), (zoom * (1 + 1e-12), zoom * (1 + 1e-12)))
    assert np.abs(fast.astype(int) - general).max() <= 1


def test_pixels_after_the_end_of_a_level_repeat_its_last_pixel():
    image = noise(5, 7)
    got = read(image, Box(0, 0, 6, 9), (1.0, 1.0))
    assert np.array_equal(got, np.pad(image, ((0, 1), (0, 2), (0, 0)), mode="edge"))
    assert np.array_equal(read(image, Box(5, 8, 6, 9), (1.0, 1.0))[0, 0], image[-1, -1])


@given(st.integers(0, 500), st.integers(1, 50), st.floats(0.2, 40), st.integers(1, 4000))
def test_source_pixels_lie_inside_the_source(start, count, zoom, length):
    span = source_span(Span(start, start + count), zoom, length)
    assert 0 <= span.start < span.stop <= length
