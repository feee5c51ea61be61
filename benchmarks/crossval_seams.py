"""Visibility of tile borders in the predictions of a cross-validation's networks.

    python benchmarks/crossval_seams.py runs/glomeruli-pas DATA [--mpp 0.5]

The network of each fold segments its held-out images twice: in windows whose own area is 512 image pixels
(seam ratio), and with that grid moved by half a window (grid sensitivity). DATA contains `images`, `masks`
and `reference_predictions`, whose seams are measured on the same lines.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from glomtile.inference.predictor import KerasPredictor, PredictionSettings
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.models.folder import load_model_folder
from glomtile.palette import GLOMERULI
from glomtile.types import UInt8
from real_glomeruli import FORCED_TILE_PX, grid_sensitivity, predict_in_tiles, seam_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of glomtile crossval")
    parser.add_argument("data", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5, help="of the images (µm per pixel)")
    parser.add_argument("--tta", help="views to average, in place of the models'")
    parser.add_argument("--threshold", type=float, help="in place of the models'")
    parser.add_argument("--smoothing-px", type=float, help="in place of the models'")
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in ("tta", "threshold", "smoothing_px")}
    given = {name: value for name, value in given.items() if value is not None}
    tiled: list[UInt8] = []
    moved: list[UInt8] = []
    others: dict[str, list[UInt8]] = {"reference_predictions": [], "masks": []}
    for fold in sorted(args.run.glob("fold-*")):
        loaded = load_model_folder(fold / "models" / "last")
        settings = replace(PredictionSettings.of_card(loaded.card), **given)
        predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, settings)
        for stem in json.loads((fold / "held_out.json").read_text("utf-8")):
            image = read_image(args.data / "images" / f"{stem}.png")
            for labels, target in zip(
                predict_in_tiles(image, predictor, args.mpp), (tiled, moved), strict=True
            ):
                target.append(labels)
            for kind, masks in others.items():
                masks.append(read_mask(args.data / kind / f"{stem}.png", GLOMERULI))
    print("| score | glomtile | reference | truth |\n|---|---|---|---|")
    ratios = [seam_ratio(masks) for masks in (tiled, *others.values())]
    print(f"| seam ratio at {FORCED_TILE_PX} px | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    print(f"| grid sensitivity | {100 * grid_sensitivity(tiled, moved):.4f} % | | |")


if __name__ == "__main__":
    main()
