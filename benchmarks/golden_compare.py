"""Compare two records of `golden.py`: pixels, outlines, tables, numbers, weights.

Masks, images, GeoJSON, CSV, JSON, TOML, OME-Zarr and the weights of models are compared by what they hold.
Objects whose outlines differ are tolerated at an IoU of 0.98, as are numbers of the same run that then differ
by less than 2 %; each is listed.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import math
import re
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Old name -> new name. Extend these where the new code means the same by another name.
NAMES = {"doubts.csv": "quality.csv", "pictures.json": "images.json", "pictures": "regions"}
"""Files and folders."""
COLUMNS = {
    "glomerulus_area_um2_mean": "glomerulus_mean_area_um2",
    "glomerulus_area_mm2": "glomerulus_total_area_mm2",
    **{old: f"{old}_px" for old in ("tp", "fp", "fn")},
    "found": "true_positive",
    "false": "false_positive",
    "missed": "false_negative",
    "doubt": "quality_flags",
}
"""Columns of tables and names of measurements."""
KEYS = {
    **{old: f"{old}_px" for old in ("tp", "fp", "fn")},
    "found": "true_positive",
    "false": "false_positive",
    "missed": "false_negative",
    "doubts": "quality_flags",
    "familiar": "reference_statistics",
    "edition": "feature_version",
    "least_expected_dice": "min_expected_dice",
    "films": "previews",
    "pictures": "regions",
}
"""Keys of JSON and TOML, at any depth."""
WORDS = {
    "invented": "false_positive",
    "missed": "false_negative",
    "found": "true_positive",
    "loose": "poor_overlap",
}
"""Words that stand as values."""
REMOVED = ("*/model.png",)
"""Patterns of files that the new code no longer writes."""

IGNORED = {
    "version", "versions", "seconds", "when", "started", "finished", "date", "time", "sha256", "card_sha256",
    "digest", "identity", "id", "uuid", "path", "address", "processor", "threads", "command", "epoch_seconds",
}  # fmt: skip
"""Columns and keys, with all below them, that say when, where or by what: never compared."""
LOOSE = ("*.html", "*.txt", "*/sheets/*", "*_Statistics_*.png", "*/eval/*.png", "*/previews/*", "*/model.png")
"""Drawings with words in them, and prose: only their presence is compared."""
SKIPPED = (".glomtile", "logs", "cache", "commands.json")
"""Parts of a path that no comparison looks below."""

RUN_KEYS = ("done", "skipped", "failed")
"""What is compared of a `run.json`: how many inputs these are."""

SAME_RTOL, SAME_ATOL = 1e-6, 1e-9
TOLERATED_IOU, FOLLOWING_RTOL = 0.98, 0.02


class Comparison:
    """What was compared, what differed, and in which runs objects differ a little."""

    def __init__(self, old: Path, new: Path) -> None:
        self.old, self.new = old, new
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.tolerated: list[str] = []
        self.notes: list[str] = []
        self.moved: set[str] = set()
        self.later: dict[str, list[tuple[str, float]]] = defaultdict(list)
        self.largest = 0.0

    def differ(self, what: str) -> None:
        """Count a difference that fails the comparison."""
        self.wrong.append(what)

    def objects(self, where: str, ious: list[float]) -> bool:
        """Count objects by how far they overlap; return whether all of them are nearly the same."""
        self.counts["objects"] += len(ious)
        for number, iou in enumerate(ious):
            if iou < 1:
                fits = iou >= TOLERATED_IOU
                (self.tolerated if fits else self.wrong).append(f"{where}: object {number}: IoU {iou:.6f}")
                if fits:
                    self.moved.add(where.split("/")[0])
        return all(iou >= TOLERATED_IOU for iou in ious)

    def value(self, where: str, old: Any, new: Any) -> None:
        """Compare two values: numbers nearly, words by their mapping, prose and paths not at all."""
        first, second = number_of(old), number_of(new)
        if first is not None and second is not None:
            self.counts["numbers"] += 1
            if first == second or (math.isnan(first) and math.isnan(second)):
                return
            far = abs(first - second) / max(abs(first), abs(second))
            if math.isclose(first, second, rel_tol=SAME_RTOL, abs_tol=SAME_ATOL):
                self.counts["numbers not to the bit"] += 1
                self.largest = max(self.largest, far)
                return
            self.later[where.split("/")[0]].append((f"{where}: {old} != {new}", far))
        elif re.search(r"[\s/\\]", f"{old}{new}") and old and new:
            self.counts["texts not compared"] += 1
        else:
            self.counts["words"] += 1
            if WORDS.get(str(old), str(old)) != str(new) and str(old) != str(new):
                self.differ(f"{where}: {old!r} != {new!r}")

    def arrays(self, where: str, old: np.ndarray, new: np.ndarray) -> None:
        """Compare two arrays of weights or pixels."""
        self.counts["arrays"] += 1
        if old.shape != new.shape:
            self.differ(f"{where}: {old.shape} != {new.shape}")
        elif not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            far = float(np.abs(old.astype(float) - new.astype(float)).max())
            if old.dtype.kind == "f" and np.allclose(old, new, SAME_RTOL, SAME_ATOL):
                self.counts["arrays not to the bit"] += 1
            else:
                share = float(np.mean(old != new))
                self.later[where.split("/")[0]].append(
                    (f"{where}: {share:.2%} differ, by up to {far:g}", share)
                )

    def settle(self) -> None:
        """Judge small differences of numbers: they follow where objects of the same run differ a little."""
        for name, found in self.later.items():
            for line, far in found:
                follows = name in self.moved and far <= FOLLOWING_RTOL
                (self.tolerated if follows else self.wrong).append(line)

    def labels(self, where: str, old: np.ndarray, new: np.ndarray) -> None:
        """Compare the pixels of two masks, and their objects where pixels differ."""
        self.counts["masks"] += 1
        if old.shape != new.shape:
            self.differ(f"{where}: {old.shape} != {new.shape}")
        elif not np.array_equal(old, new) and self.objects(where, mask_ious(old, new)):
            self.tolerated.append(f"{where}: {int(np.sum(old != new))} pixels differ")

    def tree(self, where: str, old: Any, new: Any) -> None:
        """Compare what two JSON or TOML files hold."""
        first, second = dict(leaves(old, KEYS)), dict(leaves(new, {}))
        for key, value in first.items():
            if key in second:
                self.value(f"{where}: {key}", value, second[key])
            else:
                self.differ(f"{where}: {key} is missing")
        self.notes += [f"{where}: {key} is new" for key in second if key not in first]

    def table(self, where: str, old: str, new: str) -> None:
        """Compare two CSV tables column by column."""
        first, second = list(csv.DictReader(io.StringIO(old))), list(csv.DictReader(io.StringIO(new)))
        if len(first) != len(second):
            self.differ(f"{where}: {len(first)} rows, {len(second)} in the new one")
            return
        if not first:
            return
        for column in first[0]:
            name = COLUMNS.get(column, column)
            name = column if name not in second[0] else name
            if column in IGNORED:
                continue
            if name not in second[0]:
                self.differ(f"{where}: column {column} is missing")
                continue
            for row, (was, now) in enumerate(zip(first, second, strict=True)):
                self.value(f"{where}: row {row} {column}", was[column], now[name])

    def geojson(self, where: str, old: Any, new: Any) -> None:
        """Compare outlines and measurements feature by feature."""
        from shapely.geometry import shape

        first, second = old["features"], new["features"]
        fits = [shape(one["geometry"]) for one in second]
        left, pairs = set(range(len(second))), {}
        for number, feature in enumerate(first):
            same = (at for at in sorted(left) if second[at]["geometry"] == feature["geometry"])
            if (at := next(same, None)) is not None:
                pairs[number] = at, 1.0
                left.discard(at)
        for number in set(range(len(first))) - set(pairs):
            outline = shape(first[number]["geometry"])
            at = max(left, key=lambda at, outline=outline: overlap(outline, fits[at]), default=None)
            if at is not None and (iou := overlap(outline, fits[at])) > 0:
                pairs[number] = at, min(iou, 1 - 1e-9)
                left.discard(at)
        for number, (at, _) in sorted(pairs.items()):
            about = [
                {**one["properties"], "measurements": measured(one)} for one in (first[number], second[at])
            ]
            about[0]["measurements"] = {COLUMNS.get(k, k): v for k, v in about[0]["measurements"].items()}
            self.tree(f"{where}: feature {number}", *about)
        found = [pairs.get(number, (None, 0.0))[1] for number in range(len(first))]
        self.objects(where, found + [0.0] * len(left))

    def file(self, where: str, old: Path, new: Path) -> None:
        """Compare two files by what they hold."""
        self.counts["files"] += 1
        kind = old.suffix
        if any(fnmatch.fnmatch(where, pattern) for pattern in LOOSE):
            self.counts["files of which only the presence was compared"] += 1
        elif kind in {".png", ".jpg"}:
            images = [Image.open(path) for path in (old, new)]
            if images[0].mode == images[1].mode == "P":
                self.labels(where, *map(np.asarray, images))
            else:
                self.arrays(where, *(np.asarray(one.convert("RGB")) for one in images))
        elif kind in {".tif", ".tiff"}:
            import tifffile

            with tifffile.TiffFile(old) as first, tifffile.TiffFile(new) as second:
                levels = [file.series[0].levels for file in (first, second)]
                self.value(f"{where}: levels", *map(len, levels))
                for was, now in zip(*levels, strict=False):
                    self.labels(where, was.asarray(), now.asarray())
        elif kind == ".geojson":
            self.geojson(where, *(json.loads(path.read_text("utf-8")) for path in (old, new)))
        elif ".zarr/" in where:
            import zarr

            nodes = [json.loads(path.read_text("utf-8")) for path in (old, new)]
            if all(one["node_type"] == "array" for one in nodes):
                self.labels(where, *(zarr.open_array(path.parent)[...] for path in (old, new)))
            else:
                self.tree(where, *(one.get("attributes", {}) for one in nodes))
        elif new.name == "run.json":
            counted = [json.loads(path.read_text("utf-8")) for path in (old, new)]
            self.tree(where, *({key: len(one[key]) for key in RUN_KEYS if key in one} for one in counted))
        elif kind == ".json":
            self.tree(where, *(json.loads(path.read_text("utf-8")) for path in (old, new)))
        elif kind == ".toml":
            self.tree(where, *(tomllib.loads(path.read_text("utf-8")) for path in (old, new)))
        elif kind == ".csv":
            self.table(where, *(path.read_text("utf-8") for path in (old, new)))
        elif kind in {".keras", ".onnx", ".npz"}:
            first, second = (weights(path) for path in (old, new))
            self.value(f"{where}: arrays", len(first), len(second))
            for number, (was, now) in enumerate(zip(first, second, strict=False)):
                self.arrays(f"{where}: array {number}", was, now)
        elif old.read_bytes() != new.read_bytes():
            self.differ(f"{where}: other bytes")


def number_of(value: Any) -> float | None:
    """Give the number that a value is or spells; none of anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def leaves(value: Any, renamed: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a nested value: dotted keys, in the new code's names, and what stands there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in IGNORED:
                yield from leaves(inner, renamed, f"{path}.{renamed.get(key, key)}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, renamed, f"{path}[{number}]")
    else:
        yield path, value


def measured(feature: Any) -> dict[str, Any]:
    """Give a feature's measurements by name, whichever way they are written."""
    found = feature["properties"].get("measurements", {})
    return found if isinstance(found, dict) else {one["name"]: one["value"] for one in found}


def overlap(first: Any, second: Any) -> float:
    """Give the IoU of two polygons."""
    union = first.union(second).area
    return float(first.intersection(second).area / union) if union else 0.0


def mask_ious(old: np.ndarray, new: np.ndarray) -> list[float]:
    """Give the IoU of each object of the old mask with its best in the new; 0 for each new one."""
    import cv2

    ious: list[float] = []
    for number in np.union1d(np.unique(old), np.unique(new)):
        if number == 0:
            continue
        (many, first), (others, second) = (
            cv2.connectedComponents((one == number).astype(np.uint8)) for one in (old, new)
        )
        sizes = np.bincount(second.ravel(), minlength=others)
        left = set(range(1, others))
        for label in range(1, many):
            inside = np.bincount(second[first == label], minlength=others)
            scores = inside / (sizes + inside.sum() - inside)
            best = int(np.argmax(scores[1:])) + 1 if others > 1 else 0
            ious.append(float(scores[best]) if best else 0.0)
            left.discard(best)
        ious += [0.0] * len(left)
    return ious


def weights(path: Path) -> list[np.ndarray]:
    """Read the arrays of a Keras, ONNX or NumPy file, in the order of the file."""
    if path.suffix == ".npz":
        with np.load(path) as kept:
            return [kept[name] for name in kept.files]
    if path.suffix == ".onnx":
        import onnx

        return [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    import h5py

    found: list[np.ndarray] = []
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda _, node: found.append(node[()]) if isinstance(node, h5py.Dataset) else None)
    return found


def files_of(folder: Path) -> list[str]:
    """List a record's files that are compared, relative to it."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    found = (path for path in found if not set(SKIPPED) & set(path.parts))
    return [str(path) for path in found if ".zarr/" not in str(path) or path.name == "zarr.json"]


def compare(old: Path, new: Path, report: Path | None) -> int:
    """Compare two records; print and return 1 where they differ by more than nearly equal objects."""
    seen = Comparison(old, new)
    done = [json.loads((folder / "commands.json").read_text("utf-8")) for folder in (old, new)]
    keys = [Counter[str](), Counter[str]()]
    codes: list[dict[str, int]] = [{}, {}]
    for side, lines in enumerate(done):
        for line in lines:
            keys[side][line["name"]] += 1
            codes[side][f"{line['name']} #{keys[side][line['name']]}"] = line["exit_code"]
    for name, code in codes[0].items():
        if name.split(" ")[0] in keys[1]:
            seen.value(f"{name}: exit code", code, codes[1].get(name, "missing"))
    shared = {"painting"} | set(keys[0]) & set(keys[1])
    seen.notes += [f"{name}: only in one record" for name in sorted(set(keys[0]) ^ set(keys[1]))]
    expected = set()
    for where in files_of(old):
        if where.split("/")[0] not in shared or any(fnmatch.fnmatch(where, one) for one in REMOVED):
            continue
        renamed = "/".join(NAMES.get(part, part) for part in Path(where).parts)
        at = next((one for one in (renamed, where) if (new / one).is_file()), None)
        if at is None:
            seen.differ(f"{where}: missing")
            continue
        expected.add(at)
        seen.file(where, old / where, new / at)
    seen.notes += [
        f"{one}: new" for one in files_of(new) if one not in expected and one.split("/")[0] in shared
    ]
    for side in (old, new):
        pair = [side / name / "models" / "last" / "model.keras" for name in ("train", "train-resumed")]
        if all(path.is_file() for path in pair):
            for number, (was, now) in enumerate(zip(*map(weights, pair), strict=True)):
                seen.arrays(f"resumed/{side.name}: array {number}", was, now)
    seen.settle()
    counts = ", ".join(f"{number:,} {what}" for what, number in seen.counts.items())
    lines = [f"# {len(seen.wrong)} differences, {len(seen.tolerated)} tolerated", "", f"Compared: {counts}."]
    lines += [f"Largest relative difference of a number taken as equal: {seen.largest:.2g}.", ""]
    by_file = Counter(one.split(": ")[0] for one in seen.wrong)
    lines += [
        "## Files that differ, by how much in them",
        "",
        *(f"- {n} {one}" for one, n in by_file.items()),
        "",
    ]
    for title, found in (("Differences", seen.wrong), ("Tolerated", seen.tolerated), ("Notes", seen.notes)):
        lines += [f"## {title}: {len(found)}", "", *(f"- {one}" for one in found), ""]
    if report:
        report.write_text("\n".join(lines), "utf-8")
    print("\n".join(lines[:4] + [line for line in lines[4:] if line][: 80 if report else None]))
    return int(bool(seen.wrong))
