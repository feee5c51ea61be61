"""Segmentation of slides: memory and time, share of the network, gain of the tissue mask, objects, kills.

python benchmarks/painted_model.py WORK
python benchmarks/slides.py memory [--model MODEL]
python benchmarks/slides.py whole WORK/models/last WORK/slide.tif
python benchmarks/slides.py tissue WORK/models/last WORK/slide.tif
python benchmarks/slides.py objects WORK/models/last
python benchmarks/slides.py kills WORK/models/last WORK/small.tif
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np

from glomtile.config.model_card import ModelCard, ModelClass
from glomtile.config.schema import ModelSettings
from glomtile.inference.image import TilingSettings
from glomtile.inference.segmenter import Segmentation, Segmenter
from glomtile.synthetic import SyntheticSlide, paint
from glomtile.types import Box, Float32, UInt8
from harness import peak_mib

MPP = 2.0
GLASS = 243
THRESHOLDS = range(5, 120, 5)
OUTPUTS = ("masks", "geojson", "objects", "overlays", "tissue")


class LazySlide:
    """Needle cores of repeated painted tissue on glass, of any size, computed when it is read."""

    kind, plain, mpp, mpp_source = "lazy", False, MPP, "painted"
    core_px, pitch_px = 500, 5000

    def __init__(self, side_px: int) -> None:
        self.size_px = (side_px, side_px)
        self.zoom = 1.0
        inside = paint(11, (1024, 1024), MPP, "plain").image
        self._pattern = np.concatenate([inside, inside[::-1]])
        self._pattern = np.concatenate([self._pattern, self._pattern[:, ::-1]], axis=1)
        # One dark disc of 180 µm in every 512 px of a core: an object for the cheap network.
        for row in range(256, 2048, 512):
            cv2.circle(self._pattern, (250, row), 45, (40, 0, 10), -1)

    def at(self, mpp: float | None) -> LazySlide:
        return self

    def is_tissue(self, columns: np.ndarray) -> np.ndarray:
        return columns % self.pitch_px < self.core_px

    def _sample(self, rows: np.ndarray, columns: np.ndarray) -> UInt8:
        rows, columns = np.clip(rows, 0, self.size_px[0] - 1), np.clip(columns, 0, self.size_px[1] - 1)
        inside = self.is_tissue(columns)
        pixels = np.full((len(rows), len(columns), 3), GLASS, np.uint8)
        pixels[:, inside] = self._pattern[rows % 2048][:, columns[inside] % self.pitch_px]
        return pixels

    def read(self, box: Box) -> UInt8:
        return self._sample(np.arange(box.top, box.bottom), np.arange(box.left, box.right))

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        zoom = max(1.0, self.size_px[0] / max_px)
        places = ((np.arange(int(self.size_px[0] / zoom)) + 0.5) * zoom).astype(int)
        return self._sample(places, places), zoom


class CheapNetwork:
    """A network that assigns classes by darkness, so that only the engine's own work is left."""

    num_classes, stride_px, context_px, mpp = 3, 16, 0, MPP

    def __call__(self, batch: UInt8) -> Float32:
        probs = np.zeros((*batch.shape[:3], 3), np.float32)
        probs[..., 1] = np.where(batch[..., 1] < 30, 0.9, 0.05)
        probs[..., 0] = 1 - probs[..., 1]
        return probs


def cheap_card() -> ModelCard:
    colours = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    classes = tuple(ModelClass(number=i, name=f"class{i}", rgb=rgb) for i, rgb in enumerate(colours))
    return ModelCard(
        network=ModelSettings(num_classes=3),
        classes=classes,
        mpp=MPP,
        tile_px=(512, 512),
        stride_px=16,
        context_px=0,
    )


