"""CPU time and size of the report of a scored set, against decoding and scaling its pictures once, in turn.

python benchmarks/report.py [--images 100] [--side 1024] [--rounds 3] [--work DIR]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHOWN_PX = 512
"""About the side at which 100 pictures fit into the page."""

ONCE = """
import sys, time
from pathlib import Path
import cv2
import numpy as np
from glomtile.palette import GLOMERULI
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
root, side = Path(sys.argv[1]), int(sys.argv[2])
began = time.process_time()
for path in sorted((root / "images").iterdir()):
    image = read_image(path)
    factor = side / max(image.shape[:2])
    cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    for kind in ("truth", "predictions"):
        labels = read_mask(root / kind / path.name, GLOMERULI)
        cv2.resize(labels, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
print(time.process_time() - began)
"""

PAGE = """
import sys, time
from pathlib import Path
from glomtile.report.build import write_report
import cv2, numpy, jinja2, PIL.Image
began = time.process_time()
write_report(Path(sys.argv[1]) / "out")
print(time.process_time() - began)
"""


def paint_set(root: Path, count: int, side_px: int) -> None:
    """Painted biopsies, and predictions that lost, moved or invented something."""
    import cv2
    import numpy as np

    from glomtile.io.images import write_png
    from glomtile.io.masks import write_mask
    from glomtile.palette import GLOMERULI
    from glomtile.synthetic import paint

    rng = np.random.default_rng(11)
    for number in range(count):
        name = f"biopsy{number:03d}.png"
        phantom = paint(500 + number, (side_px, side_px), 0.5, ("plain", "hard")[number % 2])
        prediction = phantom.labels.copy()
        parts, ids = cv2.connectedComponents(phantom.labels)
        for part in range(1, parts):
            way = rng.integers(0, 5)
            own = (ids == part).astype(np.uint8)
            if way == 0:
                prediction[own > 0] = 0
            elif way == 1:
                prediction[cv2.dilate(own, np.ones((15, 15), np.uint8)) > 0] = 1
            elif way == 2:
                prediction[(own > 0) & (cv2.erode(own, np.ones((15, 15), np.uint8)) == 0)] = 0
        place = tuple(int(at) for at in rng.integers(40, side_px - 40, 2))
        cv2.circle(prediction, place, 30, (1,), cv2.FILLED)
        write_png(root / "images" / name, phantom.image)
        write_mask(root / "truth" / name, phantom.labels, GLOMERULI)
        write_mask(root / "predictions" / name, prediction, GLOMERULI)


def seconds(code: str, *arguments: str) -> float:
    """CPU seconds that a fresh process says it took, on one core."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep the painted set here, and take it from here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.work or Path(temporary)
        if not (root / "out").is_dir():
            from glomtile.evaluation.score import score

            paint_set(root, options.images, options.side)
            score(root / "predictions", root / "truth", root / "out", images=root / "images", mpp=0.5)
        once, page = [], []
        for _ in range(options.rounds):
            once.append(seconds(ONCE, str(root), str(SHOWN_PX)))
            page.append(seconds(PAGE, str(root)))
        size = (root / "out" / "report.html").stat().st_size
    ratio = statistics.median(b / a for a, b in zip(once, page, strict=True))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{options.images} images of {options.side} x {options.side} px, {options.rounds} rounds in turn")
    print(
        f"decoding and scaling once: {statistics.median(once):.2f} CPU s ({min(once):.2f} to {max(once):.2f})"
    )
    print(f"the report: {statistics.median(page):.2f} CPU s ({min(page):.2f} to {max(page):.2f})")
    print(f"ratio {ratio:.2f} (asked: at most 2); page {size / 1e6:.1f} MB (asked: at most 15)")


if __name__ == "__main__":
    main()
