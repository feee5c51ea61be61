"""Draw every image of the site: painted tissue, windows, scores, the bundled model.

python docs/docsite/images.py                       # all that need no other files
python docs/docsite/images.py dice mpp              # only these
python docs/docsite/images.py --tutorial WORK       # images of the tutorial; WORK is record.py's folder
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from glomtile.evaluation.metrics import score_image
from glomtile.palette import GLOMERULI
from glomtile.synthetic import paint
from glomtile.tiling.blending import shares
from glomtile.tiling.grid import Axis, plan_windows

IMAGES = Path(__file__).resolve().parents[1] / "images"
INK, QUIET, RED, BLUE, GREEN = "#212529", "#60676e", "#d1242f", "#005ac8", "#009e73"
WIDEST_PX = 1280

plt.rcParams.update(
    {
        "font.size": 9, "axes.edgecolor": QUIET, "axes.labelcolor": INK, "text.color": INK,
        "xtick.color": QUIET, "ytick.color": QUIET, "axes.spines.top": False, "axes.spines.right": False,
        "savefig.dpi": 110, "figure.constrained_layout.use": True,
    }
)  # fmt: skip


def keep(name: str, figure: Any = None, pixels: Any = None) -> None:
    """Write a chart as PNG with few colours or an image as JPEG, by the suffix of the name."""
    path = IMAGES / name
    if figure is not None:
        figure.canvas.draw()
        figure.canvas.draw()  # the layout settles in two
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        plt.close(figure)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > WIDEST_PX:
        image = image.resize(
            (WIDEST_PX, round(image.height * WIDEST_PX / image.width)), Image.Resampling.LANCZOS
        )
    if path.suffix == ".jpg":
        image.save(path, quality=82, optimize=True)
    else:
        image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {image.width} x {image.height}, {path.stat().st_size / 1024:.0f} kB", flush=True)


def bare(axes: Any, title: str = "") -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=9)
    return axes


def outlined(image: Any, labels: Any, colour: tuple[int, int, int] = (209, 36, 47), line_px: int = 2) -> Any:
    """Draw the outlines of a mask on an image."""
    contours, _ = cv2.findContours(
        np.ascontiguousarray(labels > 0, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(image.copy(), contours, -1, colour, line_px)


def around_a_glomerulus(seed: int, side_px: int, mpp: float) -> Any:
    """Crop a square around the glomerulus nearest to the centre of a painted biopsy."""
    biopsy = paint(seed, (2 * side_px, 2 * side_px), mpp)
    _, _, boxes, centres = cv2.connectedComponentsWithStats((biopsy.labels > 0).astype(np.uint8))
    whole = boxes[1:, cv2.CC_STAT_AREA] > np.median(boxes[1:, cv2.CC_STAT_AREA]) / 2
    away = np.abs(centres[1:] - side_px).max(axis=1) + np.where(whole, 0, side_px)
    column, row = (int(v) - side_px // 2 for v in centres[1:][np.argmin(away)])
    row, column = (int(np.clip(v, 0, side_px)) for v in (row, column))
    return biopsy.image[row : row + side_px, column : column + side_px]


# --- geometry -------------------------------------------------------------------------------------------


def tiles() -> None:
    """Draw windows over an image, their margins and owned areas, and the weights along one row."""
    side, window, overlap = 512, 192, 32
    image = paint(21, (side, side), 1.0).image
    plan = plan_windows((side, side), (window, window), overlap, 16)
    figure = plt.figure(figsize=(9, 5.6))
    grid = figure.add_gridspec(1, 2, width_ratios=[1.15, 1])
    left = bare(
        figure.add_subplot(grid[0]), f"{window} px windows with an owned area of {window - 2 * overlap} px"
    )
    reach = overlap + window - 2 * overlap
    hull = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REFLECT)
    pale = np.full_like(hull, 255)
    pale = cv2.addWeighted(hull, 0.35, pale, 0.65, 0)
    pale[reach : reach + side, reach : reach + side] = image
    left.imshow(pale, extent=(-reach, side + reach, side + reach, -reach))
    for shown in plan:
        own, read = shown.own, shown.read
        left.add_patch(Rectangle((own.left, own.top), own.width, own.height, fill=False, ec="white", lw=1))
        if (shown.row, shown.column) in ((0, 0), (1, 2)):
            left.add_patch(
                Rectangle((read.left, read.top), read.width, read.height, fc=BLUE, ec=BLUE, alpha=0.25)
            )
            left.add_patch(
                Rectangle((read.left, read.top), read.width, read.height, fill=False, ec=BLUE, lw=2)
            )
            left.add_patch(Rectangle((own.left, own.top), own.width, own.height, fill=False, ec=RED, lw=2))
    left.set_xlim(-60, side + 60)
    left.set_ylim(side + 60, -60)
    left.set_xlabel("blue: window, mirrored outside the image; red: owned area", fontsize=8)
    right = figure.add_subplot(grid[1])
    weigh(right, Axis(side, window, overlap), 0)
    keep("tiles.jpg", figure)


def weigh(axes: Any, axis: Axis, context_px: int) -> None:
    total = np.zeros(axis.length_px)
    for number, share in enumerate(shares(axis, context_px)):
        pixels = np.arange(share.span.start, share.span.stop)
        axes.fill_between(pixels, share.weights, alpha=0.25, lw=0, color=BLUE if number % 2 else RED)
        axes.plot(pixels, share.weights, lw=1.4, color=BLUE if number % 2 else RED)
        total[share.span.start : share.span.stop] += share.weights
    axes.plot(total, color=INK, lw=1, ls="--")
    axes.set(xlabel="pixel of the image", ylabel="weight of a window", ylim=(0, 1.12))
    axes.set_title("weights along a row of windows; dashed: their sum", fontsize=9)


def weights() -> None:
    """Draw the weights for three margins and the same context."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.7), sharey=True)
    for axis, (overlap, context) in zip(axes, ((0, 48), (32, 48), (64, 48)), strict=True):
        weigh(axis, Axis(512, 192, overlap), context)
        arguments = (
            "no margin: hard edges"
            if not overlap
            else (
                "margin below the context" if overlap < context else "margin above it: cut context weighs 0"
            )
        )
        axis.set_title(arguments, fontsize=9)
        axis.set_ylabel("weight" if overlap == 0 else "")
    keep("weights.png", figure)


