"""Simulation of a study of 10,000 slides on 1 to 1,000 workers, from measured constants.

python benchmarks/scaling.py                  simulate with the constants below
python benchmarks/scaling.py measure WORK     measure them again on this machine, one core

A slide is read and computed at once, at the pace of the slower; all workers share the rate of the storage;
the client serves workers one after the other. Slides vary in size.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import time
from dataclasses import dataclass, fields
from pathlib import Path

SIDE_MM, GLASS_SHARE = 25.0, 0.8
"""A slide of 100,000 px at 0.25 µm per pixel; a fifth of it is tissue (assumed)."""


@dataclass(frozen=True)
class Constants:
    """Measured costs of one worker with one core; docs/scaling.md has the source of each.

    Attributes
    ----------
    compute_s_per_mm2 : float
        CPU seconds per mm² of tissue, outputs included, with the bundled model.
    fixed_s : float
        CPU seconds per slide, independent of its tissue.
    read_mb_per_mm2 : float
        Read from the slide's file per mm² of tissue.
    fixed_mb : float
        Read per slide, independent of its tissue.
    written_mb_per_mm2 : float
        Outputs, and the label rows of an unfinished slide.
    client_ms : float
        Time of client and scheduler per slide.
    ready_s : float
        Start of a worker, and loading of the model.
    """

    compute_s_per_mm2: float = 0.34
    fixed_s: float = 1.4
    read_mb_per_mm2: float = 0.36
    fixed_mb: float = 17.0
    written_mb_per_mm2: float = 0.2
    client_ms: float = 3.8
    ready_s: float = 3.0


@dataclass(frozen=True)
class Site:
    """Assumptions about the site, not measured.

    Attributes
    ----------
    storage_mb_per_s : float
        Rate of the shared file system, for all workers together.
    price_per_core_hour : float
    spread : float
        Standard deviation of the logarithm of a slide's tissue.
    """

    storage_mb_per_s: float = 1000.0
    price_per_core_hour: float = 0.05
    spread: float = 0.6


@dataclass(frozen=True)
class SimulatedRun:
    """Result of a simulation.

    Attributes
    ----------
    hours : float
        Until the last slide ends.
    computing, client_busy, storage_busy : float
        Shares of that time: of the workers at work, of the client serving, of the storage's rate in use.
    tail_hours : float
        From the assignment of the last slide to the end.
    """

    hours: float
    computing: float
    client_busy: float
    storage_busy: float
    tail_hours: float

    @property
    def bottleneck(self) -> str:
        """The resource that limits a larger number of workers."""
        if self.client_busy > 0.9:
            return "client"
        if self.storage_busy > 0.9:
            return "storage"
        return "processors" if self.tail_hours < 0.25 * self.hours else "the last slides"


def simulate(
    workers: int, slides: int, constants: Constants, site: Site, *, largest_first: bool = True, seed: int = 1
) -> SimulatedRun:
    """Simulate a run over slides whose tissue is log-normally distributed around a fifth of a slide.

    Examples
    --------
    >>> constants, site = Constants(fixed_s=0, fixed_mb=0, client_ms=0, ready_s=0), Site(spread=0)
    >>> one, ten = (simulate(n, 100, constants, site).hours for n in (1, 10))
    >>> round(one / ten, 3)
    10.0
    """
    tissue = SIDE_MM**2 * (1 - GLASS_SHARE)
    rng = random.Random(seed)
    areas = [tissue * rng.lognormvariate(-(site.spread**2) / 2, site.spread) for _ in range(slides)]
    if largest_first:
        areas.sort(reverse=True)
    waiting = [constants.fixed_s + constants.compute_s_per_mm2 * area for area in reversed(areas)]
    megabytes = sum(constants.fixed_mb + _mb_per_mm2(constants) * area for area in areas)
    rate = megabytes / sum(waiting)
    # All slides at work advance at one pace, so the heap holds the amount of work at which each ends.
    now = work = busy_s = client_s = 0.0
    client_free = assigned_at = constants.ready_s
    at_work: list[float] = []
    arriving = [constants.ready_s] * workers
    heapq.heapify(arriving)
    while waiting or at_work:
        pace = min(1.0, site.storage_mb_per_s / (rate * len(at_work))) if at_work else 1.0
        ends = now + (at_work[0] - work) / pace if at_work else float("inf")
        comes = arriving[0] if arriving and waiting else float("inf")
        then = min(ends, comes)
        busy_s += len(at_work) * (then - now)
        work += pace * (then - now) if at_work else 0.0
        now = then
        if comes <= ends:
            heapq.heappop(arriving)
            heapq.heappush(at_work, work + waiting.pop())
            if not waiting:
                assigned_at = now
            continue
        heapq.heappop(at_work)
        client_free = max(client_free, now) + constants.client_ms / 1000
        client_s += constants.client_ms / 1000
        heapq.heappush(arriving, client_free)
    return SimulatedRun(
        now / 3600,
        busy_s / (workers * now),
        client_s / now,
        megabytes / (site.storage_mb_per_s * now),
        (now - assigned_at) / 3600,
    )


def _mb_per_mm2(constants: Constants) -> float:
    return constants.read_mb_per_mm2 + constants.written_mb_per_mm2


def table(slides: int, constants: Constants, site: Site) -> None:
    mm2 = SIDE_MM**2 * (1 - GLASS_SHARE)
    read_tb = slides * (constants.fixed_mb + constants.read_mb_per_mm2 * mm2) / 1e6
    hours = slides * (constants.fixed_s + constants.compute_s_per_mm2 * mm2) / 3600
    written_gb = slides * constants.written_mb_per_mm2 * mm2 / 1e3
    print(f"{slides:,} slides: {read_tb:.2f} TB read, {written_gb:.0f} GB written, {hours:,.0f} core hours, "
          f"{hours * site.price_per_core_hour:,.0f} at {site.price_per_core_hour} per core hour")  # fmt: skip
    print(
        "| workers | time | workers busy | storage | client | bottleneck | the last slides | in list order |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for workers in (1, 10, 100, 1000):
        run = simulate(workers, slides, constants, site)
        listed = simulate(workers, slides, constants, site, largest_first=False)
        print(f"| {workers:,} | {run.hours:,.2f} h | {100 * run.computing:.0f} % "
              f"| {100 * run.storage_busy:.1f} % | {100 * run.client_busy:.2f} % | {run.bottleneck} "
              f"| {60 * run.tail_hours:.1f} min | {listed.hours / run.hours:.2f} x |")  # fmt: skip


def limits(constants: Constants, site: Site) -> None:
    """Print the number of workers that the storage and the client can serve."""
    mm2 = SIDE_MM**2 * (1 - GLASS_SHARE)
    slide_s = constants.fixed_s + constants.compute_s_per_mm2 * mm2
    slide_mb = constants.fixed_mb + _mb_per_mm2(constants) * mm2
    print(f"a slide of that size: {slide_s:.0f} s, {slide_mb:.0f} MB; the storage serves "
          f"{site.storage_mb_per_s / (slide_mb / slide_s):,.0f} workers, the client "
          f"{slide_s / (constants.client_ms / 1000):,.0f}")  # fmt: skip


def measure(work: Path) -> None:
    """Print CPU seconds of painted slides on one core, the bytes of their levels, and the client's time."""
    import tifffile

    from cluster import print_task_cost
    from glomtile.inference.image import TilingSettings
    from glomtile.inference.records import content_digest
    from glomtile.inference.segmenter import Segmenter
    from slides import write_slide

    work.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    segmenter = Segmenter.load(settings=TilingSettings(network_threads=1, read_threads=1))
    print(f"loading the model: {time.process_time() - began:.2f} CPU s")
    runs = []
    for side in (2000, 6000, 12000):
        path = work / f"measure-{side}.tif"
        write_slide(path, side, 0.25)
        began = time.process_time()
        content_digest(path)
        result = segmenter.segment(path)
        written_mb = sum(p.stat().st_size for p in result.save(work / "out")) / 1e6
        runs.append((result.tissue.area_mm2, time.process_time() - began, written_mb))
        with tifffile.TiffFile(path) as file:
            level_mb = [sum(page.databytecounts) / 1e6 / (side * 0.25e-3) ** 2 for page in file.pages]
        levels = ", ".join(f"{mb:.3f}" for mb in level_mb)
        print(f"{side:,} px: {runs[-1][0]:.2f} mm² of tissue, {runs[-1][1]:.2f} CPU s, {written_mb:.2f} MB "
              f"written; levels of {levels} MB per mm²", flush=True)  # fmt: skip
    (area, *_), last = runs[1], runs[-1]
    cpu_s, written = ((b - a) / (last[0] - area) for a, b in zip(runs[1][1:], last[1:], strict=True))
    print(f"per mm² of tissue: {cpu_s:.3f} CPU s, {written:.3f} MB written; "
          f"independent of the tissue: {last[1] - cpu_s * last[0]:.2f} CPU s", flush=True)  # fmt: skip
    print_task_cost(1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("simulate", "measure"), default="simulate")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--slides", type=int, default=10_000)
    for kind in (Constants, Site):
        for field in fields(kind):
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, type=float, default=field.default)
    args = parser.parse_args()
    if args.command == "measure":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        measure(args.work)
        return
    constants, site = (
        kind(**{field.name: getattr(args, field.name) for field in fields(kind)})
        for kind in (Constants, Site)
    )
    table(args.slides, constants, site)
    limits(constants, site)


if __name__ == "__main__":
    main()
