"""How Keras and its backend are woken: without their greeting, with a clear word when absent."""

from __future__ import annotations

from importlib import import_module

from glomtile.engine.greeting import greeting_held_back
from glomtile.errors import MissingExtraError

BACKENDS = ("keras", "tensorflow", "jax", "torch")


def wake_backend() -> None:
    """Import the code that knows Keras.

    Raises
    ------
    MissingExtraError
        When Keras or the backend it is set to use is not installed.
    """
    try:
        with greeting_held_back():
            import_module("glomtile.nets.registry")
    except ModuleNotFoundError as error:
        if error.name not in BACKENDS:
            raise
        raise MissingExtraError(
            "glomtile",
            f"expected Keras and a backend for networks, got an installation without {error.name}",
            hint="pip install 'glomtile[cpu]', or set KERAS_BACKEND to the backend that is installed",
        ) from error