def flexunet() -> None:
    """Draw a tile with its margins at the training resolution, and shrunk to the network's input."""
    tile, margin = 512, 64
    wide = around_a_glomerulus(33, tile + 2 * margin, 0.5)
    at = wide[margin:-margin, margin:-margin]
    shrunk = cv2.resize(wide, (tile, tile), interpolation=cv2.INTER_AREA)
    side, gap = tile + 2 * margin, 48
    canvas = np.full((side, 2 * tile + side + 2 * gap, 3), 255, np.uint8)
    lefts = (0, tile + gap, 2 * (tile + gap))
    for left, pixels in zip(lefts, (at, shrunk, wide), strict=True):
        top = (side - pixels.shape[0]) // 2
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    figure, axis = plt.subplots(figsize=(9.5, 3.7))
    bare(axis).imshow(canvas)
    titles = (
        "training: a tile of 512 px",
        "reference: 640 px shrunk to 512",
        "glomtile: 640 px, same resolution",
    )
    for left, width, title in zip(lefts, (tile, tile, side), titles, strict=True):
        axis.text(left + width / 2, -18, title, ha="center", fontsize=9)
    inner = round(tile * tile / side)
    for left, top, width in ((lefts[1], margin, inner), (lefts[2], margin, tile)):
        step = (tile - inner) / 2 if width == inner else 0
        corner = left + (step or margin), top + step
        axis.add_patch(Rectangle(corner, width, width, fill=False, ec=RED, lw=1.6))
    keep("flexunet.jpg", figure)


def mpp() -> None:
    """Draw one field at five resolutions, and the part covered by a window of 192 px."""
    field_um, window = 1000, 192
    whole = around_a_glomerulus(48, 2000, 0.5)
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.4))
    for column, scale in enumerate((0.5, 1.0, 2.0, 4.0, 8.0)):
        side = round(field_um / scale)
        small = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
        top = bare(axes[0, column], f"{scale:g} µm per pixel")
        top.imshow(whole, extent=(0, field_um, field_um, 0))
        reach = window * scale
        start = max(0.0, (field_um - reach) / 2)
        top.add_patch(
            Rectangle((start, start), min(reach, field_um), min(reach, field_um), fill=False, ec=BLUE, lw=2)
        )
        first = round(start / scale)
        seen = small[first : first + window, first : first + window]
        bare(axes[1, column], f"{seen.shape[1]} px of it").imshow(seen, interpolation="nearest")
    axes[0, 0].set_ylabel("1 mm of tissue, blue:\na window of 192 px")
    axes[1, 0].set_ylabel("content of the window")
    keep("mpp.jpg", figure)


