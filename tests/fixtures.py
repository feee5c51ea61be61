"""Pictures of a disc each, and settings under which a small network learns them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glomtile.config.load import make_config
from glomtile.config.schema import Config
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.palette import GLOMERULI

SIDE = 64


def paint_discs(folder: Path, count: int) -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in range(count):
        y, x = rng.integers(16, SIDE - 16, 2)
        labels = ((rows - y) ** 2 + (columns - x) ** 2 < 120).astype(np.uint8)
        image = (50 + 130 * labels[..., None] + rng.integers(0, 30, (SIDE, SIDE, 3))).astype(np.uint8)
        write_png(folder / "images" / f"d{i}.png", image)
        write_mask(folder / "masks" / f"d{i}.png", labels, GLOMERULI)


def config_of(root: Path, epochs: int = 2, **tiled: object) -> Config:
    content = {
        "model": {
            "model": "FlexUNet", "image_width": 32, "image_height": 32, "num_classes": 2, "base_filters": 4,
            "num_layers": 3, "dropout_rate": 0.0, "learning_rate": 0.01, "loss": "dice_crossentropy",
            "mpp": 1.0,
        },
        "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
        "dataset": {"image_mpp": 1.0, "sampling": "crops", "samples_per_epoch": 8},
        "train": {
            "images_dir": "images", "masks_dir": "masks", "epochs": epochs, "batch_size": 4, "use": "last",
            "epoch_change_infer": False,
        },
        "tiledinfer": {"images_dir": "images", "output_dir": "somewhere", **tiled},
    }  # fmt: skip
    return make_config(content, root)


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """A config with other settings."""
    content = {
        name: {key: getattr(config.section(name), key) for key in config.section(name).model_fields_set}
        for name in type(config).model_fields
    }
    for name, settings in sections.items():
        content[name] = content.get(name, {}) | settings
    return make_config(content, config.base_dir)
