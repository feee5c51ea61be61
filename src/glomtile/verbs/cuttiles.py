"""How images and masks are cut into the tiles of a dataset, and what is noted of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glomtile.core.palette import Palette
from glomtile.core.split import SPLITS
from glomtile.files.images import ArrayReader, encode_png, read_image
from glomtile.files.masks import encode_mask
from glomtile.files.pairs import Pair
from glomtile.files.workspace import sha256, write_json
from glomtile.types import Box, Progress, UInt8

PACKED = 0.25
"""An RGB picture of tissue packs to half as PNG, to a quarter at best."""

MINI_TEST_FILE = "mini_test.json"
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Source:
    """One image with its mask and what becomes of it."""

    pair: Pair
    size_px: tuple[int, int]
    group: str | None
    split: str
    mpp: float | None = None
    classes: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    empty: tuple[bool, ...] = ()
    kept: tuple[bool, ...] = ()


def write_tiles(
    sources: Sequence[Source],
    folder: Path,
    read: Callable[[Source], UInt8],
    palette: Palette,
    tile_px: int,
    progress: Progress,
) -> None:
    """Write the kept tiles of every source and their masks into the folders of their splits."""
    for split in SPLITS:
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)

    def cut(source: Source) -> None:
        if not any(source.kept):
            return
        picture, labels = ArrayReader(read_image(source.pair.image)), ArrayReader(read(source))
        columns = -(-source.size_px[1] // tile_px)
        for number, (box, kept) in enumerate(zip(source.boxes, source.kept, strict=True)):
            if kept:
                row, column = divmod(number, columns)
                name = f"{source.pair.stem}_{row}x{column}.png"
                place = folder / source.split
                (place / "images" / name).write_bytes(encode_png(picture.read(box), source.mpp))
                (place / "masks" / name).write_bytes(encode_mask(labels.read(box), palette, source.mpp))

    progress.start("cutting tiles", len(sources))
    for _ in in_threads(cut, sources, progress):
        pass


def write_mini_test(
    sources: Sequence[Source], folder: Path, read: Callable[[Source], UInt8], palette: Palette
) -> None:
    """Whole images as they are, and their masks as palette PNGs."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for source in sources:
        image = source.pair.image
        (folder / "images" / image.name).write_bytes(image.read_bytes())
        mask = encode_mask(read(source), palette, source.mpp)
        (folder / "masks" / f"{source.pair.stem}.png").write_bytes(mask)
    write_json(folder / MINI_TEST_FILE, {"format": 1, "stems": [source.pair.stem for source in sources]})


def source_record(source: Source, out: Path) -> dict[str, Any]:
    """What ``prepare.json`` says of a source; `out` is the dataset's folder."""
    return {
        "stem": source.pair.stem,
        "image": relative_path(source.pair.image, out),
        "mask": relative_path(source.pair.mask, out),
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


def relative_path(path: Path, folder: Path) -> str:
    """From the dataset's folder, so that both may move together; absolute across drives."""
    try:
        return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()


def in_threads(work: Callable[[_In], _Out], things: Sequence[_In], progress: Progress) -> Iterable[_Out]:
    """Results in the order of `things`; after the first error nothing new is begun."""
    with ThreadPoolExecutor(max_workers=min(8, max(2, os.cpu_count() or 2))) as pool:
        try:
            for result in pool.map(work, things):
                progress.advance()
                yield result
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
