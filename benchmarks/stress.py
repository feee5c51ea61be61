"""How much worse a model gets on changed pictures, and whether it doubts the results that fail.

    glomtile crossval CONFIG --folds 4 ...
    python benchmarks/stress.py FOLDS ../shared/data/glomeruli --out stress

FOLDS holds `fold-<k>/models/last`, a model folder, and `fold-<k>/held_out.json`, the stems of the images
that it has not seen; DATA holds `images` and `masks`. Every held-out image is changed in every way that
`stress_changes` knows, and segmented by its fold's model as `glomtile segment` does it. The phantoms have
seeds that no training uses. A result fails where its Dice is below 0.7 or below 0.8 of the same image's
Dice unchanged. Nothing here sets a limit: those of the doubts come from the folds' training images. Prints
the tables; writes `stress.csv`, a row for each picture, and `stress.png`, the worst of each condition.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np

from glomtile.config.load import load_config
from glomtile.contact_sheets import BOTH, ONLY_PREDICTED, ONLY_TRUE, grid_sheet
from glomtile.datasets.loading import split_pairs
from glomtile.evaluation.metrics import ClassScore, ImageScore, score_image, summarise
from glomtile.inference.quality_control import QualityFlags
from glomtile.inference.segmenter import Segmenter
from glomtile.io.images import read_image, write_png
from glomtile.io.masks import read_mask
from glomtile.io.tables import write_csv
from glomtile.palette import GLOMERULI
from glomtile.slides.backends import levels_of
from glomtile.slides.slide import Slide
from glomtile.training.train import reference_statistics
from glomtile.types import Box, UInt8
from stress_changes import MPP, Change, changes, phantoms

FAILED_DICE, FAILED_SHARE = 0.7, 0.8
CELL_PX, COLUMNS = 320, 5


class PaintedPixels:
    """A picture in memory, as a slide's file would have it."""

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
    """One picture under one condition."""

    fold: str
    stem: str
    condition: str
    family: str
    score: ImageScore
    doubts: QualityFlags
    marked: UInt8

    @property
    def counts(self) -> ClassScore:
        return self.score.classes[0]

    @property
    def dice(self) -> float:
        return self.counts.dice

    @property
    def doubted(self) -> bool:
        return bool(self.doubts.warnings)


def loaded(fold: Path, told: argparse.Namespace) -> Segmenter:
    """The fold's model; one that was trained before models knew it learns how its training images look."""
    asked = {name: getattr(told, name) for name in ("tta", "threshold", "smoothing_px")}
    segmenter = Segmenter.load(fold / "models" / "last", **asked)
    if segmenter.card.reference_statistics is None:
        config = load_config(fold / "fold.toml")
        familiar = reference_statistics(config, split_pairs(config, "train"))
        card = segmenter.card.model_copy(update={"reference_statistics": familiar})
        segmenter = Segmenter(segmenter._predictor, card)
    return segmenter


def segmented(segmenter: Segmenter, image: UInt8, truth: UInt8, told: tuple[str, str, str, str]) -> Case:
    fold, stem, condition, family = told
    with Slide(Path(stem), PaintedPixels(image)) as slide:
        found = segmenter.segment(slide)
    labels = np.asarray(found.labels[:, :], np.uint8)
    score = score_image(labels, truth, 2, MPP)
    return Case(fold, stem, condition, family, score, found.quality, marked(image, truth, labels))