def split() -> None:
    """Draw tiles of four images, split by image and by tile."""
    images = [paint(60 + k, (256, 256), 2.0).image for k in range(4)]
    colours = {"train": (0, 158, 115), "valid": (230, 150, 0), "test": (0, 90, 200)}
    by_image = ["train", "train", "valid", "test"]
    rng = np.random.default_rng(4)
    figure, axes = plt.subplots(2, 4, figsize=(9, 4.6))
    for row, way in enumerate(
        ("by image: the test image is new to the network", "by tile: the network has seen its neighbours")
    ):
        for column, image in enumerate(images):
            axis = bare(axes[row, column])
            axis.imshow(image)
            for tile in range(16):
                name = by_image[column] if row == 0 else str(rng.choice(list(colours), p=(0.6, 0.2, 0.2)))
                corner = (tile % 4 * 64 + 2, tile // 4 * 64 + 2)
                shade = tuple(part / 255 for part in colours[name])
                axis.add_patch(Rectangle(corner, 60, 60, fc=(*shade, 0.35), ec=shade, lw=1.5))
        axes[row, 0].set_title(way, fontsize=9, loc="left")
    handles = [Rectangle((0, 0), 1, 1, color=tuple(p / 255 for p in rgb)) for rgb in colours.values()]
    figure.legend(handles, list(colours), loc="outside lower center", ncols=3, frameon=False)
    keep("split.jpg", figure)


# --- figures --------------------------------------------------------------------------------------------


def _dice_pair() -> tuple[Any, Any, Any, Any]:
    biopsy = paint(77, (640, 640), 2.0)
    truth = biopsy.labels
    _, ids, boxes, _ = cv2.connectedComponentsWithStats((truth > 0).astype(np.uint8), connectivity=8)
    thin = cv2.erode(truth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    goal = _dice(truth, thin)
    other = truth.copy()
    order = np.argsort(boxes[1:, cv2.CC_STAT_AREA]) + 1
    for k in order:
        if _dice(truth, np.where(ids == k, 0, other)) < goal + 0.01:
            break
        other = np.where(ids == k, 0, other).astype(np.uint8)
    rng = np.random.default_rng(5)
    tissue = biopsy.image.max(axis=2) < 225
    while _dice(truth, other) > goal:
        row, column = rng.integers(20, 620, 2)
        if tissue[row, column] and not truth[row - 14 : row + 14, column - 14 : column + 14].any():
            cv2.circle(other, (int(column), int(row)), int(rng.integers(2, 6)), 1, -1)
    return biopsy.image, truth, thin, other


def _dice(truth: Any, prediction: Any) -> float:
    both = np.count_nonzero((truth > 0) & (prediction > 0))
    return 2 * both / (np.count_nonzero(truth) + np.count_nonzero(prediction))


def dice() -> None:
    """Draw two masks of equal Dice with their object counts."""
    image, truth, thin, other = _dice_pair()
    figure, axes = plt.subplots(1, 2, figsize=(9, 5.1))
    for axis, mask in zip(axes, (thin, other), strict=True):
        score = score_image(mask, truth, 2).classes[0]
        bare(
            axis,
            f"Dice {score.dice:.3f}    object F1 {score.object_f1:.2f}\n"
            f"{score.true_positive} true positives, {score.false_positive} false positives, "
            f"{score.false_negative} false negatives",
        )
        pixels = cv2.addWeighted(image, 0.55, np.full_like(image, 255), 0.45, 0)
        pixels[(truth > 0) & (mask > 0)] = (
            pixels[(truth > 0) & (mask > 0)] * 0.5 + np.array((0, 158, 115)) * 0.5
        )
        pixels[(truth > 0) & (mask == 0)] = (0, 90, 200)
        pixels[(truth == 0) & (mask > 0)] = (230, 120, 0)
        axis.imshow(pixels)
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in ("#4f9f8a", "#e67800", "#005ac8")]
    figure.legend(
        handles,
        ["in both", "only predicted", "only in truth"],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    keep("dice.jpg", figure)


def foreground() -> None:
    """Draw accuracy and Dice of an empty and of a good prediction."""
    biopsy = paint(48, (768, 768), 2.0)
    truth = biopsy.labels
    good = cv2.erode(truth, np.ones((5, 5), np.uint8))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1, 1.4])
    share = np.count_nonzero(truth) / truth.size
    bare(axes[0], f"glomeruli are {share:.1%} of the pixels").imshow(outlined(biopsy.image, truth, line_px=3))
    names, values = ["pixel accuracy", "Dice of glomeruli", "recall", "object F1"], {}
    for title, mask in (("empty prediction", np.zeros_like(truth)), ("rims missing", good)):
        score = score_image(mask, truth, 2).classes[0]
        accuracy = float(np.mean(truth == mask))
        f1 = 0.0 if np.isnan(score.object_f1) else score.object_f1
        values[title] = [accuracy, score.dice, score.recall, f1]
    for number, (title, found) in enumerate(values.items()):
        places = np.arange(4) + (number - 0.5) * 0.36
        bars = axes[1].bar(places, found, 0.34, label=title, color=(QUIET, GREEN)[number])
        axes[1].bar_label(bars, [f"{value:.2f}" for value in found], fontsize=8)
    axes[1].set_xticks(range(4), names)
    axes[1].set_ylim(0, 1.12)
    axes[1].legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 1.15), ncols=2)
    keep("foreground.png", figure)


