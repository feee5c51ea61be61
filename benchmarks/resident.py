"""Contestants of a benchmark: each in a process of its own that stays, asked in turn over pipes.

Keras has one backend a process, and the threads of one runtime would be in another's way.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROLE = "--contestant"


class Resident:
    """A contestant: this script again, as a process that answers one line of JSON with another."""

    def __init__(
        self, name: str, options: Mapping[str, Any], python: str = sys.executable, **environment: str
    ) -> None:
        self.name = name
        line = [python, sys.argv[0], ROLE, json.dumps({"name": name, **options})]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **quiet, **environment},
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}: see above")
        return dict(json.loads(answer))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def contestant() -> dict[str, Any] | None:
    """The options of this process where it is a contestant."""
    return json.loads(sys.argv[2]) if len(sys.argv) == 3 and sys.argv[1] == ROLE else None


def serve(work: Callable[[], Any], facts: Mapping[str, Any] | None = None) -> None:
    """Do the work once for each line that comes, and tell its wall and CPU seconds.

    What the work returns is told as `answer`. The first run warms up: it is told too, and not counted.
    """
    pipe = os.fdopen(os.dup(1), "w")
    # What libraries print must not come between our lines.
    os.dup2(2, 1)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        answer = work()
        told = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "answer": answer}
        pipe.write(json.dumps({**told, **(facts or {})}) + "\n")
        pipe.flush()


def in_turn(residents: list[Resident], rounds: int) -> dict[str, dict[str, Any]]:
    """Medians of each over rounds in which each ran once, in changing order; the first round warms up."""
    told: dict[str, list[dict[str, Any]]] = {resident.name: [] for resident in residents}
    for number in range(rounds + 1):
        order = residents if number % 2 == 0 else residents[::-1]
        for resident in order:
            told[resident.name].append(resident.ask())
            print(
                f"round {number}: {resident.name} {told[resident.name][-1]['wall_s']:.3f} s", file=sys.stderr
            )
    found = {}
    for name, runs in told.items():
        counted = runs[1:]
        medians = {key: statistics.median(run[key] for run in counted) for key in ("wall_s", "cpu_s")}
        spread = [min(run["wall_s"] for run in counted), max(run["wall_s"] for run in counted)]
        found[name] = {**counted[-1], **medians, "spread_s": spread}
    return found


def matrix_product_gflops(side: int = 4096, repeats: int = 5) -> float:
    """The best rate of a large float32 matrix product here, by NumPy or by OpenVINO, whichever is faster."""
    return max(_numpy_gflops(side, repeats), _openvino_gflops(side, repeats))


def _numpy_gflops(side: int, repeats: int) -> float:
    import numpy as np

    one, other = (np.random.default_rng(i).random((side, side), np.float32) for i in range(2))
    return _best_rate(lambda: one @ other, 2 * side**3, repeats)


def _openvino_gflops(side: int, repeats: int) -> float:
    import numpy as np

    from glomtile.inference.runtime import openvino_module

    openvino = openvino_module()
    operators = openvino.opset13
    given = operators.parameter([side, side], np.float32)
    fixed = operators.constant(np.random.default_rng(1).random((side, side), np.float32))
    model = openvino.Model([operators.matmul(given, fixed, False, False)], [given], "product")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    one = np.random.default_rng(0).random((side, side), np.float32)
    return _best_rate(lambda: request.infer({0: one}, share_inputs=True), 2 * side**3, repeats)


def _best_rate(work: Callable[[], Any], flop: float, repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return flop / min(times) / 1e9


def as_installed(folder: Path) -> dict[str, str]:
    """The environment of fresh processes that find byte code, as a user's do after an installation.

    It lies in `folder`, which the first, uncounted run fills, whatever the environment says about writing it.
    """
    told = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return told | {"PYTHONPYCACHEPREFIX": str(folder)}


def machine(packages: tuple[str, ...]) -> list[str]:
    """Lines that say where and with what this was measured."""
    known = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    return [
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        ", ".join(known),
        f"load before: {load}",
        f"command: {shlex.join(['python', *sys.argv])}",
    ]
