"""Train the model of the slide benchmarks on painted biopsies in many stains and both presets.

    python benchmarks/painted_model.py WORK

Writes WORK/models/last, a FlexUNet of 16 filters, 5 levels and 3x3 kernels at 2 µm per pixel, in ten minutes
on two cores. Seeds from 100,000 on are reserved for evaluation.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from glomtile.config.load import make_config
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI
from glomtile.synthetic import paint
from glomtile.training.train import train

IMAGES, SIDE_PX, MPP = 56, 768, 1.0


class PlainProgress:
    """Progress as plain lines."""

    def start(self, title: str, total: int | None = None) -> None: ...
    def advance(self, steps: int = 1, **figures: float | str) -> None: ...

    def note(self, text: str) -> None:
        print(text, flush=True)

    def warn(self, text: str) -> None:
        print("warning:", text, flush=True)


def paint_all(folder: Path) -> None:
    for number in range(IMAGES):
        split = "valid" if number % 14 == 13 else "train"
        preset = "plain" if number % 4 == 0 else "hard"
        target = folder / split / "images" / f"{number}.png"
        if not target.exists():
            biopsy = paint(7000 + number, (SIDE_PX, SIDE_PX), MPP, preset)
            write_mask(folder / split / "masks" / f"{number}.png", biopsy.labels, GLOMERULI, MPP)
            write_png(target, biopsy.image, MPP)


def settings(work: Path, epochs: int) -> dict[str, dict[str, object]]:
    return {
        "model": {
            "model": "FlexUNet", "num_classes": 2, "mpp": 2.0, "image_width": 192, "image_height": 192,
            "base_filters": 16, "base_kernels": (3, 3), "num_layers": 5, "dropout_rate": 0.02,
            "norm": "batch", "loss": "dice_crossentropy", "optimizer": "AdamW", "learning_rate": 0.001,
            "clipnorm": 1.0,
            "metrics": ("foreground_dice",),
        },
        "dataset": {"sampling": "crops", "foreground_share": 0.4, "samples_per_epoch": 256},
        "train": {
            "images_dir": str(work / "data/train/images"), "masks_dir": str(work / "data/train/masks"),
            "model_dir": str(work / "models"), "eval_dir": str(work / "eval"), "epochs": epochs,
            "batch_size": 8, "patience": 0, "schedule": "cosine", "warmup_epochs": 1, "ema_decay": 0.98,
            "use": "last",
            "metrics": ("foreground_dice", "val_foreground_dice"), "epoch_change_infer": False,
            "epoch_change_tiled_infer": False,
        },
        "valid": {
            "images_dir": str(work / "data/valid/images"), "masks_dir": str(work / "data/valid/masks"),
        },
        "tiledinfer": {"split_size": 192, "overlapping": 112},
        "mask": {
            "rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}, "class_names": ("background", "glomerulus"),
        },
        "augmentor": {
            "enabled": True, "rotation": False, "free_rotation": True, "shrinks": (), "scales": (0.85, 1.2),
            "stain": 0.8,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    work = args.work.absolute()
    paint_all(work / "data")
    train(make_config(settings(work, args.epochs), work), resume=args.resume, progress=PlainProgress())


if __name__ == "__main__":
    main()
