"""Processor cores, thread limits and quiet import of the Keras backend."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from glomtile.errors import MissingExtraError


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's model name; results on one model are equal to the bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def limit_threads(count: int, runtime: str) -> None:
    """Limit the threads of OpenCV, and of the runtime where it has one setting for the process.

    Parameters
    ----------
    count : int
        At least 1.
    runtime : {"openvino", "keras"}
        OpenVINO has the limit of each compiled network (`TilingSettings.network_threads`).

    Notes
    -----
    JAX has no such setting: it uses as many threads as the process may use cores.
    """
    import cv2

    cv2.setNumThreads(count)
    if runtime != "keras":
        return
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        threading = tf.config.threading
        if threading.get_intra_op_parallelism_threads() != count:  # refused once TensorFlow has worked
            threading.set_intra_op_parallelism_threads(count)
            threading.set_inter_op_parallelism_threads(1)
    elif backend == "torch":
        import torch

        torch.set_num_threads(count)


# Messages of TensorFlow's import that no setting can silence; real errors are kept.
_STARTUP_MESSAGE = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|.*Unable to register cu")


@contextmanager
def quiet_import() -> Iterator[None]:
    """Buffer what native code writes to stderr inside the block, and pass on all but startup messages."""
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
                if not _STARTUP_MESSAGE.match(line):
                    sys.stderr.write(f"{line}\n")


BACKENDS = ("keras", "tensorflow", "jax", "torch")


def import_backend() -> None:
    """Import the networks, and with them Keras and its backend.

    Raises
    ------
    MissingExtraError
        When Keras or the backend it is set to use is not installed.
    """
    try:
        with quiet_import():
            import_module("glomtile.networks.registry")
    except ModuleNotFoundError as error:
        if error.name not in BACKENDS:
            raise
        raise MissingExtraError(
            "glomtile",
            f"expected Keras and a backend for networks, got an installation without {error.name}",
            hint="pip install 'glomtile[cpu]', or set KERAS_BACKEND to the backend that is installed",
        ) from error
