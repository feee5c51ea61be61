"""How much of an epoch's wall time is the network: the same steps on one batch in memory, against an epoch.

    python benchmarks/training.py                # the figures of docs/results.md
    python benchmarks/training.py --steps 6 --rounds 1

A FlexUNet of 16 filters, 5 levels and 3x3 kernels trains at 256 px, batch 8, with every augmentation on,
from painted biopsies. In turn, in one process: (a) steps on one repeated batch, (b) as many steps of an epoch
whose samples are cut, warped and stained by threads while it runs. The ratio (a)/(b) is the share that is the
network. Then samples a second where nothing but samples is made.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from glomtile.config.load import make_config
from glomtile.datasets.pairing import Pair
from glomtile.networks.losses import build_loss
from glomtile.networks.metrics import build_metrics
from glomtile.networks.optimizers import build_optimizer
from glomtile.networks.registry import build_model
from glomtile.training.augmentation import Augmentation, augment, augmentation_of
from glomtile.training.samples import CropSource, DecodedPairs, Sample, SampleSource, batches
from painted import SIDE_PX as IMAGE_PX
from painted import painted

SIDE_PX, BATCH, IMAGES = 256, 8, 4

CONFIG = make_config(
    {
        "model": {
            "model": "FlexUNet", "image_width": SIDE_PX, "image_height": SIDE_PX, "num_classes": 2,
            "base_filters": 16, "num_layers": 5, "base_kernels": (3, 3), "norm": "none",
            "dropout_rate": 0.05, "loss": "dice_crossentropy", "optimizer": "AdamW",
        },
        "augmentor": {
            "enabled": True, "free_rotation": True, "scales": (0.8, 1.25), "shrinks": (0.8,),
            "shears": (0.1, -0.1), "deformation": True, "distortion": True, "barrdistortion": True,
            "pincdistortion": True, "sharpening": True, "brightening": True, "stain": 0.6, "blur": 1.0,
            "jpeg": (50, 95), "noise": 4.0,
        },
        "train": {"ema_decay": 0.99},
    }
)  # fmt: skip


def compiled(steps: int) -> keras.Model:
    model = build_model(CONFIG.model, seed=1)
    model.compile(
        optimizer=build_optimizer(CONFIG.model, CONFIG.train, steps),
        loss=build_loss(CONFIG.model),
        metrics=build_metrics(CONFIG.model, ["foreground_dice"]),
    )
    return model


def ms_per_sample(settings: Augmentation, sample: Sample, count: int) -> float:
    """CPU milliseconds of one augmented crop, one thread."""
    began = time.process_time()
    for i in range(count):
        augment(
            *sample, rng=np.random.default_rng(i), settings=settings,
            window=(IMAGE_PX / 2, IMAGE_PX / 2), out_px=(SIDE_PX, SIDE_PX),
        )  # fmt: skip
    return 1000 * (time.process_time() - began) / count


def samples_per_s(source: SampleSource, workers: int) -> float:
    began = time.perf_counter()
    for _ in batches(source, BATCH, 2, workers=workers):
        pass
    return len(source) / (time.perf_counter() - began)


def preparation(source: CropSource, rounds: int, most: int) -> list[str]:
    """Rows of samples a second without a network."""
    rows = []
    for workers in dict.fromkeys((1, most)):
        rate = statistics.median(samples_per_s(source, workers) for _ in range(rounds))
        rows.append(f"| samples a second, nothing else running, {workers} threads | {rate:.0f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()

    settings = augmentation_of(CONFIG)
    held = DecodedPairs([Pair(str(i), Path(), Path()) for i in range(IMAGES)], painted, 256)
    source = CropSource(held, (SIDE_PX, SIDE_PX), told.steps * BATCH, 0.5, settings, 1)
    model = compiled(told.steps)
    images, labels = next(iter(batches(source, BATCH, 0)))
    model.train_on_batch(images, labels)

    repeated_s, epoch_s = [], []
    for number in range(told.rounds):
        began = time.perf_counter()
        for _ in range(told.steps):
            model.train_on_batch(images, labels, return_dict=True)
        repeated_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        for x, y in batches(source, BATCH, number, workers=told.workers):
            model.train_on_batch(x, y, return_dict=True)
        epoch_s.append(time.perf_counter() - began)

    packages = ", ".join(f"{p} {version(p)}" for p in ("keras", "tensorflow-cpu", "numpy"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    print(f"FlexUNet 16 filters, 5 levels, {SIDE_PX} px, batch {BATCH}; medians of {told.rounds} rounds")
    print("| what | figure |\n|---|---|")
    print(f"| {told.steps} steps on one repeated batch | {statistics.median(repeated_s):.2f} s |")
    ratios = [one / other for one, other in zip(repeated_s, epoch_s, strict=True)]
    print(f"| an epoch of as many steps, {told.workers} threads | {statistics.median(epoch_s):.2f} s |")
    print(f"| ratio | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |")
    print(f"| augmentation, everything on | {ms_per_sample(settings, held[0], 60):.1f} ms a sample (CPU) |")
    long = CropSource(held, (SIDE_PX, SIDE_PX), 8 * told.steps * BATCH, 0.5, settings, 1)
    for row in preparation(long, told.rounds, told.workers):
        print(row)


if __name__ == "__main__":
    main()
