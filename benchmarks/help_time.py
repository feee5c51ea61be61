"""CPU time of ``glomtile --help`` against that of a Python that does nothing, runs made in turn.

python benchmarks/help_time.py [--runs 60]
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from resident import as_installed


def once(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU and wall seconds of one process, started and ended."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=environment)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, ended - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    beside = Path(sys.executable).with_name("glomtile")
    script = str(beside) if beside.exists() else shutil.which("glomtile")
    if script is None:
        sys.exit("no glomtile command beside this Python: install the package first")
    contestants = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
        "glomtile --help": [script, "--help"],
        "python -m glomtile --help": [sys.executable, "-m", "glomtile", "--help"],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        environment = as_installed(Path(folder))
        for command in contestants.values():  # byte code is written once, in an installation's first run
            once(command, environment)
        for _ in range(runs):
            for name, command in contestants.items():
                times[name].append(once(command, environment))
    base = statistics.median(cpu for cpu, _ in times["python -c pass"])
    print(f"{'command':28} {'CPU ms':>8} {'wall ms':>8} {'x pass':>7}   (medians of {runs} runs in turn)")
    for name, pairs in times.items():
        cpu = statistics.median(c for c, _ in pairs)
        wall = statistics.median(w for _, w in pairs)
        print(f"{name:28} {1000 * cpu:8.1f} {1000 * wall:8.1f} {cpu / base:7.1f}")
    print(f"{platform.platform()}, Python {platform.python_version()}, typer {version('typer')}")


if __name__ == "__main__":
    main()