# --- the bundled model ----------------------------------------------------------------------------------


def _segmented(side_px: int, mpp: float, seed: int = 101) -> tuple[Any, Any, Any]:
    from glomtile import Segmenter
    from glomtile.io.images import write_png

    biopsy = paint(seed, (side_px, side_px), mpp)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "biopsy.png"
        write_png(path, biopsy.image, mpp)
        result = Segmenter.load().segment(path)
        written = result.save(Path(folder) / "out")
        mask = next(p for p in written if p.parent.name == "masks")
        return biopsy, result, np.asarray(Image.open(mask))


def qupath() -> None:
    """A glomerulus with the pixels of its mask and the polygon of its GeoJSON."""
    import shapely

    biopsy, result, labels = _segmented(700, 1.0)
    found = max(result.objects, key=lambda one: one.measures.area_um2 * (not one.measures.touches_border))
    left, top, right, bottom = (int(v) for v in found.polygon.bounds)
    box = slice(max(0, top - 25), bottom + 25), slice(max(0, left - 25), right + 25)
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.4))
    crop = biopsy.image[box]
    where = (box[1].start, box[1].start + crop.shape[1], box[0].start + crop.shape[0], box[0].start)
    mask = labels[box]
    shade = crop.copy()
    shade[mask > 0] = shade[mask > 0] * 0.55 + np.array((209, 36, 47)) * 0.45
    bare(axes[0], "the mask").imshow(shade, extent=where, interpolation="nearest")
    bare(axes[1], "the outline and its points, as QuPath gets them").imshow(crop, extent=where)
    for part in shapely.get_parts(found.polygon):
        x, y = part.exterior.xy
        axes[1].plot(x, y, color=RED, lw=1.6, marker="o", ms=2.2)
    axes[1].set_xlim(where[:2])
    axes[1].set_ylim(where[2:])
    keep("qupath.jpg", figure)


def seams() -> None:
    """Probabilities of the bundled model by windows without margins, blended, and in one piece."""
    from glomtile.inference.image import TilingSettings, segment_image

    predictor, image = _bundled_predictor(), paint(48, (448, 448), 2.0).image
    ways = {
        "windows of 128 px, pasted": TilingSettings(tile_px=128, overlap_px=0, blend="none"),
        "with margins of 32 px, blended": TilingSettings(tile_px=128, overlap_px=32),
        "in one piece": TilingSettings(tile_px=448, overlap_px=112),
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.5))
    for axis, (title, way) in zip(axes, ways.items(), strict=True):
        probs = segment_image(image, predictor, way, 2.0, keep_probs=True).probs
        pale = cv2.addWeighted(image, 0.35, np.full_like(image, 255), 0.65, 0)
        bare(axis, title).imshow(pale)
        axis.imshow(
            probs[..., 1], cmap="magma_r", alpha=np.clip(probs[..., 1] * 1.2, 0, 0.85), vmin=0, vmax=1
        )
        if "piece" not in title:
            for line in (128, 256, 384):
                axis.axhline(line, color=BLUE, lw=0.7)
                axis.axvline(line, color=BLUE, lw=0.7)
        axis.set_xlim(70, 448)
        axis.set_ylim(230, 0)
    keep("seams.jpg", figure)


