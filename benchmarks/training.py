"""Share of the network in the wall time of an epoch.

    python benchmarks/training.py                # the figures of docs/results.md
    python benchmarks/training.py --steps 6 --rounds 1

A FlexUNet of 16 filters, 5 levels and 3x3 kernels trains at 256 px, batch 8, with every augmentation on, from
painted biopsies. In alternation, in one process: (a) steps on one repeated batch, (b) an epoch of as many
steps whose samples are cut, warped and stained by threads meanwhile. The ratio (a)/(b) is the share of the
network. Then samples per second without a network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
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
from glomtile.synthetic import paint
from glomtile.training.augmentation import Augmentation, augment, augmentation_of
from glomtile.training.samples import CropSource, DecodedPairs, Sample, SampleSource, batches
from harness import machine, spread

IMAGE_PX, SIDE_PX, BATCH, IMAGES = 768, 256, 8, 4

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


def painted(pair: Pair) -> Sample:
    biopsy = paint(int(pair.stem), (IMAGE_PX, IMAGE_PX), 1.0)
    return biopsy.image, biopsy.labels


def compiled(steps: int) -> keras.Model:
    model = build_model(CONFIG.model, seed=1)
    model.compile(
        optimizer=build_optimizer(CONFIG.model, CONFIG.train, steps),
        loss=build_loss(CONFIG.model),
        metrics=build_metrics(CONFIG.model, ["foreground_dice"]),
    )
    return model


def ms_per_sample(settings: Augmentation, sample: Sample, count: int) -> float:
    """Return CPU milliseconds per augmented crop in one thread."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="threads that make samples")
    args = parser.parse_args()

    settings = augmentation_of(CONFIG)
    decoded = DecodedPairs([Pair(str(i), Path(), Path()) for i in range(IMAGES)], painted, 256)
    source = CropSource(decoded, (SIDE_PX, SIDE_PX), args.steps * BATCH, 0.5, settings, 1)
    model = compiled(args.steps)
    images, labels = next(iter(batches(source, BATCH, 0)))
    model.train_on_batch(images, labels)

    repeated_s, epoch_s = [], []
    for number in range(args.rounds):
        began = time.perf_counter()
        for _ in range(args.steps):
            model.train_on_batch(images, labels, return_dict=True)
        repeated_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        for x, y in batches(source, BATCH, number, workers=args.workers):
            model.train_on_batch(x, y, return_dict=True)
        epoch_s.append(time.perf_counter() - began)

    print(machine("keras", "tensorflow-cpu", "numpy"))
    print(f"FlexUNet 16 filters, 5 levels, {SIDE_PX} px, batch {BATCH}; medians of {args.rounds} rounds")
    print("| quantity | value |\n|---|---|")
    print(f"| {args.steps} steps on one repeated batch | {statistics.median(repeated_s):.2f} s |")
    print(f"| an epoch of as many steps, {args.workers} threads | {statistics.median(epoch_s):.2f} s |")
    ratios = [repeated / epoch for repeated, epoch in zip(repeated_s, epoch_s, strict=True)]
    print(f"| ratio | {spread(ratios, 3)} |")
    cpu_ms = ms_per_sample(settings, decoded[0], 60)
    print(f"| augmentation, everything on, {SIDE_PX} px | {cpu_ms:.1f} ms CPU per sample |")
    long = CropSource(decoded, (SIDE_PX, SIDE_PX), 8 * args.steps * BATCH, 0.5, settings, 1)
    for workers in dict.fromkeys((1, args.workers)):
        rate = statistics.median(samples_per_s(long, workers) for _ in range(args.rounds))
        print(f"| samples per second without a network, {workers} threads | {rate:.0f} |")


if __name__ == "__main__":
    main()
