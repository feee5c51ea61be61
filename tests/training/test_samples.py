"""Samples are a function of their number, the cache keeps its cap, crops find the foreground."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.datasets.pairing import Pair
from glomtile.training.augmentation import Augmentation
from glomtile.training.samples import (
    CropSource,
    DecodedPairs,
    GridSource,
    Sample,
    TileSource,
    batches,
    fit_to,
    samples_that_cover,
)
from glomtile.types import IGNORE

BUSY = Augmentation(hflip=True, vflip=True, free_rotation=True, scales=(0.7, 1.4), stain=0.5, blur=1.0)


def painted(number: int, size_px: tuple[int, int] = (96, 80)) -> Sample:
    rng = np.random.default_rng(number)
    labels = np.zeros(size_px, np.uint8)
    labels[10:30, 20:40] = 1
    return rng.integers(0, 255, (*size_px, 3)).astype(np.uint8), labels


def decoded(count: int = 4, cache_mb: int = 16, size_px: tuple[int, int] = (96, 80)) -> DecodedPairs:
    pairs = [Pair(str(i), Path(f"{i}.png"), Path(f"{i}.png")) for i in range(count)]
    return DecodedPairs(pairs, lambda pair: painted(int(pair.stem), size_px), cache_mb)


def numbered(count: int) -> DecodedPairs:
    """Images whose pixels are their number."""
    pairs = [Pair(str(i), Path(), Path()) for i in range(count)]
    return DecodedPairs(
        pairs, lambda pair: (np.full((8, 8, 3), int(pair.stem), np.uint8), np.zeros((8, 8), np.uint8)), 16
    )


def crops(seed: int = 1, foreground_share: float = 0.5, samples: int = 12) -> CropSource:
    return CropSource(decoded(), (32, 32), samples, foreground_share, BUSY, seed)


def drawn(source: CropSource | TileSource, epoch: int) -> list[Sample]:
    return [source.sample(epoch, i) for i in range(len(source))]


def equal(one: Sample, other: Sample) -> bool:
    return bool(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]))


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    first, again = crops(), crops()
    backwards = [again.sample(2, i) for i in reversed(range(12))][::-1]
    assert all(equal(a, b) for a, b in zip(drawn(first, 2), backwards, strict=True))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 3), (2, 2)])
def test_another_epoch_or_seed_draws_other_samples(seed: int, epoch: int) -> None:
    pairs = zip(drawn(crops(), 2), drawn(crops(seed), epoch), strict=True)
    assert not any(equal(a, b) for a, b in pairs)


def test_batches_come_in_order_whatever_the_threads() -> None:
    source = crops(samples=11)
    expected = drawn(source, 5)
    for workers in (1, 4):
        images = np.concatenate([x for x, _ in batches(source, 4, 5, workers=workers)])
        np.testing.assert_array_equal(images, np.stack([x for x, _ in expected]))


def test_an_epoch_can_be_taken_up_in_its_middle() -> None:
    source = crops(samples=11)
    whole = list(batches(source, 4, 0))
    rest = list(batches(source, 4, 0, start=2))
    assert len(whole) == 3
    assert len(rest) == 1
    np.testing.assert_array_equal(rest[0][0], whole[2][0])


def test_the_last_batch_holds_what_is_left() -> None:
    assert [len(x) for x, _ in batches(crops(samples=11), 4, 0)] == [4, 4, 3]


def test_an_error_in_a_sample_reaches_the_caller_and_threads_end() -> None:
    class Broken:
        def __len__(self) -> int:
            return 8

        def sample(self, epoch: int, index: int) -> Sample:
            if index == 5:
                raise ValueError("sample 5")
            return painted(index)

    before = threading.active_count()
    with pytest.raises(ValueError, match="sample 5"):
        list(batches(Broken(), 2, 0))
    assert threading.active_count() == before


def test_every_tile_is_drawn_once_an_epoch_in_changing_order() -> None:
    plain = TileSource(decoded(6), (96, 80), Augmentation(), seed=3)
    originals = [painted(i)[0] for i in range(6)]

    def order(epoch: int) -> list[int]:
        return [
            next(i for i, image in enumerate(originals) if np.array_equal(image, sample[0]))
            for sample in drawn(plain, epoch)
        ]

    assert sorted(order(0)) == list(range(6))
    assert any(order(0) != order(epoch) for epoch in range(1, 4))


def test_an_epoch_of_many_laps_draws_every_tile_as_often() -> None:
    source = TileSource(decoded(4), (96, 80), Augmentation(), seed=3, samples=12)
    assert len(source) == 12
    first = [image.tobytes() for image, _ in drawn(source, 0)]
    assert sorted(first.count(painted(i)[0].tobytes()) for i in range(4)) == [3, 3, 3, 3]
    assert all(len(set(first[lap : lap + 4])) == 4 for lap in (0, 4, 8))


def test_every_image_gives_its_share_of_crops() -> None:
    source = CropSource(numbered(4), (8, 8), 10, 0.5, Augmentation(), 1)
    counts = np.bincount([int(x[0, 0, 0]) for x, _ in drawn(source, 0)], minlength=4)
    assert counts.min() >= 2
    assert counts.max() <= 3


@given(
    st.lists(st.floats(0, 4), min_size=1, max_size=6).filter(lambda weights: sum(weights) > 0.1),
    st.integers(1, 60),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_weights_give_every_image_its_crops_to_within_one(
    weights: list[float], samples: int, epoch: int
) -> None:
    source = CropSource(numbered(len(weights)), (8, 8), samples, 0.5, Augmentation(), 1, weights=weights)
    counts = np.bincount([int(x[0, 0, 0]) for x, _ in drawn(source, epoch)], minlength=len(weights))
    expected = np.array(weights) / np.sum(weights) * samples
    assert (np.abs(counts - expected) < 1 + 1e-6).all()


def test_a_weighted_epoch_differs_from_the_next_and_repeats() -> None:
    source = CropSource(decoded(), (32, 32), 12, 0.5, BUSY, 1, weights=[1, 2, 1, 0])
    assert all(equal(a, b) for a, b in zip(drawn(source, 0), drawn(source, 0), strict=True))
    assert not all(equal(a, b) for a, b in zip(drawn(source, 0), drawn(source, 1), strict=True))


def test_the_foreground_share_is_kept() -> None:
    def share(foreground_share: float) -> float:
        big = decoded(2, size_px=(400, 400))
        source = CropSource(big, (24, 24), 300, foreground_share, Augmentation(), 4)
        return float(np.mean([(labels == 1).any() for _, labels in drawn(source, 0)]))

    assert share(0.0) < 0.1
    assert share(1.0) == 1.0
    assert 0.4 < share(0.5) < 0.65


def test_a_cut_crop_shows_only_the_kept_side_and_its_mirror() -> None:
    """Columns tell where a pixel came from: what is read is one stretch of them that ends within the crop."""
    columns = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    rows = columns.swapaxes(0, 1).copy()
    for picture, axis in ((columns, 1), (rows, 0)):
        held = DecodedPairs(
            [Pair("one", Path(), Path())],
            lambda _, picture=picture: (picture, np.ones((200, 200), np.uint8)),
            16,
        )
        source = CropSource(held, (40, 40), 200, 0.0, Augmentation(), 3, edge_share=1.0)
        mirrored = 0
        for image, labels in drawn(source, 0):
            line = image[..., 0].take(0, axis=1 - axis).astype(int)
            steps = np.diff(line)
            assert set(np.abs(steps)) <= {0, 1}
            assert labels.shape == (40, 40)
            mirrored += len(set(np.sign(steps))) > 1
        # Half of the cuts run along the other axis; some of these crops meet the picture's own edge.
        assert 60 <= mirrored <= 150


def test_without_a_share_of_edges_the_samples_are_as_they_were() -> None:
    with_none = CropSource(decoded(), (32, 32), 12, 0.5, BUSY, 1, edge_share=0.0)
    assert all(equal(a, b) for a, b in zip(drawn(crops(), 0), drawn(with_none, 0), strict=True))


@pytest.mark.parametrize(("weights", "last"), [([0.1] * 8, 7), ([0.1] * 7 + [0], 6)])
def test_the_largest_draw_is_of_the_last_image(
    monkeypatch: pytest.MonkeyPatch, weights: list[float], last: int
) -> None:
    class Highest:
        def random(self, size: int | None = None) -> float | np.ndarray:
            return np.full(size or (), 1 - 2**-53)

        def permutation(self, count: int) -> np.ndarray:
            return np.arange(count)

    source = CropSource(numbered(8), (8, 8), 8, 0.5, Augmentation(), 1, weights=weights)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Highest())
    assert (source.sample(0, 7)[0] == last).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_the_windows_of_validation_cover_every_pixel(height: int, width: int, h: int, w: int) -> None:
    numbers = np.arange(height * width).reshape(height, width)
    image = np.stack([numbers % 251, numbers // 251 % 251, numbers // 63001], -1).astype(np.uint8)
    source = GridSource(
        DecodedPairs([Pair("a", Path(), Path())], lambda _: (image, np.zeros((height, width), np.uint8)), 16),
        (h, w),
    )
    seen = set()
    for i in range(len(source)):
        window, labels = source.sample(0, i)
        assert window.shape == (h, w, 3)
        inside = window[labels != IGNORE].astype(int)
        seen |= set((inside[:, 0] + 251 * inside[:, 1] + 63001 * inside[:, 2]).tolist())
    assert seen == set(numbers.ravel().tolist())


def test_the_cache_keeps_its_cap_and_its_content_true() -> None:
    size_px = (512, 512)
    held = decoded(8, cache_mb=2, size_px=size_px)
    for number in [0, 1, 2, 3, 4, 5, 6, 7, 3, 0, 7]:
        image, labels = held[number]
        np.testing.assert_array_equal(image, painted(number, size_px)[0])
        assert labels.sum() == 400
        assert held.held_bytes <= 2 * 2**20
    assert held.held_bytes > 0


def test_a_picture_larger_than_the_cache_is_handed_out_and_not_kept() -> None:
    held = decoded(1, cache_mb=0)
    assert held[0][0].shape == (96, 80, 3)
    assert held.held_bytes == 0


def test_a_cached_picture_is_decoded_once() -> None:
    count = 0

    def decode(pair: Pair) -> Sample:
        nonlocal count
        count += 1
        return painted(int(pair.stem))

    held = DecodedPairs([Pair("0", Path(), Path())], decode, 16)
    for _ in range(5):
        held[0]
    assert count == 1


def test_labels_are_resized_by_nearest_so_that_no_class_is_invented() -> None:
    """Reference §6.7: it interpolates one-hot planes."""
    labels = np.zeros((90, 90), np.uint8)
    labels[:, 45:] = 3
    _, small = fit_to((np.zeros((90, 90, 3), np.uint8), labels), (64, 64))
    assert set(np.unique(small)) == {0, 3}


def test_crops_that_cover_the_images_fill_whole_batches() -> None:
    assert samples_that_cover(decoded(4, size_px=(64, 64)), (32, 32), 5) == 20
    assert samples_that_cover(decoded(1, size_px=(8, 8)), (32, 32), 4) == 4
