"""Tiled datasets cut from images and masks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from glomtile.datasets.annotations import REGIONS, cut_slides, holds_annotations
from glomtile.datasets.loading import map_files
from glomtile.datasets.pairing import LEFT_OUT, PREPARE_FILE, Pair, pair, read_groups
from glomtile.datasets.splitting import SPLITS, require_shares, split_groups, split_neighbours
from glomtile.errors import ArgumentError, InputError, UsageError
from glomtile.io.atomic import move_aside, replace_folder, sha256, storage_errors, write_json
from glomtile.io.images import ArrayReader, encode_png, image_mpp, read_image, readable_size
from glomtile.io.masks import Datatype, encode_mask, read_mask
from glomtile.palette import GLOMERULI, Palette
from glomtile.types import SILENT, Box, Progress, UInt8
from glomtile.validation import choice_argument, number_argument, whole_argument

BORDERS = ("reflect", "even")
MINI_TEST_FILE = "mini_test.json"


@dataclass(frozen=True)
class SourceImage:
    """One image with its mask, split and tiles."""

    pair: Pair
    size_px: tuple[int, int]
    group: str | None
    split: str
    mpp: float | None = None
    classes: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    empty: tuple[bool, ...] = ()
    kept: tuple[bool, ...] = ()


@dataclass(frozen=True)
class PrepareResult:
    """Folders made by `prepare`, and counts.

    Attributes
    ----------
    dataset : Path
        ``<dataset>/{train,valid,test}/{images,masks}`` and ``prepare.json``.
    images, tiles : dict
        Number of each split.
    left_out : int
        Tiles without any class that were left out.
    mini_test : Path or None
        Folder of whole test images and masks, where one was requested.
    moved_aside : list of Path
        New names of earlier datasets.
    """

    dataset: Path
    images: dict[str, int]
    tiles: dict[str, int]
    left_out: int
    mini_test: Path | None = None
    moved_aside: list[Path] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Folders made."""
        return [self.dataset] + ([self.mini_test] if self.mini_test else [])


