"""Sliding-window prediction with three-line networks: order, batches, memory and errors."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

from glomtile.errors import GlomtileError, UsageError
from glomtile.io.images import ArrayReader
from glomtile.tiling.grid import plan_windows
from glomtile.tiling.sliding_window import predict_tiled


class Identity:
    """A network that returns its input and keeps its batches."""

    num_classes, stride_px, context_px, mpp = 3, 1, 0, None

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return batch.astype(np.float32) / 255


class Rows:
    """A sink that joins rows."""

    def __init__(self):
        self.tops, self.parts = [], []

    def __call__(self, top, probs):
        self.tops.append(top)
        self.parts.append(probs)

    @property
    def image(self):
        return np.rint(np.concatenate(self.parts) * 255).astype(np.uint8)


def painted(height, width, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("glomtile-")] == []


def test_rows_come_once_each_from_top_to_bottom():
    image, rows = painted(150, 60), Rows()
    predict_tiled(ArrayReader(image), Identity(), plan_windows((150, 60), 48, 8), rows)
    assert rows.tops == np.cumsum([0, *[len(part) for part in rows.parts[:-1]]]).tolist()
    assert (rows.image == image).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (31, 33), (32, 32), (64, 65)])
def test_images_smaller_than_a_window_or_one_pixel_wide_work(size):
    image, rows = painted(*size), Rows()
    predict_tiled(ArrayReader(image), Identity(), plan_windows(size, 48, 8), rows, batch_size=4)
    assert (rows.image == image).all()


def test_batches_have_one_shape_and_the_last_is_padded():
    network = Identity()
    run = predict_tiled(
        ArrayReader(painted(70, 100)), network, plan_windows((70, 100), 48, 8), Rows(), batch_size=5
    )
    assert run.windows == 12
    assert {batch.shape for batch in network.batches} == {(5, 48, 48, 3)}
    last = network.batches[-1]
    assert len(network.batches) == run.batches == 3
    assert all((last[i] == last[1]).all() for i in (2, 3, 4))
    assert not (last[0] == last[1]).all()


def test_a_batch_is_never_larger_than_the_plan():
    network = Identity()
    predict_tiled(ArrayReader(painted(9, 9)), network, plan_windows((9, 9), 32, 8), Rows(), batch_size=16)
    assert [batch.shape for batch in network.batches] == [(1, 32, 32, 3)]


def test_reference_fault_6_2_every_window_keeps_the_scale_of_the_image():
    image, network = painted(200, 200), Identity()
    plan = plan_windows((200, 200), 80, 16)
    predict_tiled(ArrayReader(image), network, plan, Rows())
    mirrored = np.pad(image, ((80, 80), (80, 80), (0, 0)), mode="reflect")
    for window, batch in zip(plan, network.batches, strict=True):
        box = window.read
        cut = mirrored[80 + box.top : 80 + box.bottom, 80 + box.left : 80 + box.right]
        assert (batch[0] == cut).all()


def test_a_margin_below_the_context_is_blended_not_exact():
    class Blur(Identity):
        num_classes, context_px = 2, 6

        def __call__(self, batch):
            p = np.cumsum(batch[..., 0].astype(np.float32), axis=2)
            p = (p[:, :, 6:] - p[:, :, :-6])[:, :, : batch.shape[2] - 12] / 1530
            p = np.pad(p, ((0, 0), (0, 0), (6, batch.shape[2] - 6 - p.shape[2])))
            return np.stack([1 - p, p], axis=-1)

    image = painted(40, 90)
    exact, cut = Rows(), Rows()
    predict_tiled(ArrayReader(image), Blur(), plan_windows((40, 90), 102, 6), exact)
    predict_tiled(ArrayReader(image), Blur(), plan_windows((40, 90), 32, 2), cut)
    assert np.abs(np.concatenate(exact.parts) - np.concatenate(cut.parts)).max() > 0.01


def test_skipped_windows_are_not_read_and_count_as_background():
    image, network, rows = painted(64, 96), Identity(), Rows()
    plan = plan_windows((64, 96), 32, 0)
    windows = []

    def skip(window):
        windows.append(window)
        return window.column == 1

    run = predict_tiled(ArrayReader(image), network, plan, rows, skip=skip)
    assert windows == list(plan)
    assert (run.windows, run.skipped, len(network.batches)) == (6, 2, 4)
    assert (rows.image[:, 32:64] == (255, 0, 0)).all()
    assert (rows.image[:, :32] == image[:, :32]).all()
    assert (rows.image[:, 64:] == image[:, 64:]).all()


def test_an_image_with_all_windows_skipped_is_background():
    network, rows = Identity(), Rows()
    run = predict_tiled(
        ArrayReader(painted(50, 50)), network, plan_windows((50, 50), 32, 8), rows, skip=lambda window: True
    )
    assert network.batches == []
    assert run.batches == 0
    assert (rows.image == (255, 0, 0)).all()


def test_reading_ahead_is_bounded():
    read, seen, ahead = threading.Semaphore(0), [], []
    counter = {"read": 0}
    lock = threading.Lock()

    class Counting(ArrayReader):
        def read(self, box):
            with lock:
                counter["read"] += 1
            return super().read(box)

    class Slow(Identity):
        num_classes = 3

        def __call__(self, batch):
            # Wait until the readers have read ahead.
            read.acquire(timeout=0.02)
            seen.append(len(batch))
            ahead.append(counter["read"] - sum(seen[:-1]))
            return super().__call__(batch)

    plan = plan_windows((16, 16 * 200), 16, 0)
    predict_tiled(Counting(painted(16, 3200)), Slow(), plan, Rows(), batch_size=2, read_threads=3)
    assert counter["read"] == 200
    # In the network, waiting for it, and read ahead: 2 + 2 + (2 * 2 + 3).
    assert max(ahead) <= 11
    assert max(ahead) > 4


def test_memory_does_not_grow_with_height():
    class Wide:
        mpp = None

        def __init__(self, height):
            self.size_px = (height, 512)

        def read(self, box):
            return np.zeros((box.height, box.width, 3), np.uint8)

    class Tiny(Identity):
        num_classes = 2

        def __call__(self, batch):
            return np.full((*batch.shape[:3], 2), 0.5, np.float32)

    def peak(height):
        tracemalloc.start()
        predict_tiled(Wide(height), Tiny(), plan_windows((height, 512), 128, 16), lambda top, rows: None)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(256)
    assert peak(8 * 1024) <= 1.05 * peak(1024)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_of_the_reader_is_raised_and_reading_stops(threads):
    calls = []

    class Torn(ArrayReader):
        def read(self, box):
            calls.append(box)
            if box.top >= 64:
                raise OSError("the slide's cable came off")
            return super().read(box)

    rows = Rows()
    with pytest.raises(OSError, match="cable"):
        predict_tiled(
            Torn(painted(16 * 500, 16)),
            Identity(),
            plan_windows((16 * 500, 16), 16, 0),
            rows,
            read_threads=threads,
        )
    assert len(calls) < 30
    assert all(top < 64 for top in rows.tops)


def test_an_error_of_the_predictor_is_raised():
    class Broken(Identity):
        def __call__(self, batch):
            if len(self.batches) == 2:
                raise RuntimeError("out of memory on the device")
            return super().__call__(batch)

    network, rows = Broken(), Rows()
    with pytest.raises(RuntimeError, match="on the device"):
        predict_tiled(ArrayReader(painted(1600, 16)), network, plan_windows((1600, 16), 16, 0), rows)
    assert len(network.batches) == 2
    assert rows.tops == [0, 16]


def test_an_error_of_the_sink_is_raised_and_no_row_follows():
    tops = []

    def full(top, probs):
        tops.append(top)
        if top == 32:
            raise OSError(28, "no space left")

    network = Identity()
    with pytest.raises(OSError, match="no space"):
        predict_tiled(ArrayReader(painted(1600, 16)), network, plan_windows((1600, 16), 16, 0), full)
    assert tops == [0, 16, 32]
    assert len(network.batches) <= 6


def test_an_error_of_skip_is_raised_before_anything_is_read():
    network = Identity()
    with pytest.raises(ZeroDivisionError):
        predict_tiled(
            ArrayReader(painted(20, 20)), network, plan_windows((20, 20), 16, 0), Rows(), skip=lambda w: 1 / 0
        )
    assert network.batches == []


def test_a_wrong_shape_of_the_reader_is_named():
    class Short(ArrayReader):
        def read(self, box):
            return super().read(box)[:-1]

    with pytest.raises(
        GlomtileError, match=r"box \(0, 0, 16, 16\): expected \(16, 16, 3\) uint8, got \(15, 16, 3\)"
    ):
        predict_tiled(Short(painted(16, 16)), Identity(), plan_windows((16, 16), 16, 0), Rows())


def test_a_wrong_shape_of_the_predictor_is_named():
    class Fewer(Identity):
        num_classes = 4

    with pytest.raises(
        GlomtileError, match=r"expected probabilities of shape \(1, 16, 16, 4\), got \(1, 16, 16, 3\)"
    ):
        predict_tiled(ArrayReader(painted(16, 16)), Fewer(), plan_windows((16, 16), 16, 0), Rows())


def test_a_plan_of_another_size_or_stride_is_refused():
    class Strided(Identity):
        stride_px = 16

    reader = ArrayReader(painted(40, 40))
    with pytest.raises(UsageError, match=r"expected a plan of \(40, 40\) px, got one of \(40, 41\) px"):
        predict_tiled(reader, Identity(), plan_windows((40, 41), 16, 0), Rows())
    with pytest.raises(UsageError, match="aligned to the network's stride of 16 px, got one aligned to 8 px"):
        predict_tiled(reader, Strided(), plan_windows((40, 40), 16, 0, align_px=8), Rows())
    with pytest.raises(UsageError, match="at least 1 window a batch and 1 thread, got 0 and 2"):
        predict_tiled(reader, Identity(), plan_windows((40, 40), 16, 0), Rows(), batch_size=0)


@pytest.mark.parametrize(("skipped", "figures"), [(0, {}), (6, {"glass": "6 skipped"})])
def test_progress_counts_predicted_windows(skipped, figures):
    events = []

    class Recorder:
        def start(self, title, total=None):
            events.append((title, total))

        def advance(self, steps=1, **figures):
            events.append((steps, figures))

    run = predict_tiled(
        ArrayReader(painted(40, 40)), Identity(), plan_windows((40, 40), 16, 0), Rows(),
        skip=lambda window: skipped and window.own.top > 0, progress=Recorder(),
    )  # fmt: skip
    assert events == [("windows", 9 - skipped), *[(1, figures)] * (9 - skipped)]
    assert (run.windows, run.skipped) == (9, skipped)
    assert 0 < run.network_s <= run.wall_s