def marked(image: UInt8, truth: UInt8, labels: UInt8) -> UInt8:
    """The picture made small, tinted where answer or truth say glomerulus."""
    shown = image.copy()
    for colour, where in (
        (BOTH, (truth == 1) & (labels == 1)),
        (ONLY_PREDICTED, (truth == 0) & (labels == 1)),
        (ONLY_TRUE, (truth == 1) & (labels == 0)),
    ):
        shown[where] = (0.5 * shown[where] + 0.5 * np.array(colour)).astype(np.uint8)
    height, width = (max(1, round(n * CELL_PX / max(image.shape[:2]))) for n in image.shape[:2])
    return np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def fold_cases(
    fold: Path,
    segmenter: Segmenter,
    data: Path,
    wanted: Sequence[Change],
    phantom_count: int,
    most_images: int | None,
) -> Iterator[Case]:
    """All cases of one fold's held-out images and of the phantoms."""
    stems = json.loads((fold / "held_out.json").read_text("utf-8"))[:most_images]
    for stem in stems:
        image, truth = (
            read_image(data / "images" / f"{stem}.png"),
            read_mask(data / "masks" / f"{stem}.png", GLOMERULI),
        )
        for change in wanted:
            rng = np.random.default_rng([7, *stem.encode()])
            seen, labels = change.make(image, truth, rng)
            yield segmented(segmenter, seen, labels, (fold.name, stem, change.name, change.family))
    for condition, seed, image, truth in phantoms(phantom_count):
        yield segmented(segmenter, image, truth, (fold.name, str(seed), condition, "phantom"))


def failures(cases: Sequence[Case]) -> list[Case]:
    """Cases whose Dice is too low by itself or beside that of the same image unchanged."""
    before = {(case.fold, case.stem): case.dice for case in cases if case.condition == "unchanged"}
    return [
        case
        for case in cases
        if case.dice < FAILED_DICE or case.dice < FAILED_SHARE * before.get((case.fold, case.stem), 0)
    ]


