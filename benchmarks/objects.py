"""Time of the object stage: shaping, splitting, outlining and measuring the objects of a label image.

    python benchmarks/objects.py

A label image of 3,200 x 3,200 px at 2 µm with 400 rough discs; every fourth touches its neighbour and is
split from it. The table also has the CPU seconds of a fresh process up to its first objects, imports
included, and checksums of the objects' pixels and outlines.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from harness import Candidate, alternate, candidate_options, fresh_process, machine, serve

MPP, CELL_PX, SIDE = 2.0, 160, 20


def discs() -> Iterator[tuple[int, int, int]]:
    """Yield row, column and radius; the first of each four discs is moved towards the second."""
    random = np.random.default_rng(4)
    for number in range(SIDE * SIDE):
        row, column = divmod(number, SIDE)
        radius = int(random.integers(36, 56))
        centre = column * CELL_PX + CELL_PX // 2
        if number % 4 == 0:
            centre, radius = centre + CELL_PX // 2 - 8, 52
        elif number % 4 == 1:
            radius = 44
        yield row * CELL_PX + CELL_PX // 2, centre, radius


def label_image() -> np.ndarray:
    side = SIDE * CELL_PX
    noise = cv2.GaussianBlur(
        np.random.default_rng(1).standard_normal((side, side)).astype(np.float32), (0, 0), 4
    )
    depth = np.full((side, side), -9.0, np.float32)
    rows, columns = np.mgrid[-64:64, -64:64]
    for row, column, radius in discs():
        window = depth[row - 64 : row + 64, max(0, column - 64) : column + 64]
        disc = radius - np.hypot(rows, columns).astype(np.float32)
        np.maximum(window, disc[:, -window.shape[1] :], out=window)
    return (depth + 2 * noise / noise.std() > 0).astype(np.uint8)


def extraction() -> Callable[[], dict[str, Any]]:
    from glomtile.objects.extraction import extract_objects
    from glomtile.objects.labelling import find_regions
    from glomtile.objects.postprocessing import ShapingRules

    labels = label_image()
    confidence = np.full(labels.shape, 230, np.uint8)

    def work() -> dict[str, Any]:
        regions = list(find_regions([labels], labels.shape[1], 2))
        objects = list(extract_objects(labels, confidence, regions, MPP, ShapingRules()))
        ids = np.zeros(labels.shape, np.int32)
        for number, (one, mask) in enumerate(objects, start=1):
            ids[one.box.top : one.box.bottom, one.box.left : one.box.right][mask] = number
        outlines = hashlib.sha256(b"".join(one.polygon.wkb for one, _ in objects)).hexdigest()[:8]
        pixels = hashlib.sha256(ids.tobytes()).hexdigest()[:8]
        return {"regions": len(regions), "objects": len(objects), "pixels": pixels, "outlines": outlines}

    return work


def fresh_cpu_s() -> float:
    """Return CPU seconds of a process that imports glomtile and finds the objects, less the image's."""
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); from objects import *; "
    image, whole = (
        fresh_process([sys.executable, "-c", code + call])[0] for call in ("label_image()", "extraction()()")
    )
    return whole - image


def main() -> None:
    if candidate_options() is not None:
        serve(extraction())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="counted runs, after one that warms up")
    args = parser.parse_args()
    print(machine("numpy", "opencv-python-headless", "scikit-image", "shapely"))
    run = alternate([Candidate("objects", {})], args.rounds)["objects"]
    fresh = statistics.median(fresh_cpu_s() for _ in range(args.rounds))
    low, high = run["spread_s"]
    print("\n| s | from, to | CPU s | CPU s, fresh process | regions | objects | pixels | outlines |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| {run['wall_s']:.3f} | {low:.3f}, {high:.3f} | {run['cpu_s']:.3f} | {fresh:.3f} "
          f"| {' | '.join(map(str, run['answer'].values()))} |")  # fmt: skip


if __name__ == "__main__":
    main()
