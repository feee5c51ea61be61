"""Several devices: what they are asked with, and that a batch they share gives the steps of one device.

Trainings run in a process of their own, which makes the processor into two devices before its backend starts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.training.test_training import assert_same_run, settings, state_of, write_dataset

from glomtile.config.schema import ModelSettings, TrainSettings
from glomtile.errors import ConfigError
from glomtile.networks.layers import SharedBatchNormalization
from glomtile.networks.losses import LOSSES, build_loss
from glomtile.training.distribution import ONE_DEVICE, choose_devices, fill_up

BACKEND = keras.backend.backend()
TOLERANCE = 1e-4
"""Largest relative difference of a loss from one device's after two epochs; see docs/results.md."""

needs_a_backend = pytest.mark.skipif(
    BACKEND not in ("tensorflow", "jax"), reason=f"Keras trains on one device only with {BACKEND}"
)

TRAININGS = """
import json, os, sys
from pathlib import Path

if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

from glomtile.config.load import make_config
from glomtile.errors import GlomtileError
from glomtile.training.train import train

for told, folder, resume in json.loads(sys.argv[1]):
    told["mask"]["rgb_map"] = {(0, 0, 0): 0, (255, 0, 0): 1}
    try:
        train(make_config(told, Path(folder)), resume=resume)
    except GlomtileError as problem:
        print("refused:", problem)
"""


