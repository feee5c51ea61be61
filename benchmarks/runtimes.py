"""Speed of the networks on each runtime: Keras on its three backends, ONNX Runtime, OpenVINO.

    python benchmarks/runtimes.py --other-python OTHER/bin/python     # both networks, about 20 minutes
    python benchmarks/runtimes.py --networks small --rounds 3
    python benchmarks/runtimes.py --networks small --side 96 --tiles 2 --rounds 1

Two networks: a FlexUNet of 16 filters, 5 levels, 3x3 kernels with batch normalisation, at 384 px; the
reference's of 126.8 million parameters at 512 px. Weights are random: they do not change the time. Every
candidate is a process of its own with the same tiles; they run in alternation, and medians are compared.
Keras on JAX and on PyTorch need another environment with glomtile[jax] and torch; without --other-python they
are left out. Differences are against Keras on TensorFlow. OpenVINO's precision is always set: its default is
bfloat16 where the processor has it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness import (
    Candidate,
    alternate,
    candidate_options,
    machine,
    matrix_product_gflops,
    measure_once,
    serve,
)

NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"base_filters": 16, "num_layers": 5, "base_kernels": (3, 3), "norm": "batch", "side": 384},
    "reference": {"base_filters": 16, "num_layers": 8, "base_kernels": (11, 11), "norm": "none", "side": 512},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "Keras predict, tile by tile": {"kind": "predict"},
    "Keras on TensorFlow": {"kind": "keras"},
    "Keras on TensorFlow, batch": {"kind": "keras", "batch": True},
    "Keras on JAX": {"kind": "keras", "backend": "jax"},
    "Keras on JAX, batch": {"kind": "keras", "backend": "jax", "batch": True},
    "Keras on PyTorch": {"kind": "keras", "backend": "torch"},
    "Keras on PyTorch, batch": {"kind": "keras", "backend": "torch", "batch": True},
    "ONNX Runtime float32": {"kind": "onnxruntime"},
    "ONNX Runtime float32, batch": {"kind": "onnxruntime", "batch": True},
    "ONNX Runtime int8": {"kind": "onnxruntime", "file": "int8.onnx"},
    "OpenVINO float32": {"kind": "openvino"},
    "OpenVINO float32, 2 streams": {"kind": "openvino", "streams": 2},
    "OpenVINO bfloat16": {"kind": "openvino", "precision": "bf16"},
    "OpenVINO bfloat16, 2 streams": {"kind": "openvino", "precision": "bf16", "streams": 2},
    "OpenVINO int8": {"kind": "openvino", "file": "int8.onnx"},
    "OpenVINO int8, 2 streams": {"kind": "openvino", "file": "int8.onnx", "streams": 2},
}


def tiles(count: int, side: int) -> np.ndarray:
    from glomtile.synthetic import paint

    return np.stack([paint(seed, (side, side), 2.0).image for seed in range(count)])


def prepare(options: dict[str, Any]) -> dict[str, Any]:
    """Write the network, its exports, the tiles and the expected probabilities."""
    import keras

    from glomtile.config.schema import ModelSettings
    from glomtile.inference import export
    from glomtile.networks.profiling import layer_costs
    from glomtile.networks.registry import build_model

    folder, network = Path(options["folder"]), options["network"]
    side = options["side"] or network["side"]
    settings = {key: value for key, value in network.items() if key != "side"}
    model = build_model(ModelSettings(model="FlexUNet", num_classes=2, **settings), seed=1)
    keras.saving.save_model(model, folder / "model.keras")
    export.write_onnx(model, folder / "float32.onnx")
    batch = tiles(options["tiles"], side)
    export.write_int8(folder / "float32.onnx", folder / "int8.onnx", list(batch[:2]))
    np.save(folder / "tiles.npy", batch)
    forward = export.keras_forward(model)
    np.save(folder / "answer.npy", np.concatenate([forward(batch[i : i + 1]) for i in range(len(batch))]))
    gflop = sum(cost.flop for cost in layer_costs(model, (side, side))) / 1e9
    return {"parameters": model.count_params(), "gflop": gflop, "side": side}


def forward_of(options: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    folder = Path(options["folder"])
    if options["kind"] in ("keras", "predict"):
        import keras

        import glomtile.networks.registry  # noqa: F401  (Keras must know our layers)
        from glomtile.inference.predictor import KerasPredictor
        from glomtile.networks.registry import Geometry

        model = keras.saving.load_model(folder / "model.keras", compile=False)
        if options["kind"] == "predict":
            return lambda batch: model.predict(batch.astype(np.float32), verbose=0)
        return KerasPredictor(model, Geometry(1, 0))
    if options["kind"] == "openvino":
        from glomtile.inference.predictor import openvino_forward

        streams, precision = options.get("streams", 1), options.get("precision", "f32")
        return openvino_forward(folder / options["file"], streams=streams, precision=precision)[0]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / options["file"]), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"image": batch.astype(np.float32)})[0]


def serve_candidate(options: dict[str, Any]) -> None:
    forward = forward_of(options)
    folder = Path(options["folder"])
    batch, expected = np.load(folder / "tiles.npy"), np.load(folder / "answer.npy")
    together = options.get("batch") or options.get("streams", 1) > 1

    def work() -> float:
        if together:
            answer = forward(batch)
        else:
            answer = np.concatenate([forward(batch[i : i + 1]) for i in range(len(batch))])
        return float(np.abs(answer - expected).max())

    packages = ("keras", "jax", "torch") if "backend" in options else ()
    serve(work, {"versions": [f"{package} {version(package)}" for package in packages]})


def chosen(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the selected candidates that can run here."""
    selected = {
        title: how
        for title, how in CANDIDATES.items()
        if not args.only or any(word in title for word in args.only)
    }
    if args.other_python:
        return selected
    left_out = [title for title, how in selected.items() if "backend" in how]
    if left_out:
        print(f"{', '.join(left_out)} left out: they need --other-python with glomtile[jax] and torch")
    return {title: how for title, how in selected.items() if title not in left_out}


