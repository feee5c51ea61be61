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
    """What the processor calls itself; results of one type are equal to the bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def limit_threads(count: int, runtime: str) -> None:
    """Let OpenCV, and the runtime where it has one setting for the whole process, use so many threads.

    Parameters
    ----------
    count : int
        At least 1.
    runtime : {"openvino", "keras"}
        OpenVINO is told at each network it compiles (`Settings.network_threads`).

    Notes
    -----
    JAX knows no such setting: its threads are as many as the cores that the process may use.
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


# What TensorFlow tells before anything could ask it to be quiet; real errors of an import are kept.
_GREETING = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|.*Unable to register cu")


@contextmanager
def quiet_import() -> Iterator[None]:
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
                    sys.stderr.write(f"{line}\n")


BACKENDS = ("keras", "tensorflow", "jax", "torch")


def import_backend() -> None:
    """Import the code that knows Keras.

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
