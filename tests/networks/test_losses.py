from __future__ import annotations

import keras
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from glomtile.config import schema as schema_model
from glomtile.config.schema import key_info
from glomtile.errors import ConfigError
from glomtile.networks.losses import LOSSES, build_loss, ssim


def probabilities(rng, shape, classes):
    if classes == 1:
        return rng.uniform(0.05, 0.95, (*shape, 1)).astype("float32")
    logits = rng.normal(size=(*shape, classes))
    return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype("float32")


def value(loss, y, p) -> float:
    return float(keras.ops.convert_to_numpy(loss(y, p)))


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)

    def make(classes, shape=(3, 13, 16)):
        labels = rng.integers(0, max(2, classes), shape).astype("uint8")
        return labels, probabilities(rng, shape, classes)

    return make


def one_hot(labels, classes):
    if classes == 1:
        return (labels > 0)[..., None].astype("float64")
    return np.eye(classes)[labels]


def bce(y, p):
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


def dice(y, p):
    return (2 * (y * p).sum() + 1) / (y.sum() + p.sum() + 1)


def iou(y, p):
    return (y * p).sum() / (y.sum() + p.sum() - (y * p).sum())


def oracle_ssim(y, p):
    scores = []
    for truth, guess in zip(y, p, strict=True):
        for k in range(y.shape[-1]):
            _, full = structural_similarity(
                truth[..., k],
                guess[..., k].astype("float64"),
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )
            scores.append(full[5:-5, 5:-5].mean())
    return np.mean(scores)


BY_HAND = {
    "binary_crossentropy": bce,
    "dice_loss": lambda y, p: 1 - dice(y, p),
    "iou_loss": lambda y, p: 1 - iou(y, p),
    "bce_dice_loss": lambda y, p: (bce(y, p) + 1 - dice(y, p)) / 2,
    "bce_iou_loss": lambda y, p: (bce(y, p) + 1 - iou(y, p)) / 2,
    "basnet_hybrid_loss": lambda y, p: (bce(y, p) + 1 - oracle_ssim(y, p) + 1 - iou(y, p)) / 3,
    "categorical_crossentropy": lambda y, p: -np.mean((y * np.log(p)).sum(-1)),
    "focal": lambda y, p: -np.mean((y * (1 - p) ** 2 * np.log(p)).sum(-1)),
    "tversky": lambda y, p: 1 - np.mean([tversky(y[..., k], p[..., k]) for k in range(1, y.shape[-1])]),
    "dice_crossentropy": lambda y, p: (
        1
        - np.mean([tversky(y[..., k], p[..., k], 0.5, 0.5) for k in range(1, y.shape[-1])])
        - np.mean((y * np.log(p)).sum(-1))
    ),
}


def tversky(y, p, alpha=0.3, beta=0.7):
    hit = (y * p).sum()
    return (hit + 1) / (hit + alpha * (p.sum() - hit) + beta * (y.sum() - hit) + 1)


CASES = [(name, k) for name in LOSSES for k in (1, 2, 4) if (name, k) != ("categorical_crossentropy", 1)]


