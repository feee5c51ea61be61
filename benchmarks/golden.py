"""Record what the command line writes, and compare two such records file by file, number by number.

    python benchmarks/golden.py record OUT --inputs DIR [--shared DATA] [--only PREFIX ...]
    python benchmarks/golden.py compare OLD NEW [--report FILE]

Only `python -m glomtile` is run, so a record does not depend on how the package is laid out; `PYTHONPATH`
says which code. Inputs are painted into DIR by the first record and used by every later one. DATA holds real
images (`glomeruli/images`, `masks`, `reference_predictions`) and `slides`. Whatever the old record holds has
to be in the new one; what only the new one holds is noted. What has another name in the new code, and what
is not compared, is listed in `golden_compare.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from golden_compare import compare

CONFIG: dict[str, dict[str, Any]] = {
    "model": {
        "model": "FlexUNet", "num_classes": 2, "mpp": 4.0, "image_width": 64, "image_height": 64,
        "base_filters": 8, "base_kernels": [3, 3], "num_layers": 4, "dropout_rate": 0.02, "norm": "batch",
        "loss": "dice_crossentropy", "optimizer": "AdamW", "learning_rate": 0.004, "clipnorm": 1.0,
        "metrics": ["foreground_dice"],
    },
    "dataset": {"sampling": "crops", "foreground_share": 0.5, "samples_per_epoch": 96},
    "train": {
        "images_dir": "{in}/dataset/train/images", "masks_dir": "{in}/dataset/train/masks", "epochs": 2,
        "batch_size": 8, "patience": 0, "metrics": ["foreground_dice", "val_foreground_dice"],
    },
    "valid": {"images_dir": "{in}/dataset/valid/images", "masks_dir": "{in}/dataset/valid/masks"},
    "test": {"images_dir": "{in}/dataset/test/images", "masks_dir": "{in}/dataset/test/masks"},
    "eval": {"groups": "{in}/biopsies/groups.csv"},
    "infer": {"images_dir": "{in}/some/images", "output_dir": "masks_whole"},
    "tiledinfer": {
        "images_dir": "{in}/some/images", "output_dir": "masks_tiled", "split_size": 64, "overlapping": 16,
        "blend": "hann",
    },
    "mask": {"class_names": ["background", "glomerulus"]},
    "augmentor": {"enabled": True, "free_rotation": True, "scales": [0.85, 1.2], "stain": 0.8},
}  # fmt: skip
"""Settings of the small network; `{in}` is the folder of inputs."""

PAINTED = "{in}/biopsies"
PREPARED = f"{PAINTED}/images {PAINTED}/masks --tile 256 --split 0.6 0.2 0.2 --groups {PAINTED}/groups.csv"
STEPS = """
info: info {in}/slides/slide.tif {in}/some/images/patient01_1.png --json > info.json
segment-painted: segment {in}/some/images -o {to} --mpp 1
segment-slides: segment {in}/slides -o {to} --zarr
segment-plan: segment {in}/slides -o {to} --dry-run --json > plan.json
segment-window: segment {in}/slides/slide.tif -o {to} --window 512 --no-tissue-mask --tta flips
segment-overwrite: segment {in}/some/images/patient01_1.png -o {to}
segment-overwrite: segment {in}/some/images/patient01_1.png -o {to}
segment-overwrite: segment {in}/some/images/patient01_1.png -o {to} --threshold 0.3
segment-overwrite: segment {in}/some/images/patient01_1.png -o {to} --threshold 0.3 --overwrite
prepare: prepare {prepared} -o {to}/dataset --mini-test {to}/mini_test --keep-empty 0.5
prepare-even: prepare {in}/some/images {in}/some/masks -o {to} --tile 192 --border even --seed 3
prepare-slides: prepare {in}/slides {in}/annotations -o {to} --tile 256 --mpp 2
stats: stats {in}/dataset -o {to}
score-painted: score {out}/segment-painted/masks {in}/some/masks -o {to} --images {in}/some/images
config: config convert {config} > converted.toml
train: train {config}
train: evaluate {config}
train: infer {config}
train: tiled-infer {config}
train-resumed: train {config} --set train.epochs=1
train-resumed: train {config} --resume
segment-keras: segment {in}/some/images -m {out}/train/models/best -o {to} --runtime keras
train: export {out}/train/models/last --format onnx
segment-onnx: segment {in}/some/images -m {out}/train/models/last -o {to}
ensemble: ensemble {out}/train/models/best {out}/train/models/last -o {to}/model
crossval: crossval {config} -o {to}/runs --folds 2 --name run --groups {in}/biopsies/groups.csv {few}
real-segment: segment {real-images} -o {to} --mpp 0.5
real-slides: segment {shared}/slides -o {to}
real-slides-mpp: segment {shared}/slides/boxes.tiff {shared}/slides/small.svs -o {to} --mpp 0.5
real-info: info {shared}/slides/CMU-1-Small-Region.svs {shared}/slides/test3-DAPI.ndpi --json > info.json
real-score: score {glom}/reference_predictions {glom}/masks -o {to} --mpp 0.5 --images {glom}/images
real-score-against: score {out}/real-segment/masks {out}/real-truth -o {to} --against {out}/real-reference
real-prepare: prepare {glom}/images {glom}/masks -o {to}/dataset --mini-test {to}/mini_test
"""
"""Folder, arguments, and the file that keeps stdout; steps of one folder work in it one after the other."""
FEW = "--set train.epochs=1 --set train.images_dir={in}/some/images --set train.masks_dir={in}/some/masks"
REAL_IMAGES = 8
REAL_FOLDERS = {"images": "real-images", "masks": "real-truth", "reference_predictions": "real-reference"}


def record(out: Path, inputs: Path, shared: Path | None, only: tuple[str, ...]) -> None:
    """Run every command into folders of `out`; paint the inputs first where there are none."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    place = {"in": str(inputs), "out": str(out), "shared": str(shared), "glom": f"{shared}/glomeruli"}
    place |= {"prepared": PREPARED.format_map(place), "few": FEW.format_map(place)}
    if "painting".startswith(only) or not inputs.exists():
        paint(out / "painting", inputs, place)
    if shared:
        for kind, name in REAL_FOLDERS.items():
            place |= {name: " ".join(pick(shared / "glomeruli" / kind, out / name, REAL_IMAGES))}
    earlier = (
        json.loads((out / "commands.json").read_text("utf-8")) if (out / "commands.json").exists() else []
    )
    records: list[dict[str, Any]] = []
    for step in STEPS.strip().splitlines():
        name, _, line = step.partition(": ")
        if not name.startswith(only) or (name.startswith("real") and not shared):
            continue
        line, _, keep = line.partition(" > ")
        folder = out / name
        if not any(one["name"] == name for one in records):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if "{config}" in line:
                (folder / "golden.toml").write_text(settings(place), "utf-8")
        began = time.monotonic()
        words = line.format_map(place | {"to": str(folder), "config": str(folder / "golden.toml")}).split()
        done = run(words, folder, out)
        (out / "logs" / f"{name}-{sum(one['name'] == name for one in records) + 1}.txt").write_text(
            done.stdout + done.stderr, "utf-8"
        )
        if keep:
            (folder / keep).write_text(done.stdout, "utf-8")
        records.append({"name": name, "command": line, "exit_code": done.returncode})
        print(f"{done.returncode}  {time.monotonic() - began:6.1f} s  {step}", flush=True)
        kept = [one for one in earlier if not one["name"].startswith(only)]
        (out / "commands.json").write_text(json.dumps(kept + records, indent=1), "utf-8")
        if name == "segment-slides" and not (inputs / "annotations").exists():
            shutil.copytree(folder / "geojson", inputs / "annotations")


