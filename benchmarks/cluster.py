"""Slides on a cluster of this machine: gain of a second worker, overhead, kills, memory.

python benchmarks/cluster.py speed WORK
python benchmarks/cluster.py overhead WORK
python benchmarks/cluster.py kills WORK --slides 2 --side 4000 --runs 20
python benchmarks/cluster.py memory WORK

Painted slides are written to WORK once. Every worker has one core (Linux: by affinity). Runs that are
compared alternate.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from glomtile.cluster import Cluster, connect, run_tasks
from glomtile.inference.batch import SegmentOptions, segment
from glomtile.inference.image import TilingSettings
from glomtile.types import SILENT, Progress
from harness import machine, spread
from slides import outputs, write_slide

PORT = 18786

CORES = sorted(os.sched_getaffinity(0))
OTHER_CORES = set(CORES[1:]) or set(CORES)
"""Cores of client and scheduler while one worker has the first core for itself."""


@contextmanager
def workers(count: int, scheduler_cores: set[int] | None = None) -> Iterator[tuple[Cluster, list[int]]]:
    """Start a scheduler and workers of one core each; yield the cluster and the workers' process ids."""
    address = f"tcp://127.0.0.1:{PORT}"
    with ExitStack() as stack:

        def start(program: str, cores: set[int] | None, *arguments: str) -> int:
            command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)
            return process.pid

        start("scheduler", scheduler_cores, "--host", "127.0.0.1", "--port", str(PORT), "--no-show")
        ids = [
            start("worker", {CORES[number % len(CORES)]}, address, "--host", "127.0.0.1", "--nthreads", "1",
                  "--no-nanny", "--memory-limit", "0")
            for number in range(count)
        ]  # fmt: skip
        wait_for(address, count)
        yield Cluster(address), ids


def wait_for(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)


def painted(work: Path, count: int, side: int) -> list[Path]:
    """Write copies of one painted slide, which all take the same time."""
    first = work / f"slide-{side}.tif"
    work.mkdir(parents=True, exist_ok=True)
    write_slide(first, side)
    slides = [work / f"slide-{side}-{number}.tif" for number in range(count)]
    for slide in slides:
        if not slide.exists():
            slide.hardlink_to(first)
    return slides


def segment_all(slides: list[Path], out: Path, cluster: Cluster | None, **settings: int) -> float:
    """Segment slides into an empty folder and return the wall seconds."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    result = segment(slides, out, SegmentOptions(settings=TilingSettings(**settings)), cluster=cluster)
    seconds = time.perf_counter() - began
    assert len(result.done) == len(slides), result.failed
    return seconds


def speed(args: argparse.Namespace) -> None:
    """Compare two workers with one."""
    slides = painted(args.work, args.slides, args.side)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(args.rounds):
        for count in seconds:
            with workers(count) as (cluster, _):
                seconds[count].append(segment_all(slides, args.work / "out", cluster))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(f"{len(slides)} slides of {args.side:,} px: one worker {spread(seconds[1], 1)} s, "
          f"two {spread(seconds[2], 1)} s, ratio {spread(ratios)}")  # fmt: skip


def overhead(args: argparse.Namespace) -> None:
    """Compare the command on one core with the command with one worker of one core.

    Client and scheduler of the second run on the other cores.
    """
    print_task_cost(args.tasks)
    slides = painted(args.work, max(2, args.slides), args.side)
    runs: list[tuple[list[float], list[float]]] = []
    for number in range(args.rounds):
        order = (False, True) if number % 2 == 0 else (True, False)
        times = {on_worker: command_times(slides, args.work / "out", on_worker) for on_worker in order}
        runs.append((times[False], times[True]))
        local, remote = runs[-1]
        print(f"round {number}: {local[1]:.2f} and {remote[1]:.2f} s", file=sys.stderr)
    change = [100 * (remote[1] / local[1] - 1) for local, remote in runs]
    total = [100 * (sum(remote) / sum(local) - 1) for local, remote in runs]
    fixed = [remote[0] + remote[2] - local[0] - local[2] for local, remote in runs]
    per_slide = [1000 * local[1] / (len(slides) - 1) for local, _ in runs]
    print(f"{len(slides)} slides of {args.side:,} px, {spread(per_slide, 0)} ms each without a cluster: "
          f"with a worker {spread(change, 1)} % more between the first and the last result, "
          f"{spread(fixed, 1)} s more before and after, {spread(total, 1)} % more in total")  # fmt: skip


def command_times(slides: list[Path], out: Path, on_worker: bool) -> list[float]:
    """Return the seconds of a command up to its first result, from there to the last, and to its end."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "glomtile", "segment", *map(str, slides), "-o", str(out)]
    with workers(1, OTHER_CORES) if on_worker else nullcontext((None, [])) as (cluster, _):
        if cluster is not None:
            command += ["--scheduler", str(cluster.scheduler)]
        began = time.time()
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.sched_setaffinity(run.pid, OTHER_CORES if on_worker else {CORES[0]})
        _, errors = run.communicate()
        ended = time.time()
    done = sorted(path.stat().st_mtime for path in (out / ".glomtile").glob("*.json"))
    assert run.returncode == 0, errors.decode()
    assert len(done) == len(slides), errors.decode()
    return [done[0] - began, done[-1] - done[0], ended - done[-1]]


