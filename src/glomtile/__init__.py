"""Segmentation of glomeruli in images and whole slides of kidney tissue.

Public names are loaded when they are first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from glomtile.errors import GlomtileError

__version__ = "0.1.0"

logging.getLogger("glomtile").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from glomtile.config.load import load_config
    from glomtile.config.schema import Config
    from glomtile.datasets.prepare import prepare
    from glomtile.evaluation.cross_validation import crossval
    from glomtile.evaluation.evaluate import evaluate
    from glomtile.evaluation.score import score
    from glomtile.inference.export import export
    from glomtile.inference.segmenter import Segmenter
    from glomtile.models.encoder_weights import build_model
    from glomtile.palette import Palette
    from glomtile.slides.slide import open_slide
    from glomtile.tiling.sliding_window import predict_tiled
    from glomtile.training.train import train

# Importing the package costs nothing: Keras, OpenCV and the rest come with the first name that needs them.
_HOMES = {
    "Config": "glomtile.config.schema",
    "Palette": "glomtile.palette",
    "Segmenter": "glomtile.inference.segmenter",
    "build_model": "glomtile.models.encoder_weights",
    "crossval": "glomtile.evaluation.cross_validation",
    "evaluate": "glomtile.evaluation.evaluate",
    "export": "glomtile.inference.export",
    "load_config": "glomtile.config.load",
    "open_slide": "glomtile.slides.slide",
    "predict_tiled": "glomtile.tiling.sliding_window",
    "prepare": "glomtile.datasets.prepare",
    "score": "glomtile.evaluation.score",
    "train": "glomtile.training.train",
}

__all__ = [
    "Config",
    "GlomtileError",
    "Palette",
    "Segmenter",
    "build_model",
    "crossval",
    "evaluate",
    "export",
    "load_config",
    "open_slide",
    "predict_tiled",
    "prepare",
    "score",
    "train",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'glomtile' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
