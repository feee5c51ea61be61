"""Pairing of images with masks and groups."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomtile.datasets.splitting import SPLITS
from glomtile.errors import InputError
from glomtile.io.atomic import sha256
from glomtile.io.images import IMAGE_SUFFIXES, image_size, list_images, natural_key
from glomtile.io.masks import MASK_SUFFIXES, mask_size
from glomtile.io.tables import read_csv

PREPARE_FILE = "prepare.json"
_LISTED = 10


@dataclass(frozen=True)
class Pair:
    """An image and its mask; `stem` is the name they share."""

    stem: str
    image: Path
    mask: Path


def pair(images_dir: Path, masks_dir: Path, mask_suffix: str | None = None) -> list[Pair]:
    """Every image of one folder with its mask of another.

    Parameters
    ----------
    images_dir, masks_dir : Path
    mask_suffix : str, optional
        Only masks of this suffix count, ``".png"`` say.

    Returns
    -------
    list of Pair
        In natural order of their stems.

    Raises
    ------
    InputError
        A folder is missing, unreadable or empty; an image or mask has no partner or two; the two of
        a pair differ in size (by their headers). All that is wrong of one kind is named at once.

    Notes
    -----
    The reference pairs two unsorted lists by position and compares their lengths (§6.1).
    """
    suffixes = MASK_SUFFIXES if mask_suffix is None else (mask_suffix.lower(),)
    images = _by_stem(list_images(images_dir))
    masks = _by_stem(list_images(masks_dir, suffixes))
    _require_partners(Path(images_dir), images, Path(masks_dir), masks)
    pairs = [Pair(stem, images[stem], masks[stem]) for stem in sorted(images, key=natural_key)]
    _require_same_size(pairs)
    return pairs


def whole_pairs(images_dir: Path, masks_dir: Path) -> list[Pair] | None:
    """The large images that the tiles of a prepared split were cut from.

    Parameters
    ----------
    images_dir, masks_dir : Path
        ``<dataset>/<split>/images`` and ``<dataset>/<split>/masks`` of a dataset that `prepare` made.

    Returns
    -------
    list of Pair or None
        The split's source images in natural order; ``None`` when the folders are no such dataset.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged, sources it names are gone, or an image and its mask are no longer of one
        size.
    """
    found = _prepared_split(images_dir, masks_dir)
    if found is None:
        return None
    dataset, split = found
    listing, record = dataset / PREPARE_FILE, read_prepare_record(dataset)
    try:
        pairs = [
            Pair(source["stem"], _resolved(dataset, source["image"]), _resolved(dataset, source["mask"]))
            for source in record["sources"]
            if source["split"] == split
        ]
    except (KeyError, TypeError) as error:
        raise InputError(listing, f"expected what prepare writes, got sources without {error}") from error
    gone = [path for found in pairs for path in (found.image, found.mask) if not path.is_file()]
    if gone:
        raise InputError(
            listing,
            f"expected the whole images and masks it names, got nothing at {_listed(gone)}",
            hint='put them back, run prepare again, or train on the tiles: [dataset] sampling = "tiles"',
        )
    _require_same_size(pairs)
    return sorted(pairs, key=lambda found: natural_key(found.stem)) or None


def read_prepare_record(dataset: Path) -> dict[str, Any]:
    """What ``prepare.json`` of a dataset folder says.

    Raises
    ------
    InputError
        The file is missing or no such record.
    """
    path = Path(dataset) / PREPARE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "expected a dataset that prepare made, got nothing there") from None
    except (OSError, ValueError) as error:
        raise InputError(path, f"expected what prepare writes, got: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("sources"), list):
        raise InputError(path, "expected what prepare writes, got JSON without sources")
    return record


def prepared_from(images_dir: Path) -> tuple[Path, ...]:
    """The folders of images and masks that `prepare` made a split from.

    Parameters
    ----------
    images_dir : Path
        ``<dataset>/<split>/images``.

    Returns
    -------
    tuple of Path
        None where the folder is none that `prepare` made, or its record cannot be read.
    """
    dataset = Path(images_dir).absolute().parent.parent
    try:
        record = read_prepare_record(dataset)
    except InputError:
        return ()
    told = [record.get(key) for key in ("images_dir", "masks_dir")]
    return tuple(_resolved(dataset, folder) for folder in told if isinstance(folder, str))


def changed_since_prepared(images_dir: Path, masks_dir: Path) -> list[Path]:
    """Whole images, masks and annotations whose bytes are not those that a split's tiles were made from.

    Parameters
    ----------
    images_dir, masks_dir : Path
        ``<dataset>/<split>/images`` and ``<dataset>/<split>/masks``.

    Returns
    -------
    list of Path
        In the record's order; empty where the folders are none that `prepare` made.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged.
    OSError
        A file cannot be read.

    Notes
    -----
    Masks and annotations are read. Images, of which there may be gigabytes, are only where they are younger
    than the record, and slides never. What is gone is left out: tiles can be trained on without it.
    """
    dataset, split = _prepared_split(images_dir, masks_dir) or (None, "")
    if dataset is None:
        return []
    record, made = read_prepare_record(dataset), (dataset / PREPARE_FILE).stat().st_mtime_ns
    sources = [one for one in record["sources"] if isinstance(one, dict) and one.get("split") == split]
    told = [(one.get(kind), one.get(f"{kind}_sha256"), kind) for one in sources for kind in ("image", "mask")]
    stems = {one.get("stem") for one in sources}
    for cut in record.get("pictures", ()):
        if isinstance(cut, dict) and cut.get("stem") in stems:
            outlines = f"{record.get('masks_dir')}/{cut.get('annotations')}"
            told.append((outlines, cut.get("annotations_sha256"), "annotations"))
    changed = []
    for recorded, digest, kind in dict.fromkeys(told):
        if not isinstance(recorded, str) or not isinstance(digest, str):
            continue
        path = _resolved(dataset, recorded)
        read = path.is_file() and (kind != "image" or path.stat().st_mtime_ns > made)
        if read and sha256(path) != digest:
            changed.append(path)
    return changed


def _prepared_split(images_dir: Path, masks_dir: Path) -> tuple[Path, str] | None:
    """The dataset and the name of a split of it, ``None`` where the folders are no split of `prepare`'s."""
    images_dir, masks_dir = Path(images_dir).absolute(), Path(masks_dir).absolute()
    dataset = images_dir.parent.parent
    if not (dataset / PREPARE_FILE).is_file() or masks_dir.parent != images_dir.parent:
        return None
    return dataset, images_dir.parent.name


