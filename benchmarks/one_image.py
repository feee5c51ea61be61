"""One image of 1024 x 1024 px at 0.5 µm: the reference's procedure, our engine, MONAI's, the bundled model.

    python benchmarks/one_image.py --monai-python OTHER/bin/python       # the figures of docs/results.md
    python benchmarks/one_image.py --filters 4 --size 512 --rounds 1 --fresh 1   # a quick look

(a) The reference's procedure with its network (126.8 million parameters, random weights): four tiles of
    512 px cropped with 64 px of margin where the image has any, shrunk to 512, one `model.predict` a tile,
    enlarged back.
(b) Our engine with the same weights, `window = "auto"`: one window as large as the image, in float32 and in
    int8. A picture seen in one window gets no margin here, as the reference's tiles have none at its border.
(c) MONAI's sliding_window_inference with the same weights, Keras on PyTorch: windows of 512, overlap 0.25,
    and one as large as the image. In an environment of its own with glomtile[torch] and monai; left out where
    --monai-python is not given.
(d) Our engine with the bundled model, or with -m MODEL: labels, and beside it everything, objects included.

Each is a resident process; they run in turn, and medians are compared. Beside them: this machine's rate of a
large float32 matrix product against (b)'s arithmetic, and the CPU seconds of a fresh process to its first
mask against those of importing NumPy, OpenCV and the runtime.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resident import Resident, as_installed, contestant, in_turn, machine, matrix_product_gflops, serve

TILE_PX, MARGIN_PX, MPP = 512, 64, 0.5


def picture(size: int) -> np.ndarray:
    from glomtile.synthetic import paint

    return paint(137, (size, size), MPP).image


def prepare(options: dict[str, Any]) -> dict[str, Any]:
    """Write the reference's network as a model folder with its exports, and the image."""
    from glomtile.config.model_card import ModelCard
    from glomtile.config.schema import ModelSettings
    from glomtile.inference.export import export
    from glomtile.io.images import write_png
    from glomtile.models.folder import save_model_folder
    from glomtile.networks.profiling import layer_costs
    from glomtile.networks.registry import build_model, geometry
    from glomtile.palette import GLOMERULI

    folder, size = Path(options["folder"]), options["size"]
    write_png(folder / "image.png", picture(size), MPP)
    settings = ModelSettings(
        model="FlexUNet", num_classes=2, base_filters=options["filters"], num_layers=8,
        base_kernels=(11, 11), norm="none", dropout_rate=0.05, mpp=MPP,
    )  # fmt: skip
    model = build_model(settings, seed=1)
    seen = geometry(settings)
    card = ModelCard(
        network=settings, classes=ModelCard.classes_of(GLOMERULI), mpp=MPP, tile_px=(TILE_PX, TILE_PX),
        stride_px=seen.stride_px, context_px=seen.context_px,
    )  # fmt: skip
    (folder / "calibration").mkdir()
    write_png(folder / "calibration" / "image.png", picture(size), MPP)
    for precision, calibration in (("float32", None), ("int8", folder / "calibration")):
        save_model_folder(folder / precision, model, card)
        export(folder / precision, precision=precision, calibration=calibration)
    gflop = sum(cost.flop for cost in layer_costs(model, (size, size))) / 1e9
    return {"parameters": model.count_params(), "gflop": gflop}


def reference_procedure(options: dict[str, Any]) -> Callable[[], Any]:
    """Tile by tile as the reference does it; its masks' pixels do not matter here, its steps do."""
    import cv2
    import keras

    import glomtile.networks.registry  # noqa: F401  (Keras must know our layers)
    from glomtile.io.images import read_image

    folder = Path(options["folder"])
    model = keras.saving.load_model(folder / "float32" / "model.keras", compile=False)
    image = read_image(folder / "image.png")

    def work() -> int:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                first, before = max(0, top - MARGIN_PX), max(0, left - MARGIN_PX)
                crop = image[first : top + TILE_PX + MARGIN_PX, before : left + TILE_PX + MARGIN_PX]
                seen = cv2.resize(crop, (TILE_PX, TILE_PX)).astype(np.float32)
                labels = model.predict(seen[None], verbose=0)[0].argmax(-1).astype(np.uint8)
                size = (crop.shape[1], crop.shape[0])
                back = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)[
                    top - first :, left - before :
                ]
                own = back[: min(TILE_PX, height - top), : min(TILE_PX, width - left)]
                mask[top : top + own.shape[0], left : left + own.shape[1]] = own
        return int(mask.sum())

    return work


def our_engine(options: dict[str, Any]) -> Callable[[], Any]:
    from glomtile.inference.image import Tiling, segment_image
    from glomtile.inference.runtime import OpenVinoPredictor
    from glomtile.io.images import read_image
    from glomtile.models.folder import read_card

    folder = Path(options["folder"])
    model = folder / options["precision"]
    predictor = OpenVinoPredictor(model, read_card(model))
    image = read_image(folder / "image.png")
    tiling = Tiling(overlapping=0, window="auto", memory_mb=4096)
    return lambda: int(segment_image(image, predictor, tiling, MPP).labels.sum())


def monai_engine(options: dict[str, Any]) -> Callable[[], Any]:
    import keras
    import torch
    from monai.inferers import sliding_window_inference

    import glomtile.networks.registry  # noqa: F401  (Keras must know our layers)
    from glomtile.io.images import read_image

    folder = Path(options["folder"])
    model = keras.saving.load_model(folder / "float32" / "model.keras", compile=False)
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
    from glomtile.inference.image import Tiling, segment_image
    from glomtile.io.images import read_image

    path = Path(options["folder"]) / "image.png"
    segmenter = Segmenter.load(options["model"])
    if options["objects"]:
        return lambda: len(segmenter.segment(path, mpp=MPP).objects)
    image, predictor = read_image(path), segmenter._predictor
    return lambda: int(segment_image(image, predictor, Tiling(window="auto"), MPP).labels.sum())


