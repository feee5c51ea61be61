"""How visible the tiles of a cross-validation's networks are on the images they did not see.

    python benchmarks/crossval_seams.py runs/glomeruli-pas DATA [--mpp 0.5]

Every held-out image is segmented twice by its fold's network: with the window's own part forced to 512 image
pixels (seam ratio), and with that grid moved by half a window (grid sensitivity). DATA holds `images`,
`masks` and `reference_predictions`, whose seams are counted on the same lines.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from glomtile.evaluation.seams import grid_sensitivity, seam_ratio
from glomtile.inference.image import Tiling, segment_image
from glomtile.inference.predictor import KerasPredictor, PredictionSettings
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.models.folder import load_model_folder
from glomtile.palette import GLOMERULI
from glomtile.types import UInt8

FORCED_TILE_PX = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tta", help="turned copies to average, instead of the models'")
    parser.add_argument("--threshold", type=float, help="instead of the models'")
    parser.add_argument("--smoothing-px", type=float, help="instead of the models'")
    told = parser.parse_args()
    tiled: list[UInt8] = []
    moved: list[UInt8] = []
    others: dict[str, list[UInt8]] = {"reference_predictions": [], "masks": []}
    for fold in sorted(told.run.glob("fold-*")):
        loaded = load_model_folder(fold / "models" / "last")
        assert loaded.card.mpp is not None
        given = {name: getattr(told, name) for name in ("tta", "threshold", "smoothing_px")}
        given = {name: value for name, value in given.items() if value is not None}
        asking = replace(PredictionSettings.of_card(loaded.card), **given)
        predictor = KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp, asking)
        side = round(FORCED_TILE_PX * told.mpp / loaded.card.mpp)
        tiling = Tiling(split_size=side, overlapping=predictor.context_px)
        for stem in json.loads((fold / "held_out.json").read_text("utf-8")):
            image = read_image(told.data / "images" / f"{stem}.png")
            tiled.append(segment_image(image, predictor, tiling, told.mpp).labels)
            half = (side // 2, side // 2)
            moved.append(segment_image(image, predictor, tiling, told.mpp, offset_px=half).labels)
            for kind, masks in others.items():
                masks.append(read_mask(told.data / kind / f"{stem}.png", GLOMERULI))
    print("| figure | ours | reference | truth |\n|---|---|---|---|")
    ratios = [seam_ratio(masks, FORCED_TILE_PX) for masks in (tiled, *others.values())]
    print(f"| seam ratio at {FORCED_TILE_PX} px | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    print(f"| grid sensitivity | {100 * grid_sensitivity(tiled, moved):.4f} % | | |")


if __name__ == "__main__":
    main()
