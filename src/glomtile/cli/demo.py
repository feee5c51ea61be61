"""Demo: painted biopsies through the whole pipeline."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from glomtile.errors import UsageError
from glomtile.types import SILENT, Progress

CONFIG_NAME = "demo.toml"

PATIENTS = 14
IMAGES_PER_PATIENT = 2
SIDE_PX = 640
MPP = 1.0
PRESETS = ("plain", "hard")
FIRST_SEED = 1000


def demo(out: Path, *, progress: Progress = SILENT) -> tuple[Path, ...]:
    """Paint biopsies, prepare them, train a small network, measure it, label the test images, report.

    Parameters
    ----------
    out : Path
        A new folder; an earlier demo there is moved aside with its date.
    progress : Progress
        Receives a note at each step.

    Returns
    -------
    tuple of Path
        Config, model, masks of the test images, scores and report.

    Raises
    ------
    UsageError
        When `out` is a folder of something else.
    """
    from glomtile.config.load import load_config
    from glomtile.datasets.prepare import prepare
    from glomtile.evaluation.evaluate import evaluate, tiled_infer
    from glomtile.io.atomic import write_text
    from glomtile.report.build import write_report
    from glomtile.training.train import train

    began = time.monotonic()
    out = Path(out).absolute()
    _make_room(out, progress)
    biopsies = _paint(out / "biopsies", progress)
    made = prepare(
        biopsies / "images",
        biopsies / "masks",
        out / "dataset",
        tile_px=256,
        split=(0.6, 0.2, 0.2),
        groups=biopsies / "groups.csv",
        mini_test=out / "mini_test",
        progress=progress,
    )
    images, tiles = (" + ".join(map(str, counts.values())) for counts in (made.images, made.tiles))
    progress.note(f"prepared {images} images as {tiles} tiles: {made.dataset}")
    config_path = out / CONFIG_NAME
    write_text(config_path, _settings())
    config = load_config(config_path)
    trained = train(config, progress=progress)
    progress.note(
        f"trained {len(trained.history)} epochs, best was epoch {trained.best_epoch}: {trained.best}"
    )
    evaluation = evaluate(config, progress=progress)
    page = write_report(evaluation.folder)
    glomeruli = evaluation.scores.classes[0]
    dice, objects = glomeruli.figures["pooled_dice"], glomeruli.total
    progress.note(
        f"measured {evaluation.scores.images} test images: "
        f"Dice {dice.value:.3f} ({dice.low:.3f} to {dice.high:.3f}), "
        f"{objects.true_positive} of {objects.truth_objects} glomeruli found, {objects.false_positive} false"
    )
    labelled = tiled_infer(config, progress=progress)
    masks = labelled.done[0].parent
    progress.note(f"labelled {len(labelled.done)} whole test images: {masks}")
    minutes = (time.monotonic() - began) / 60
    progress.note(f"done in {minutes:.1f} minutes; the settings are in {config_path}")
    return (config_path, trained.best, masks, evaluation.paths[0], page)


def _make_room(out: Path, progress: Progress) -> None:
    from glomtile.io.atomic import move_aside

    if out.exists() and not out.is_dir():
        raise UsageError(out, "expected a new folder, got a file")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "biopsies").is_dir():
        raise UsageError(
            out, "expected a new folder or that of an earlier demo, got a folder of something else"
        )
    progress.note(f"an earlier demo is now {move_aside(out)}")


def _paint(folder: Path, progress: Progress) -> Path:
    """Paint images, masks and ``groups.csv``; a patient's biopsies are dyed alike and stay in one split."""
    from glomtile.io.images import write_png
    from glomtile.io.masks import write_mask
    from glomtile.io.tables import write_csv
    from glomtile.palette import GLOMERULI
    from glomtile.synthetic import PRESETS as PAINTERS
    from glomtile.synthetic import draw_dyes, paint

    def paint_one(job: tuple[str, int, int]) -> None:
        stem, patient, seed = job
        preset = PRESETS[patient % len(PRESETS)]
        dyes = draw_dyes(patient, PAINTERS[preset].dye_spread)
        biopsy = paint(seed, (SIDE_PX, SIDE_PX), MPP, preset, stain=dyes)
        write_png(folder / "images" / f"{stem}.png", biopsy.image, MPP)
        write_mask(folder / "masks" / f"{stem}.png", biopsy.labels, GLOMERULI, MPP)

    jobs = [
        (f"patient{patient:02d}_{number}", patient, FIRST_SEED + patient * IMAGES_PER_PATIENT + number)
        for patient in range(1, PATIENTS + 1)
        for number in range(1, IMAGES_PER_PATIENT + 1)
    ]
    progress.start("painting biopsies", len(jobs))
    with ThreadPoolExecutor(2) as painters:
        for _ in painters.map(paint_one, jobs):
            progress.advance()
    groups = [(stem, f"patient{patient:02d}") for stem, patient, _ in jobs]
    write_csv(folder / "groups.csv", ("stem", "group"), groups)
    progress.note(
        f"painted {len(jobs)} biopsies of {SIDE_PX} x {SIDE_PX} px at {MPP:g} µm per pixel: {folder}"
    )
    return folder


def _settings() -> str:
    return files("glomtile.cli").joinpath("templates", CONFIG_NAME).read_text("utf-8")
