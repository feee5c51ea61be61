"""Time for one image of 1024 x 1024 px at 0.5 µm: the reference's procedure, glomtile, MONAI, bundled model.

    python benchmarks/one_image.py --monai-python OTHER/bin/python       # the figures of docs/results.md
    python benchmarks/one_image.py --filters 4 --size 512 --rounds 1 --fresh 1

(a) The reference's procedure with its network (126.8 million parameters, random weights): four tiles of
    512 px, cropped with a margin of 64 px inside the image, shrunk to 512 px, one `model.predict` per tile,
    enlarged again.
(b) glomtile with the same weights, `window = "auto"`: one window as large as the image, in float32 and int8,
    without a margin, as the reference's tiles have none at the image's border.
(c) MONAI's sliding_window_inference with the same weights, Keras on PyTorch: windows of 512 px, overlap 0.25,
    and one window as large as the image. Needs another environment with glomtile[torch] and monai; left out
    without --monai-python.
(d) glomtile with the bundled model, or with -m MODEL: labels only, and everything, objects included.

Each is a process of its own; they run in alternation, and medians are compared. Then the rate of a large
float32 matrix product against that of (b), and the CPU seconds of a fresh process up to its first mask
against those of importing NumPy, OpenCV and the runtime.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import (
    Candidate,
    alternate,
    as_installed,
    candidate_options,
    fresh_process,
    machine,
    matrix_product_gflops,
    measure_once,
    serve,
)

TILE_PX, MARGIN_PX, MPP = 512, 64, 0.5
REFERENCE, FLOAT32 = "(a) the reference's procedure", "(b) glomtile, float32"


def painted(size: int) -> np.ndarray:
    from glomtile.synthetic import paint

    return paint(137, (size, size), MPP).image


def prepare(options: dict[str, Any]) -> dict[str, Any]:
    """Write the reference's network as a model folder with its exports, and the image."""
    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import ModelSettings
    from glomtile.errors import ModelError
    from glomtile.inference.export import export
    from glomtile.io.images import write_png
    from glomtile.models.folder import save_model_folder
    from glomtile.networks.profiling import layer_costs
    from glomtile.networks.registry import build_model, geometry
    from glomtile.palette import GLOMERULI

    folder, size = Path(options["folder"]), options["size"]
    calibration = folder / "calibration"
    calibration.mkdir()
    for path in (folder / "image.png", calibration / "image.png"):
        write_png(path, painted(size), MPP)
    settings = ModelSettings(
        model="FlexUNet", num_classes=2, base_filters=options["filters"], num_layers=8,
        base_kernels=(11, 11), norm="none", dropout_rate=0.05, mpp=MPP,
    )  # fmt: skip
    model = build_model(settings, seed=1)
    shape = geometry(settings)
    card = ModelCard(
        network=settings, classes=ModelCard.classes_of(GLOMERULI), mpp=MPP, tile_px=(TILE_PX, TILE_PX),
        stride_px=shape.stride_px, context_px=shape.context_px,
    )  # fmt: skip
    for precision in ("float32", "int8"):
        save_model_folder(folder / precision, model, card)
    export(folder / "float32", precision="float32")
    refused = ""
    try:
        export(folder / "int8", precision="int8", calibration=calibration)
    except ModelError as problem:  # random weights, on a processor without 8-bit dot products
        refused = str(problem)
    gflop = sum(cost.flop for cost in layer_costs(model, (size, size))) / 1e9
    return {"parameters": model.count_params(), "gflop": gflop, "int8_refused": refused}


def keras_model(folder: Path) -> Any:
    import keras

    import glomtile.networks.registry  # noqa: F401  (registers the layers with Keras)

    return keras.saving.load_model(folder / "float32" / "model.keras", compile=False)