def test_every_loss_of_the_config_is_built_and_no_other():
    assert set(LOSSES) == set(schema_model.LOSSES) == set(BY_HAND)


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_a_loss_is_its_formula(name, classes, small, sample):
    labels, p = sample(classes)
    y = one_hot(labels, classes)
    q = p.astype("float64")
    if classes == 1 and name in ("focal", "tversky", "dice_crossentropy"):
        y, q = np.concatenate([1 - y, y], -1), np.concatenate([1 - q, q], -1)
    loss = build_loss(small(num_classes=classes, loss=name))
    assert value(loss, labels, p) == pytest.approx(BY_HAND[name](y, q), rel=2e-5)


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_an_ignored_pixel_has_no_say(name, classes, small, sample):
    labels, p = sample(classes)
    labels[:, 3:5, :7] = 255
    other = p.copy()
    other[:, 3:5, :7] = other[:, 3:5, :7][..., ::-1] if classes > 1 else 1 - other[:, 3:5, :7]
    loss = build_loss(small(num_classes=classes, loss=name))
    assert not np.allclose(p, other)
    assert value(loss, labels, p) == pytest.approx(value(loss, labels, other), rel=1e-6)


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_a_sample_without_a_counting_pixel_gives_a_number(name, classes, small, sample):
    labels, p = sample(classes)
    assert np.isfinite(value(build_loss(small(num_classes=classes, loss=name)), np.full_like(labels, 255), p))


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_a_gradient_agrees_with_finite_differences(name, classes, small, sample, gradient):
    labels, p = sample(classes)
    labels[0, :2] = 255
    p = np.clip(p, 0.05, 0.95)
    loss = build_loss(small(num_classes=classes, loss=name, label_smoothing=0.1))
    slope = gradient(lambda x: loss(labels, x), p)
    rng = np.random.default_rng(5)
    # Uniform directions add up; random ones would drown in float32's rounding.
    for direction in (slope / np.linalg.norm(slope), rng.uniform(0, 1, p.shape) / np.sqrt(p.size)):
        step = 0.02 * direction.astype("float32")
        measured = (value(loss, labels, p + step) - value(loss, labels, p - step)) / 0.04
        assert measured == pytest.approx(float((slope * direction).sum()), rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_the_truth_itself_costs_next_to_nothing(name, small, sample):
    labels, _ = sample(3)
    loss = build_loss(small(num_classes=3, loss=name))
    assert value(loss, labels, one_hot(labels, 3).astype("float32")) < 1e-3


@pytest.mark.parametrize("name", ["categorical_crossentropy", "focal", "dice_crossentropy", "tversky"])
def test_a_heavier_class_weighs_more(name, small, sample):
    labels, p = sample(3)
    p[labels == 2] = [0.6, 0.3, 0.1]
    light, heavy = (
        value(build_loss(small(num_classes=3, loss=name, class_weights=(1.0, 1.0, w))), labels, p)
        for w in (1.0, 5.0)
    )
    assert heavy > light


def test_class_weights_multiply_each_pixels_crossentropy(small, sample):
    labels, p = sample(2)
    loss = build_loss(small(loss="categorical_crossentropy", class_weights=(0.5, 3.0)))
    own = np.take_along_axis(p, labels[..., None].astype(int), -1)[..., 0]
    expected = np.mean(np.array([0.5, 3.0])[labels] * -np.log(own))
    assert value(loss, labels, p) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_spreads_the_truth(small, sample):
    labels, p = sample(4)
    loss = build_loss(small(num_classes=4, loss="categorical_crossentropy", label_smoothing=0.2))
    y = one_hot(labels, 4) * 0.8 + 0.05
    assert value(loss, labels, p) == pytest.approx(-np.mean((y * np.log(p)).sum(-1)), rel=1e-5)


def test_the_loss_of_an_epoch_does_not_depend_on_its_batches(small, sample):
    labels, p = sample(2, (5, 12, 12))
    labels[0, :6] = 255
    loss = build_loss(small(loss="categorical_crossentropy"))
    parts = (value(loss, labels[:2], p[:2]) * 2 + value(loss, labels[2:], p[2:]) * 3) / 5
    assert value(loss, labels, p) == pytest.approx(parts, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 11, 30), (1, 5, 40), (1, 1, 1)])
def test_identical_images_are_similar_at_every_size(shape):
    a = np.random.default_rng(0).uniform(size=(*shape, 1)).astype("float32")
    same = keras.ops.convert_to_numpy(ssim(keras.ops.convert_to_tensor(a), keras.ops.convert_to_tensor(a)))
    assert same == pytest.approx(np.ones(shape[0]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_comes_back_from_its_config(name, small, sample):
    labels, p = sample(3)
    loss = build_loss(small(num_classes=3, loss=name, class_weights=(1.0, 2.0, 3.0), focal_gamma=1.5))
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.name == name
    assert again.get_config() == loss.get_config()
    assert value(again, labels, p) == value(loss, labels, p)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, r"\[model\] loss: expected one of categorical_crossentropy.*got 'hinge'"),
        ({"num_classes": 1}, "num_classes = 1.*binary_crossentropy is the same"),
        ({"class_weights": (1.0, 2.0, 3.0)}, r"class_weights: expected 2 numbers, one a class, got 3"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(changes, message, small):
    with pytest.raises(ConfigError, match=message):
        build_loss(small(**changes))


@pytest.mark.parametrize(
    "key", ["class_weights", "label_smoothing", "focal_gamma", "tversky_alpha", "tversky_beta"]
)
@pytest.mark.parametrize("name", LOSSES)
def test_a_key_has_an_effect_with_the_losses_that_are_said_to_read_it(sample, name, key):
    changed = {"class_weights": (1.0, 1.0, 9.0), "label_smoothing": 0.3}.get(key, 0.55)
    field = schema_model.ModelSettings.model_fields[key]
    labels, probs = sample(3)
    values = [
        value(build_loss(schema_model.ModelSettings(num_classes=3, loss=name, **given)), labels, probs)
        for given in ({}, {key: changed})
    ]
    assert (values[0] != values[1]) == (name in key_info(field).losses)


def test_weights_of_the_background_alone_are_refused():
    settings = schema_model.ModelSettings(num_classes=2, loss="tversky", class_weights=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"class_weights: expected a weight above 0"):
        build_loss(settings)
