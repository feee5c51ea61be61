"""Several devices: a batch that they share gives the steps of one device.

Trainings run in a process of their own, which makes the processor into two devices before JAX starts.
"""

from __future__ import annotations

import importlib.util
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
from tests.training.test_trainer import assert_same_run, settings, state_of, write_dataset

from glomtile.config.schema import TrainSettings
from glomtile.errors import ConfigError
from glomtile.training.trainer import choose_devices

TOLERANCE = 1e-4
"""Largest relative difference of a loss from one device's after two epochs; see docs/results.md."""

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="several devices need JAX, which is not installed"
)

TRAININGS = """
import json, sys
from pathlib import Path

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
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
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
    odd = shared(dataset, 2)
    odd["train"]["batch_size"] = 3
    print_out = done(
        trainings(
            (shared(dataset, 1), root / "one", False),
            (shared(dataset, 2), root / "two", False),
            (half, root / "resumed", False),
            (shared(dataset, "all"), root / "resumed", True),
            (shared(dataset, 1), root / "resumed", True),
            (shared(dataset, 3), root / "three", False),
            (odd, root / "odd", False),
        )
    )
    return root, print_out


@needs_jax
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


@needs_jax
@pytest.mark.slow
def test_two_devices_end_with_the_running_statistics_of_one(runs: tuple[Path, str]) -> None:
    """Those of the whole batch."""
    root, _ = runs
    networks = [keras.models.load_model(root / name / "models/last/model.keras") for name in ("one", "two")]
    weights = [
        {weight.path: np.array(weight) for weight in network.weights if "moving" in weight.path}
        for network in networks
    ]
    assert len(weights[0]) >= 4
    for path, value in weights[0].items():
        np.testing.assert_allclose(weights[1][path], value, rtol=1e-3, atol=1e-5, err_msg=path)


@needs_jax
@pytest.mark.slow
def test_a_run_on_two_devices_that_was_resumed_is_the_undisturbed_one(runs: tuple[Path, str]) -> None:
    root, _ = runs
    assert_same_run(root / "two", root / "resumed")


@needs_jax
@pytest.mark.slow
def test_resume_on_another_number_of_devices_is_refused(runs: tuple[Path, str]) -> None:
    assert "train.devices: 2 then, None now" in runs[1]


@needs_jax
@pytest.mark.slow
def test_more_devices_than_there_are_is_refused(runs: tuple[Path, str]) -> None:
    assert '[train] devices: expected "all" or 1 to 2, as jax ' in runs[1]
    assert "cpu:0, cpu:1, got 3" in runs[1]
    assert not (runs[0] / "three").exists()


@needs_jax
@pytest.mark.slow
def test_a_batch_that_the_devices_cannot_share_is_refused(runs: tuple[Path, str]) -> None:
    assert "[train] batch_size: expected a multiple of the 2 devices, got 3" in runs[1]


@needs_jax
@pytest.mark.slow
@pytest.mark.long
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


def test_one_device_is_the_default() -> None:
    assert choose_devices(TrainSettings()).count == 1


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_backend_that_trains_on_one_device_says_so(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(
        ConfigError, match=f"devices: expected 1 with the backend {backend}, got 2"
    ) as refused:
        choose_devices(TrainSettings(devices=2))
    assert "KERAS_BACKEND=jax" in str(refused.value)