def prepare(
    images: Path,
    masks: Path,
    out: Path,
    *,
    tile_px: int = 512,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    groups: Path | None = None,
    seed: int = 137,
    keep_empty: float = 1.0,
    mini_test: Path | None = None,
    palette: Palette = GLOMERULI,
    border: str = "reflect",
    tolerance: int = 0,
    datatype: Datatype = "categorized",
    mpp: float | None = None,
    progress: Progress = SILENT,
) -> PrepareResult:
    """Cut images and masks into tiles without stretching them, and split them by image.

    Parameters
    ----------
    images, masks : Path
        Two folders whose files pair by name. `masks` may hold GeoJSON files, as QuPath exports them, in
        place of masks; `images` may then hold slides. Images and masks of at most 4,096 px a side are cut
        from them into ``<out>/regions``, and tiles from these.
    out : Path
        The dataset's folder. An earlier dataset is moved aside with its date; a folder with other files is
        refused.
    tile_px : int
        Side of a tile, at least 16.
    split : three floats
        Shares of train, valid and test images. A share above zero gets at least one image.
    groups : Path, optional
        CSV with the columns ``stem,group[,split]``: images of one group (slide, patient) stay
        together; ``split`` fixes train, valid or test, or leaves images ``out`` of the dataset.
        Without it images that are neighbours by name stay together. `stem` is the slide's for slides,
        whose regions stay together.
    seed : int
        Random seed of the split and of the choice among empty tiles.
    keep_empty : float
        Share, 0 to 1, of the tiles without any class but background to keep, in each split.
    mini_test : Path, optional
        Folder for the whole test images and masks, ``images/`` and ``masks/``; neither `out` nor in it nor
        around it.
    palette : Palette
    border : "reflect" or "even"
        Last tiles of a row or column are filled by mirroring the tissue (and its labels), or the
        tiles are spaced evenly and overlap. An image smaller than a tile is mirrored either way.
    tolerance : int
        Greatest distance of a mask's colour from its class's, 0 to 255.
    datatype : "categorized" or "indexed"
        See `glomtile.io.masks.read_mask`.
    mpp : float, optional
        Micrometres per pixel at which annotated slides are read; images without it keep their own scale.
    progress : Progress

    Returns
    -------
    PrepareResult

    Raises
    ------
    UsageError
        An argument is out of range, or `out` or `mini_test` holds other files or the other of the two.
    InputError
        See `glomtile.datasets.pairing.pair`, `read_image` and `read_mask`, and for slides
        `glomtile.datasets.annotations.cut_slides`: unusable files are all named at once. `out` is then as
        it was.
    StorageError
        The dataset or the mini test cannot be written. `out` is then as it was.

    Notes
    -----
    The reference stretches images to a multiple of the tile and sorts tiles, not images, into
    train, valid and test (reference §1, §5): pixels of one glomerulus then train and judge it.
    """
    images, masks, out = Path(images), Path(masks), Path(out)
    mini_test = None if mini_test is None else Path(mini_test)
    require_shares(split)
    whole_argument("tile_px", tile_px, 16)
    number_argument("keep_empty", keep_empty, 0, 1)
    choice_argument("border", border, BORDERS)
    whole_argument("tolerance", tolerance, 0, 255)
    if mini_test is not None and split[2] <= 0:
        raise ArgumentError("mini_test", "none where the share of test images is 0", str(mini_test))
    _require_own_folder(out, PREPARE_FILE)
    if mini_test is not None:
        # Of two folders one in the other, one would be moved aside with the other.
        mini_path, out_path = mini_test.resolve(), out.resolve()
        if mini_path.is_relative_to(out_path) or out_path.is_relative_to(mini_path):
            expected = f"a folder apart from the dataset's, {out}, neither in it nor around it"
            raise ArgumentError("mini_test", expected, str(mini_test))
        _require_own_folder(mini_test, MINI_TEST_FILE)
    annotated = holds_annotations(masks)
    if mpp is not None and not annotated:
        raise ArgumentError("mpp", "none, as it goes with GeoJSON files only and these are masks", mpp)
    moved_aside: list[Path] = []

    def read(source: SourceImage) -> UInt8:
        return read_mask(source.pair.mask, palette, datatype=datatype, tolerance=tolerance)

    with (
        _replacing(out, moved_aside, progress) as folder,
        _replacing(mini_test, moved_aside, progress) if mini_test else nullcontext() as mini,
    ):
        regions = None
        assigned: tuple[Sequence[Pair], Sequence[str | None], Sequence[str]]
        if annotated:
            regions = cut_slides(images, masks, folder, palette, mpp, tile_px, groups, split, seed, progress)
            assigned = regions.pairs, regions.groups, regions.splits
            left_out = regions.left_out
        else:
            pairs = pair(images, masks)
            assigned = _split_pairs(pairs, split, groups, seed)
            left_out = [one.stem for one in pairs if one not in assigned[0]]
        sources = []
        for one, group, name in zip(*assigned, strict=True):
            size_px = readable_size(one.image)
            boxes = tuple(tile_boxes(size_px, tile_px, border))
            sources.append(SourceImage(one, size_px, group, name, boxes=boxes))
        chosen = _choose_tiles(_read_masks(sources, read, progress), keep_empty, seed)
        result = PrepareResult(
            dataset=out,
            images={name: sum(source.split == name for source in chosen) for name in SPLITS},
            tiles={name: sum(sum(s.kept) for s in chosen if s.split == name) for name in SPLITS},
            left_out=sum(len(source.kept) - sum(source.kept) for source in chosen),
            mini_test=mini_test,
            moved_aside=moved_aside,
        )
        _warn(chosen, result, palette, progress)
        _write_tiles(chosen, folder, out, read, palette, tile_px, progress)
        settings = {
            "tile_px": tile_px,
            "split": [float(share) for share in split],
            "seed": seed,
            "keep_empty": keep_empty,
            "border": border,
            "tolerance": tolerance,
            "datatype": datatype,
            "mpp": mpp,
            "groups": None if groups is None else _relative(groups, out),
            "images_left_out": left_out,
            "classes": [{"number": c.number, "name": c.name, "rgb": list(c.rgb)} for c in palette.classes],
        }
        record = {
            "format": 1,
            "images_dir": _relative(images, out),
            "masks_dir": _relative(masks, out),
            "settings": settings,
            **({REGIONS: regions.records} if regions else {}),
            "sources": [_source_record(source, folder if regions else out) for source in chosen],
        }
        write_json(folder / PREPARE_FILE, record)
        if mini is not None:
            with storage_errors(mini_test, inside=mini):
                _write_mini_test([s for s in chosen if s.split == "test"], mini, read, palette)
    return result


