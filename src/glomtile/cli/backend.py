"""How Keras and its backend are woken: without their greeting, with a clear word when absent."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from glomtile.errors import MissingExtraError

BACKENDS = ("keras", "tensorflow", "jax", "torch")

# What TensorFlow tells before anything could ask it to be quiet; real errors of an import are kept.
_GREETING = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|.*Unable to register cu")


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


@contextmanager
def greeting_held_back() -> Iterator[None]:
    """Keep what native code writes on stderr inside the block, and pass on what is no greeting."""
    import tempfile  # with `random` and OpenSSL behind it: not for --help

    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _GREETING.match(line):
                    print(line, file=sys.stderr)