def do_nothing(task: str, progress: Progress) -> None:
    """Do the work of an empty task."""


def print_task_cost(count: int) -> None:
    """Print the time of client and scheduler, which are one process here, per empty task."""
    with connect(Cluster(workers=1)) as client:
        results = run_tasks(client, do_nothing, [f"task {n}" for n in range(count + 1)], SILENT)
        next(results)
        cpu, wall = time.process_time(), time.perf_counter()
        assert all(result is None for _, result in results)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"client and scheduler: {1000 * cpu / count:.2f} CPU ms per empty task, "
          f"{1000 * wall / count:.2f} ms between two of them", flush=True)  # fmt: skip


def kills(args: argparse.Namespace) -> None:
    """Send SIGKILL to a worker at a random moment of each run, and compare with an undisturbed run."""
    slides = painted(args.work, args.slides, args.side)
    whole, out = args.work / "whole", args.work / "killed"
    seconds = segment_all(slides, whole, None, window_px=384)
    expected = outputs(whole)
    command = [sys.executable, "-m", "glomtile", "segment", *map(str, slides), "-o", str(out)]
    rng, killed = random.Random(7), 0
    for number in range(args.runs):
        shutil.rmtree(out, ignore_errors=True)
        run = subprocess.Popen(
            [*command, "--window", "384", "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        killed += kill_worker(run, out, rng, seconds)
        _, errors = run.communicate()
        assert run.returncode == 0, errors.decode()
        assert outputs(out) == expected, "the outputs differ"
        rows = (out / "summary.csv").read_text("utf-8").splitlines()
        assert len(rows) == len(slides) + 1, rows
        print(f"{number + 1} runs, {killed} workers killed, the same outputs", flush=True)


def kill_worker(run: subprocess.Popen[bytes], out: Path, rng: random.Random, seconds: float) -> bool:
    """Kill one worker of a run, some time after the first slide has started."""
    import psutil

    while run.poll() is None and not any((out / ".glomtile").glob("*")):
        time.sleep(0.02)
    time.sleep(rng.uniform(0.0, seconds / 2))
    if run.poll() is not None:
        return False
    children = psutil.Process(run.pid).children(recursive=True)
    spawned = [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    rng.choice(spawned).kill()
    return True


def memory(args: argparse.Namespace) -> None:
    """Compare the peak memory of two workers with that of one process."""
    slides = painted(args.work, 2, args.side)
    with workers(2) as (cluster, ids):
        segment_all(slides, args.work / "out", cluster)
        peaks = [peak_mib(process) for process in ids]
    command = [sys.executable, __file__, "memory-alone", str(args.work), "--side", str(args.side)]
    single = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    print(f"{args.side:,} px: peak of each worker {', '.join(f'{peak:.0f}' for peak in peaks)} MiB, "
          f"of one process {single:.0f} MiB")  # fmt: skip


def memory_alone(args: argparse.Namespace) -> None:
    segment_all(painted(args.work, 2, args.side), args.work / "out", None, network_threads=1)
    print(peak_mib(os.getpid()))


def peak_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    commands = {
        "speed": speed, "overhead": overhead, "kills": kills, "memory": memory, "memory-alone": memory_alone
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("work", type=Path)
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--side", type=int, default=6000, help="of a slide at 0.5 µm per pixel (px)")
    parser.add_argument("--rounds", type=int, default=3, help="of `speed` and `overhead`")
    parser.add_argument("--tasks", type=int, default=1000, help="empty tasks of `overhead`")
    parser.add_argument("--runs", type=int, default=20, help="of `kills`")
    args = parser.parse_args()
    print(machine("numpy", "distributed"))
    commands[args.command](args)


if __name__ == "__main__":
    main()