KINDS = {"a": reference_procedure, "b": our_engine, "c": monai_engine, "d": bundled_model}


def contestants(args: argparse.Namespace, folder: str) -> list[Resident]:
    ours = {"folder": folder, "model": str(args.model) if args.model else None}
    found = [
        Resident("(a) the reference's procedure", {**ours, "kind": "a"}, KERAS_BACKEND="tensorflow"),
        Resident("(b) our engine, float32", {**ours, "kind": "b", "precision": "float32"}),
        Resident("(b) our engine, int8", {**ours, "kind": "b", "precision": "int8"}),
    ]
    if args.monai_python:
        found += [
            Resident(
                f"(c) MONAI, window {window}", {**ours, "kind": "c", "window": window}, args.monai_python,
                KERAS_BACKEND="torch",
            )
            for window in dict.fromkeys((TILE_PX, args.size))
        ]  # fmt: skip
    else:
        print("(c) left out: --monai-python names an environment with glomtile[torch] and monai")
    if _has_small_model(args.model):
        found += [
            Resident("(d) the bundled model, labels", {**ours, "kind": "d", "objects": False}),
            Resident("(d) the bundled model, objects", {**ours, "kind": "d", "objects": True}),
        ]
    else:
        print("(d) left out: this install holds no bundled model; -m MODEL names one")
    return found


def _has_small_model(given: Path | None) -> bool:
    from glomtile.models.folder import bundled_folder

    return given is not None or bundled_folder() is not None


def cpu_of_fresh_processes(args: argparse.Namespace, folder: str) -> None:
    """CPU seconds of a process to its first mask, and of one that only imports, in turn.

    The first, uncounted process leaves its compiled network in the cache, as a user's first one does; beside
    it a process that finds none and can keep none.
    """
    bare = "import sys, numpy, cv2\nsys.modules['openvino_telemetry'] = None\nimport openvino"
    model = repr(str(args.model)) if args.model else ""
    image = folder + "/image.png"
    mask = f"from glomtile import Segmenter\nSegmenter.load({model}).segment({image!r}, mpp={MPP})"
    contestants = {"bare": (bare, "/cache"), "mask": (mask, "/cache"), "compiling": (mask, "/image.png")}
    told: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(args.fresh + 1):
        for name, (code, cache) in contestants.items():
            environment = as_installed(Path(folder) / "byte-code") | {"GLOMTILE_CACHE_DIR": folder + cache}
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if number:
                told[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    least, first, compiling = (statistics.median(told[name]) for name in contestants)
    print(
        f"\nimporting NumPy, OpenCV and OpenVINO: {least:.2f} CPU s; first mask of a fresh process: "
        f"{first:.2f}, where the network must be compiled: {compiling:.2f}"
    )
    print(f"first mask / imports: {first / least:.2f}, compiling {compiling / least:.2f}")


def main() -> None:
    options = contestant()
    if options is not None:
        if options["kind"] == "prepare":
            serve(lambda: prepare(options))
        else:
            serve(KINDS[options["kind"]](options))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each, after one that warms up")
    parser.add_argument("--fresh", type=int, default=15, help="counted fresh processes, for the first mask")
    parser.add_argument("--size", type=int, default=1024, help="side of the image (px)")
    parser.add_argument("--filters", type=int, default=16, help="of the reference's first level")
    parser.add_argument("--model", "-m", type=Path, help="for (d), instead of the bundled model")
    parser.add_argument("--monai-python", metavar="PYTHON", help="of an environment for (c)")
    args = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for line in machine(
        ("glomtile", "keras", "tensorflow-cpu", "openvino", "numpy", "opencv-python-headless")
    ):
        print(line)
    with tempfile.TemporaryDirectory() as folder:
        maker = Resident(
            "prepare", {"folder": folder, "kind": "prepare", "size": args.size, "filters": args.filters}
        )
        facts = maker.ask()["answer"]
        maker.close()
        residents = contestants(args, folder)
        found = in_turn(residents, args.rounds)
        for resident in residents:
            resident.close()
        report(found, facts, matrix_product_gflops())
        if _has_small_model(args.model):
            cpu_of_fresh_processes(args, folder)


def report(found: dict[str, dict[str, Any]], facts: dict[str, Any], rate: float) -> None:
    print(
        f"\nthe reference's network: {facts['parameters']:,} parameters, {facts['gflop']:.0f} GFLOP an image"
    )
    print("| contestant | s | from, to | CPU s | (a) / it | it / (b) float32 |\n|---|---|---|---|---|---|")
    first, ours = (
        found[name]["wall_s"] for name in ("(a) the reference's procedure", "(b) our engine, float32")
    )
    for name, told in found.items():
        low, high = told["spread_s"]
        print(
            f"| {name} | {told['wall_s']:.3f} | {low:.3f}, {high:.3f} | {told['cpu_s']:.2f} "
            f"| {first / told['wall_s']:.2f} | {told['wall_s'] / ours:.2f} |"
        )
    own = facts["gflop"] / ours
    print(
        f"\nlargest float32 matrix product: {rate:.0f} GFLOP/s; "
        f"(b) in float32: {own:.0f}, {own / rate:.2f} of it"
    )


if __name__ == "__main__":
    sys.exit(main())
