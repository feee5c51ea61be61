"""What a trained model is worth on real test images, beside the reference, and how visible its tiles are.

    python benchmarks/real_glomeruli.py projects/flexunet/glomeruli/glomeruli.toml ../shared/data/glomeruli

The config's test images are segmented three times: as the config says (Dice, objects, intervals); with the
window's own part forced to 512 image pixels (seam ratio); and again with that grid moved by half a window
(grid sensitivity). DATA holds `images`, `masks` and `reference_predictions`, the published masks of
TensorFlow-FlexUNet-Tiled-Image-Segmentation-Glomeruli, which are scored on the same images.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from glomtile.config.load import load_config
from glomtile.config.schema import Config
from glomtile.datasets.pairing import Pair, pair, whole_pairs
from glomtile.evaluation.bootstrap import Figure
from glomtile.evaluation.metrics import ImageScore, paired_difference, score_image, summarise
from glomtile.evaluation.seams import grid_sensitivity, seam_ratio
from glomtile.inference.image import Tiling, segment_image
from glomtile.inference.predictor import KerasPredictor, PredictionSettings
from glomtile.io.images import read_image
from glomtile.io.masks import read_mask
from glomtile.models.folder import load_model_folder
from glomtile.types import UInt8

FORCED_TILE_PX = 512
FIGURES = ("pooled_dice", "mean_dice", "pooled_precision", "pooled_recall", "object_f1")


def test_pairs(config: Config) -> list[Pair]:
    images, masks = config.folder("test", "images_dir"), config.folder("test", "masks_dir")
    return whole_pairs(images, masks) or pair(images, masks)


def shown(figure: Figure) -> str:
    return f"{figure.value:.4f} ({figure.low:.3f} to {figure.high:.3f})"


def forced(config: Config, image_mpp: float, context_px: int) -> Tiling:
    """Windows whose own part is 512 image pixels, with the margins that the network's context needs."""
    zoom = (config.model.mpp or image_mpp) / image_mpp
    return Tiling(split_size=round(FORCED_TILE_PX / zoom), overlapping=context_px)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    told = parser.parse_args()

    config = load_config(told.config, told.set)
    palette = config.palette()
    image_mpp = config.dataset.image_mpp or 0.5
    loaded = load_model_folder(config.resolve(config.train.model_dir) / config.train.use)
    predictor = KerasPredictor(
        loaded.model, loaded.geometry, loaded.card.mpp, PredictionSettings.of_config(config)
    )
    tiling = forced(config, image_mpp, predictor.context_px)
    half = round(tiling.split_size / 2)

    ours: list[ImageScore] = []
    theirs: list[ImageScore] = []
    truths: list[UInt8] = []
    tiled: list[UInt8] = []
    moved: list[UInt8] = []
    published: list[UInt8] = []
    pairs = test_pairs(config)
    began = time.perf_counter()
    for one in pairs:
        image, truth = read_image(one.image), read_mask(one.mask, palette)
        labels = segment_image(image, predictor, config.tiledinfer, image_mpp).labels
        tiled.append(segment_image(image, predictor, tiling, image_mpp).labels)
        moved.append(segment_image(image, predictor, tiling, image_mpp, offset_px=(half, half)).labels)
        published.append(read_mask(told.data / "reference_predictions" / f"{one.stem}.png", palette))
        truths.append(truth)
        ours.append(score_image(labels, truth, palette.num_classes, image_mpp))
        theirs.append(score_image(published[-1], truth, palette.num_classes, image_mpp))

    print(f"{len(pairs)} images: {', '.join(p.stem for p in pairs)}; {time.perf_counter() - began:.0f} s")
    mine, other = summarise(ours).classes[0], summarise(theirs).classes[0]
    difference = paired_difference(theirs, ours)[0]
    print("| figure | ours | reference | difference (ours - reference) |\n|---|---|---|---|")
    for name in FIGURES:
        row = mine.figures[name], other.figures[name], difference[name]
        print(f"| {name} | {' | '.join(shown(figure) for figure in row)} |")
    counts = [
        sum(getattr(s.classes[0], name) for s in ours)
        for name in ("true_positive", "false_positive", "false_negative")
    ]
    print(f"| objects found / false / missed | {' / '.join(map(str, counts))} | | |")
    for stem, score, reference in zip((p.stem for p in pairs), ours, theirs, strict=True):
        print(f"| Dice of {stem} | {score.classes[0].dice:.4f} | {reference.classes[0].dice:.4f} | |")
    seams = [seam_ratio(labels, FORCED_TILE_PX) for labels in (tiled, published, truths)]
    print(
        f"| seam ratio at {FORCED_TILE_PX} px (truth: {seams[2]:.2f}) | {seams[0]:.2f} | {seams[1]:.2f} | |"
    )
    print(f"| grid sensitivity | {100 * grid_sensitivity(tiled, moved):.4f} % | | |")


if __name__ == "__main__":
    main()
