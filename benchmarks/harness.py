"""Shared parts of the benchmarks: processes measured in alternation, CPU times, the machine.

Each candidate of a comparison runs in a process of its own that stays alive and is measured over pipes: Keras
has one backend per process, and the threads of one runtime would slow down another.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROLE = "--candidate"


class Candidate:
    """This script again, as a process that answers each line of JSON with another."""

    def __init__(
        self, name: str, options: Mapping[str, Any], python: str = sys.executable, **environment: str
    ) -> None:
        self.name = name
        command = [python, sys.argv[0], ROLE, json.dumps({"name": name, **options})]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **quiet, **environment},
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}: see above")
        return dict(json.loads(answer))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def candidate_options() -> dict[str, Any] | None:
    """Return the options of this process if it is a candidate."""
    return json.loads(sys.argv[2]) if len(sys.argv) == 3 and sys.argv[1] == ROLE else None


def serve(work: Callable[[], Any], facts: Mapping[str, Any] | None = None) -> None:
    """Do the work for each line received, and send its wall and CPU seconds and its result, `answer`."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the protocol
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        answer = work()
        times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "answer": answer}
        pipe.write(json.dumps({**times, **(facts or {})}) + "\n")
        pipe.flush()


def measure_once(name: str, options: Mapping[str, Any], **environment: str) -> Any:
    """Do the work of one candidate once and return its result."""
    candidate = Candidate(name, options, **environment)
    answer = candidate.run()["answer"]
    candidate.close()
    return answer


def alternate(candidates: Sequence[Candidate], rounds: int) -> dict[str, dict[str, Any]]:
    """Run every candidate once per round, in alternating order, and close them.

    Returns the medians of each over `rounds` rounds; a round before them warms up.
    """
    runs: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    for number in range(rounds + 1):
        for candidate in candidates if number % 2 == 0 else candidates[::-1]:
            runs[candidate.name].append(candidate.run())
            wall_s = runs[candidate.name][-1]["wall_s"]
            print(f"round {number}: {candidate.name} {wall_s:.3f} s", file=sys.stderr)
    for candidate in candidates:
        candidate.close()
    medians = {}
    for name, (_, *counted) in runs.items():
        walls = [run["wall_s"] for run in counted]
        medians[name] = {
            **counted[-1],
            **{key: statistics.median(run[key] for run in counted) for key in ("wall_s", "cpu_s")},
            "spread_s": [min(walls), max(walls)],
        }
    return medians


def fresh_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Return CPU and wall seconds of one process, from its start to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=environment)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def as_installed(folder: Path) -> dict[str, str]:
    """Return an environment in which processes find byte code in `folder`, as after an installation.

    The first run, which is not counted, writes the byte code.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder)}


def peak_mib() -> float:
    """Return the peak resident memory of this process."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def matrix_product_gflops(side: int = 4096, repeats: int = 5) -> float:
    """Return the best rate of a large float32 matrix product, by NumPy or OpenVINO, whichever is faster."""
    import numpy as np

    from glomtile.inference.predictor import openvino_module

    first, second = (np.random.default_rng(i).random((side, side), np.float32) for i in range(2))
    openvino = openvino_module()
    operators = openvino.opset13
    variable = operators.parameter([side, side], np.float32)
    product = operators.matmul(variable, operators.constant(second), False, False)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    model = openvino.Model([product], [variable], "product")
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    seconds = []
    for work in (lambda: first @ second, lambda: request.infer({0: first}, share_inputs=True)):
        work()
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds) / 1e9


def machine(*packages: str) -> str:
    """Describe the machine, the installed versions among `packages`, the load and the command, in lines."""
    versions = [f"Python {platform.python_version()}"]
    for name in ("glomtile", *packages):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    return "\n".join(
        [
            f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            ", ".join(versions),
            f"load before: {load}",
            f"command: {shlex.join(['python', *sys.argv])}",
        ]
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format a median with the range of its values."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
