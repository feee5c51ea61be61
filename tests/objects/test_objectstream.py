"""When rows come decides when an object is found, never which."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomtile.errors import StorageError
from glomtile.objects.extraction import FoundObject, found_objects
from glomtile.objects.objectstream import ObjectFinder, ObjectStream
from glomtile.objects.postprocessing import ShapingRules
from glomtile.objects.regions import Regions

RULES = ShapingRules(min_area_um2=30.0, smooth_um=1.0)


def picture(seed: int, size: tuple[int, int] = (1500, 700)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 14) for _ in range(3)]
    fields[0] += 0.02
    return np.argmax(fields, axis=0).astype(np.uint8), rng.integers(0, 256, size, np.uint8)


def finder(labels: np.ndarray, confidence: np.ndarray) -> ObjectFinder:
    return ObjectFinder(labels, confidence, np.zeros(labels.shape, np.uint8), 3, 1.0, RULES)


def told(objects: Iterable[FoundObject]) -> list[tuple[object, ...]]:
    return [(o.class_number, o.box, o.polygon.wkb, repr(o.measures)) for o in objects]


@given(st.integers(0, 10_000), st.lists(st.integers(1, 1499), max_size=6))
@settings(max_examples=12, deadline=None)
def test_the_same_objects_as_labelling_the_whole_mask_at_once(seed: int, cuts: list[int]) -> None:
    labels, confidence = picture(seed)
    regions = Regions(labels.shape[1], 3)
    every = [*regions.add(labels), *regions.finish()]
    whole = list(found_objects(labels, confidence, every, 1.0, RULES, labels.shape))
    banded = finder(labels, confidence)
    assert told(banded.found([*sorted(cuts), 1500])) == told(whole)
    painted = np.zeros(labels.shape, np.uint8)
    for found in whole:
        part = painted[found.box.top : found.box.bottom, found.box.left : found.box.right]
        part[found.mask] = found.class_number
    assert (banded.canvas == painted).all()


def test_rows_that_come_late_change_nothing(tmp_path: Path) -> None:
    labels, confidence = picture(1)
    expected = told(finder(labels, confidence).found([1500]))
    # What is below the rows said to be whole is not there yet.
    hidden, rng = labels.copy(), random.Random(2)
    hidden[:] = 1
    slow = finder(hidden, confidence)
    with ObjectStream(slow.found, tmp_path) as stream:
        top = 0
        for bottom in (7, 512, 600, 1301, 1500):
            hidden[top:bottom] = labels[top:bottom]
            stream.rows_whole(bottom)
            time.sleep(rng.uniform(0, 0.05))
            top = bottom
        assert told(stream.results()) == expected


def test_objects_above_are_found_before_the_rows_below_are_there(tmp_path: Path) -> None:
    labels, confidence = picture(3)
    early = finder(labels, confidence)
    with ObjectStream(early.found, tmp_path) as stream:
        stream.rows_whole(1000)
        first = stream._found.get(timeout=60)
        assert first is not None
        stream.rows_whole(1500)
        assert told([first, *stream.results()]) == told(finder(labels, confidence).found([1500]))


def test_what_stops_the_thread_is_raised_where_rows_are_told(tmp_path: Path) -> None:
    def full(bottoms: Iterable[int]) -> Iterator[FoundObject]:
        next(iter(bottoms))
        raise OSError(28, "No space left on device")
        yield

    with ObjectStream(full, tmp_path) as stream:
        stream.rows_whole(10)
        with pytest.raises(StorageError, match="the disk is full"):
            list(stream.results())
    with ObjectStream(full, tmp_path) as stream:
        stream.rows_whole(10)
        assert stream._found.get(timeout=60) is None
        while not stream._end.done():
            time.sleep(0.001)
        with pytest.raises(StorageError, match="the disk is full"):
            stream.rows_whole(20)


def test_leaving_early_ends_the_thread(tmp_path: Path) -> None:
    labels, confidence = picture(4)

    def broken_off() -> None:
        with ObjectStream(finder(labels, confidence).found, tmp_path) as stream:
            stream.rows_whole(600)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        broken_off()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("glomtile-objects")]