def memory_of(side: int, model: Path | None) -> None:
    """Print peak memory and times of a lazy slide as JSON; run in a process of its own."""
    if model is None:
        segmenter = Segmenter(CheapNetwork(), cheap_card(), TilingSettings(overlap_px=64))
    else:
        segmenter = Segmenter.load(model, tta="none")
        segmenter.segment(LazySlide(3000))  # the network's own memory is part of the base
    slide = LazySlide(side)
    base = peak_mib()
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as work:
        began = time.perf_counter()
        result = segmenter.segment(slide, work=Path(work) / "work")
        result.save(Path(work) / "out")
        seconds = time.perf_counter() - began
    tissue_mpx = result.tissue.area_mm2 / (MPP / 1000) ** 2 / 1e6
    print(
        json.dumps(
            {
                "base_mib": base, "peak_mib": peak_mib(), "seconds": seconds, "tissue_mpx": tissue_mpx,
                "objects": len(result.objects),
            }
        )
    )  # fmt: skip


def memory(args: argparse.Namespace) -> None:
    print("| working px | peak memory | before the slide | tissue | wall | s per Mpx of tissue | objects |")
    print("|---|---|---|---|---|---|---|")
    for side in args.sides:
        command = [sys.executable, __file__, "memory-of", str(side)]
        command += ["--model", str(args.model)] if args.model else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {side:,} x {side:,} | {r['peak_mib']:.0f} MiB | {r['base_mib']:.0f} MiB "
            f"| {r['tissue_mpx']:.1f} Mpx "
            f"| {r['seconds']:.1f} s | {r['seconds'] / r['tissue_mpx']:.3f} | {r['objects']} |",
            flush=True,
        )