def compare(name: str, args: argparse.Namespace, candidates: dict[str, dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = {"folder": folder, "network": NETWORKS[name], "side": args.side, "tiles": args.tiles}
        facts = measure_once("prepare", {**options, "kind": "prepare"}, KERAS_BACKEND="tensorflow")
        processes = [
            Candidate(
                title,
                {"file": "float32.onnx", **how, "folder": folder},
                args.other_python if "backend" in how else sys.executable,
                KERAS_BACKEND=how.get("backend", "tensorflow"),
            )
            for title, how in candidates.items()
        ]
        runs = alternate(processes, args.rounds)
    first = next(iter(runs.values()))["wall_s"]
    rate = matrix_product_gflops(1024 if args.side else 4096)
    print(f"\n{name}: {facts['parameters']:,} parameters, {args.tiles} tiles of {facts['side']} px, "
          f"{facts['gflop']:.1f} GFLOP per tile; largest matrix product {rate:.0f} GFLOP/s")  # fmt: skip
    elsewhere = {one for run in runs.values() for one in run["versions"]}
    if elsewhere:
        print(f"in the other environment: {', '.join(sorted(elsewhere))}")
    print("| candidate | s | from, to | CPU s | times | GFLOP/s | of the rate | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for candidate, run in runs.items():
        speed = facts["gflop"] * args.tiles / run["wall_s"]
        low, high = run["spread_s"]
        print(
            f"| {candidate} | {run['wall_s']:.3f} | {low:.3f}, {high:.3f} | {run['cpu_s']:.3f} "
            f"| {first / run['wall_s']:.2f} | {speed:.0f} | {speed / rate:.2f} | {run['answer']:.1g} |"
        )


def main() -> None:
    options = candidate_options()
    if options is not None:
        serve(lambda: prepare(options)) if options["kind"] == "prepare" else serve_candidate(options)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each, after one that warms up")
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--side", type=int, help="of a tile, in place of each network's own (px)")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="candidates whose name contains one of the words"
    )
    parser.add_argument(
        "--other-python", metavar="PYTHON", help="of an environment with glomtile[jax] and torch"
    )
    args = parser.parse_args()
    print(machine("keras", "tensorflow-cpu", "onnxruntime", "openvino", "numpy"))
    candidates = chosen(args)
    if not candidates:
        parser.error(f"--only: expected words of a candidate's name, got {' '.join(args.only)}")
    for name in args.networks:
        compare(name, args, candidates)


if __name__ == "__main__":
    sys.exit(main())
