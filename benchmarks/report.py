"""CPU time and size of the report of a scored set, compared with decoding and scaling its images once.

python benchmarks/report.py [--images 100] [--side 1024] [--rounds 3] [--work DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import machine, spread

SHOWN_PX = 512
"""Approximate side at which 100 images fit into the page."""

DECODE = """
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
    """Write painted biopsies, and predictions with lost, enlarged, shrunk and added objects."""
    import cv2
    import numpy as np

    from glomtile.io.images import write_png
    from glomtile.io.masks import write_mask
    from glomtile.palette import GLOMERULI
    from glomtile.synthetic import paint

    rng, element = np.random.default_rng(11), np.ones((15, 15), np.uint8)
    for number in range(count):
        name = f"biopsy{number:03d}.png"
        biopsy = paint(500 + number, (side_px, side_px), 0.5, ("plain", "hard")[number % 2])
        prediction = biopsy.labels.copy()
        parts, ids = cv2.connectedComponents(biopsy.labels)
        for part in range(1, parts):
            error = rng.integers(0, 5)
            own = (ids == part).astype(np.uint8)
            if error == 0:
                prediction[own > 0] = 0
            elif error == 1:
                prediction[cv2.dilate(own, element) > 0] = 1
            elif error == 2:
                prediction[(own > 0) & (cv2.erode(own, element) == 0)] = 0
        centre = tuple(int(at) for at in rng.integers(40, side_px - 40, 2))
        cv2.circle(prediction, centre, 30, (1,), cv2.FILLED)
        write_png(root / "images" / name, biopsy.image)
        write_mask(root / "truth" / name, biopsy.labels, GLOMERULI)
        write_mask(root / "predictions" / name, prediction, GLOMERULI)


def seconds(code: str, *arguments: str) -> float:
    """Return the CPU seconds that a fresh process with one thread prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=1024, help="of the images (px)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder in which the painted set is kept and reused")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.work or Path(temporary)
        if not (root / "out").is_dir():
            from glomtile.evaluation.score import score

            paint_set(root, args.images, args.side)
            score(root / "predictions", root / "truth", root / "out", images=root / "images", mpp=0.5)
        decode, page = [], []
        for _ in range(args.rounds):
            decode.append(seconds(DECODE, str(root), str(SHOWN_PX)))
            page.append(seconds(PAGE, str(root)))
        size = (root / "out" / "report.html").stat().st_size
    ratio = statistics.median(whole / once for once, whole in zip(decode, page, strict=True))
    print(machine("numpy", "opencv-python-headless", "pillow"))
    print(f"{args.images} images of {args.side} x {args.side} px, {args.rounds} rounds in alternation")
    print(f"decoding and scaling once: {spread(decode)} CPU s")
    print(f"the report: {spread(page)} CPU s")
    print(f"ratio {ratio:.2f} (limit 2); page {size / 1e6:.1f} MB (limit 15)")


if __name__ == "__main__":
    main()