def settings(place: dict[str, str]) -> str:
    """Write the small network's settings as TOML."""
    lines = ['[mask.rgb_map]\n"0,0,0" = 0\n"255,0,0" = 1']
    for section, pairs in CONFIG.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in pairs.items())]
    return "\n".join(lines).replace("{in}", place["in"])


def environment(out: Path) -> dict[str, str]:
    """Give what a recorded command is run with: one backend, a cache of its own."""
    fixed = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "MPLBACKEND": "Agg"}
    return {**os.environ, **fixed, "GLOMTILE_CACHE_DIR": str(out / "cache"), "COLUMNS": "120"}


def run(words: list[str], folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in its folder."""
    line = [sys.executable, "-m", "glomtile", *words]
    return subprocess.run(line, cwd=folder, env=environment(out), capture_output=True, text=True, check=False)


def pick(source: Path, target: Path, count: int) -> list[str]:
    """Copy the first so many files of a folder; list the copies."""
    target.mkdir(parents=True, exist_ok=True)
    return [str(shutil.copy(path, target)) for path in sorted(source.iterdir())[:count]]


def paint(folder: Path, inputs: Path, place: dict[str, str]) -> None:
    """Let the demo paint its biopsies and stop it there; make the inputs of them where there are none yet."""
    shutil.rmtree(folder, ignore_errors=True)
    line = [sys.executable, "-m", "glomtile", "demo", "-o", str(folder)]
    process = subprocess.Popen(line, env=environment(folder.parent), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / "dataset").exists():
        time.sleep(0.1)
    process.kill()
    _, said = process.communicate()
    if not (folder / "biopsies" / "groups.csv").exists():
        sys.exit(f"the demo painted nothing:\n{said}")
    for path in folder.iterdir():
        if path.name != "biopsies":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (inputs / "slides").exists():
        return
    shutil.copytree(folder / "biopsies", inputs / "biopsies", dirs_exist_ok=True)
    for kind in ("images", "masks"):
        pick(inputs / "biopsies" / kind, inputs / "some" / kind, 6)
    run(["prepare", *place["prepared"].split(), "-o", str(inputs / "dataset")], inputs, folder.parent)
    write_slides(inputs / "biopsies" / "images", inputs / "slides")


def write_slides(images: Path, folder: Path) -> None:
    """Join painted images to a slide on glass; write it, and parts of it, as tiled pyramids."""
    import tifffile

    folder.mkdir(parents=True)
    slide = np.full((2304, 3072, 3), 243, np.uint8)
    for number, path in enumerate(sorted(images.iterdir())[6:12]):
        top, left = 100 + number // 3 * 1000, 150 + number % 3 * 900
        slide[top : top + 640, left : left + 640] = np.asarray(Image.open(path).convert("RGB"))
    tiled: dict[str, Any] = {"tile": (256, 256), "compression": "adobe_deflate", "photometric": "rgb"}
    tiled |= {"resolution": (10000, 10000), "resolutionunit": "CENTIMETER"}  # 1 µm per pixel
    for name, part in (("slide.tif", slide), ("third.tif", slide[500:1700, 800:2600])):
        with tifffile.TiffWriter(folder / name) as file:
            for level, step in enumerate((1, 2, 4)):
                scaled = tiled | {"resolution": (10000 / step, 10000 / step)}
                file.write(part[::step, ::step], subfiletype=int(level > 0), **scaled)
    about = {"axes": "YXS"} | {f"PhysicalSize{axis}": 1.0 for axis in "XY"}
    with tifffile.TiffWriter(folder / "other.ome.tif", ome=True) as file:
        file.write(slide[:1800, :2000], subifds=1, metadata=about, **tiled)
        file.write(slide[:1800:2, :2000:2], subfiletype=1, **tiled)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--inputs", type=Path, required=True)
    recording.add_argument("--shared", type=Path)
    recording.add_argument("--only", nargs="*", default=[], metavar="PREFIX")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--report", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.old, args.new, args.report)
    shared = args.shared and args.shared.absolute()
    record(args.out.absolute(), args.inputs.absolute(), shared, tuple(args.only or [""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