def _resolved(dataset: Path, recorded: str) -> Path:
    return Path(os.path.normpath(dataset / recorded))


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    twice: list[str] = []
    for path in paths:
        if path.stem in found:
            twice.append(f"{found[path.stem].name} and {path.name}")
        found[path.stem] = path
    if twice:
        raise InputError(paths[0].parent, f"expected every name once, got {_listed(twice)}")
    return found


def _require_partners(
    images_dir: Path, images: dict[str, Path], masks_dir: Path, masks: dict[str, Path]
) -> None:
    alone = [path.name for stem, path in images.items() if stem not in masks]
    spare = [path.name for stem, path in masks.items() if stem not in images]
    if alone:
        near = difflib.get_close_matches(
            Path(alone[0]).stem, [Path(name).stem for name in spare], n=1, cutoff=0.4
        )
        raise InputError(
            masks_dir,
            f"expected a mask for every image of {images_dir}, got none for {_listed(alone)}",
            hint=f"the nearest unused mask is {masks[near[0]].name}: names must be the same"
            if near
            else None,
        )
    if spare:
        raise InputError(
            images_dir, f"expected an image for every mask of {masks_dir}, got none for {_listed(spare)}"
        )


def _require_same_size(pairs: Sequence[Pair]) -> None:
    unlike = []
    for found in pairs:
        image_px, mask_px = image_size(found.image), mask_size(found.mask)
        if image_px != mask_px:
            unlike.append((found, f"{_by(image_px)} and {_by(mask_px)}"))
    if unlike:
        listed = _listed([f"{found.mask.name} ({sizes})" for found, sizes in unlike])
        raise InputError(unlike[0][0].mask.parent, f"expected masks of their images' size, got {listed}")