def reference_procedure(options: dict[str, Any]) -> Callable[[], Any]:
    """Predict tile by tile with the steps of the reference; the pixels of its mask do not matter here."""
    import cv2

    from glomtile.io.images import read_image

    folder = Path(options["folder"])
    model, image = keras_model(folder), read_image(folder / "image.png")

    def work() -> int:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                above, before = max(0, top - MARGIN_PX), max(0, left - MARGIN_PX)
                crop = image[above : top + TILE_PX + MARGIN_PX, before : left + TILE_PX + MARGIN_PX]
                tile = cv2.resize(crop, (TILE_PX, TILE_PX)).astype(np.float32)
                labels = model.predict(tile[None], verbose=0)[0].argmax(-1).astype(np.uint8)
                labels = cv2.resize(labels, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                own = labels[top - above :, left - before :]
                own = own[: min(TILE_PX, height - top), : min(TILE_PX, width - left)]
                mask[top : top + own.shape[0], left : left + own.shape[1]] = own
        return int(mask.sum())

    return work


def glomtile_engine(options: dict[str, Any]) -> Callable[[], Any]:
    from glomtile.inference.image import TilingSettings, segment_image
    from glomtile.inference.predictor import OpenVinoPredictor
    from glomtile.io.images import read_image
    from glomtile.models.folder import read_card

    folder = Path(options["folder"])
    model = folder / options["precision"]
    predictor = OpenVinoPredictor(model, read_card(model))
    image = read_image(folder / "image.png")
    tiling = TilingSettings(overlap_px=0, window_px="auto", memory_mb=4096)
    return lambda: int(segment_image(image, predictor, tiling, MPP).labels.sum())


def monai_engine(options: dict[str, Any]) -> Callable[[], Any]:
    import torch
    from monai.inferers import sliding_window_inference

    from glomtile.io.images import read_image

    folder = Path(options["folder"])
    model = keras_model(folder)
    image = torch.from_numpy(read_image(folder / "image.png").astype(np.float32)).permute(2, 0, 1)[None]

    def network(windows: Any) -> Any:
        return model(windows.permute(0, 2, 3, 1), training=False).permute(0, 3, 1, 2)

    def work() -> int:
        with torch.no_grad():
            probs = sliding_window_inference(image, options["window"], 1, network, overlap=0.25)
        return int(probs[0].argmax(0).sum())

    return work


def bundled_model(options: dict[str, Any]) -> Callable[[], Any]:
    from glomtile import Segmenter
    from glomtile.inference.image import TilingSettings, segment_image
    from glomtile.io.images import read_image

    path = Path(options["folder"]) / "image.png"
    segmenter = Segmenter.load(options["model"])
    if options["objects"]:
        return lambda: len(segmenter.segment(path, mpp=MPP).objects)
    image, predictor = read_image(path), segmenter._predictor
    tiling = TilingSettings(window_px="auto", overlap_px=64, memory_mb=2048)
    return lambda: int(segment_image(image, predictor, tiling, MPP).labels.sum())


KINDS = {"a": reference_procedure, "b": glomtile_engine, "c": monai_engine, "d": bundled_model}


def started(args: argparse.Namespace, folder: str, int8_refused: str) -> list[Candidate]:
    shared = {"folder": folder, "model": str(args.model) if args.model else None}
    candidates = [
        Candidate(REFERENCE, {**shared, "kind": "a"}, KERAS_BACKEND="tensorflow"),
        Candidate(FLOAT32, {**shared, "kind": "b", "precision": "float32"}),
    ]
    if int8_refused:
        print(f"(b) int8 left out: {int8_refused}")
    else:
        candidates.append(Candidate("(b) glomtile, int8", {**shared, "kind": "b", "precision": "int8"}))
    if args.monai_python:
        candidates += [
            Candidate(
                f"(c) MONAI, window {window}", {**shared, "kind": "c", "window": window}, args.monai_python,
                KERAS_BACKEND="torch",
            )
            for window in dict.fromkeys((TILE_PX, args.size))
        ]  # fmt: skip
    else:
        print("(c) left out: it needs --monai-python with glomtile[torch] and monai")
    if _has_model(args.model):
        candidates += [
            Candidate("(d) the bundled model, labels", {**shared, "kind": "d", "objects": False}),
            Candidate("(d) the bundled model, objects", {**shared, "kind": "d", "objects": True}),
        ]
    else:
        print("(d) left out: no model is bundled with this installation; -m MODEL names one")
    return candidates


def _has_model(given: Path | None) -> bool:
    from glomtile.models.folder import bundled_folder

    return given is not None or bundled_folder() is not None


def cpu_of_fresh_processes(args: argparse.Namespace, folder: str) -> None:
    """Print CPU seconds of a process up to its first mask, and of one that only imports, in alternation."""
    imports = "import sys, numpy, cv2\nsys.modules['openvino_telemetry'] = None\nimport openvino"
    model = repr(str(args.model)) if args.model else ""
    image = repr(folder + "/image.png")
    mask = f"from glomtile import Segmenter\nSegmenter.load({model}).segment({image}, mpp={MPP})"
    environment = as_installed(Path(folder) / "byte-code")
    seconds: dict[str, list[float]] = {imports: [], mask: []}
    for number in range(args.fresh + 1):
        for code, counted in seconds.items():
            cpu_s, _ = fresh_process([sys.executable, "-c", code], environment)
            if number:
                counted.append(cpu_s)
    least, first = (statistics.median(counted) for counted in seconds.values())
    print(
        f"\nimporting NumPy, OpenCV, OpenVINO: {least:.2f} CPU s; first mask of a fresh process: {first:.2f}"
    )
    print(f"first mask / imports: {first / least:.2f}")


def report(runs: dict[str, dict[str, Any]], facts: dict[str, Any], rate: float) -> None:
    print(
        f"\nthe reference's network: {facts['parameters']:,} parameters, {facts['gflop']:.0f} GFLOP per image"
    )
    print("| candidate | s | from, to | CPU s | (a) / it | it / (b) float32 |\n|---|---|---|---|---|---|")
    reference_s, float32_s = (runs[name]["wall_s"] for name in (REFERENCE, FLOAT32))
    for name, run in runs.items():
        low, high = run["spread_s"]
        print(
            f"| {name} | {run['wall_s']:.3f} | {low:.3f}, {high:.3f} | {run['cpu_s']:.2f} "
            f"| {reference_s / run['wall_s']:.2f} | {run['wall_s'] / float32_s:.2f} |"
        )
    own = facts["gflop"] / float32_s
    print(
        f"\nlargest float32 matrix product: {rate:.0f} GFLOP/s; "
        f"(b) in float32: {own:.0f}, {own / rate:.2f} of it"
    )


def main() -> None:
    options = candidate_options()
    if options is not None:
        kind = options["kind"]
        serve((lambda: prepare(options)) if kind == "prepare" else KINDS[kind](options))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each, after one that warms up")
    parser.add_argument("--fresh", type=int, default=15, help="counted fresh processes up to the first mask")
    parser.add_argument("--size", type=int, default=1024, help="side of the image (px)")
    parser.add_argument(
        "--filters", type=int, default=16, help="of the first level of the reference's network"
    )
    parser.add_argument("--model", "-m", type=Path, help="for (d), in place of the bundled model")
    parser.add_argument("--monai-python", metavar="PYTHON", help="of an environment for (c)")
    args = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    print(machine("keras", "tensorflow-cpu", "openvino", "numpy", "opencv-python-headless"))
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"folder": folder, "kind": "prepare", "size": args.size, "filters": args.filters}
        facts = measure_once("prepare", wanted)
        runs = alternate(started(args, folder, facts["int8_refused"]), args.rounds)
        report(runs, facts, matrix_product_gflops())
        if _has_model(args.model):
            cpu_of_fresh_processes(args, folder)


if __name__ == "__main__":
    main()
