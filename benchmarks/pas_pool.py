"""Gather the training images of the bundled model: real, painted, and without glomeruli.

    python benchmarks/pas_pool.py DATA POOL [--slide CMU-1-Small-Region.svs] [--painted 6]

DATA contains ``images`` and ``masks`` of Bueno et al. 2020 (CC BY 4.0), 16 images of 1024 x 1024 px at
0.5 µm. POOL receives ``images``, ``masks`` and ``groups.csv`` for `glomtile crossval`: the real images in
groups, of which 10165 and 10215, whose labels are wrong, are only evaluated; the others are only trained on.
``POOL/train`` contains the training images of the bundled model: all but these two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from glomtile.io.atomic import link
from glomtile.io.images import write_png
from glomtile.io.masks import write_mask
from glomtile.io.tables import write_csv
from glomtile.palette import GLOMERULI
from glomtile.slides.slide import open_slide
from glomtile.synthetic import paint
from glomtile.types import Box

GROUPS = {
    "10003": "a", "10025": "b", "10063": "c", "10102": "d", "10103": "d", "10149": "e", "10164": "f",
    "10165": "f", "10169": "f", "10170": "f", "10172": "g", "10179": "g", "10184": "g", "10210": "h",
    "10215": "h", "10224": "i",
}  # fmt: skip
"""Groups of images with neighbouring numbers, which show neighbouring tissue; some share a glomerulus."""

NOISY = ("10165", "10215")
PAINTED_PX, PAINTED_MPP, FIRST_SEED = 768, 2.0, 300_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--slide", type=Path, help="a slide without glomeruli, read at 1 µm")
    parser.add_argument("--painted", type=int, default=6, help="number of painted biopsies")
    args = parser.parse_args()
    images, masks = args.pool / "images", args.pool / "masks"
    rows = []
    for stem, group in GROUPS.items():
        for kind, folder in (("images", images), ("masks", masks)):
            link(folder / f"{stem}.png", args.data / kind / f"{stem}.png")
        rows.append([stem, group, "judge" if stem in NOISY else ""])
    for number in range(args.painted):
        stem = f"painted{number}"
        biopsy = paint(FIRST_SEED + number, (PAINTED_PX, PAINTED_PX), PAINTED_MPP, preset="hard")
        write_png(images / f"{stem}.png", biopsy.image, PAINTED_MPP)
        write_mask(masks / f"{stem}.png", biopsy.labels, GLOMERULI)
        rows.append([stem, stem, "train"])
    if args.slide is not None:
        with open_slide(args.slide) as slide:
            reader = slide.at(1.0)
            pixels = reader.read(Box(0, 0, *reader.size_px))
        write_png(images / "slide.png", pixels, 1.0)
        write_mask(masks / "slide.png", np.zeros(pixels.shape[:2], np.uint8), GLOMERULI)
        rows.append(["slide", "slide", "train"])
    for path in (*images.iterdir(), *masks.iterdir()):
        if path.stem not in NOISY:
            link(args.pool / "train" / path.parent.name / path.name, path)
    write_csv(args.pool / "groups.csv", ["stem", "group", "use"], rows)
    print(f"{len(rows)} images in {args.pool}")


if __name__ == "__main__":
    main()