def _bundled_predictor() -> Any:
    from glomtile.inference.predictor import KerasPredictor
    from glomtile.models.folder import load_model_folder

    loaded = load_model_folder(_bundled_folder())
    return KerasPredictor(loaded.model, loaded.geometry, loaded.card.mpp)


def tissue() -> None:
    """A slide made small, where tissue was found, and the windows that the network looks at."""
    from glomtile.slides.tissue import find_tissue
    from glomtile.synthetic import SyntheticSlide
    from glomtile.types import Box

    mpp, window, overlap = 4.0, 112, 16
    slide = SyntheticSlide(12, (1000, 2000), mpp)
    thumbnail = slide.read(Box(0, 0, *slide.size_px)).copy()
    _, cores = cv2.connectedComponents((find_tissue(thumbnail, mpp) > 0).astype(np.uint8))
    kept = np.isin(cores, (cores[500, 500], cores[500, 1400]))
    glass = np.median(thumbnail[cores == 0], axis=0)
    thumbnail[~kept & (np.abs(thumbnail - glass).max(axis=2) > 4)] = glass
    found = find_tissue(thumbnail, mpp)
    plan = plan_windows(slide.size_px, (window, window), overlap, 16)
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.9))
    bare(axes[0], "the slide").imshow(thumbnail)
    seen = 0
    pale = cv2.addWeighted(thumbnail, 0.5, np.full_like(thumbnail, 255), 0.5, 0)
    pale[found > 0] = pale[found > 0] * 0.6 + np.array((0, 158, 115)) * 0.4
    bare(axes[1]).imshow(pale)
    for shown in plan:
        own = shown.own
        looked = bool(np.any(found[own.top : own.bottom, own.left : own.right]))
        seen += looked
        if looked:
            axes[1].add_patch(
                Rectangle((own.left, own.top), own.width, own.height, fill=False, ec=BLUE, lw=0.8)
            )
    axes[1].set_title(
        f"green: tissue; blue: the {seen} of {len(plan)} windows that are looked at", fontsize=9
    )
    keep("tissue.jpg", figure)


def export() -> None:
    """Probabilities by the trained network and by its int8 export."""
    from glomtile.inference.export import export as verb
    from glomtile.io.images import write_png

    bundled = _bundled_folder()
    image = paint(48, (256, 256), 2.0).image
    with tempfile.TemporaryDirectory() as folder:
        for number in range(6):
            write_png(
                Path(folder) / "calibration" / f"{number}.png",
                paint(300 + number, (256, 256), 2.0).image,
                2.0,
            )
        shutil.copytree(bundled, Path(folder) / "model")
        small = Path(folder) / "small.onnx"
        verb(Path(folder) / "model", small, precision="int8", calibration=Path(folder) / "calibration")
        from glomtile.inference.predictor import openvino_forward
        from glomtile.models.folder import load_model_folder

        batch = image[None].astype(np.float32)
        trained = np.asarray(load_model_folder(bundled).model(batch, training=False))[0, ..., 1]
        exported = np.asarray(openvino_forward(small)[0](batch))[0, ..., 1]
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
    bare(axes[0], "the window").imshow(image)
    bare(axes[1], "trained, float32").imshow(trained, cmap="magma_r", vmin=0, vmax=1)
    bare(axes[2], "exported, int8").imshow(exported, cmap="magma_r", vmin=0, vmax=1)
    off = np.abs(trained - exported)
    changed = np.mean((trained > 0.5) != (exported > 0.5))
    shown = bare(axes[3], f"difference; {changed:.2%} of labels change").imshow(
        off, cmap="viridis", vmin=0, vmax=0.5
    )
    figure.colorbar(shown, ax=axes[3], shrink=0.8)
    keep("export.png", figure)