def _by(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]} x {size_px[0]} px"


def _listed(things: Sequence[object]) -> str:
    more = f" and {len(things) - _LISTED} more" if len(things) > _LISTED else ""
    return ", ".join(str(thing) for thing in things[:_LISTED]) + more


LEFT_OUT = "out"
"""What the column ``split`` says of images that no split shall have."""

_LISTED_groups = 10


def read_groups(path: Path, stems: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Group of every image, and split of every group where the table fixes it.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group[,split]``; lines of other images are passed over.
    stems : sequence of str
        Images that must have a line.

    Returns
    -------
    groups : dict
        Image to group.
    fixed : dict
        Group to ``train``, ``valid``, ``test`` or `LEFT_OUT`, only where a line says so.

    Raises
    ------
    InputError
        The table cannot be read, an image has no group or two, a group two splits, or a split has
        another name.
    """
    path = Path(path)
    groups: dict[str, str] = {}
    fixed: dict[str, str] = {}
    for row in group_rows(path, stems):
        stem, group, split = row["stem"], row["group"], row.get("split", "")
        groups[stem] = group
        if split and split not in (*SPLITS, LEFT_OUT):
            raise InputError(path, f"expected train, valid, test or out for {stem}, got {split!r}")
        if split and fixed.setdefault(group, split) != split:
            raise InputError(path, f"expected one split for group {group}, got {fixed[group]} and {split}")
    return groups, fixed


def prepared_groups(images_dir: Path, stems: Sequence[str]) -> dict[str, str] | None:
    """The groups by which `prepare` dealt images to a split.

    Parameters
    ----------
    images_dir : Path
        ``<dataset>/<split>/images``.
    stems : sequence of str
        Of whole images of that split.

    Returns
    -------
    dict of str to str or None
        ``None`` when the folder is none that `prepare` made, or nobody told it the groups.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged.
    """
    dataset = Path(images_dir).absolute().parent.parent
    if not (dataset / PREPARE_FILE).is_file():
        return None
    known = {source.get("stem"): source.get("group") for source in read_prepare_record(dataset)["sources"]}
    groups = {stem: known.get(stem) for stem in stems}
    return {stem: group for stem, group in groups.items() if group} if all(groups.values()) else None


def group_rows(path: Path, stems: Iterable[str]) -> list[dict[str, str]]:
    """The lines of a table of groups that tell of these images.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group``, and others.
    stems : iterable of str
        Images that must have a line.

    Raises
    ------
    InputError
        The table cannot be read, or an image has no line, no group in it, or two groups.
    """
    wanted = dict.fromkeys(stems)
    rows: list[dict[str, str]] = []
    groups: dict[str, str] = {}
    table = read_csv(path, required=("stem", "group"))
    for row in table:
        stem, group = row["stem"], row["group"]
        if stem not in wanted:
            continue
        if not group:
            raise InputError(path, f"expected a group for every image, got an empty cell for {stem}")
        if groups.setdefault(stem, group) != group:
            raise InputError(path, f"expected one group for {stem}, got {groups[stem]!r} and {group!r}")
        rows.append(row)
    missing = [stem for stem in wanted if stem not in groups]
    if missing:
        more = f" and {len(missing) - _LISTED_groups} more" if len(missing) > _LISTED_groups else ""
        raise InputError(
            path,
            f"expected a line for every image, got none for {', '.join(missing[:_LISTED_groups])}{more}",
            _hint([row["stem"] for row in table], set(wanted)),
        )
    return rows


def _hint(told: list[str], wanted: set[str]) -> str | None:
    """What to say of a table that names files where it should name stems."""
    for name in told:
        stem, dot, suffix = name.rpartition(".")
        if name not in wanted and stem in wanted and dot + suffix.lower() in (*IMAGE_SUFFIXES, ".npz"):
            return f"a stem is the file's name without its suffix, {stem} for {name}"
    return None
