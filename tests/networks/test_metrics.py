from __future__ import annotations

import keras
import numpy as np
import pytest

from glomtile.config import schema as schema_model
from glomtile.errors import ConfigError
from glomtile.networks.metrics import METRICS, build_metrics

NAMED = [name for name in METRICS if "<" not in name] + ["class_dice_0", "class_dice_1", "class_iou_1"]


def sample(classes, samples=7, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(2, classes), (samples, 12, 10)).astype("uint8")
    labels[rng.random(labels.shape) < 0.1] = 255
    raw = rng.uniform(size=(*labels.shape, classes)).astype("float32")
    return labels, raw if classes == 1 else raw / raw.sum(-1, keepdims=True)


def figure(metric) -> float:
    return float(keras.ops.convert_to_numpy(metric.result()))


def by_hand(name, labels, p):
    """The figure in NumPy, ignored pixels cut out where the formula allows."""
    classes = p.shape[-1]
    valid = labels != 255
    y = (labels > 0)[..., None] * 1.0 if classes == 1 else np.eye(256)[labels][..., :classes]
    y, q = y * valid[..., None], p * valid[..., None]
    two = np.concatenate([1 - p, p], -1) if classes == 1 else p
    guess, truth = two.argmax(-1)[valid], labels[valid]

    def counts(k):
        return ((guess == k) & (truth == k)).sum(), (guess == k).sum() + (truth == k).sum()

    hits, sizes = np.sum([counts(k) for k in range(1, max(2, classes))], axis=0)
    if name.startswith("class"):
        hits, sizes = counts(int(name[-1]))
    if "dice_coef" in name:
        axes = (1, 2, 3) if name.endswith("multiclass") else None
        return np.mean((2 * (y * q).sum(axes) + 1) / (y.sum(axes) + q.sum(axes) + 1))
    if name == "iou_coef":
        return (y * q).sum() / (y.sum() + q.sum() - (y * q).sum())
    if name == "sensitivity":
        return (y * np.round(p)).sum() / y.sum()
    if name == "specificity":
        zeros = valid[..., None] - y
        return (zeros * (1 - np.round(p))).sum() / zeros.sum()
    if "accuracy" in name:
        return (guess == truth).mean()
    return 2 * hits / sizes if "dice" in name else hits / (sizes - hits)


def test_every_metric_the_config_knows_is_built():
    assert {name for name in schema_model.METRICS if "<" not in name} <= set(METRICS)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("name", NAMED)
def test_unequal_batches_give_the_figure_of_the_whole(name, classes, small):
    labels, p = sample(classes)
    (metric,) = build_metrics(small(num_classes=classes), [name])
    for part in (slice(0, 1), slice(1, 4), slice(4, 7)):
        metric.update_state(labels[part], p[part])
    assert figure(metric) == pytest.approx(by_hand(name, labels, p), rel=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_a_reset_forgets(name, small):
    (metric,) = build_metrics(small(), [name])
    metric.update_state(*sample(2, seed=2))
    metric.reset_state()
    metric.update_state(*sample(2))
    assert figure(metric) == pytest.approx(by_hand(name, *sample(2)), rel=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_a_metric_of_nothing_is_a_number(name, small):
    (metric,) = build_metrics(small(), [name])
    assert np.isfinite(figure(metric))
    labels, p = sample(2)
    metric.update_state(np.full_like(labels, 255), p)
    assert np.isfinite(figure(metric))


@pytest.mark.parametrize("name", ["foreground_dice", "foreground_iou", "class_dice_1", "class_iou_1"])
def test_background_called_background_is_no_fault(name, small):
    (metric,) = build_metrics(small(), [name])
    p = np.zeros((1, 8, 8, 2), "float32")
    p[..., 0] = 1
    metric.update_state(np.zeros((1, 8, 8), "uint8"), p)
    assert figure(metric) == 1


def test_counts_stay_exact_past_what_float32_counts(small):
    (metric,) = build_metrics(small(), ["pixel_accuracy"])
    labels = np.zeros((1, 1024, 1023), "uint8")
    p = np.zeros((*labels.shape, 2), "float32")
    p[..., 0] = 1
    for _ in range(18):
        metric.update_state(labels, p)
    metric.update_state(labels[:, :1, :1], p[:, :1, :1])
    blocks, rest = (keras.ops.convert_to_numpy(v).astype("int64") for v in metric.variables)
    counted = blocks * 2**20 + rest
    assert counted[0] == 18 * 1024 * 1023 + 1 > 2**24
    assert counted.tolist() == [counted[0], 0] * 3


@pytest.mark.parametrize("name", NAMED)
def test_a_metric_comes_back_from_its_config(name, small):
    (metric,) = build_metrics(small(num_classes=3), [name])
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert (again.name, again.get_config()) == (name, metric.get_config())
    again.update_state(*sample(3))
    assert figure(again) == pytest.approx(by_hand(name, *sample(3)), rel=1e-5)


def test_metrics_come_in_the_order_asked_each_once(small):
    names = ["foreground_dice", "dice_coef", "foreground_dice"]
    assert [metric.name for metric in build_metrics(small(), names)] == names[:2]
    assert [metric.name for metric in build_metrics(small())] == ["dice_coef_multiclass"]
    with pytest.raises(ConfigError, match=r"\[train\] monitor: expected any of .* got .auc.$"):
        build_metrics(small(), ["dice_coef", "auc"], {"auc": "[train] monitor"})


@pytest.mark.parametrize(
    ("name", "message"),
    [("auc", r"\[model\] metrics: expected any of dice_coef.*got 'auc'"), ("class_iou_2", "a class below 2")],
)
def test_a_metric_that_cannot_be_is_refused(name, message, small):
    with pytest.raises(ConfigError, match=message):
        build_metrics(small(), [name])