def _bundled_folder() -> Path:
    import glomtile

    return Path(glomtile.__file__).parent / "models" / "glomeruli-pas"


# --- training -------------------------------------------------------------------------------------------


def resume() -> None:
    """The curves of a run in one piece and of one stopped and resumed, tiny networks both."""
    from glomtile.config.load import make_config
    from glomtile.io.images import write_png
    from glomtile.io.masks import write_mask
    from glomtile.training.train import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(3):
            biopsy = paint(40 + number, (256, 256), 2.0)
            write_png(folder / "images" / f"{number}.png", biopsy.image, 2.0)
            write_mask(folder / "masks" / f"{number}.png", biopsy.labels, GLOMERULI, 2.0)

        def settings(run: str, epochs: int) -> Any:
            return make_config(
                {
                    "model": {
                        "model": "FlexUNet", "mpp": 2.0, "image_width": 96, "image_height": 96,
                        "base_filters": 4, "num_layers": 4, "norm": "batch", "learning_rate": 0.003,
                        "loss": "dice_crossentropy", "metrics": ("foreground_dice",),
                    },
                    "dataset": {"sampling": "crops", "samples_per_epoch": 16},
                    "train": {
                        "images_dir": str(folder / "images"), "masks_dir": str(folder / "masks"),
                        "model_dir": str(folder / run / "models"), "eval_dir": str(folder / run / "eval"),
                        "epochs": epochs, "patience": 0, "use": "last", "epoch_change_infer": False,
                        "metrics": ("foreground_dice", "val_foreground_dice"),
                    },
                    "mask": {"rgb_map": {(0, 0, 0): 0, (255, 0, 0): 1}},
                },
                folder,
            )  # fmt: skip

        whole = [float(epoch["loss"]) for epoch in train(settings("whole", 8)).history]
        first = [float(epoch["loss"]) for epoch in train(settings("parts", 4)).history]
        both = [float(epoch["loss"]) for epoch in train(settings("parts", 8), resume=True).history]
    figure, axis = plt.subplots(figsize=(7, 2.8))
    epochs = np.arange(1, 9)
    axis.plot(epochs, whole, color=BLUE, lw=5, alpha=0.3, label="in one piece")
    axis.plot(epochs[:4], first, color=RED, marker="o", label="stopped after epoch 4")
    axis.plot(epochs[3:], both[3:], color=GREEN, marker="s", ls="--", label="resumed")
    same = (
        "equal to the last bit"
        if whole == both
        else f"up to {max(abs(a - b) for a, b in zip(whole, both, strict=True)):.2g} apart"
    )
    axis.set(xlabel="epoch", ylabel="loss", title=f"losses of the two runs: {same}")
    axis.legend(frameon=False)
    keep("resume.png", figure)


def tutorial(work: Path) -> None:
    """What the tutorial's commands drew, made small."""
    sheet = sorted((work / "evaluation" / "sheets").glob("01_*.png"))[0]
    keep("tutorial-sheet.jpg", pixels=_rgb(sheet))
    keep("tutorial-augmented.jpg", pixels=_rgb(next(work.rglob("*_Augmented.png")), widest_px=800))
    curves = [_rgb(work / "eval" / f"train_{name}.png") for name in ("losses", "metrics")]
    height = min(curve.shape[0] for curve in curves)
    keep("tutorial-curves.png", pixels=np.hstack([curve[:height] for curve in curves]))
    keep("tutorial-overlay.jpg", pixels=_rgb(sorted((work / "out" / "overlays").glob("*.jpg"))[1]))


def _rgb(path: Path, widest_px: int = WIDEST_PX) -> Any:
    pixels = Image.open(path).convert("RGB")
    pixels.thumbnail((widest_px, 10 * widest_px), Image.Resampling.LANCZOS)
    return np.asarray(pixels)


IMAGE_NAMES: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        tiles,
        weights,
        flexunet,
        mpp,
        split,
        dice,
        foreground,
        qupath,
        seams,
        tissue,
        export,
        resume,
    )
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IMAGE_NAMES))
    parser.add_argument("--tutorial", type=Path, metavar="WORK")
    arguments = parser.parse_args()
    if arguments.tutorial:
        tutorial(arguments.tutorial)
    for name in arguments.names or ([] if arguments.tutorial else IMAGE_NAMES):
        IMAGE_NAMES[name]()
