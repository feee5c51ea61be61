"""How much of tiled inference is the network, what the rest costs, and whether memory grows with height.

    python benchmarks/tiled_engine.py                  # the figures of docs/results.md, some 15 minutes
    python benchmarks/tiled_engine.py --size 1024 --repeats 2 --heights 2048 8192

Three things are measured. (1) The network's own time for all windows of a painted picture, cut beforehand
and held in memory, against the wall time of `predict_tiled` on the same picture, in turn, in one process.
(2) CPU seconds of `predict_tiled` with a network that costs nothing. (3) Peak memory of pictures of two
heights, rows discarded, each in a process of its own without Keras.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

import cv2
import numpy as np

from glomtile.io.images import mirrored_indices
from glomtile.tiling.grid import Plan, plan_windows
from glomtile.tiling.sliding_window import TiledRun, predict_tiled
from glomtile.types import Box, Float32, Predictor, UInt8

TILE_PX, OVERLAP_PX, BLOCK_PX = 512, 64, 1024


class PaintedReader:
    """A picture of any size made of one painted block, so that no height costs memory."""

    mpp = None

    def __init__(self, size_px: tuple[int, int]) -> None:
        self.size_px = size_px
        rng = np.random.default_rng(137)
        block = np.full((BLOCK_PX, BLOCK_PX, 3), (233, 214, 228), np.uint8)
        for x, y, radius in rng.integers((0, 0, 4), (BLOCK_PX, BLOCK_PX, 60), (700, 3)).tolist():
            cv2.circle(block, (x, y), radius, rng.integers(90, 230, 3).tolist(), -1)
        self._block: UInt8 = cv2.GaussianBlur(block, (0, 0), 1.5).astype(np.uint8)

    def read(self, box: Box) -> UInt8:
        rows = mirrored_indices(box.top, box.bottom, self.size_px[0]) % BLOCK_PX
        columns = mirrored_indices(box.left, box.right, self.size_px[1]) % BLOCK_PX
        return self._block.take(rows, axis=0).take(columns, axis=1)


class FreeNetwork:
    """The same answer to every batch, already in memory."""

    num_classes, stride_px, context_px, mpp = 2, 16, 0, None

    def __init__(self) -> None:
        self._answers: dict[tuple[int, ...], Float32] = {}

    def __call__(self, batch: UInt8) -> Float32:
        shape = (*batch.shape[:3], 2)
        if shape not in self._answers:
            self._answers[shape] = np.full(shape, 0.5, np.float32)
        return self._answers[shape]


def discard(top: int, rows: Float32) -> None:
    """A sink that keeps nothing."""


def planned(size_px: tuple[int, int]) -> Plan:
    return plan_windows(size_px, TILE_PX, OVERLAP_PX, align_px=FreeNetwork.stride_px)


def timed_run(predictor: Predictor, size: int, batch_size: int) -> tuple[TiledRun, float]:
    """A run and the CPU seconds of all threads in it."""
    reader = PaintedReader((size, size))
    cpu = time.process_time()
    run = predict_tiled(reader, predictor, planned(reader.size_px), discard, batch_size=batch_size)
    return run, time.process_time() - cpu


def network_alone(predictor: Predictor, batches: list[UInt8]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        predictor(batch)
    return time.perf_counter() - wall, time.process_time() - cpu


def cut_beforehand(size: int, batch_size: int) -> list[UInt8]:
    """The batches that `predict_tiled` makes, the last filled up with repeats as there."""
    reader = PaintedReader((size, size))
    tiles = [reader.read(window.read) for window in planned(reader.size_px)]
    size_of_batch = min(batch_size, len(tiles))
    tiles += [tiles[-1]] * (-len(tiles) % size_of_batch)
    return [np.stack(tiles[i : i + size_of_batch]) for i in range(0, len(tiles), size_of_batch)]


def compare_with_network(args: argparse.Namespace) -> list[tuple[str, str]]:
    from glomtile.config.schema import ModelSettings
    from glomtile.inference.predictor import KerasPredictor
    from glomtile.networks.registry import build_model, network

    settings = ModelSettings(
        model="FlexUNet", base_filters=16, num_layers=5, base_kernels=(3, 3), num_classes=2
    )
    model = build_model(settings, seed=137)
    predictor = KerasPredictor(model, network("FlexUNet").geometry(settings))
    batches = cut_beforehand(args.size, args.batch_size)
    # Compiling and the first touch of memory belong to neither contestant.
    for batch in batches[:2]:
        predictor(batch)
    own, walls, inside, cpu = [], [], [], []
    for turn in range(args.repeats):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for contestant in order:
            if contestant == 0:
                own.append(network_alone(predictor, batches))
            else:
                run, run_cpu = timed_run(predictor, args.size, args.batch_size)
                walls.append(run.wall_s)
                inside.append(run.network_s)
                cpu.append(run_cpu)
    ratios = [alone[0] / wall for alone, wall in zip(own, walls, strict=True)]
    mpx = args.size**2 / 1e6
    plan = planned((args.size, args.size))
    network_s = statistics.median(alone[0] for alone in own)
    network_cpu = statistics.median(alone[1] for alone in own)
    return [
        ("network", f"FlexUNet, 16 filters, 5 levels, 3x3, {model.count_params():,} parameters"),
        ("plan", str(plan)),
        ("batches", f"{len(batches)} of {batches[0].shape[0]}"),
        ("network alone, wall", f"{network_s:.2f} s ({network_s / len(plan) * 1e3:.1f} ms a window)"),
        ("network alone, CPU", f"{network_cpu:.2f} s"),
        (
            "predict_tiled, wall",
            f"{statistics.median(walls):.2f} s ({mpx / statistics.median(walls):.2f} Mpx/s)",
        ),
        ("predict_tiled, CPU", f"{statistics.median(cpu):.2f} s"),
        ("network alone / predict_tiled, wall", f"{statistics.median(ratios):.3f} (each: {listed(ratios)})"),
        ("network alone / predict_tiled, CPU", f"{network_cpu / statistics.median(cpu):.3f}"),
        (
            "inside the network during predict_tiled",
            f"{statistics.median(i / w for i, w in zip(inside, walls, strict=True)):.3f} of the wall time",
        ),
    ]


def cost_without_network(args: argparse.Namespace) -> list[tuple[str, str]]:
    mpx = args.size**2 / 1e6
    timed_run(FreeNetwork(), args.size, args.batch_size)
    runs = [timed_run(FreeNetwork(), args.size, args.batch_size) for _ in range(max(args.repeats, 3))]
    cpu = statistics.median(run_cpu for _, run_cpu in runs)
    wall = statistics.median(run.wall_s for run, _ in runs)
    reading = statistics.median(reading_alone(args.size) for _ in range(max(args.repeats, 3)))
    return [
        ("without network, CPU", f"{cpu / mpx:.4f} s/Mpx"),
        ("reading the painted picture alone, CPU", f"{reading / mpx:.4f} s/Mpx"),
        ("without network, wall", f"{wall / mpx:.4f} s/Mpx"),
    ]


def reading_alone(size: int) -> float:
    """CPU seconds for all windows of the picture, each dropped at once."""
    reader = PaintedReader((size, size))
    before = time.process_time()
    for window in planned(reader.size_px):
        reader.read(window.read)
    return time.process_time() - before


def compare_heights(args: argparse.Namespace) -> list[tuple[str, str]]:
    low, high = args.heights
    peaks = {height: statistics.median(peak_of(height, args) for _ in range(3)) for height in (low, high)}
    rows = [(f"peak memory, {args.width} x {height} px", f"{peaks[height]:.1f} MiB") for height in peaks]
    return [*rows, (f"height {high} / height {low}", f"{peaks[high] / peaks[low]:.4f}")]


def peak_of(height: int, args: argparse.Namespace) -> float:
    """Peak resident MiB of a fresh process that runs through a picture of this height."""
    command = [sys.executable, __file__, "--memory-of", str(height), str(args.width)]
    done = subprocess.run(
        [*command, "--batch-size", str(args.batch_size)], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)["peak_mib"])


def memory_of(height: int, width: int, batch_size: int) -> None:
    reader = PaintedReader((height, width))
    predict_tiled(reader, FreeNetwork(), planned(reader.size_px), discard, batch_size=batch_size)
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}))


def machine() -> list[tuple[str, str]]:
    def known(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except ModuleNotFoundError:
            return ""

    packages = [
        known(name) for name in ("glomtile", "numpy", "keras", "tensorflow-cpu", "tensorflow", "jax", "torch")
    ]
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return [
        (
            "machine",
            f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        ),
        ("versions", ", ".join(["Python " + platform.python_version(), *filter(None, packages)])),
        ("backend", backend),
        ("load before", " ".join(f"{load:.2f}" for load in os.getloadavg())),
        ("command", shlex.join(["python", *sys.argv])),
    ]


def listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096, help="side of the picture for the network (px)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--width", type=int, default=4096, help="width for peak memory (px)")
    parser.add_argument(
        "--heights", type=int, nargs=2, default=(8192, 40960), help="heights for peak memory (px)"
    )
    parser.add_argument("--memory-of", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_of(*args.memory_of, args.batch_size)
        return
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    facts = machine()
    # Memory first: on Linux a child's peak is at least what its parent held when it was started.
    facts += compare_heights(args) + cost_without_network(args) + compare_with_network(args)
    print("| what | figure |\n|---|---|")
    for name, figure in facts:
        print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
