"""CPU time of ``glomtile --help`` compared with that of an empty Python program.

python benchmarks/help_time.py [--runs 60]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from harness import as_installed, fresh_process, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="runs of each command, in alternation")
    runs = parser.parse_args().runs
    neighbour = Path(sys.executable).with_name("glomtile")
    script = str(neighbour) if neighbour.exists() else shutil.which("glomtile")
    if script is None:
        sys.exit("expected the glomtile command in this environment, found none: install the package first")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
        "glomtile --help": [script, "--help"],
        "python -m glomtile --help": [sys.executable, "-m", "glomtile", "--help"],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        environment = as_installed(Path(folder))
        for command in commands.values():
            fresh_process(command, environment)
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(fresh_process(command, environment))
    print(machine("typer"))
    base = statistics.median(cpu for cpu, _ in times["python -c pass"])
    print(f"{'command':28} {'CPU ms':>8} {'wall ms':>8} {'x pass':>7}   (medians of {runs} runs)")
    for name, pairs in times.items():
        cpu, wall = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{name:28} {1000 * cpu:8.1f} {1000 * wall:8.1f} {cpu / base:7.1f}")


if __name__ == "__main__":
    main()
