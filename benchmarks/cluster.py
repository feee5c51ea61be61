"""Slides on a cluster of this machine: gain of a second worker, overhead, kills, memory.

python benchmarks/cluster.py speed WORK
python benchmarks/cluster.py overhead WORK
python benchmarks/cluster.py kills WORK --runs 20
python benchmarks/cluster.py memory WORK

Slides are painted into WORK once. Workers have one core each (Linux: by affinity). Runs that are compared
are made in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from glomtile.cluster import Cluster, crew_of
from glomtile.inference.batch import segment
from glomtile.inference.slide_task import SegmentOptions
from glomtile.inference.window_size import TilingSettings
from glomtile.system import cores, processor
from glomtile.types import Progress
from slides import write_slide

KINDS = ("masks", "geojson", "objects", "overlays", "tissue")
PORT = 18786

CORES = sorted(os.sched_getaffinity(0))
OTHERS = set(CORES[1:]) or set(CORES)
"""Where client and scheduler run while one worker has the first core for itself."""

SPIN_S = 0.1


@contextmanager
def workers(count: int, others: set[int] | None = None) -> Iterator[tuple[Cluster, list[int]]]:
    """A scheduler, on other cores if told which, and so many workers of one core; these have the ids told."""
    address = f"tcp://127.0.0.1:{PORT}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with ExitStack() as stack:

        def start(program: str, on: set[int] | None, *arguments: str) -> int:
            line = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
            process = subprocess.Popen(line, **quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
            if on is not None:
                os.sched_setaffinity(process.pid, on)
            return process.pid

        start("scheduler", others, "--host", "127.0.0.1", "--port", str(PORT), "--no-show")
        ids = [
            start("worker", {CORES[core % len(CORES)]}, address, "--host", "127.0.0.1", "--nthreads", "1",
                  "--no-nanny", "--memory-limit", "0")
            for core in range(count)
        ]  # fmt: skip
        wait_for(address, count)
        yield Cluster(address), ids


def wait_for(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)


def timed(slides: list[Path], out: Path, request: SegmentOptions, cluster: Cluster | None) -> float:
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    done = segment(slides, out, request, cluster=cluster)
    seconds = time.perf_counter() - began
    assert len(done.done) == len(slides), done.failed
    return seconds


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for kind in KINDS
        for path in (folder / kind).iterdir()
    }


def speed(told: argparse.Namespace) -> None:
    slides = painted(told.work, told.slides, told.side)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(told.rounds):
        for count in seconds:
            with workers(count) as (cluster, _):
                seconds[count].append(timed(slides, told.work / "out", SegmentOptions(), cluster))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(f"{len(slides)} slides of {told.side:,} px: one worker {statistics.median(seconds[1]):.1f} s, "
          f"two {statistics.median(seconds[2]):.1f} s, ratio {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


def overhead(told: argparse.Namespace) -> None:
    """The command on one core, alone and with one worker of one core; client and scheduler on the others.

    What was measured stands in WORK/overhead.json, and is not measured again.
    """
    told.work.mkdir(parents=True, exist_ok=True)
    between(told.work, told.spins)
    record = told.work / "overhead.json"
    runs: dict[str, list[list[list[float]]]] = json.loads(record.read_text()) if record.exists() else {}
    for side, count in ((told.tiny_side, told.tiny), (told.small_side, told.small)):
        if count < 2:
            continue
        slides = painted(told.work, count, side)
        seen = runs.setdefault(f"{count} of {side:,} px", [])
        while len(seen) < told.rounds:
            ways = [False, True] if len(seen) % 2 else [True, False]
            took = {there: list(paced(slides, told.work / "out", there=there)) for there in ways}
            seen.append([took[False], took[True]])
            record.write_text(json.dumps(runs))
            print_overhead(f"{count} of {side:,} px, round {len(seen)}", count, seen[-1:])
        if len(seen) > 1:
            print_overhead(f"{count} of {side:,} px, median of {len(seen)}", count, seen)


@dataclass(frozen=True)
class Spinning:
    """Work that takes as much of the processor each time: what the wall clock says besides is overhead."""

    root: Path
    seconds: float = SPIN_S
    stage: ClassVar[str] = "windows"
    figure: ClassVar[str] = "windows"

    @property
    def folder(self) -> Path:
        return self.root / ".glomtile" / "cluster"

    def ready(self, threads: int) -> Callable[[str, Progress], str]:
        block = bytes(2**16)

        def spin(item: str, progress: Progress) -> str:
            until = time.thread_time() + self.seconds
            while time.thread_time() < until:
                hashlib.sha256(block)  # lets other threads run meanwhile, as a network does
            return item

        return spin


def between(work: Path, pieces: int) -> None:
    """What a piece costs its worker's core besides the work: waiting for the next, and Dask's own doing."""
    if not pieces:
        return
    os.sched_setaffinity(0, OTHERS)
    with workers(1, OTHERS) as (cluster, _), crew_of(cluster, Spinning(work)) as crew:
        answers = crew.answers([f"piece {number}" for number in range(pieces + 2)])
        for _ in range(2):
            next(answers)
        began = time.perf_counter()
        count = len(list(answers))
        seconds = time.perf_counter() - began
    os.sched_setaffinity(0, set(CORES))
    print(f"{count} pieces of {1000 * SPIN_S:.0f} ms of processor: "
          f"{1000 * (seconds / count - SPIN_S):.2f} ms of wall time more a piece", flush=True)  # fmt: skip


def print_overhead(what: str, count: int, rounds: list[list[list[float]]]) -> None:
    """Medians over rounds; ratios are those of a round."""

    def median(part: Callable[[list[float]], float], way: int) -> float:
        return statistics.median(part(ways[way]) for ways in rounds)

    paces = [(there[1] / here[1]) for here, there in rounds]
    totals = [(sum(there) / sum(here)) for here, there in rounds]
    piece = [1000 * median(lambda run: run[1], way) / (count - 1) for way in (0, 1)]
    fixed = [median(lambda run: run[0] + run[2], way) for way in (0, 1)]
    print(f"{what}: from the first done to the last {piece[0]:.1f} ms a piece here, {piece[1]:.1f} there, "
          f"{100 * (statistics.median(paces) - 1):+.1f} % ({100 * (min(paces) - 1):+.1f} to "
          f"{100 * (max(paces) - 1):+.1f}); "
          f"before and after {fixed[0]:.1f} s and {fixed[1]:.1f} s; all in all "
          f"{100 * (statistics.median(totals) - 1):+.1f} %", flush=True)  # fmt: skip


def paced(slides: list[Path], out: Path, *, there: bool) -> tuple[float, float, float]:
    """Seconds of a command until its first slide is done, from there to the last, and on to its end."""
    shutil.rmtree(out, ignore_errors=True)
    line = [sys.executable, "-m", "glomtile", "segment", *map(str, slides), "-o", str(out)]
    with workers(1, OTHERS) if there else nullcontext((None, [])) as (cluster, _):
        if cluster is not None:
            line += ["--scheduler", str(cluster.scheduler)]
        began = time.time()
        run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.sched_setaffinity(run.pid, OTHERS if there else {CORES[0]})
        _, said = run.communicate()
        ended = time.time()
    done = sorted(path.stat().st_mtime for path in (out / ".glomtile").glob("*.json"))
    assert run.returncode == 0, said.decode()
    assert len(done) == len(slides), said.decode()
    return done[0] - began, done[-1] - done[0], ended - done[-1]


def kills(told: argparse.Namespace) -> None:
    """Kill -9 whichever worker holds a slide, at random moments, and compare with an undisturbed run."""
    slides = painted(told.work, told.slides, told.side)
    whole, out = told.work / "whole", told.work / "killed"
    timed(slides, whole, SegmentOptions(settings=TilingSettings(window_px=384)), None)
    expected = outputs(whole)
    line = [sys.executable, "-m", "glomtile", "segment", *map(str, slides), "-o", str(out)]
    rng, killed = random.Random(7), 0
    for number in range(told.runs):
        shutil.rmtree(out, ignore_errors=True)
        run = subprocess.Popen(
            [*line, "--window", "384", "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(2):  # a slide is given up after three
            if (worker := holder(out, run, rng)) is not None:
                with suppress(ProcessLookupError):  # it had ended, or is the one killed last
                    os.kill(worker, signal.SIGKILL)
                    killed += 1
        _, said = run.communicate()
        assert run.returncode == 0, said.decode()
        assert outputs(out) == expected, "another result"
        rows = (out / "summary.csv").read_text("utf-8").splitlines()
        assert len(rows) == len(slides) + 1, rows
        print(f"{number + 1} runs, {killed} workers killed, all the same", flush=True)


def holder(out: Path, run: subprocess.Popen[bytes], rng: random.Random) -> int | None:
    """A worker that is at a slide, some time after one was seen there."""
    pause = rng.uniform(0.0, 3.0)
    while run.poll() is None:
        for lock in (out / ".glomtile").glob("*.lock"):
            with suppress(FileNotFoundError, ValueError, KeyError):
                seen = int(json.loads(lock.read_text("utf-8"))["process"])
                if pause <= 0:
                    return seen
        time.sleep(0.02)
        pause -= 0.02
    return None


def memory(told: argparse.Namespace) -> None:
    slides = painted(told.work, 2, told.side)
    with workers(2) as (cluster, ids):
        timed(slides, told.work / "out", SegmentOptions(), cluster)
        peaks = [peak_mb(process) for process in ids]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import cluster; cluster.alone()"
    line = [sys.executable, "-c", code, *map(str, slides), str(told.work / "out")]
    alone = float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    print(f"{told.side:,} px: peak of each worker {', '.join(f'{peak:.0f}' for peak in peaks)} MiB, "
          f"of one process alone {alone:.0f} MiB")  # fmt: skip


def alone() -> None:
    *slides, out = map(Path, sys.argv[1:])
    timed(slides, out, SegmentOptions(settings=TilingSettings(network_threads=1)), None)
    print(peak_mb(os.getpid()))


def peak_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def painted(work: Path, count: int, side: int) -> list[Path]:
    """Copies of one painted slide: all take the same time."""
    first = work / f"slide-{side}.tif"
    work.mkdir(parents=True, exist_ok=True)
    write_slide(first, side)
    slides = [work / f"slide-{side}-{number}.tif" for number in range(count)]
    for slide in slides:
        if not slide.exists():
            slide.hardlink_to(first)
    return slides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("speed", "overhead", "kills", "memory"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--side", type=int, default=8000, help="of a slide at 0.5 µm per pixel")
    parser.add_argument("--spins", type=int, default=200, help="pieces of 0.1 s; of `overhead`")
    parser.add_argument("--tiny", type=int, default=200, help="how many pieces of work; of `overhead`")
    parser.add_argument("--tiny-side", type=int, default=1000)
    parser.add_argument("--small", type=int, default=200, help="how many slides; of `overhead`")
    parser.add_argument("--small-side", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20)
    told = parser.parse_args()
    print(f"{processor()}, {cores()} cores, NumPy {np.__version__}")
    {"speed": speed, "overhead": overhead, "kills": kills, "memory": memory}[told.what](told)


if __name__ == "__main__":
    main()
