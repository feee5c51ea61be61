"""How many processor threads a process computes with, so that workers side by side do not fight for cores."""

from __future__ import annotations

import os
import platform
from pathlib import Path


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
        OpenVINO is told at each network it compiles (`glomtile.engine.windows.Settings.network_threads`).

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
