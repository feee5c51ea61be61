"""The package's front door: which names are public, and that each is loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from glomtile.errors import GlomtileError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from glomtile.config.load import load_config
    from glomtile.config.schema import Config
    from glomtile.core.palette import Palette
    from glomtile.engine.segmenter import Segmenter
    from glomtile.engine.tiled import predict_tiled
    from glomtile.files.slides import open_slide
    from glomtile.nets.registry import build_model
    from glomtile.verbs.evaluate import evaluate
    from glomtile.verbs.report import report
    from glomtile.verbs.score import score
    from glomtile.verbs.train import train

# Importing the package costs nothing: Keras, OpenCV and the rest come with the first name that needs them.
_HOMES = {
    "Config": "glomtile.config.schema",
    "Palette": "glomtile.core.palette",
    "Segmenter": "glomtile.engine.segmenter",
    "build_model": "glomtile.nets.registry",
    "evaluate": "glomtile.verbs.evaluate",
    "load_config": "glomtile.config.load",
    "open_slide": "glomtile.files.slides",
    "predict_tiled": "glomtile.engine.tiled",
    "report": "glomtile.verbs.report",
    "score": "glomtile.verbs.score",
    "train": "glomtile.verbs.train",
}

__all__ = [
    "Config",
    "GlomtileError",
    "Palette",
    "Segmenter",
    "build_model",
    "evaluate",
    "load_config",
    "open_slide",
    "predict_tiled",
    "report",
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