def by_condition(cases: Iterable[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.condition, []).append(case)
    return found


def print_conditions(cases: Sequence[Case]) -> None:
    failed = {id(case) for case in failures(cases)}
    conditions = by_condition(cases)
    pooled = {
        name: summarise([case.score for case in some]).classes[0].figures for name, some in conditions.items()
    }
    print("| condition | images | pooled Dice | mean Dice | object F1 | fail | doubted |")
    print("|---|---|---|---|---|---|---|")
    for name, some in conditions.items():
        figures = pooled[name]
        low, high = figures["pooled_dice"].low, figures["pooled_dice"].high
        print(
            f"| {name} | {len(some)} | {figures['pooled_dice'].value:.3f} ({low:.2f} to {high:.2f}) "
            f"| {figures['mean_dice'].value:.3f} | {figures['object_f1'].value:.3f} "
            f"| {sum(id(case) in failed for case in some)} | {sum(case.doubted for case in some)} |"
        )
    real = {
        name: figures["pooled_dice"].value
        for name, figures in pooled.items()
        if not name.startswith("phantom")
    }
    if "unchanged" in real:
        worst = min(real, key=lambda name: real[name])
        print(
            f"\nWorst drop: {worst}, pooled Dice {real[worst]:.3f} after {real['unchanged']:.3f} unchanged."
        )


def print_doubts(cases: Sequence[Case], title: str) -> None:
    """How many of the failures, and of the successes, each warning is given for."""
    failed = failures(cases)
    bad = {id(case) for case in failed}
    fine = [case for case in cases if id(case) not in bad and np.isfinite(case.dice)]
    print(f"\n{title}: {len(failed)} failures, {len(fine)} successes\n")
    print("| warning | of the failures | of the successes |\n|---|---|---|")
    kinds = sorted({warning_kind(text) for case in cases for text in case.doubts.warnings})
    for kind in (*kinds, "any"):
        shares = (
            np.mean([given(case, kind) for case in group]) if group else float("nan")
            for group in (failed, fine)
        )
        print(f"| {kind} | {' | '.join(f'{share:.3f}' for share in shares)} |")


def warning_kind(text: str) -> str:
    """A warning without its numbers."""
    return " ".join(word for word in re.split(r"[:(]", text)[0].split() if not any(map(str.isdigit, word)))


def given(case: Case, kind: str) -> bool:
    return case.doubted if kind == "any" else kind in map(warning_kind, case.doubts.warnings)


def write_cases(cases: Sequence[Case], out: Path) -> None:
    failed = {id(case) for case in failures(cases)}
    doubts = list(QualityFlags().figures())
    rows = []
    for case in cases:
        counts, figures = case.counts, case.doubts.figures()
        rows.append(
            [
                case.fold,
                case.stem,
                case.condition,
                case.family,
                f"{case.dice:.4f}",
                counts.tp_px,
                counts.fp_px,
                counts.fn_px,
            ]
            + [counts.true_positive, counts.false_positive, counts.false_negative, int(id(case) in failed)]
            + [figures[name] for name in doubts]
        )
    columns = [
        "fold",
        "stem",
        "condition",
        "family",
        "dice",
        "tp_px",
        "fp_px",
        "fn_px",
        "true_positive",
        "false_positive",
        "false_negative",
        "failed",
    ]
    write_csv(out / "stress.csv", [*columns, *doubts], rows)


def write_worst(cases: Sequence[Case], out: Path) -> None:
    worst = [min(some, key=lambda case: case.dice) for some in by_condition(cases).values()]
    captions = [f"{c.condition}: {c.dice:.2f}{', doubted' if c.doubted else ''}" for c in worst]
    legend = [(BOTH, "in both"), (ONLY_PREDICTED, "only predicted"), (ONLY_TRUE, "only in truth")]
    title = "The lowest Dice of every condition"
    sheet = grid_sheet(
        [c.marked for c in worst], captions, COLUMNS, title=title, cell_px=CELL_PX, legend=legend
    )
    write_png(out / "stress.png", sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("stress"))
    parser.add_argument("--phantoms", type=int, default=4, help="phantoms of each stain for each fold")
    parser.add_argument("--images", type=int, help="at most so many held-out images of each fold")
    parser.add_argument("--tta", help="turned copies to average, instead of the models'")
    parser.add_argument("--threshold", type=float, help="instead of the models'")
    parser.add_argument("--smoothing-px", type=float, help="instead of the models'")
    parser.add_argument("--conditions", nargs="*", help="names of conditions; all by default")
    parser.add_argument(
        "--noisy", nargs="*", default=["10165", "10215"], help="images whose labels are wrong"
    )
    told = parser.parse_args()

    folds = sorted(path.parent for path in told.folds.glob("fold-*/held_out.json"))
    if not folds:
        sys.exit(f"{told.folds}: expected fold-<k>/held_out.json, found none: run glomtile crossval first")
    known = changes()
    wanted = [one for one in known if not told.conditions or one.name in (*told.conditions, "unchanged")]
    told.out.mkdir(parents=True, exist_ok=True)
    began, cases = time.perf_counter(), list[Case]()
    for fold in folds:
        segmenter = loaded(fold, told)
        for case in fold_cases(fold, segmenter, told.data, wanted, told.phantoms, told.images):
            cases.append(case)
            told_of = "; ".join(case.doubts.warnings)
            print(f"{case.fold} {case.stem} {case.condition}: {case.dice:.3f} {told_of}", file=sys.stderr)
    write_cases(cases, told.out)
    write_worst(cases, told.out)
    clean = [case for case in cases if case.stem not in told.noisy]
    print(f"{len(cases)} pictures, {len(folds)} folds, {time.perf_counter() - began:.0f} s\n")
    print_conditions(cases)
    print_doubts(clean, f"Doubts, without {', '.join(told.noisy)}")
    print_doubts(cases, "Doubts, all images")
    sound = {
        (case.fold, case.stem) for case in clean if case.condition == "unchanged" and case.dice >= FAILED_DICE
    }
    shaken = [case for case in clean if case.family == "phantom" or (case.fold, case.stem) in sound]
    print_doubts(shaken, f"Doubts, phantoms and the {len(sound)} of them that do not fail unchanged")


if __name__ == "__main__":
    main()
