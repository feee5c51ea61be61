"""Segmenting slides: memory and time by size, the network's share, the tissue mask's gain, objects, kills.

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
import resource
import shutil
import signal
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
from glomtile.inference.result import Segmentation
from glomtile.inference.segmenter import Segmenter
from glomtile.inference.window_size import Settings
from glomtile.objects.extraction import found_objects
from glomtile.objects.postprocessing import ShapingRules
from glomtile.objects.regions import Regions
from glomtile.synthetic import PhantomSlide, paint
from glomtile.types import Box, Float32, UInt8

MPP = 2.0
GLASS = 243
THRESHOLDS = range(5, 120, 5)


class LazySlide:
    """Needle cores of repeated painted tissue on glass, any size, computed where it is read."""

    kind, plain, mpp, mpp_source = "lazy", False, MPP, "painted"
    core_px, pitch_px = 500, 5000

    def __init__(self, side_px: int) -> None:
        self.size_px = (side_px, side_px)
        self.zoom = 1.0
        inside = paint(11, (1024, 1024), MPP, "plain").image
        self._pattern = np.concatenate([inside, inside[::-1]])
        self._pattern = np.concatenate([self._pattern, self._pattern[:, ::-1]], axis=1)
        # One dark disc of 180 µm in each 512 px of every core: what the cheap network calls an object.
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
    """Three classes by darkness, no context: all that is left is the engine's own work."""

    num_classes, stride_px, context_px, mpp = 3, 16, 0, MPP

    def __call__(self, batch: UInt8) -> Float32:
        answer = np.zeros((*batch.shape[:3], 3), np.float32)
        answer[..., 1] = np.where(batch[..., 1] < 30, 0.9, 0.05)
        answer[..., 0] = 1 - answer[..., 1]
        return answer


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


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(side: int, model: Path | None) -> None:
    """In a process of its own: the peak over what the imports, and a network where one is given, took."""
    if model is None:
        segmenter = Segmenter(CheapNetwork(), cheap_card(), Settings(overlap_px=64))
    else:
        segmenter = Segmenter.load(model, tta="none")
        segmenter.segment(LazySlide(3000))  # what the network takes itself, once a process
    slide = LazySlide(side)
    base = peak_mb()
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as work:
        began = time.perf_counter()
        found = segmenter.segment(slide, work=Path(work) / "work")
        segmented = time.perf_counter() - began
        found.save(Path(work) / "out")
        seconds = time.perf_counter() - began
    tissue_mpx = found.tissue.area_mm2 / (MPP / 1000) ** 2 / 1e6
    print(
        json.dumps(
            {
                "side": side, "base_mb": base, "peak_mb": peak_mb(), "seconds": seconds,
                "segmented": segmented, "tissue_mpx": tissue_mpx,
                "objects": len(found.objects), **vars(found.effort),
            }
        )
    )  # fmt: skip


def memory(told: argparse.Namespace) -> None:
    print("| working px | peak memory | before the slide | tissue | wall | s per Mpx of tissue | objects |")
    print("|---|---|---|---|---|---|---|")
    for side in told.sides:
        command = [sys.executable, __file__, "memory-of", str(side)]
        command += ["--model", str(told.model)] if told.model else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {side:,} x {side:,} | {r['peak_mb']:.0f} MiB | {r['base_mb']:.0f} MiB "
            f"| {r['tissue_mpx']:.1f} Mpx "
            f"| {r['seconds']:.1f} s | {r['seconds'] / r['tissue_mpx']:.3f} | {r['objects']} |",
            flush=True,
        )