def tile_boxes(size_px: tuple[int, int], tile_px: int, border: str) -> Iterator[Box]:
    """Yield tiles that cover an image, row by row.

    Parameters
    ----------
    size_px : (int, int)
        ``(H, W)`` of the image.
    tile_px : int
        Side of a tile.
    border : "reflect" or "even"
        The last tiles hang over the edge, where tissue is mirrored; or as many tiles are spaced evenly and
        overlap, and only those of an image smaller than a tile hang over.

    Yields
    ------
    Box
        ``ceil(H / tile_px) * ceil(W / tile_px)`` of them.

    Raises
    ------
    ArgumentError
        `border` is neither of the two.
    """
    choice_argument("border", border, BORDERS)

    def starts(length: int) -> list[int]:
        count = -(-length // tile_px)
        if border == "even" and count > 1:
            return [round(index * (length - tile_px) / (count - 1)) for index in range(count)]
        return [index * tile_px for index in range(count)]

    for top in starts(size_px[0]):
        for left in starts(size_px[1]):
            yield Box(top, left, top + tile_px, left + tile_px)


def _require_own_folder(folder: Path, record: str) -> None:
    """Refuse a path that holds something else than an earlier result of `prepare`."""
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / record).is_file():
            raise UsageError(
                folder,
                f"expected no folder, an empty one or one with {record}, got other files",
                "choose another folder",
            )
    elif folder.exists():
        raise UsageError(folder, "expected a folder, got a file", "choose another folder")


@contextmanager
def _replacing(folder: Path, moved_aside: list[Path], progress: Progress) -> Iterator[Path]:
    """Yield a folder to fill, which replaces `folder` when complete; the earlier one is moved aside."""
    older = None
    try:
        with replace_folder(folder) as partial:
            yield partial
            older = move_aside(folder)
    except BaseException:
        # A partial folder that is still there is complete: the next run renames it.
        if older is not None and not folder.exists() and not partial.exists():
            with storage_errors(folder):
                older.rename(folder)
        raise
    if older is not None:
        moved_aside.append(older)
        progress.note(f"previous {folder.name} moved to {older.name}")


def _split_pairs(
    pairs: Sequence[Pair], split: Sequence[float], groups: Path | None, seed: int
) -> tuple[Sequence[Pair], Sequence[str | None], Sequence[str]]:
    """Return the images used, with the group and the split of each."""
    if groups is None:
        return pairs, [None] * len(pairs), split_neighbours(len(pairs), split, seed)
    known, fixed = read_groups(groups, [one.stem for one in pairs])
    pairs = [one for one in pairs if fixed.get(known[one.stem]) != LEFT_OUT]
    if not pairs:
        raise InputError(groups, "expected images for the splits, got a table that leaves all of them out")
    names = [known[one.stem] for one in pairs]
    return pairs, names, split_groups(names, split, seed, fixed)


def _read_masks(
    sources: Sequence[SourceImage], read: Callable[[SourceImage], UInt8], progress: Progress
) -> list[SourceImage]:
    """Read every mask once, so that unusable ones are named before anything is written."""

    def with_contents(source: SourceImage) -> SourceImage:
        labels = read(source)
        reader = ArrayReader(labels)
        return replace(
            source,
            mpp=image_mpp(source.pair.image, progress),
            classes=tuple(int(number) for number in np.flatnonzero(np.bincount(labels.ravel()))),
            empty=tuple(not reader.read(box).any() for box in source.boxes),
        )

    progress.start("reading the masks", len(sources))
    return map_files(with_contents, sources, lambda source: source.pair.mask, progress)


