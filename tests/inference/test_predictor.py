"""Tests of predictors: padding, classes, channel order, turned copies, thresholds, smoothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import keras
import numpy as np
import pytest

from glomtile.config.load import make_config
from glomtile.config.schema import ModelSettings
from glomtile.errors import ModelError, UsageError
from glomtile.inference.predictor import (
    KerasPredictor,
    Network,
    PredictionSettings,
    TilePredictor,
)
from glomtile.networks.profiling import activation_bytes
from glomtile.networks.registry import Geometry, build_model
from glomtile.types import Predictor

POINT = Geometry(stride_px=1, context_px=0)


def picture(height, width, seed=5):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def unet():
    return build_model(ModelSettings(num_layers=3, base_filters=4, num_classes=3), seed=7)


@pytest.fixture(scope="module")
def geometry():
    return Geometry(stride_px=4, context_px=23)


def red_network(classes=2):
    """p(class 1) = red / 255, green and blue change nothing."""
    image = keras.Input((None, None, 3))
    red = keras.layers.Conv2D(1, 1, use_bias=False, name="red")(image)
    if classes == 1:
        answer = red
    else:
        answer = keras.layers.Concatenate()([keras.layers.Rescaling(-1.0, 1.0)(red), red])
    model = keras.Model(image, answer)
    model.get_layer("red").set_weights([np.array([1 / 255, 0, 0], np.float32).reshape(1, 1, 3, 1)])
    return model


def test_a_keras_network_is_a_predictor(unet, geometry):
    predictor = KerasPredictor(unet, geometry, mpp=0.5)
    assert isinstance(predictor, Predictor)
    assert (predictor.num_classes, predictor.stride_px, predictor.context_px, predictor.mpp) == (
        3,
        4,
        23,
        0.5,
    )


def test_answers_are_those_of_the_network_itself(unet, geometry):
    batch = np.stack([picture(32, 48, seed) for seed in (1, 2)])
    answer = KerasPredictor(unet, geometry)(batch)
    assert answer.dtype == np.float32
    assert np.abs(answer - unet.predict(batch.astype(np.float32), verbose=0)).max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (30, 31), (33, 4)])
def test_any_size_is_padded_with_mirrored_tissue_and_cropped(unet, geometry, size):
    predictor = KerasPredictor(unet, geometry)
    image = picture(*size)
    answer = predictor(image[None])
    assert answer.shape == (1, *size, 3)
    assert answer.sum(axis=-1) == pytest.approx(np.ones((1, *size)), abs=1e-5)
    padded = np.pad(image, ((0, -size[0] % 4), (0, -size[1] % 4), (0, 0)), mode="reflect")
    assert np.abs(answer - predictor(padded[None])[:, : size[0], : size[1]]).max() == 0


def test_one_output_is_presented_as_background_and_foreground():
    image = picture(6, 9)
    predictor = KerasPredictor(red_network(classes=1), POINT)
    answer = predictor(image[None])[0]
    assert predictor.num_classes == 2
    assert np.abs(answer[..., 1] - image[..., 0] / 255).max() < 1e-6
    assert np.abs(answer.sum(axis=-1) - 1).max() < 1e-6


def test_color_order_bgr_shows_the_network_blue_first():
    image = picture(6, 9)
    rgb = KerasPredictor(red_network(), POINT)(image[None])[0, ..., 1]
    bgr = KerasPredictor(red_network(), POINT, None, PredictionSettings(color_order="BGR"))(image[None])[
        0, ..., 1
    ]
    assert np.abs(rgb - image[..., 0] / 255).max() < 1e-6
    assert np.abs(bgr - image[..., 2] / 255).max() < 1e-6


@pytest.mark.parametrize("tta", ["flips", "rotations", "all"])
@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_turned_copies_come_back_upright(tta, size):
    image = picture(*size)
    answer = KerasPredictor(red_network(), POINT, None, PredictionSettings(tta=tta))(image[None])[0]
    assert np.abs(answer[..., 1] - image[..., 0] / 255).max() < 1e-6


@pytest.mark.parametrize(
    ("tta", "turns", "flip"),
    [("flips", 2, False), ("flips", 0, True), ("flips", 2, True), ("rotations", 1, False), ("all", 3, True)],
)
def test_an_answer_averaged_over_turns_turns_with_the_picture(unet, geometry, tta, turns, flip):
    def turned(array):
        array = np.rot90(array, turns)
        return np.ascontiguousarray(array[:, ::-1] if flip else array)

    predictor, plain = (
        KerasPredictor(unet, geometry, None, PredictionSettings(tta=tta)),
        KerasPredictor(unet, geometry),
    )
    image = picture(24, 40)
    assert np.abs(turned(predictor(image[None])[0]) - predictor(turned(image)[None])[0]).max() < 1e-5
    assert np.abs(turned(plain(image[None])[0]) - plain(turned(image)[None])[0]).max() > 1e-3


def test_averaging_is_over_as_many_copies_as_it_says(unet, geometry):
    image = picture(24, 24)
    plain = KerasPredictor(unet, geometry)
    mean = np.mean([np.rot90(plain(np.rot90(image, k)[None].copy())[0], -k) for k in range(4)], axis=0)
    assert (
        np.abs(
            KerasPredictor(unet, geometry, None, PredictionSettings(tta="rotations"))(image[None])[0] - mean
        ).max()
        < 1e-6
    )


def test_the_network_is_asked_by_one_thread_at_a_time():
    asking, most = set(), []

    def forward(batch):
        asking.add(get_ident())
        most.append(len(asking))
        time.sleep(0.005)
        asking.discard(get_ident())
        return np.zeros((*batch.shape[:3], 2), np.float32)

    predictor = TilePredictor(
        Network(forward, 3, 2, lambda: 1.0, "none"), POINT, settings=PredictionSettings(tta="all")
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predictor, [picture(4, 4)[None]] * 8))
    assert len(most) == 64
    assert max(most) == 1


def test_weights_that_change_are_seen_at_the_next_call():
    model, image = red_network(), picture(8, 8)
    predictor = KerasPredictor(model, POINT)
    predictor(image[None])
    model.get_layer("red").set_weights([np.array([0, 1 / 255, 0], np.float32).reshape(1, 1, 3, 1)])
    assert np.abs(predictor(image[None])[0, ..., 1] - image[..., 1] / 255).max() < 1e-6


def test_dropout_and_batch_statistics_are_those_of_use_not_of_training():
    settings = ModelSettings(num_layers=2, base_filters=4, dropout_rate=0.5, normalization=True)
    model = build_model(settings, seed=1)
    predictor = KerasPredictor(model, Geometry(2, 8))
    image = picture(16, 16)
    assert (predictor(image[None]) == predictor(image[None])).all()


def test_other_channels_and_unknown_words_are_refused():
    grey = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(2, 1)])
    with pytest.raises(ModelError, match="3 colour channels, got one of 1"):
        KerasPredictor(grey, POINT)
    config = make_config({"model": {"num_classes": 2}})
    with pytest.raises(UsageError, match="none, flips, rotations, all, got 'mirror'"):
        PredictionSettings.of_config(config, "mirror")  # type: ignore[arg-type]


def test_activations_alive_at_once_are_counted_by_hand_the_same():
    image = keras.Input((None, None, 3))
    wide = keras.layers.Conv2D(8, 3, padding="same")(image)
    small = keras.layers.MaxPooling2D(2)(wide)
    deep = keras.layers.Conv2D(16, 3, padding="same")(small)
    back = keras.layers.UpSampling2D(2)(deep)
    joined = keras.layers.Concatenate()([wide, back])
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(joined))
    # At the concatenation: 8 + 16 go in, 24 come out.
    assert activation_bytes(model, 2) == 4 * (8 + 16 + 24)


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.8])
def test_a_threshold_is_where_both_classes_are_equally_likely(threshold):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    before = KerasPredictor(red_network(), POINT)(image[None])[0]
    after = KerasPredictor(red_network(), POINT, None, PredictionSettings(threshold=threshold))(image[None])[
        0
    ]
    assert after.sum(axis=-1) == pytest.approx(np.ones((16, 16)), abs=1e-6)
    np.testing.assert_array_equal(after[..., 1] > 0.5, before[..., 1] > threshold)
    inner = (before[..., 1] > 0.01) & (before[..., 1] < 0.99)
    odds = [(probs[..., 0] / probs[..., 1])[inner] for probs in (before, after)]
    assert odds[1] / odds[0] == pytest.approx(np.full(inner.sum(), threshold / (1 - threshold)), rel=1e-4)


def test_a_threshold_leaves_the_other_classes_as_likely_to_each_other(unet, geometry):
    image = picture(16, 16)
    before, after = (
        KerasPredictor(unet, geometry, None, PredictionSettings(threshold=t))(image[None])[0]
        for t in (0.5, 0.2)
    )
    assert (after[..., 0] < before[..., 0]).all()
    np.testing.assert_allclose(after[..., 1] / after[..., 2], before[..., 1] / before[..., 2], rtol=1e-4)


def shown(batch, settings):
    """Return what the network gets of a batch."""
    batches = []

    def forward(batch):
        batches.append(batch)
        return np.zeros((*batch.shape[:3], 2), np.float32)

    TilePredictor(Network(forward, 3, 2, lambda: 1.0, "none"), POINT, settings=settings)(batch)
    return batches[0]


def test_smoothing_is_a_gaussian_of_its_width_and_leaves_colours_apart():
    point = np.full((1, 21, 21, 3), 0, np.uint8)
    point[0, 10, 10] = (250, 0, 120)
    seen = shown(point, PredictionSettings(smoothing_px=0.8))[0].astype(float)
    assert not seen[..., 1].any()
    places = np.arange(21) - 10
    for channel in (0, 2):
        plane = seen[..., channel]
        assert (plane == plane.T).all()
        assert (plane == plane[::-1]).all()
        share = plane.sum(axis=0) / plane.sum()
        assert (share * places**2).sum() == pytest.approx(0.8**2, rel=0.1)


def test_smoothing_does_not_depend_on_the_tile_and_is_told_as_context():
    predictor = KerasPredictor(red_network(), POINT, None, PredictionSettings(smoothing_px=0.5))
    assert predictor.context_px == KerasPredictor(red_network(), POINT).context_px + 2
    image = picture(40, 40)
    whole, part = predictor(image[None])[0], predictor(image[None, 10:30, 12:34])[0]
    np.testing.assert_array_equal(part[2:-2, 2:-2], whole[12:28, 14:32])
