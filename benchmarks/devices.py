"""Difference of the losses of a network trained on several devices and on one, and their repeatability.

The devices are virtual, cut from the processor: numbers are compared, not times. One row per combination of
loss, normalisation and precision, from the same weights, on the same batches.

    KERAS_BACKEND=jax python benchmarks/devices.py --devices 2 --steps 20
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import machine

if TYPE_CHECKING:
    from glomtile.training.trainer import Devices

COMBINATIONS = (
    ("categorical_crossentropy", "none", "float32"),
    ("dice_crossentropy", "none", "float32"),
    ("dice_crossentropy", "group", "float32"),
    ("dice_crossentropy", "batch", "float32"),
    ("tversky", "batch", "float32"),
    ("basnet_hybrid_loss", "batch", "float32"),
    ("dice_crossentropy", "batch", "mixed_bfloat16"),
)
SIDE_PX, BATCH = 32, 4


def make_virtual_devices(count: int) -> None:
    """Divide the processor into `count` devices; must run before JAX starts."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"


def discs(steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of bright discs on dark ground."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    batches = []
    for _ in range(steps):
        y, x = rng.integers(8, SIDE_PX - 8, (2, BATCH, 1, 1))
        labels = ((rows - y) ** 2 + (columns - x) ** 2 < 36).astype(np.uint8)
        noise = rng.integers(0, 40, (*labels.shape, 3))
        batches.append(((60 + 120 * labels[..., None] + noise).astype(np.uint8), labels))
    return batches


def losses(
    devices: Devices, loss: str, norm: str, precision: str, batches: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the loss of each step."""
    import keras

    from glomtile.config.schema import ModelSettings, TrainSettings
    from glomtile.networks.losses import build_loss
    from glomtile.networks.optimizers import build_optimizer
    from glomtile.networks.registry import build_model
    from glomtile.training.trainer import RunningSums

    settings = ModelSettings(
        model="FlexUNet", num_classes=2, base_filters=4, num_layers=3, dropout_rate=0.0, norm=norm, loss=loss
    )
    with devices.scope():
        network = build_model(settings, precision=precision, seed=1)
        model = keras.Model(network.inputs, network.outputs)
        optimizer = build_optimizer(settings, TrainSettings(), 1)
        model.compile(optimizer=optimizer, loss=build_loss(settings))
        values = []
        for images, labels in batches:
            model.train_on_batch(images, labels)
            sums = RunningSums(model)
            sums.add()
            values.append(sums.figures()["loss"])
    return np.array(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    make_virtual_devices(args.devices)
    from glomtile.config.schema import TrainSettings
    from glomtile.training.trainer import Devices, choose_devices, make_deterministic

    make_deterministic(1)
    several = choose_devices(TrainSettings(devices=args.devices, batch_size=args.devices))
    batches = discs(args.steps)
    print(machine("keras", "jax"))
    print(f"{args.steps} steps of {BATCH} samples on 1 and on {args.devices} devices")
    print(
        "| loss | norm | precision | largest relative difference of a loss | repeats |\n|---|---|---|---|---|"
    )
    for combination in COMBINATIONS:
        runs: list[Any] = [losses(d, *combination, batches) for d in (Devices(), several, several)]
        one, two, again = runs
        difference = np.max(np.abs(two - one) / np.abs(one))
        same = "to the bit" if np.array_equal(two, again) else "no"
        print(f"| {' | '.join(combination)} | {difference:.1e} | {same} |", flush=True)


if __name__ == "__main__":
    main()
