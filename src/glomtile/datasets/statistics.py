"""Statistics of a dataset as tables and plots."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.config.load import load_config
from glomtile.config.schema import Config
from glomtile.contact_sheets import draw_outlines, grid_sheet, legend_of
from glomtile.datasets.loading import map_files, mask_suffix_of
from glomtile.datasets.pairing import PREPARE_FILE, Pair, pair, read_prepare_record, whole_pairs
from glomtile.datasets.splitting import SPLITS
from glomtile.errors import InputError, UsageError
from glomtile.formatting import printable
from glomtile.io.atomic import sha256, write_json
from glomtile.io.images import image_mpp, read_image, write_png
from glomtile.io.masks import Datatype, read_mask
from glomtile.objects.labelling import find_objects
from glomtile.palette import GLOMERULI, Palette, PaletteClass
from glomtile.plotting import draw_class_shares, draw_counts, draw_sizes, draw_stains
from glomtile.types import SILENT, Progress, UInt8

_SHEET_IMAGES, _SHEET_COLUMNS = 24, 6
_EMPTY_SHARE = 0.25
_SAMPLED_PX = 65_536
_GLASS = 235
"""Darkest channel above which a pixel is glass."""


@dataclass(frozen=True)
class ObjectSize:
    """One object: its class, its pixels, whether the image border cuts it, and the scale of the image."""

    number: int
    area_px: int
    cut: bool
    mpp: float | None = None


@dataclass(frozen=True)
class Stain:
    """Colour of tissue over a sample of pixels that are not glass.

    Attributes
    ----------
    rgb : tuple of float
        Mean red, green and blue, 0 to 255.
    brightness : float
        Mean of the three, 0 to 255.
    saturation : float
        Mean over pixels of ``1 − min/max`` of the three, 0 to 1.
    glass : float
        Share of the pixels that are glass, 0 to 1.
    """

    rgb: tuple[float, float, float]
    brightness: float
    saturation: float
    glass: float


def class_pixels(labels: UInt8, num_classes: int) -> list[int]:
    """Count the pixels of class 0, 1, … K − 1."""
    return [int(count) for count in np.bincount(labels.ravel(), minlength=num_classes)[:num_classes]]


def object_sizes(labels: UInt8, num_classes: int, mpp: float | None = None) -> list[ObjectSize]:
    """Measure every 8-connected object of every class but background, by class."""
    height, width = labels.shape
    sizes = []
    for number in range(1, num_classes):
        objects = find_objects(labels == number)
        for area, box in zip(objects.areas_px, objects.boxes, strict=True):
            cut = box.top == 0 or box.left == 0 or box.bottom == height or box.right == width
            sizes.append(ObjectSize(number, int(area), cut, mpp))
    return sizes


def stain_of(image: UInt8) -> Stain:
    """Measure the colour of tissue, or of glass where there is nothing else.

    Parameters
    ----------
    image : (H, W, 3) uint8 ndarray
        RGB, at least one pixel; rows and columns are sampled.
    """
    step = max(1, int((image.shape[0] * image.shape[1] / _SAMPLED_PX) ** 0.5))
    pixels = image[::step, ::step].reshape(-1, 3).astype(np.float64)
    is_glass = pixels.min(axis=1) > _GLASS
    tissue = pixels if is_glass.all() else pixels[~is_glass]
    red, green, blue = (float(part) for part in tissue.mean(axis=0))
    largest = np.maximum(tissue.max(axis=1), 1)
    return Stain(
        rgb=(red, green, blue),
        brightness=float(tissue.mean()),
        saturation=float((1 - tissue.min(axis=1) / largest).mean()),
        glass=float(is_glass.mean()),
    )


@dataclass(frozen=True)
class StatsResult:
    """Charts and statistics of a dataset.

    Attributes
    ----------
    paths : list of Path
        Charts, sheets and ``stats.json``.
    figures : dict
        Content of ``stats.json``.
    """

    paths: list[Path]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Dataset:
    """Pairs of each split and how to read them."""

    name: str
    splits: dict[str, list[Pair]]
    wholes: dict[str, list[Pair]]
    palette: Palette
    datatype: Datatype = "categorized"
    tolerance: int = 0
    mpp: float | None = None


@dataclass(frozen=True)
class _FileCounts:
    """Class pixels and colour of one image or tile."""

    stem: str
    size_px: tuple[int, int]
    pixels: list[int]
    stain: Stain
    sha256: str

    @property
    def empty(self) -> bool:
        return not any(self.pixels[1:])


def stats(target: Path, out: Path | None = None, *, progress: Progress = SILENT) -> StatsResult:
    """Count, measure and draw a dataset.

    Parameters
    ----------
    target : Path
        A folder ``{train,valid,test}/{images,masks}``, or a config that names such folders.
    out : Path, optional
        Folder of the charts; ``<Name>_Statistics/`` beside `target` by default.
    progress : Progress

    Returns
    -------
    StatsResult
        ``<Name>_Statistics.png`` (the reference's bar chart), ``_Classes``, ``_Sizes``, ``_Stains``
        and ``_Samples_<split>`` beside it, and ``stats.json``.

    Raises
    ------
    UsageError
        `target` does not exist.
    InputError
        There is no such dataset, or a file in it cannot be used.

    Notes
    -----
    Objects are measured on the whole images where ``prepare.json`` names them: tiles cut objects.
    """
    target = Path(target)
    if target.is_dir():
        dataset = _of_folder(target)
    elif not target.exists():
        raise UsageError(target, "expected a dataset's folder or a config, the path does not exist")
    else:
        dataset = _of_config(load_config(target))
    return _describe(dataset, charts_folder(target, dataset.name, out), progress)


def charts_folder(target: Path, name: str, out: Path | None) -> Path:
    """Return `out`, by default ``<Name>_Statistics/`` beside the dataset or config."""
    return Path(out) if out is not None else Path(target).resolve().parent / f"{name}_Statistics"


def _of_folder(folder: Path) -> _Dataset:
    folder = folder.resolve()
    places = {
        split: (folder / split / "images", folder / split / "masks")
        for split in SPLITS
        if (folder / split / "images").is_dir()
    }
    if not places:
        expected = "expected train/, valid/ or test/ with images/ and masks/ in it, got none"
        raise InputError(folder, expected, "run prepare first")
    prepared = (folder / PREPARE_FILE).is_file()
    # A prepared split whose share is 0 is an empty folder.
    filled = [split for split in places if not prepared or any(places[split][0].iterdir())]
    splits = {split: pair(*places[split]) for split in filled}
    wholes = {split: whole_pairs(*both) or [] for split, both in places.items()}
    if not prepared:
        return _Dataset(folder.name, splits, wholes, GLOMERULI)
    settings = read_prepare_record(folder).get("settings", {})
    try:
        classes = [PaletteClass(c["number"], c["name"], tuple(c["rgb"])) for c in settings["classes"]]
        reading = settings["datatype"], settings["tolerance"]
    except (KeyError, TypeError) as error:
        raise InputError(
            folder / PREPARE_FILE, f"expected a record that prepare writes, got no {error}"
        ) from error
    return _Dataset(folder.name, splits, wholes, Palette(tuple(classes)), *reading)


def _of_config(config: Config) -> _Dataset:
    splits, wholes = {}, {}
    for split in SPLITS:
        if split == "train" or config.section(split).is_set("images_dir"):
            places = config.folder(split, "images_dir"), config.folder(split, "masks_dir")
            splits[split] = pair(*places, mask_suffix_of(config))
            wholes[split] = whole_pairs(*places) or []
    reading = config.mask.mask_datatype, config.mask.tolerance, config.dataset.image_mpp
    return _Dataset(dataset_name(config), splits, wholes, config.palette(), *reading)


def dataset_name(config: Config) -> str:
    """Return ``Name`` of ``dataset/Name/train/images``, else the name of the config's folder."""
    path = Path(os.path.normpath(config.folder("train", "images_dir")))
    named = path.parent.parent.name if path.parent.name in SPLITS else ""
    return named or config.base_dir.name or "Dataset"


def _describe(dataset: _Dataset, out: Path, progress: Progress) -> StatsResult:
    counted = {split: _count(split, pairs, dataset, progress) for split, pairs in dataset.splits.items()}
    tiled = any(dataset.wholes.values())
    sized = {
        split: _measure(split, dataset.wholes.get(split) or pairs, dataset, progress)
        for split, pairs in dataset.splits.items()
    }
    warnings = _warnings(dataset, counted)
    for text in warnings:
        progress.warn(text)
    figures: dict[str, Any] = {
        "format": 1,
        "name": dataset.name,
        "unit": "tiles" if tiled else "images",
        "classes": [
            {"number": c.number, "name": c.name, "rgb": list(c.rgb)} for c in dataset.palette.classes
        ],
        "splits": {split: _figures(dataset, split, counted[split], sized[split]) for split in counted},
        "warnings": warnings,
    }
    progress.start("drawing", None)
    paths = _draw(dataset, counted, sized, figures["splits"], out, tiled)
    write_json(out / "stats.json", figures)
    return StatsResult([*paths, out / "stats.json"], figures)


def _count(split: str, pairs: Sequence[Pair], dataset: _Dataset, progress: Progress) -> list[_FileCounts]:
    def count(one: Pair) -> _FileCounts:
        pixels = class_pixels(_labels(one, dataset), dataset.palette.num_classes)
        image = read_image(one.image)
        size_px = image.shape[0], image.shape[1]
        return _FileCounts(one.stem, size_px, pixels, stain_of(image), sha256(one.image))

    progress.start(f"counting {split}", len(pairs))
    return map_files(count, pairs, lambda one: one.image, progress)


def _measure(split: str, pairs: Sequence[Pair], dataset: _Dataset, progress: Progress) -> list[ObjectSize]:
    def measure(one: Pair) -> list[ObjectSize]:
        mpp = image_mpp(one.image) or dataset.mpp
        return object_sizes(_labels(one, dataset), dataset.palette.num_classes, mpp)

    progress.start(f"measuring {split}", len(pairs))
    return list(chain.from_iterable(map_files(measure, pairs, lambda one: one.mask, progress)))


def _labels(one: Pair, dataset: _Dataset) -> UInt8:
    return read_mask(one.mask, dataset.palette, datatype=dataset.datatype, tolerance=dataset.tolerance)


def _warnings(dataset: _Dataset, counted: dict[str, list[_FileCounts]]) -> list[str]:
    """List classes that a split lacks, and images in several splits."""
    warnings = []
    for entry in dataset.palette.classes[1:]:
        without = [
            split for split, files in counted.items() if not any(file.pixels[entry.number] for file in files)
        ]
        if without:
            warnings.append(f"class {entry.number}, {entry.name}, does not occur in {', '.join(without)}")
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, files in counted.items():
        for file in files:
            places[file.sha256].append((split, file.stem))
    shared = [found for found in places.values() if len({split for split, _ in found}) > 1]
    if shared:
        first = " and ".join(f"{split}/{stem}" for split, stem in shared[0])
        warnings.append(
            f"{len(shared)} images are in more than one split, as {first}: scores will be too high"
        )
    return warnings


def _figures(
    dataset: _Dataset, split: str, files: Sequence[_FileCounts], sized: Sequence[ObjectSize]
) -> dict[str, Any]:
    pixels = np.sum([file.pixels for file in files], axis=0)
    sizes = Counter(f"{file.size_px[1]}x{file.size_px[0]}" for file in files)
    classes = {
        entry.name: {
            "pixels": int(pixels[entry.number]),
            "share": float(pixels[entry.number] / pixels.sum()),
            "files": sum(file.pixels[entry.number] > 0 for file in files),
            **({"objects": _object_figures(sized, entry.number)} if entry.number else {}),
        }
        for entry in dataset.palette.classes
    }
    return {
        "files": len(files),
        "whole_images": len(dataset.wholes.get(split) or files),
        "files_without_class": sum(file.empty for file in files),
        "sizes_px": dict(sizes.most_common()),
        "classes": classes,
        "tissue": {
            name: _spread([getattr(file.stain, name) for file in files])
            for name in ("brightness", "saturation", "glass")
        },
    }


def _object_figures(sized: Sequence[ObjectSize], number: int) -> dict[str, Any]:
    """Return counts of all objects, and areas of those that no border cuts."""
    objects = [size for size in sized if size.number == number]
    whole = [size for size in objects if not size.cut]
    known = [size.area_px * size.mpp**2 for size in whole if size.mpp is not None]
    return {
        "count": len(objects),
        "cut_by_border": len(objects) - len(whole),
        "area_px": _spread([size.area_px for size in whole]),
        "area_um2": _spread(known) if len(known) == len(whole) else None,
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"p5": float(low), "median": float(middle), "p95": float(high), "mean": float(np.mean(values))}


def _draw(
    dataset: _Dataset,
    counted: dict[str, list[_FileCounts]],
    sized: dict[str, list[ObjectSize]],
    splits: dict[str, dict[str, Any]],
    out: Path,
    tiled: bool,
) -> list[Path]:
    name, unit = dataset.name, "tiles" if tiled else "images"
    title = printable(name)
    counts = {split: len(files) for split, files in counted.items()}
    cut_from = {split: len(dataset.wholes[split]) for split in counted} if tiled else None
    paths = [draw_counts(out / f"{name}_Statistics.png", title, counts, cut_from)]
    pixels: dict[str, dict[str, float]] = {}
    holding: dict[str, dict[str, float]] = {}
    for split, figures in splits.items():
        for entry in dataset.palette.classes[1:]:
            found = figures["classes"][entry.name]
            pixels.setdefault(entry.name, {})[split] = found["share"]
            holding.setdefault(entry.name, {})[split] = found["files"] / figures["files"]
    if pixels:
        paths.append(draw_class_shares(out / f"{name}_Classes.png", title, pixels, holding, unit))
    objects = list(chain.from_iterable(sized.values()))
    if objects:
        known = all(size.mpp is not None for size in objects)
        # Areas of whole and of cut objects.
        areas: dict[str, tuple[list[float], list[float]]] = {
            entry.name: ([], []) for entry in dataset.palette.classes[1:]
        }
        for size in objects:
            factor = size.mpp**2 if known and size.mpp is not None else 1.0
            areas[dataset.palette.names[size.number]][size.cut].append(size.area_px * factor)
        area_unit = "µm²" if known else "px"
        paths.append(draw_sizes(out / f"{name}_Sizes.png", title, areas, area_unit))
    stains = {split: [file.stain for file in files] for split, files in counted.items()}
    paths.append(draw_stains(out / f"{name}_Stains.png", title, stains, unit))
    for split, files in counted.items():
        path = out / f"{name}_Samples_{split}.png"
        write_png(path, _sample_sheet(dataset, split, files))
        paths.append(path)
    return paths


def _sample_sheet(dataset: _Dataset, split: str, files: Sequence[_FileCounts]) -> UInt8:
    """Draw images with their masks' outlines, evenly spaced over the split, most of them with a class."""
    full = [index for index, file in enumerate(files) if not file.empty]
    bare = [index for index, file in enumerate(files) if file.empty]
    bare_wanted = max(round(_EMPTY_SHARE * _SHEET_IMAGES), _SHEET_IMAGES - len(full))
    chosen = _spaced(bare, bare_wanted)
    chosen = sorted(_spaced(full, _SHEET_IMAGES - len(chosen)) + chosen)
    images, captions = [], []
    for index in chosen:
        found, pixels = dataset.splits[split][index], files[index].pixels
        images.append(draw_outlines(read_image(found.image), _labels(found, dataset), dataset.palette))
        share = 100 * sum(pixels[1:]) / sum(pixels)
        captions.append(f"{found.stem}  {share:.3g} %" if share else f"{found.stem}  empty")
    title = f"{dataset.name}, {split}: {len(chosen)} of {len(files)}, with the share that is not background"
    return grid_sheet(images, captions, _SHEET_COLUMNS, title=title, legend=legend_of(dataset.palette))


def _spaced(items: Sequence[int], count: int) -> list[int]:
    count = min(count, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]