def write_slide(path: Path, side: int = 20_000, mpp: float = 0.5) -> None:
    """Write a painted slide as a JPEG-compressed pyramid of levels 1, 4 and 16, unless it exists."""
    import tifffile

    if path.exists():
        return
    slide, tile = SyntheticSlide(100_500, (side, side), mpp, "hard"), 512
    level = np.empty((side // 4, side // 4, 3), np.uint8)

    def tiles() -> Iterator[UInt8]:
        for top in range(0, side, tile):
            band = np.full((tile, -(-side // tile) * tile, 3), GLASS, np.uint8)
            height = min(tile, side - top)
            band[:height, :side] = slide.read(Box(top, 0, top + height, side))
            small = cv2.resize(band[:height, :side], (side // 4, height // 4), interpolation=cv2.INTER_AREA)
            level[top // 4 : (top + height) // 4] = small
            for left in range(0, side, tile):
                yield np.ascontiguousarray(band[:, left : left + tile])

    per_cm = 10_000 / mpp
    encoding = {
        "tile": (tile, tile), "compression": "jpeg", "compressionargs": {"level": 85}, "photometric": "rgb",
        "metadata": None, "resolutionunit": 3,
    }  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(tiles(), shape=(side, side, 3), dtype=np.uint8, resolution=(per_cm,) * 2, **encoding)
        smaller = cv2.resize(level, (side // 16, side // 16), interpolation=cv2.INTER_AREA)
        for factor, image in ((4, level), (16, smaller)):
            file.write(image, subfiletype=1, resolution=(per_cm / factor,) * 2, **encoding)


def segmented(
    model: Path, slide: Path | LazySlide, settings: TilingSettings | None = None, tta: str | None = None
) -> tuple[Segmentation, float, float]:
    """Segment and save, and return the result with wall and CPU seconds; loading the model is not counted."""
    segmenter = Segmenter.load(model, settings, tta)
    with tempfile.TemporaryDirectory() as out:
        began, cpu = time.perf_counter(), time.process_time()
        result = segmenter.segment(slide)
        result.save(out)
        return result, time.perf_counter() - began, time.process_time() - cpu


def whole(args: argparse.Namespace) -> None:
    write_slide(args.slide)
    segmented(args.model, args.slide, TilingSettings(window_px=512), args.tta)
    ratios = []
    for _ in range(args.rounds):
        result, wall, cpu = segmented(args.model, args.slide, tta=args.tta)
        e = result.effort
        ratios.append(wall / e.network_s)
        rest = wall - e.tiled_s
        print(
            f"wall {wall:.1f} s, network {e.network_s:.1f} s for {e.windows - e.skipped} of {e.windows} "
            f"windows, ratio {ratios[-1]:.3f}; tiled {e.tiled_s:.1f}, tissue {e.tissue_s:.1f}, "
            f"objects {e.objects_s:.1f}, "
            f"outputs and the rest {rest - e.tissue_s - e.objects_s:.1f} s; CPU {cpu:.1f} s; "
            f"{result.tissue.area_mm2:.1f} mm² of tissue, {len(result.objects)} objects",
            flush=True,
        )
    print(f"median wall / network: {np.median(ratios):.3f}")


def tissue(args: argparse.Namespace) -> None:
    """Segment a slide of mostly tissue and one of mostly glass, with and without the tissue mask."""
    kinds = [(f"lazy slide of {args.lazy:,} px, thin cores", LazySlide(args.lazy), None)]
    if not args.thin_only:
        write_slide(args.slide)
        kinds.append(("the pyramid", args.slide, 384))
    for name, slide, window_px in kinds:
        ratios = []
        for _ in range(args.rounds):
            masked, with_s, cpu = segmented(args.model, slide, TilingSettings(window_px=window_px), args.tta)
            unmasked, without_s, _ = segmented(
                args.model, slide, TilingSettings(window_px=window_px, tissue_mask=False), args.tta
            )
            e = masked.effort
            share = 1 - e.skipped / e.windows
            ratios.append(with_s / (share * without_s))
            rest = with_s - e.tiled_s - e.tissue_s - e.objects_s
            print(
                f"{name}: with {with_s:.1f} s (network {e.network_s:.1f}, tiled {e.tiled_s:.1f}, tissue mask "
                f"{e.tissue_s:.1f}, objects {e.objects_s:.1f}, outputs and the rest {rest:.1f}; "
                f"CPU {cpu:.1f}), without {without_s:.1f} s, "
                f"windows processed {share:.3f}: time / (share x time without) = {ratios[-1]:.3f}; "
                f"objects {len(masked.objects)} / {len(unmasked.objects)}",
                flush=True,
            )
        print(f"{name}: median {np.median(ratios):.3f}", flush=True)


class PaintedSlide:
    """A painted biopsy as a slide that is not a plain image."""

    kind, plain, mpp_source, zoom = "painted", False, "painted", 1.0

    def __init__(self, image: UInt8, mpp: float) -> None:
        from glomtile.io.images import ArrayReader

        self.size_px, self.mpp = image.shape[:2], mpp
        self._image, self._reader = image, ArrayReader(image, mpp)

    def at(self, mpp: float | None) -> PaintedSlide:
        return self

    def read(self, box: Box) -> UInt8:
        return self._reader.read(box)

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        zoom = max(1.0, max(self.size_px) / max_px)
        size = int(self.size_px[1] / zoom), int(self.size_px[0] / zoom)
        return cv2.resize(self._image, size, interpolation=cv2.INTER_AREA), zoom


def objects(args: argparse.Namespace) -> None:
    """Score objects at several window sizes, on new seeds and stains of the hard preset.

    For comparison: thresholds on smoothed redness, the best of which is selected on the same images.
    """
    from glomtile.evaluation.matching import match_objects
    from glomtile.objects.labelling import find_objects

    windows = (320, 384, 512, 768, 1024)
    segmenters = {w: Segmenter.load(args.model, TilingSettings(window_px=w)) for w in windows}
    totals = {w: np.zeros(3) for w in windows}
    areas = {w: np.zeros(2) for w in windows}
    matched_areas = {w: [] for w in windows}
    different = 0
    coloured = np.zeros((len(THRESHOLDS), 3))
    for seed in range(100_000, 100_000 + args.images):
        biopsy = paint(seed, (640, 640), MPP, "hard")
        true_mask = biopsy.labels == 1
        truth = find_objects(true_mask)
        predictions = {}
        for w, segmenter in segmenters.items():
            result = segmenter.segment(PaintedSlide(biopsy.image, MPP))
            mask = np.asarray(result.labels[:, :]) == 1
            predictions[w] = [(o.box, round(o.measures.area_um2)) for o in result.objects]
            predicted = find_objects(mask)
            match = match_objects(truth, predicted)
            large = truth.areas_px * MPP**2 >= 1000
            totals[w] += (len(match.pairs), int(large.sum()), len(result.objects))
            areas[w] += (true_mask.sum(), mask.sum())
            matched_areas[w] += [predicted.areas_px[p - 1] / truth.areas_px[t - 1] for t, p in match.pairs]
        different += any(one != predictions[windows[0]] for one in predictions.values())
        redness = biopsy.image[..., 0].astype(np.float32) - biopsy.image[..., 1]
        smooth = cv2.GaussianBlur(redness, (0, 0), 8)
        for number, threshold in enumerate(THRESHOLDS):
            predicted = find_objects(smooth > threshold)
            kept = predicted.areas_px * MPP**2 >= 1000
            match = match_objects(truth, predicted)
            coloured[number] += (len(match.pairs), truth.count, int(kept.sum()))
    print("| window | objects true / found / matched | F1 | count error | area error | area ratio, matched |")
    print("|---|---|---|---|---|---|")
    for w in windows:
        matched, true, found = totals[w]
        print(
            f"| {w} px | {true:.0f} / {found:.0f} / {matched:.0f} | {2 * matched / (true + found):.3f} "
            f"| {100 * (found / true - 1):+.1f} % | {100 * (areas[w][1] / areas[w][0] - 1):+.1f} % "
            f"| {np.median(matched_areas[w]):.3f} |"
        )
    best = max(2 * matched / (true + found) for matched, true, found in coloured)
    print(f"best of {len(THRESHOLDS)} thresholds on redness, selected on these images: F1 {best:.3f}")
    print(f"images with any difference between windows: {different}")


def outputs(folder: Path) -> dict[str, bytes]:
    """Read every output of `glomtile segment` that belongs to one slide."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for kind in OUTPUTS
        for path in (folder / kind).iterdir()
    }


def kills(args: argparse.Namespace) -> None:
    """Send SIGKILL at random moments until the run ends, and compare outputs with an undisturbed run's."""
    write_slide(args.slide, args.side)
    command = [sys.executable, "-m", "glomtile", "segment", str(args.slide), "-m", str(args.model)]
    command += ["--window", "512", "-o"]
    rng = random.Random(3)
    with tempfile.TemporaryDirectory() as work:
        whole, target = Path(work) / "whole", Path(work) / "killed"
        began = time.perf_counter()
        subprocess.run([*command, str(whole)], check=True, capture_output=True)
        seconds = time.perf_counter() - began
        expected = outputs(whole)
        killed = runs = 0
        while killed < args.kills:
            shutil.rmtree(target, ignore_errors=True)
            while True:
                run = subprocess.Popen(
                    [*command, str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                try:
                    run.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
                    break
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()
                    killed += 1
            assert run.returncode == 0, run.returncode
            assert outputs(target) == expected, "the outputs differ"
            left = [path.name for path in target.rglob("*") if ".work" in path.name]
            assert not left, left
            runs += 1
            print(f"{killed} kills, {runs} runs ended with the same outputs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("memory")
    one.add_argument("--sides", type=int, nargs="+", default=[10_000, 40_000, 100_000])
    one.add_argument("--model", type=Path, help="one view of this network, in place of one without cost")
    one = commands.add_parser("memory-of")
    one.add_argument("side", type=int)
    one.add_argument("--model", type=Path)
    for name in ("whole", "tissue", "kills"):
        one = commands.add_parser(name)
        one.add_argument("model", type=Path)
        one.add_argument("slide", type=Path, help="painted if it does not exist")
        if name == "kills":
            one.add_argument("--kills", type=int, default=50)
            one.add_argument("--side", type=int, default=8000, help="of the slide (px)")
        else:
            one.add_argument("--rounds", type=int, default=3)
            one.add_argument("--tta", help="views to average, in place of the model's")
        if name == "tissue":
            one.add_argument("--lazy", type=int, default=10_000, help="side of the slide of thin cores (px)")
            one.add_argument("--thin-only", action="store_true", help="leave out the slide of mostly tissue")
    one = commands.add_parser("objects")
    one.add_argument("model", type=Path)
    one.add_argument("--images", type=int, default=40)
    args = parser.parse_args()
    if args.command == "memory-of":
        memory_of(args.side, args.model)
    else:
        commands_by_name = {
            "memory": memory, "whole": whole, "tissue": tissue, "objects": objects, "kills": kills
        }  # fmt: skip
        commands_by_name[args.command](args)


if __name__ == "__main__":
    main()
