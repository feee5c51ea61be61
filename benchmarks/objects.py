"""Objects of a label plane, shaped, outlined and measured: this version, and another beside it.

    python benchmarks/objects.py
    python benchmarks/objects.py --beside OTHER/bin/python     # an environment with another glomtile

A plane of 3,200 x 3,200 px at 2 µm with 400 rough discs; every fourth touches its neighbour and is parted
from it. Each version is a resident process, asked in turn. Beside it the CPU seconds of a fresh process to
its first objects, imports included, and whether both find the same pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from resident import Resident, contestant, in_turn, machine, serve

MPP, CELL_PX, SIDE = 2.0, 160, 20


def discs() -> Iterator[tuple[int, int, int]]:
    """Row, column, radius; the first of each four moves up to the second."""
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


def plane() -> np.ndarray:
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


def extraction() -> Any:
    from glomtile.objects.extraction import found_objects
    from glomtile.objects.postprocessing import ShapingRules
    from glomtile.objects.regions import regions_in_order

    labels = plane()
    confidence = np.full(labels.shape, 230, np.uint8)

    def work() -> dict[str, Any]:
        regions = list(regions_in_order([labels], labels.shape[1], 2))
        found = list(found_objects(labels, confidence, regions, MPP, ShapingRules(), labels.shape))
        owner = np.zeros(labels.shape, np.int32)
        for number, one in enumerate(found, start=1):
            owner[one.box.top : one.box.bottom, one.box.left : one.box.right][one.mask] = number
        outlines = hashlib.sha256(b"".join(one.polygon.wkb for one in found)).hexdigest()[:8]
        pixels = hashlib.sha256(owner.tobytes()).hexdigest()[:8]
        return {"regions": len(regions), "objects": len(found), "pixels": pixels, "outlines": outlines}

    return work


def fresh_cpu_s(python: str) -> float:
    """CPU seconds of a process that imports and finds the objects once, less making the plane."""
    spent = []
    for code in ("plane()", "extraction()()"):
        line = f"import sys; sys.path.insert(0, {sys.path[0]!r}); from objects import *; {code}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-c", line], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return spent[1] - spent[0]


def main() -> None:
    if contestant() is not None:
        serve(extraction())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="counted runs of each, after one that warms up")
    parser.add_argument("--beside", metavar="PYTHON", help="of an environment with another version")
    args = parser.parse_args()
    for line in machine(("glomtile", "numpy", "opencv-python-headless", "shapely")):
        print(line)
    pythons = {"this version": sys.executable, **({"the other": args.beside} if args.beside else {})}
    residents = [Resident(name, {}, python) for name, python in pythons.items()]
    found = in_turn(residents, args.rounds)
    for resident in residents:
        resident.close()
    fresh: dict[str, list[float]] = {name: [] for name in pythons}
    for _ in range(args.rounds):
        for name, python in pythons.items():
            fresh[name].append(fresh_cpu_s(python))
    print(
        "\n| version | s | from, to | CPU s | CPU s, fresh process | regions | objects | pixels | outlines |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, told in found.items():
        low, high = told["spread_s"]
        print(
            f"| {name} | {told['wall_s']:.3f} | {low:.3f}, {high:.3f} | {told['cpu_s']:.3f} "
            f"| {statistics.median(fresh[name]):.3f} | "
            + " | ".join(map(str, told["answer"].values()))
            + " |"
        )


if __name__ == "__main__":
    sys.exit(main())