def _choose_tiles(sources: Sequence[SourceImage], keep_empty: float, seed: int) -> list[SourceImage]:
    """Keep all tiles with a class, and the wanted share of the empty ones of each split."""
    rng = np.random.default_rng([seed, 1])
    kept = {
        (index, tile): not empty
        for index, source in enumerate(sources)
        for tile, empty in enumerate(source.empty)
    }
    for split in SPLITS:
        empty = [at for at, full in kept.items() if not full and sources[at[0]].split == split]
        for position in rng.permutation(len(empty))[: round(keep_empty * len(empty))]:
            kept[empty[position]] = True
    chosen = [
        replace(source, kept=tuple(kept[index, tile] for tile in range(len(source.boxes))))
        for index, source in enumerate(sources)
    ]
    for split in {source.split for source in sources}:
        if not any(any(source.kept) for source in chosen if source.split == split):
            raise InputError(
                split, "expected at least one tile with a class, got only empty ones", "raise keep_empty"
            )
    return chosen


def _warn(
    sources: Sequence[SourceImage], result: PrepareResult, palette: Palette, progress: Progress
) -> None:
    trained = {number for source in sources if source.split == "train" for number in source.classes}
    for entry in palette.classes[1:]:
        if entry.number not in trained:
            progress.warn(f"no training image holds class {entry.number}, {entry.name}")
    scales = Counter(source.mpp for source in sources)
    if len(scales) > 1:
        counts = ", ".join(f"{count} of {mpp or 'unknown'}" for mpp, count in scales.most_common(5))
        progress.warn(f"the images differ in µm per pixel: {counts}")
    if result.left_out and result.tiles["test"]:
        progress.note(
            f"{result.left_out} empty tiles were left out, test tiles among them: scores of these tiles "
            "underestimate false positives"
        )


def _write_tiles(
    sources: Sequence[SourceImage],
    folder: Path,
    out: Path,
    read: Callable[[SourceImage], UInt8],
    palette: Palette,
    tile_px: int,
    progress: Progress,
) -> None:
    """Write the kept tiles of every source and their masks into the folders of their splits."""
    for split in SPLITS:
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)

    def cut(source: SourceImage) -> None:
        if not any(source.kept):
            return
        image, labels = ArrayReader(read_image(source.pair.image)), ArrayReader(read(source))
        columns = -(-source.size_px[1] // tile_px)
        for number, (box, kept) in enumerate(zip(source.boxes, source.kept, strict=True)):
            if kept:
                row, column = divmod(number, columns)
                name = f"{source.pair.stem}_{row}x{column}.png"
                images, masks = folder / source.split / "images", folder / source.split / "masks"
                with storage_errors(out, inside=folder):
                    (images / name).write_bytes(encode_png(image.read(box), source.mpp))
                    (masks / name).write_bytes(encode_mask(labels.read(box), palette, source.mpp))

    progress.start("cutting tiles", len(sources))
    map_files(cut, sources, lambda source: source.pair.image, progress)


def _write_mini_test(
    sources: Sequence[SourceImage], folder: Path, read: Callable[[SourceImage], UInt8], palette: Palette
) -> None:
    """Copy whole images as they are, and their masks as palette PNGs."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for source in sources:
        image = source.pair.image
        (folder / "images" / image.name).write_bytes(image.read_bytes())
        mask = encode_mask(read(source), palette, source.mpp)
        (folder / "masks" / f"{source.pair.stem}.png").write_bytes(mask)
    write_json(folder / MINI_TEST_FILE, {"format": 1, "stems": [source.pair.stem for source in sources]})


def _source_record(source: SourceImage, out: Path) -> dict[str, Any]:
    return {
        "stem": source.pair.stem,
        "image": _relative(source.pair.image, out),
        "mask": _relative(source.pair.mask, out),
        "size_px": list(source.size_px),
        "mpp": source.mpp,
        "image_sha256": sha256(source.pair.image),
        "mask_sha256": sha256(source.pair.mask),
        "group": source.group,
        "split": source.split,
        "classes": list(source.classes),
        "tiles": sum(source.kept),
        "empty_tiles_left_out": len(source.kept) - sum(source.kept),
    }


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to the dataset, so that both may move together; absolute across drives."""
    try:
        return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()