def trainings(*runs: tuple[dict[str, Any], Path, bool]) -> subprocess.Popen[str]:
    told = [({**told, "mask": {}}, str(folder), resume) for told, folder, resume in runs]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    return subprocess.Popen(
        [sys.executable, "-W", "error:::glomtile", "-c", TRAININGS, json.dumps(told)],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def history(folder: Path) -> list[dict[str, float]]:
    notes = json.loads((folder / "models/last/training.json").read_text())
    return list(notes["history"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples: a batch of four, and one of three, which two devices cannot share evenly."""
    root = tmp_path_factory.mktemp("dataset")
    write_dataset(root, {"train": 7, "valid": 3})
    return root


def shared(dataset: Path, devices: object, **model: object) -> dict[str, Any]:
    told: dict[str, Any] = settings(dataset, devices=devices, epochs=2, learning_rate_reducer=False)
    told["model"] |= {"dropout_rate": 0.0, "num_layers": 2, **model}
    return told


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folders of runs on one device and on two, and what was refused."""
    root = tmp_path_factory.mktemp("runs")
    half = shared(dataset, 2)
    half["train"]["epochs"] = 1
    print_out = done(
        trainings(
            (shared(dataset, 1), root / "one", False),
            (shared(dataset, 2), root / "two", False),
            (half, root / "resumed", False),
            (shared(dataset, "all"), root / "resumed", True),
            (shared(dataset, 1), root / "resumed", True),
            (shared(dataset, 3), root / "three", False),
        )
    )
    return root, print_out


@needs_a_backend
@pytest.mark.slow
def test_two_devices_have_the_losses_and_figures_of_one(runs: tuple[Path, str]) -> None:
    root, _ = runs
    for one, two in zip(history(root / "one"), history(root / "two"), strict=True):
        for name, figure in one.items():
            # A pixel on the border between two classes, of which a hard Dice counts few, may change sides.
            tolerance = 10 * TOLERANCE if name.endswith("foreground_dice") else TOLERANCE
            assert two[name] == pytest.approx(figure, rel=tolerance), name
    card = json.loads((root / "two/models/last/model.json").read_text())
    assert card["devices"] == 2


@needs_a_backend
@pytest.mark.slow
def test_two_devices_end_with_the_running_statistics_of_one(runs: tuple[Path, str]) -> None:
    """Those of the whole batch, the sample that fills it up left out."""
    root, _ = runs
    networks = [keras.models.load_model(root / name / "models/last/model.keras") for name in ("one", "two")]
    weights = [
        {weight.path: np.array(weight) for weight in network.weights if "moving" in weight.path}
        for network in networks
    ]
    assert len(weights[0]) >= 4
    for path, value in weights[0].items():
        np.testing.assert_allclose(weights[1][path], value, rtol=1e-3, atol=1e-5, err_msg=path)


@needs_a_backend
@pytest.mark.slow
def test_a_run_on_two_devices_that_was_resumed_is_the_undisturbed_one(runs: tuple[Path, str]) -> None:
    root, _ = runs
    assert_same_run(root / "two", root / "resumed")


@needs_a_backend
@pytest.mark.slow
def test_resume_on_another_number_of_devices_is_refused(runs: tuple[Path, str]) -> None:
    assert "train.devices: 2 then, None now" in runs[1]


@needs_a_backend
@pytest.mark.slow
def test_more_devices_than_there_are_is_refused(runs: tuple[Path, str]) -> None:
    assert '[train] devices: expected "all" or a whole number from 1 to 2, as ' in runs[1]
    assert "cpu:0, cpu:1, got 3" in runs[1]
    assert not (runs[0] / "three").exists()


@needs_a_backend
@pytest.mark.slow
def test_a_killed_run_on_two_devices_resumes_to_the_same_weights(
    dataset: Path, runs: tuple[Path, str], tmp_path: Path
) -> None:
    told = shared(dataset, 2)
    told["train"]["checkpoint_steps"] = 1
    process = trainings((told, tmp_path, False))
    notes = tmp_path / "models/last/training.json"
    deadline = time.monotonic() + 300
    while not notes.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(state_of(tmp_path)) > 0
    done(trainings((told, tmp_path, True)))
    assert_same_run(runs[0] / "two", tmp_path)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_is_filled_up_with_samples_of_weight_0(count: int, parts: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (count, 4, 4, 3), dtype=np.uint8)
    (filled, counts), labels, weights = fill_up(images, np.ones((count, 4, 4), np.uint8), parts)
    assert len(filled) == len(counts) == len(labels) == len(weights)
    assert len(filled) % parts == 0
    assert len(filled) < count + parts
    np.testing.assert_array_equal(filled[:count], images)
    assert counts.tolist() == [1.0] * count + [0.0] * (len(filled) - count)
    assert (labels[count:] == 255).all()
    assert (weights[count:] == 0).all()
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_filled_batch_has_the_loss_of_the_batch(name: str) -> None:
    rng = np.random.default_rng(3)
    classes = 1 if name in ("binary_crossentropy", "dice_loss") else 3
    labels = rng.integers(0, 2, (5, 16, 16)).astype(np.uint8)
    images = rng.integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    probs = rng.uniform(0.1, 0.9, (8, 16, 16, classes)).astype("float32")
    loss = build_loss(ModelSettings(num_classes=classes, loss=name))
    _, filled, weights = fill_up(images, labels, 4)
    whole = float(keras.ops.convert_to_numpy(loss(labels, probs[:5])))
    assert float(keras.ops.convert_to_numpy(loss(filled, probs, weights))) == pytest.approx(whole, rel=1e-5)


def test_the_statistics_of_a_filled_batch_are_those_of_the_batch() -> None:
    x = np.random.default_rng(1).normal(3, 2, (6, 8, 8, 5)).astype("float32")
    plain = keras.layers.BatchNormalization(momentum=0.9)
    own = SharedBatchNormalization(lambda sums: sums, momentum=0.9)
    counts = np.array([1, 1, 1, 1, 1, 0], "float32")
    expected, answer = plain(x[:5], training=True), own(x, mask=counts, training=True)
    as_array = keras.ops.convert_to_numpy
    np.testing.assert_allclose(as_array(answer)[:5], as_array(expected), rtol=1e-4, atol=1e-5)
    for ours, keras_own in zip(own.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-5)
    np.testing.assert_allclose(as_array(own(x)), as_array(plain(x)), rtol=1e-4, atol=1e-5)


def test_one_device_is_the_default_and_asks_nothing_of_the_backend() -> None:
    assert choose_devices(TrainSettings()) is ONE_DEVICE
    assert ONE_DEVICE.count == 1


def test_a_backend_that_trains_on_one_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(
        ConfigError, match=r"devices: expected 1, on which Keras trains with torch, got 2"
    ) as told:
        choose_devices(TrainSettings(devices=2))
    assert "KERAS_BACKEND=jax" in str(told.value)


def test_float16_is_refused_where_its_copies_would_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    with pytest.raises(ConfigError, match=r"precision: expected 'float32' or 'mixed_bfloat16' on 2 devices"):
        choose_devices(TrainSettings(devices="all", precision="mixed_float16"))
