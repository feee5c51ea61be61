"""Robustness of a model: scores of perturbed images, and quality flags of the results that fail.

    glomtile crossval CONFIG --folds 4 ...
    python benchmarks/stress.py FOLDS DATA --out stress

FOLDS contains `fold-<k>/models/last`, a model folder, and `fold-<k>/held_out.json`, the stems of the fold's
held-out images; DATA contains `images` and `masks`. Every held-out image is perturbed in each way and
segmented by its fold's model as by `glomtile segment`; painted biopsies have seeds that no training uses. A
result fails if its Dice is below 0.7, or below 0.8 of the Dice of the same image unperturbed. No limit is set
here: the limits of the quality flags come from the folds' training images. Prints the tables, and writes
`stress.csv`, one row per image and condition, and `stress.png`, the worst image of each condition.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
from numpy.typing import NDArray

from glomtile.config.load import load_config
from glomtile.contact_sheets import BOTH, ONLY_PREDICTED, ONLY_TRUE, grid_sheet
from glomtile.datasets.loading import split_pairs
from glomtile.evaluation.metrics import ClassScore, ImageScore, score_image, summarise
from glomtile.inference.quality_control import QualityFlags
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import read_image, resize_to_mpp, write_png
from glomtile.io.masks import read_mask
from glomtile.io.tables import write_csv
from glomtile.palette import GLOMERULI
from glomtile.slides.backends import levels_of
from glomtile.slides.slide import Slide
from glomtile.synthetic import Dyes, draw_dyes, paint
from glomtile.training.stain import stain_vectors
from glomtile.training.train import reference_statistics
from glomtile.types import Box, UInt8

MPP = 0.5
FAILED_DICE, FAILED_SHARE = 0.7, 0.8
CELL_PX, COLUMNS = 320, 5
PAINTED_PX, PAINTED_SEED = 1024, 200_000
GLASS = 243
"""Grey level of bare glass, which no stain changes."""

Vector = tuple[float, float, float]
Perturb = Callable[[UInt8, UInt8, np.random.Generator], tuple[UInt8, UInt8]]
"""``(image, truth, rng) -> (image, truth)``."""

# Unit optical densities, from Ruifrok and Johnston 2001 and later tables for other dyes.
EOSIN: Vector = (0.072, 0.990, 0.105)
METHYL_BLUE: Vector = (0.800, 0.591, 0.105)
PONCEAU: Vector = (0.100, 0.737, 0.668)
SILVER: Vector = (0.577, 0.577, 0.577)
PALE_GREEN: Vector = (0.750, 0.350, 0.560)


@dataclass(frozen=True)
class Perturbation:
    """A condition of the tables."""

    name: str
    family: str
    make: Perturb


def perturbations() -> list[Perturbation]:
    """Return all conditions of real images, the unperturbed one first."""
    eosin, ponceau, blue, green, silver = map(np.array, (EOSIN, PONCEAU, METHYL_BLUE, PALE_GREEN, SILVER))
    images: list[tuple[str, str, Callable[[UInt8], UInt8]]] = [
        *((f"stain hue {d:+d}°", "stain", _mix_densities(_hue_rotation(d))) for d in (-20, -10, 10, 20)),
        ("H&E-like", "stain", _mix_densities(_restain(stain_vectors()[0], eosin, 1.0, 0.7))),
        ("trichrome-like", "stain", _mix_densities(_restain(ponceau, blue, 0.9, 0.9))),
        ("silver-like", "stain", _mix_densities(_restain(green, silver, 0.6, 1.5))),
        *((f"density x {gain}", "intensity", _mix_densities(gain * np.eye(3))) for gain in (0.6, 1.5)),
        *((f"blur {sigma} px", "blur", _blur(sigma)) for sigma in (1, 2, 3)),
        *((f"JPEG {quality}", "JPEG", _jpeg(quality)) for quality in (50, 20)),
    ]
    return [
        Perturbation("unchanged", "unchanged", lambda image, truth, _: (image, truth)),
        *(Perturbation(name, family, _image_only(change)) for name, family, change in images),
        *(Perturbation(f"noise {steps}", "noise", _noise(steps)) for steps in (10, 25)),
        *(Perturbation(f"scale x {factor:g}", "scale", _scale(factor)) for factor in (0.5, 0.7, 1.4, 2.0)),
    ]


def painted_stains(seed: int) -> dict[str, Dyes]:
    """Return the dyes of painted biopsies by stain: a PAS of another laboratory, and three other stains."""
    rng = np.random.default_rng([seed, 5])

    def dye(vector: Vector, strength: float) -> Vector:
        drawn = np.abs(np.array(vector) + rng.uniform(-0.04, 0.04, 3))
        drawn *= strength * np.exp(rng.uniform(-0.2, 0.2)) / np.linalg.norm(drawn)
        return tuple(drawn.tolist())  # type: ignore[return-value]

    violet: Vector = tuple(stain_vectors()[0].tolist())  # type: ignore[assignment]
    return {
        "PAS": draw_dyes(seed, 1.0),
        "H&E": Dyes(dye(violet, 1.3), dye(EOSIN, 1.0)),
        "trichrome": Dyes(dye(PONCEAU, 1.2), dye(METHYL_BLUE, 1.3)),
        "silver": Dyes(dye(PALE_GREEN, 0.7), dye(SILVER, 2.0)),
    }


def painted(count: int) -> Iterator[tuple[str, int, UInt8, UInt8]]:
    """Yield ``(condition, seed, image, truth)`` of `count` painted biopsies of the hard preset per stain."""
    for seed in range(PAINTED_SEED, PAINTED_SEED + count):
        for name, dyes in painted_stains(seed).items():
            biopsy = paint(seed, (PAINTED_PX, PAINTED_PX), MPP, "hard", dyes)
            yield f"painted {name}", seed, biopsy.image, biopsy.labels


def _image_only(change: Callable[[UInt8], UInt8]) -> Perturb:
    return lambda image, truth, _: (change(image), truth)


def _mix_densities(mixing: NDArray[np.float64]) -> Callable[[UInt8], UInt8]:
    """Replace the optical densities of red, green and blue by ``density @ mixing``."""

    def change(image: UInt8) -> UInt8:
        density = -np.log((image.astype(np.float32) + 1) / (GLASS + 1))
        light = np.exp(-density @ mixing.astype(np.float32))
        return np.clip(np.rint(light * (GLASS + 1) - 1), 0, 255).astype(np.uint8)

    return change


def _restain(
    first: NDArray[np.float64], second: NDArray[np.float64], first_gain: float, second_gain: float
) -> NDArray[np.float64]:
    """Separate haematoxylin and periodic acid-Schiff, and replace them by two other dyes."""
    vectors = stain_vectors()
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    others = np.stack([first_gain * first, second_gain * second, 0.3 * vectors[2]])
    return np.linalg.inv(vectors) @ others


def _hue_rotation(degrees: float) -> NDArray[np.float64]:
    """Rotate all hues about the grey axis, by Rodrigues' formula; total densities stay."""
    axis, angle = np.full(3, 3**-0.5), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return rotation.T


