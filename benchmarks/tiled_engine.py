"""Share of the network in tiled inference, cost of the rest, and memory by image height.

    python benchmarks/tiled_engine.py                  # the figures of docs/results.md, about 15 minutes
    python benchmarks/tiled_engine.py --size 1024 --repeats 2 --heights 2048 8192

(1) The network's own time for all windows of a painted image, cut beforehand and kept in memory, against the
wall time of `predict_tiled` on the same image, in alternation, in one process. (2) CPU seconds of
`predict_tiled` with a network without cost. (3) Peak memory for images of two heights, rows discarded, each
in a process of its own without Keras.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np

from glomtile.io.images import mirrored_indices
from glomtile.tiling.grid import Plan, plan_windows
from glomtile.tiling.sliding_window import TiledRun, predict_tiled
from glomtile.types import Box, Float32, Predictor, UInt8
from harness import machine, peak_mib

TILE_PX, OVERLAP_PX, BLOCK_PX = 512, 64, 1024


class PaintedReader:
    """An image of any size, made of one repeated block, so that its height costs no memory."""

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
    """A network without cost: the same probabilities for every batch, already in memory."""

    num_classes, stride_px, context_px, mpp = 2, 16, 0, None

    def __init__(self) -> None:
        self._probs: dict[tuple[int, ...], Float32] = {}

    def __call__(self, batch: UInt8) -> Float32:
        shape = (*batch.shape[:3], 2)
        if shape not in self._probs:
            self._probs[shape] = np.full(shape, 0.5, np.float32)
        return self._probs[shape]


def discard(top: int, rows: Float32) -> None:
    """Accept rows and keep nothing."""


def planned(size_px: tuple[int, int]) -> Plan:
    return plan_windows(size_px, TILE_PX, OVERLAP_PX, align_px=FreeNetwork.stride_px)


def run_tiled(predictor: Predictor, size: int, batch_size: int) -> tuple[TiledRun, float]:
    """Return a run and the CPU seconds of all its threads."""
    reader = PaintedReader((size, size))
    cpu = time.process_time()
    run = predict_tiled(reader, predictor, planned(reader.size_px), discard, batch_size=batch_size)
    return run, time.process_time() - cpu


def run_network(predictor: Predictor, batches: list[UInt8]) -> tuple[float, float]:
    """Return wall and CPU seconds of the network alone."""
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        predictor(batch)
    return time.perf_counter() - wall, time.process_time() - cpu


def cut_beforehand(size: int, batch_size: int) -> list[UInt8]:
    """Return the batches that `predict_tiled` makes; the last is filled up with repeats."""
    reader = PaintedReader((size, size))
    tiles = [reader.read(window.read) for window in planned(reader.size_px)]
    size_of_batch = min(batch_size, len(tiles))
    tiles += [tiles[-1]] * (-len(tiles) % size_of_batch)
    return [np.stack(tiles[i : i + size_of_batch]) for i in range(0, len(tiles), size_of_batch)]


def compare_with_network(args: argparse.Namespace) -> dict[str, str]:
    from glomtile.config.schema import ModelSettings
    from glomtile.inference.predictor import KerasPredictor
    from glomtile.networks.registry import build_model, network

    settings = ModelSettings(
        model="FlexUNet", base_filters=16, num_layers=5, base_kernels=(3, 3), num_classes=2
    )
    model = build_model(settings, seed=137)
    predictor = KerasPredictor(model, network("FlexUNet").geometry(settings))
    batches = cut_beforehand(args.size, args.batch_size)
    run_network(predictor, batches[:2])  # compiles the network, which is not measured
    alone, tiled = [], []
    for number in range(args.repeats):
        for which in ("alone", "tiled") if number % 2 == 0 else ("tiled", "alone"):
            if which == "alone":
                alone.append(run_network(predictor, batches))
            else:
                tiled.append(run_tiled(predictor, args.size, args.batch_size))
    ratios = [own_s / run.wall_s for (own_s, _), (run, _) in zip(alone, tiled, strict=True)]
    network_s, network_cpu = (statistics.median(values) for values in zip(*alone, strict=True))
    wall = statistics.median(run.wall_s for run, _ in tiled)
    cpu = statistics.median(cpu_s for _, cpu_s in tiled)
    plan, listed = planned((args.size, args.size)), ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return {
        "network": f"FlexUNet, 16 filters, 5 levels, 3x3, {model.count_params():,} parameters",
        "plan": str(plan),
        "batches": f"{len(batches)} of {batches[0].shape[0]}",
        "network alone, wall": f"{network_s:.2f} s ({network_s / len(plan) * 1e3:.1f} ms per window)",
        "network alone, CPU": f"{network_cpu:.2f} s",
        "predict_tiled, wall": f"{wall:.2f} s ({args.size**2 / 1e6 / wall:.2f} Mpx/s)",
        "predict_tiled, CPU": f"{cpu:.2f} s",
        "network alone / predict_tiled, wall": f"{statistics.median(ratios):.3f} (each pair: {listed})",
        "network alone / predict_tiled, CPU": f"{network_cpu / cpu:.3f}",
        "share of the network in predict_tiled, wall":
            f"{statistics.median(run.network_s / run.wall_s for run, _ in tiled):.3f}",
    }  # fmt: skip


def cost_without_network(args: argparse.Namespace) -> dict[str, str]:
    mpx, repeats = args.size**2 / 1e6, range(max(args.repeats, 3))
    run_tiled(FreeNetwork(), args.size, args.batch_size)
    runs = [run_tiled(FreeNetwork(), args.size, args.batch_size) for _ in repeats]
    cpu = statistics.median(run_cpu for _, run_cpu in runs)
    wall = statistics.median(run.wall_s for run, _ in runs)
    reading = statistics.median(read_all(args.size) for _ in repeats)
    return {
        "without network, CPU": f"{cpu / mpx:.4f} s/Mpx",
        "reading the painted image alone, CPU": f"{reading / mpx:.4f} s/Mpx",
        "without network, wall": f"{wall / mpx:.4f} s/Mpx",
    }


def read_all(size: int) -> float:
    """Return CPU seconds to read all windows of the image."""
    reader = PaintedReader((size, size))
    before = time.process_time()
    for window in planned(reader.size_px):
        reader.read(window.read)
    return time.process_time() - before


def compare_heights(args: argparse.Namespace) -> dict[str, str]:
    low, high = args.heights
    peaks = {height: statistics.median(peak_of(height, args) for _ in range(3)) for height in (low, high)}
    rows = {f"peak memory, {args.width} x {height} px": f"{peaks[height]:.1f} MiB" for height in peaks}
    return rows | {f"height {high} / height {low}": f"{peaks[high] / peaks[low]:.4f}"}


def peak_of(height: int, args: argparse.Namespace) -> float:
    """Return the peak MiB of a fresh process that predicts an image of this height."""
    command = [sys.executable, __file__, "--memory-of", str(height), str(args.width)]
    command += ["--batch-size", str(args.batch_size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="side of the image for the network (px)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--width", type=int, default=4096, help="width for peak memory (px)")
    parser.add_argument(
        "--heights", type=int, nargs=2, default=(8192, 40960), help="heights for peak memory (px)"
    )
    parser.add_argument("--memory-of", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        reader = PaintedReader(tuple(args.memory_of))
        predict_tiled(reader, FreeNetwork(), planned(reader.size_px), discard, batch_size=args.batch_size)
        print(peak_mib())
        return
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    print(machine("numpy", "keras", "tensorflow-cpu", "tensorflow", "jax", "torch"))
    print(f"backend: {os.environ['KERAS_BACKEND']}")
    # Memory first: on Linux the peak of a child is at least the memory of its parent when it starts.
    rows = compare_heights(args) | cost_without_network(args) | compare_with_network(args)
    print("| quantity | value |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
