"""Properties of tiling at every size: images 1 px wide, windows larger than the image, any offset."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from glomtile.io.images import ArrayReader
from glomtile.tiling.blending import axis_weights, window_profile
from glomtile.tiling.grid import Axis, Span, plan_windows
from glomtile.tiling.sliding_window import predict_tiled

BLENDS = st.sampled_from(["hann", "linear", "none"])


@st.composite
def axes(draw):
    overlap = draw(st.integers(0, 40))
    core = draw(st.integers(1, 90))
    return Axis(draw(st.integers(1, 300)), core + 2 * overlap, overlap, draw(st.integers(-500, 500)))


@st.composite
def plans(draw):
    align = draw(st.sampled_from([1, 2, 4, 16]))
    overlap = draw(st.integers(0, 24))
    side = 2 * (-(-overlap // align) * align)
    window = (side + draw(st.integers(1, 80)), side + draw(st.integers(1, 80)))
    size = (draw(st.integers(1, 120)), draw(st.integers(1, 120)))
    offset = (align * draw(st.integers(-20, 20)), align * draw(st.integers(-20, 20)))
    return plan_windows(size, window, overlap, align, offset)


@given(axes())
def test_windows_of_an_axis_own_every_pixel_once_and_in_order(axis):
    owned = [pixel for k in range(len(axis)) for pixel in range(*axis.own(k))]
    assert owned == list(range(axis.length_px))
    assert all(axis.own(k).length >= 1 for k in range(len(axis)))


@given(axes())
def test_a_window_reads_its_margin_around_all_it_owns(axis):
    for k in range(len(axis)):
        read, own = axis.read(k), axis.own(k)
        assert read.length == axis.window_px
        assert read.start + axis.overlap_px <= own.start
        assert own.stop <= read.stop - axis.overlap_px


@given(plans())
def test_windows_own_every_pixel_of_an_image_once(plan):
    counts = np.zeros(plan.size_px, int)
    for window in plan:
        counts[window.own.top : window.own.bottom, window.own.left : window.own.right] += 1
    assert (counts == 1).all()


@given(plans())
def test_every_window_starts_at_a_multiple_of_the_stride(plan):
    for window in plan:
        assert window.read.top % plan.align_px == 0
        assert window.read.left % plan.align_px == 0
        assert window.read.height % plan.align_px == 0
        assert window.read.width % plan.align_px == 0


@given(axes(), st.integers(0, 60), BLENDS)
def test_every_pixel_has_a_weight_and_weights_sum_to_one(axis, context, blend):
    raw, total = np.zeros(axis.length_px), np.zeros(axis.length_px)
    profile = window_profile(axis.window_px, axis.overlap_px, context, blend)
    for k, share in enumerate(axis_weights(axis, context, blend)):
        start = axis.read(k).start
        inside = np.arange(axis.length_px) - start
        valid = (inside >= 0) & (inside < axis.window_px)
        raw[valid] += profile[inside[valid]]
        total[share.span.start : share.span.stop] += share.weights
        own = axis.own(k)
        assert profile[own.start - start : own.stop - start].min() > 0
    assert raw.min() > 0
    assert np.abs(total - 1).max() < 1e-6


@given(axes(), st.integers(0, 40), st.sampled_from(["hann", "linear"]))
def test_a_window_has_no_weight_where_its_context_is_cut(axis, context, blend):
    if context > axis.overlap_px:
        context = axis.overlap_px
    for k, share in enumerate(axis_weights(axis, context, blend)):
        read = axis.read(k)
        assert share.span.start >= max(read.start + context, 0)
        assert share.span.stop <= min(read.stop - context, axis.length_px)


class Identity:
    """A network that returns its input as probabilities."""

    num_classes, stride_px, context_px, mpp = 3, 1, 0, None

    def __call__(self, batch):
        return batch.astype(np.float32) / 255


class Pooling:
    """A network with the context of a U-Net: blocks on a fixed grid and their neighbours."""

    num_classes, stride_px, context_px, mpp = 2, 4, 7, None

    def __call__(self, batch):
        n, h, w = batch.shape[:3]
        grey = batch.astype(np.float64).mean(axis=-1)
        blocks = grey.reshape(n, h // 4, 4, w // 4, 4).max(axis=(2, 4))
        blocks = ndimage.uniform_filter(blocks, (0, 3, 3), mode="constant")
        near = ndimage.uniform_filter(grey, (0, 3, 3), mode="constant")
        p = (near + blocks.repeat(4, axis=1).repeat(4, axis=2)) / 510
        return np.stack([1 - p, p], axis=-1).astype(np.float32)


def collected(reader, predictor, plan, **options):
    """Join all rows of the sink, after checking their order."""
    rows = []

    def sink(top, probs):
        assert top == sum(len(part) for part in rows)
        assert probs.shape[1:] == (plan.size_px[1], predictor.num_classes)
        rows.append(probs)

    predict_tiled(reader, predictor, plan, sink, **options)
    return np.concatenate(rows)


@st.composite
def planned_images(draw):
    plan = draw(plans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return plan, rng.integers(0, 256, (*plan.size_px, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@given(planned_images(), BLENDS, st.integers(1, 5))
def test_an_identity_network_returns_the_image(planned, blend, batch_size):
    plan, image = planned
    result = collected(ArrayReader(image), Identity(), plan, blend=blend, batch_size=batch_size)
    assert (np.rint(result * 255).astype(np.uint8) == image).all()
    assert np.abs(result - image / 255).max() < 1e-5


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3))),
    st.integers(7, 20),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    BLENDS,
)
def test_tiled_equals_whole_when_the_margin_is_at_least_the_context(image, overlap, core, steps, blend):
    network = Pooling()
    margin = -(-overlap // 4) * 4
    plan = plan_windows(
        image.shape[:2],
        (core[0] + 2 * margin, core[1] + 2 * margin),
        overlap,
        4,
        (steps[0] * 4, steps[1] * 4),
    )
    tiled = collected(ArrayReader(image), network, plan, blend=blend, batch_size=3)
    height, width = image.shape[:2]
    pads = ((8, 8 + -height % 4), (8, 8 + -width % 4), (0, 0))
    whole = network(np.pad(image, pads, mode="reflect")[None])[0, 8 : 8 + height, 8 : 8 + width]
    assert np.abs(tiled - whole).max() <= 1e-5


@settings(deadline=None, max_examples=60)
@given(planned_images(), BLENDS, st.integers(1, 5), st.data())
def test_panels_side_by_side_equal_the_whole_to_the_bit(planned, blend, batch_size, data):
    plan, image = planned
    width = plan.size_px[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(width - 1, 1)), max_size=4)) | {0, width})
    reader, network = ArrayReader(image), Uneven()

    def skip(window):
        return (window.row + window.column) % 3 == 0

    whole = collected(reader, network, plan, blend=blend, batch_size=batch_size, skip=skip)
    panels = []
    for left, right in itertools.pairwise(cuts):
        rows = []
        predict_tiled(
            reader,
            network,
            plan,
            lambda top, probs, rows=rows: rows.append(probs),
            blend=blend,
            batch_size=batch_size,
            skip=skip,
            panel=Span(left, right),
        )
        panels.append(np.concatenate(rows))
    assert (np.concatenate(panels, axis=1) == whole).all()


@settings(deadline=None, max_examples=60)
@given(planned_images(), BLENDS, st.integers(1, 5), st.data())
def test_a_run_that_starts_further_down_gives_the_same_rows_and_batches(planned, blend, batch_size, data):
    plan, image = planned
    start = data.draw(st.integers(0, plan.size_px[0] - 1))

    def run(from_row_px):
        tops, rows, network = [], [], Remembering()
        predict_tiled(
            ArrayReader(image),
            network,
            plan,
            lambda top, probs: (tops.append(top), rows.append(probs)),
            blend=blend,
            batch_size=batch_size,
            from_row_px=from_row_px,
            skip=lambda window: (window.row * window.column) % 4 == 3,
        )
        return tops[0], np.concatenate(rows), network.batches

    _, whole, all_batches = run(0)
    top, part, batches = run(start)
    assert top == start
    assert (part == whole[start:]).all()
    assert batches == all_batches[len(all_batches) - len(batches) :]


class Uneven(Identity):
    """A network whose values do not sum exactly in float32: another order of sums would differ."""

    def __call__(self, batch):
        return np.sqrt(batch.astype(np.float32) + np.float32(0.1))


class Remembering(Uneven):
    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch.tobytes())
        return super().__call__(batch)