def write_slide(path: Path, side: int = 20_000, mpp: float = 0.5) -> None:
    """A painted slide as a JPEG-compressed pyramid of levels 1, 4 and 16."""
    import tifffile

    if path.exists():
        return
    slide, tile = PhantomSlide(100_500, (side, side), mpp, "hard"), 512
    level = np.empty((side // 4, side // 4, 3), np.uint8)

    def painted() -> Iterator[UInt8]:
        for top in range(0, side, tile):
            band = np.full((tile, -(-side // tile) * tile, 3), GLASS, np.uint8)
            height = min(tile, side - top)
            band[:height, :side] = slide.read(Box(top, 0, top + height, side))
            small = cv2.resize(band[:height, :side], (side // 4, height // 4), interpolation=cv2.INTER_AREA)
            level[top // 4 : (top + height) // 4] = small
            for left in range(0, side, tile):
                yield np.ascontiguousarray(band[:, left : left + tile])

    dots = 10_000 / mpp
    how = {
        "tile": (tile, tile),
        "compression": "jpeg",
        "compressionargs": {"level": 85},
        "photometric": "rgb",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(
            painted(), shape=(side, side, 3), dtype=np.uint8, resolution=(dots, dots), resolutionunit=3,
            metadata=None, **how,
        )  # fmt: skip
        smaller = cv2.resize(level, (side // 16, side // 16), interpolation=cv2.INTER_AREA)
        for times, picture in ((4, level), (16, smaller)):
            file.write(
                picture, subfiletype=1, resolution=(dots / times, dots / times), resolutionunit=3,
                metadata=None, **how,
            )  # fmt: skip


def segmented(
    model: Path, slide: Path | LazySlide, settings: Settings | None = None, tta: str | None = None
) -> tuple[Segmentation, float, float]:
    """A run with its wall and CPU seconds, the outputs written included, loading the model not."""
    segmenter = Segmenter.load(model, settings, tta)
    with tempfile.TemporaryDirectory() as out:
        began, cpu = time.perf_counter(), time.process_time()
        found = segmenter.segment(slide)
        found.save(out)
        return found, time.perf_counter() - began, time.process_time() - cpu


def whole(told: argparse.Namespace) -> None:
    write_slide(told.slide)
    segmented(told.model, told.slide, Settings(window_px=512), told.tta)
    ratios = []
    for _ in range(told.rounds):
        found, wall, cpu = segmented(told.model, told.slide, tta=told.tta)
        e = found.effort
        ratios.append(wall / e.network_s)
        rest = wall - e.tiled_s
        print(
            f"wall {wall:.1f} s, network {e.network_s:.1f} s for {e.windows - e.skipped} of {e.windows} "
            f"windows, ratio {ratios[-1]:.3f}; tiled {e.tiled_s:.1f}, tissue {e.tissue_s:.1f}, "
            f"objects {e.objects_s:.1f}, "
            f"outputs and the rest {rest - e.tissue_s - e.objects_s:.1f} s; CPU {cpu:.1f} s; "
            f"{found.tissue.area_mm2:.1f} mm² of tissue, {len(found.objects)} objects",
            flush=True,
        )
    print(f"median wall / network: {np.median(ratios):.3f}")


def tissue(told: argparse.Namespace) -> None:
    """A slide mostly of tissue and one mostly of glass: each with the mask and without, in turn."""
    kinds = [(f"lazy slide of {told.lazy:,} px, thin cores", LazySlide(told.lazy), None)]
    if not told.thin_only:
        write_slide(told.slide)
        kinds.append(("the pyramid", told.slide, 384))
    for name, slide, window_px in kinds:
        ratios = []
        for _ in range(told.rounds):
            masked, with_s, cpu = segmented(told.model, slide, Settings(window_px=window_px), told.tta)
            blind, without_s, _ = segmented(
                told.model, slide, Settings(window_px=window_px, tissue_mask=False), told.tta
            )
            e = masked.effort
            share = 1 - e.skipped / e.windows
            ratios.append(with_s / (share * without_s))
            rest = with_s - e.tiled_s - e.tissue_s - e.objects_s
            print(
                f"{name}: with {with_s:.1f} s (network {e.network_s:.1f}, tiled {e.tiled_s:.1f}, first look "
                f"{e.tissue_s:.1f}, objects behind it {e.objects_s:.1f}, outputs and the rest {rest:.1f}; "
                f"CPU {cpu:.1f}), without {without_s:.1f} s, "
                f"windows seen {share:.3f}: time / (share x time without) = {ratios[-1]:.3f}; "
                f"objects {len(masked.objects)} / {len(blind.objects)}",
                flush=True,
            )
        print(f"{name}: median {np.median(ratios):.3f}", flush=True)


def truth_of(labels: UInt8, mpp: float) -> list[tuple[float, Box]]:
    regions = Regions(labels.shape[1], 2)
    every = [*regions.add(labels), *regions.finish()]
    sure = np.full(labels.shape, 255, np.uint8)
    found = found_objects(labels, sure, every, mpp, ShapingRules(split=False), labels.shape)
    return [(one.measures.area_um2, one.box) for one in found]


class Painted:
    """A phantom as a slide that is not plain."""

    kind, plain, mpp_source, zoom = "painted", False, "painted", 1.0

    def __init__(self, image: UInt8, mpp: float) -> None:
        from glomtile.io.images import ArrayReader

        self.size_px, self.mpp = image.shape[:2], mpp
        self._image, self._reader = image, ArrayReader(image, mpp)

    def at(self, mpp: float | None) -> Painted:
        return self

    def read(self, box: Box) -> UInt8:
        return self._reader.read(box)

    def thumbnail(self, max_px: int) -> tuple[UInt8, float]:
        zoom = max(1.0, max(self.size_px) / max_px)
        size = int(self.size_px[1] / zoom), int(self.size_px[0] / zoom)
        return cv2.resize(self._image, size, interpolation=cv2.INTER_AREA), zoom


def objects(told: argparse.Namespace) -> None:
    """New seeds and dyes, the hard preset; a colour threshold on the same pictures for comparison."""
    from glomtile.evaluation.matching import match_objects
    from glomtile.objects.labelling import find_objects

    windows = (320, 384, 512, 768, 1024)
    segmenters = {w: Segmenter.load(told.model, Settings(window_px=w)) for w in windows}
    totals = {w: np.zeros(4) for w in windows}
    areas = {w: np.zeros(2) for w in windows}
    matched_areas = {w: [] for w in windows}
    different = 0
    coloured = np.zeros((len(THRESHOLDS), 3))
    for seed in range(100_000, 100_000 + told.pictures):
        phantom = paint(seed, (640, 640), MPP, "hard")
        true_mask = phantom.labels == 1
        answers = {}
        for w, segmenter in segmenters.items():
            found = segmenter.segment(Painted(phantom.image, MPP))
            labels = np.asarray(found.labels[:, :])
            answers[w] = [(o.box, round(o.measures.area_um2)) for o in found.objects]
            truth, ours = find_objects(true_mask), find_objects(labels == 1)
            big = truth.areas_px * MPP**2 >= 1000
            match = match_objects(truth, ours)
            totals[w] += (len(match.pairs), int(big.sum()), len(found.objects), 0)
            areas[w] += (true_mask.sum(), (labels == 1).sum())
            for t, p in match.pairs:
                matched_areas[w].append(ours.areas_px[p - 1] / truth.areas_px[t - 1])
        different += any(answer != answers[windows[0]] for answer in answers.values())
        redness = phantom.image[..., 0].astype(np.float32) - phantom.image[..., 1]
        smooth = cv2.GaussianBlur(redness, (0, 0), 8)
        for number, threshold in enumerate(THRESHOLDS):
            guess = find_objects(smooth > threshold)
            kept = guess.areas_px * MPP**2 >= 1000
            match = match_objects(find_objects(true_mask), guess)
            coloured[number] += (len(match.pairs), find_objects(true_mask).count, int(kept.sum()))
    print("| window | objects true / found / matched | F1 | count error | area error | area ratio, matched |")
    print("|---|---|---|---|---|---|")
    for w in windows:
        hit, true, ours, _ = totals[w]
        print(
            f"| {w} px | {true:.0f} / {ours:.0f} / {hit:.0f} | {2 * hit / (true + ours):.3f} "
            f"| {100 * (ours / true - 1):+.1f} % | {100 * (areas[w][1] / areas[w][0] - 1):+.1f} % "
            f"| {np.median(matched_areas[w]):.3f} |"
        )
    best = max(2 * hit / (true + ours) for hit, true, ours in coloured)
    print(f"best of {len(THRESHOLDS)} colour thresholds, chosen on these pictures: F1 {best:.3f}")
    print(f"pictures with any difference between windows: {different}")


def kills(told: argparse.Namespace) -> None:
    """Kill -9 at random moments until the run ends, and compare every output with an undisturbed one's."""
    write_slide(told.slide, told.side)
    command = [
        sys.executable,
        "-m",
        "glomtile",
        "segment",
        str(told.slide),
        "-m",
        str(told.model),
        "--window",
        "512",
        "-o",
    ]

    def outputs(folder: Path) -> dict[str, bytes]:
        kinds = ("masks", "geojson", "objects", "overlays", "tissue")
        return {
            p.relative_to(folder).as_posix(): p.read_bytes() for k in kinds for p in (folder / k).iterdir()
        }

    rng = random.Random(3)
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        subprocess.run([*command, f"{place}/whole"], check=True, capture_output=True)
        seconds = time.perf_counter() - began
        expected = outputs(Path(place) / "whole")
        killed = same = 0
        while killed < told.kills:
            target = f"{place}/killed"
            shutil.rmtree(target, ignore_errors=True)
            while True:
                run = subprocess.Popen(
                    [*command, target], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                try:
                    run.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
                    break
                except subprocess.TimeoutExpired:
                    run.send_signal(signal.SIGKILL)
                    run.wait()
                    killed += 1
            assert outputs(Path(target)) == expected, "another result"
            left = [p.name for p in Path(target).rglob("*") if ".work" in p.name]
            assert run.returncode == 0, run.returncode
            assert not left, left
            same += 1
            print(f"{killed} kills, {same} runs ended, all the same", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("memory")
    one.add_argument("--sides", type=int, nargs="+", default=[10_000, 40_000, 100_000])
    one.add_argument("--model", type=Path, help="one view of this network, not one that costs nothing")
    one = what.add_parser("memory-of")
    one.add_argument("side", type=int)
    one.add_argument("--model", type=Path)
    for name in ("whole", "tissue", "kills"):
        one = what.add_parser(name)
        one.add_argument("model", type=Path)
        one.add_argument("slide", type=Path)
        one.add_argument("--rounds", type=int, default=3)
        one.add_argument("--kills", type=int, default=50)
        one.add_argument("--side", type=int, default=8000)
        one.add_argument("--lazy", type=int, default=10_000)
        one.add_argument("--tta", help="of `whole` and `tissue`; the model's own unless told")
        one.add_argument("--thin-only", action="store_true", help="without the slide that is mostly tissue")
    one = what.add_parser("objects")
    one.add_argument("model", type=Path)
    one.add_argument("--pictures", type=int, default=40)
    told = parser.parse_args()
    if told.what == "memory-of":
        memory_of(told.side, told.model)
    else:
        {"memory": memory, "whole": whole, "tissue": tissue, "objects": objects, "kills": kills}[told.what](
            told
        )


if __name__ == "__main__":
    main()
