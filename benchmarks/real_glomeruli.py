"""Scores of a trained model on real test images, beside the reference's, and visibility of its tile borders.

    python benchmarks/real_glomeruli.py projects/flexunet/glomeruli/glomeruli.toml DATA

The model segments the config's test images three times: as configured (Dice, objects, intervals), in windows
whose own area is 512 image pixels (seam ratio), and with that grid moved by half a window (grid sensitivity).
DATA contains `images`, `masks` and `reference_predictions`, the published masks of
TensorFlow-FlexUNet-Tiled-Image-Segmentation-Glomeruli, which are scored on the same images.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from glomtile.config.load import load_config
from glomtile.datasets.pairing import pair, whole_pairs
from glomtile.evaluation.bootstrap import Figure
from glomtile.evaluation.metrics import (
    ImageScore,
    SeamCount,
    count_seams,
    paired_difference,
    score_image,
    summarise,
)
from glomtile.inference.image import TilingSettings, segment_image
from glomtile.inference.predictor import KerasPredictor, PredictionSettings
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.models.folder import load_model_folder
from glomtile.types import UInt8

FORCED_TILE_PX = 512
FIGURES = ("pooled_dice", "mean_dice", "pooled_precision", "pooled_recall", "object_f1")


def seam_ratio(planes: list[UInt8]) -> float:
    """Measure label flips per line at tile borders over those at all other lines."""
    return sum((count_seams(labels, FORCED_TILE_PX) for labels in planes), SeamCount()).ratio


def grid_sensitivity(a: list[UInt8], b: list[UInt8]) -> float:
    """Measure the share of pixels whose label differs between two window grids."""
    return sum((x != y).sum() for x, y in zip(a, b, strict=True)) / sum(x.size for x in a)


def predict_in_tiles(image: UInt8, predictor: KerasPredictor, image_mpp: float) -> tuple[UInt8, UInt8]:
    """Segment in windows whose own area is 512 image pixels, and with that grid moved by half a window."""
    side = round(FORCED_TILE_PX * image_mpp / (predictor.mpp or image_mpp))
    tiling = TilingSettings(tile_px=side, overlap_px=predictor.context_px)
    offsets = ((0, 0), (side // 2, side // 2))
    first, second = (
        segment_image(image, predictor, tiling, image_mpp, offset_px=at).labels for at in offsets
    )
    return first, second


def formatted(figure: Figure) -> str:
    return f"{figure.value:.4f} ({figure.low:.3f} to {figure.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    args = parser.parse_args()

    config = load_config(args.config, args.set)
    palette = config.palette()
    image_mpp = config.dataset.image_mpp or 0.5
    loaded = load_model_folder(config.resolve(config.train.model_dir) / config.train.use)
    predictor = KerasPredictor(
        loaded.model, loaded.geometry, loaded.card.mpp, PredictionSettings.of_config(config)
    )
    folders = config.folder("test", "images_dir"), config.folder("test", "masks_dir")
    pairs = whole_pairs(*folders) or pair(*folders)

    ours: list[ImageScore] = []
    theirs: list[ImageScore] = []
    truths: list[UInt8] = []
    tiled: list[UInt8] = []
    moved: list[UInt8] = []
    published: list[UInt8] = []
    began = time.perf_counter()
    for one in pairs:
        image, truth = read_image(one.image), read_mask(one.mask, palette)
        labels = segment_image(image, predictor, TilingSettings.of_config(config), image_mpp).labels
        for labels_in_tiles, target in zip(
            predict_in_tiles(image, predictor, image_mpp), (tiled, moved), strict=True
        ):
            target.append(labels_in_tiles)
        published.append(read_mask(args.data / "reference_predictions" / f"{one.stem}.png", palette))
        truths.append(truth)
        ours.append(score_image(labels, truth, palette.num_classes, image_mpp))
        theirs.append(score_image(published[-1], truth, palette.num_classes, image_mpp))

    print(f"{len(pairs)} images: {', '.join(p.stem for p in pairs)}; {time.perf_counter() - began:.0f} s")
    mine, other = summarise(ours).classes[0], summarise(theirs).classes[0]
    difference = paired_difference(theirs, ours)[0]
    print("| score | glomtile | reference | difference, paired |\n|---|---|---|---|")
    for name in FIGURES:
        row = mine.figures[name], other.figures[name], difference[name]
        print(f"| {name} | {' | '.join(map(formatted, row))} |")
    names = ("true_positive", "false_positive", "false_negative")
    counts = [sum(getattr(score.classes[0], name) for score in ours) for name in names]
    print(f"| true / false positives / false negatives | {' / '.join(map(str, counts))} | | |")
    for stem, score, reference in zip((p.stem for p in pairs), ours, theirs, strict=True):
        print(f"| Dice of {stem} | {score.classes[0].dice:.4f} | {reference.classes[0].dice:.4f} | |")
    seams = [seam_ratio(labels) for labels in (tiled, published, truths)]
    print(
        f"| seam ratio at {FORCED_TILE_PX} px (truth: {seams[2]:.2f}) | {seams[0]:.2f} | {seams[1]:.2f} | |"
    )
    print(f"| grid sensitivity | {100 * grid_sensitivity(tiled, moved):.4f} % | | |")


if __name__ == "__main__":
    main()