def _blur(sigma: float) -> Callable[[UInt8], UInt8]:
    return lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _jpeg(quality: int) -> Callable[[UInt8], UInt8]:
    def change(image: UInt8) -> UInt8:
        _, stream = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(decoded[..., ::-1], np.uint8)

    return change


def _noise(steps: float) -> Perturb:
    def change(image: UInt8, truth: UInt8, rng: np.random.Generator) -> tuple[UInt8, UInt8]:
        grain = rng.normal(0, steps, image.shape)
        return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8), truth

    return change


def _scale(factor: float) -> Perturb:
    """Enlarge image and truth, while the recorded µm per pixel stay."""

    def change(image: UInt8, truth: UInt8, _: np.random.Generator) -> tuple[UInt8, UInt8]:
        resized = resize_to_mpp(image, factor, 1.0)
        size = (resized.shape[1], resized.shape[0])
        return resized, np.asarray(cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    return change


class ArrayPixels:
    """An image in memory as the pixels of a slide."""

    kind, plain, in_strips, mpp, mpp_source = "array", True, False, MPP, "given"

    def __init__(self, image: UInt8) -> None:
        self._image = image
        self.levels = levels_of([(image.shape[0], image.shape[1])])

    def read(self, level: int, box: Box) -> UInt8:
        return self._image[box.top : box.bottom, box.left : box.right]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """The result of one image under one condition."""

    fold: str
    stem: str
    condition: str
    family: str
    score: ImageScore
    quality: QualityFlags
    overlay: UInt8

    @property
    def counts(self) -> ClassScore:
        return self.score.classes[0]

    @property
    def dice(self) -> float:
        return self.counts.dice

    @property
    def flagged(self) -> bool:
        return bool(self.quality.warnings)


def loaded(fold: Path, args: argparse.Namespace) -> Segmenter:
    """Load the fold's model; reference statistics that it does not have are computed."""
    settings = {name: getattr(args, name) for name in ("tta", "threshold", "smoothing_px")}
    segmenter = Segmenter.load(fold / "models" / "last", **settings)
    if segmenter.card.reference_statistics is None:
        config = load_config(fold / "fold.toml")
        statistics = reference_statistics(config, split_pairs(config, "train"))
        card = segmenter.card.model_copy(update={"reference_statistics": statistics})
        segmenter = Segmenter(segmenter._predictor, card)
    return segmenter


def segmented(segmenter: Segmenter, image: UInt8, truth: UInt8, names: tuple[str, str, str, str]) -> Case:
    with Slide(Path(names[1]), ArrayPixels(image)) as slide:
        result = segmenter.segment(slide)
    labels = np.asarray(result.labels[:, :], np.uint8)
    score = score_image(labels, truth, 2, MPP)
    return Case(*names, score, result.quality, overlay(image, truth, labels))


def overlay(image: UInt8, truth: UInt8, labels: UInt8) -> UInt8:
    """Return the image reduced, tinted where prediction or truth is glomerulus."""
    tinted = image.copy()
    for colour, where in (
        (BOTH, (truth == 1) & (labels == 1)),
        (ONLY_PREDICTED, (truth == 0) & (labels == 1)),
        (ONLY_TRUE, (truth == 1) & (labels == 0)),
    ):
        tinted[where] = (0.5 * tinted[where] + 0.5 * np.array(colour)).astype(np.uint8)
    height, width = (max(1, round(n * CELL_PX / max(image.shape[:2]))) for n in image.shape[:2])
    return np.asarray(cv2.resize(tinted, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def fold_cases(
    fold: Path, segmenter: Segmenter, wanted: Sequence[Perturbation], args: argparse.Namespace
) -> Iterator[Case]:
    """Yield all cases of one fold's held-out images and of the painted biopsies."""
    for stem in json.loads((fold / "held_out.json").read_text("utf-8"))[: args.images]:
        image = read_image(args.data / "images" / f"{stem}.png")
        truth = read_mask(args.data / "masks" / f"{stem}.png", GLOMERULI)
        for one in wanted:
            perturbed, labels = one.make(image, truth, np.random.default_rng([7, *stem.encode()]))
            yield segmented(segmenter, perturbed, labels, (fold.name, stem, one.name, one.family))
    for condition, seed, image, truth in painted(args.painted):
        yield segmented(segmenter, image, truth, (fold.name, str(seed), condition, "painted"))


def failures(cases: Sequence[Case]) -> list[Case]:
    """Return the cases whose Dice is too low, alone or relative to the same image unperturbed."""
    before = {(case.fold, case.stem): case.dice for case in cases if case.condition == "unchanged"}
    return [
        case
        for case in cases
        if case.dice < FAILED_DICE or case.dice < FAILED_SHARE * before.get((case.fold, case.stem), 0)
    ]


def by_condition(cases: Iterable[Case]) -> dict[str, list[Case]]:
    conditions: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        conditions[case.condition].append(case)
    return conditions


def print_conditions(cases: Sequence[Case]) -> None:
    failed = {id(case) for case in failures(cases)}
    pooled_dice = {}
    print("| condition | images | pooled Dice | mean Dice | object F1 | failed | flagged |")
    print("|---|---|---|---|---|---|---|")
    for name, some in by_condition(cases).items():
        figures = summarise([case.score for case in some]).classes[0].figures
        pooled = figures["pooled_dice"]
        if some[0].family != "painted":
            pooled_dice[name] = pooled.value
        print(
            f"| {name} | {len(some)} | {pooled.value:.3f} ({pooled.low:.2f} to {pooled.high:.2f}) "
            f"| {figures['mean_dice'].value:.3f} | {figures['object_f1'].value:.3f} "
            f"| {sum(id(case) in failed for case in some)} | {sum(case.flagged for case in some)} |"
        )
    if "unchanged" in pooled_dice:
        worst = min(pooled_dice, key=lambda name: pooled_dice[name])
        before = pooled_dice["unchanged"]
        print(f"\nWorst: {worst}, pooled Dice {pooled_dice[worst]:.3f}, {before:.3f} unchanged.")


def print_flags(cases: Sequence[Case], title: str) -> None:
    """Print the share of failures and of successes with each quality flag."""
    failed = failures(cases)
    ids = {id(case) for case in failed}
    successes = [case for case in cases if id(case) not in ids and np.isfinite(case.dice)]
    print(f"\n{title}: {len(failed)} failures, {len(successes)} successes\n")
    print("| quality flag | of the failures | of the successes |\n|---|---|---|")
    kinds = sorted({flag_kind(text) for case in cases for text in case.quality.warnings})
    for kind in (*kinds, "any"):
        shares = [
            np.mean([has_flag(case, kind) for case in some] or [np.nan]) for some in (failed, successes)
        ]
        print(f"| {kind} | {' | '.join(f'{share:.3f}' for share in shares)} |")


def flag_kind(text: str) -> str:
    """Return a quality flag without its numbers."""
    return " ".join(word for word in re.split(r"[:(]", text)[0].split() if not any(map(str.isdigit, word)))


def has_flag(case: Case, kind: str) -> bool:
    return case.flagged if kind == "any" else kind in map(flag_kind, case.quality.warnings)


def write_cases(cases: Sequence[Case], out: Path) -> None:
    failed = {id(case) for case in failures(cases)}
    counts = ("tp_px", "fp_px", "fn_px", "true_positive", "false_positive", "false_negative")
    rows = [
        [case.fold, case.stem, case.condition, case.family, f"{case.dice:.4f}"]
        + [getattr(case.counts, name) for name in counts]
        + [int(id(case) in failed), *case.quality.figures().values()]
        for case in cases
    ]
    columns = ["fold", "stem", "condition", "family", "dice", *counts, "failed", *QualityFlags().figures()]
    write_csv(out / "stress.csv", columns, rows)


def write_worst(cases: Sequence[Case], out: Path) -> None:
    worst = [min(some, key=lambda case: case.dice) for some in by_condition(cases).values()]
    captions = [f"{c.condition}: {c.dice:.2f}{', flagged' if c.flagged else ''}" for c in worst]
    legend = [(BOTH, "in both"), (ONLY_PREDICTED, "only predicted"), (ONLY_TRUE, "only in truth")]
    title = "The lowest Dice of every condition"
    sheet = grid_sheet(
        [c.overlay for c in worst], captions, COLUMNS, title=title, cell_px=CELL_PX, legend=legend
    )
    write_png(out / "stress.png", sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("stress"))
    parser.add_argument("--painted", type=int, default=4, help="painted biopsies per stain and fold")
    parser.add_argument("--images", type=int, help="at most so many held-out images per fold")
    parser.add_argument("--tta", help="views to average, in place of the models'")
    parser.add_argument("--threshold", type=float, help="in place of the models'")
    parser.add_argument("--smoothing-px", type=float, help="in place of the models'")
    parser.add_argument("--conditions", nargs="*", help="names of conditions; all by default")
    parser.add_argument(
        "--noisy", nargs="*", default=["10165", "10215"], help="images whose labels are wrong"
    )
    args = parser.parse_args()

    folds = sorted(path.parent for path in args.folds.glob("fold-*/held_out.json"))
    if not folds:
        sys.exit(f"{args.folds}: expected fold-<k>/held_out.json, got none: run glomtile crossval first")
    wanted = [
        one for one in perturbations() if not args.conditions or one.name in (*args.conditions, "unchanged")
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    began, cases = time.perf_counter(), list[Case]()
    for fold in folds:
        for case in fold_cases(fold, loaded(fold, args), wanted, args):
            cases.append(case)
            flags = "; ".join(case.quality.warnings)
            print(f"{case.fold} {case.stem} {case.condition}: {case.dice:.3f} {flags}", file=sys.stderr)
    write_cases(cases, args.out)
    write_worst(cases, args.out)
    clean = [case for case in cases if case.stem not in args.noisy]
    print(f"{len(cases)} images, {len(folds)} folds, {time.perf_counter() - began:.0f} s\n")
    print_conditions(cases)
    print_flags(clean, f"Quality flags, without {', '.join(args.noisy)}")
    print_flags(cases, "Quality flags, all images")
    sound = {
        (case.fold, case.stem) for case in clean if case.condition == "unchanged" and case.dice >= FAILED_DICE
    }
    kept = [case for case in clean if case.family == "painted" or (case.fold, case.stem) in sound]
    print_flags(kept, f"Quality flags, painted biopsies and the {len(sound)} images that succeed unperturbed")


if __name__ == "__main__":
    main()
