"""Pairing of images with masks, groups, and the whole images of prepared datasets."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomtile.datasets.splitting import SPLITS
from glomtile.errors import InputError
from glomtile.formatting import listed, printable
from glomtile.io.atomic import read_json, sha256
from glomtile.io.images import IMAGE_SUFFIXES, image_size, list_images, natural_key
from glomtile.io.masks import MASK_SUFFIXES, mask_size
from glomtile.io.tables import read_csv

PREPARE_FILE = "prepare.json"
LEFT_OUT = "out"
"""Value of the column ``split`` for images that go to no split."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask; `stem` is the name they share."""

    stem: str
    image: Path
    mask: Path


def pair(images_dir: Path, masks_dir: Path, mask_suffix: str | None = None) -> list[Pair]:
    """Pair every image of one folder with its mask of another.

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
        a pair differ in size (by their headers). All errors of one kind are named at once.

    Notes
    -----
    The reference pairs two unsorted lists by position and compares their lengths (§6.1).
    """
    suffixes = MASK_SUFFIXES if mask_suffix is None else (mask_suffix.lower(),)
    images = by_stem(list_images(images_dir))
    masks = by_stem(list_images(masks_dir, suffixes))
    require_partners(images_dir, images, masks_dir, masks, ("image", "mask"))
    pairs = [Pair(stem, images[stem], masks[stem]) for stem in sorted(images, key=natural_key)]
    _require_same_size(pairs)
    return pairs


def by_stem(
    paths: Sequence[Path], stem_of: Callable[[Path], str] = lambda path: path.stem
) -> dict[str, Path]:
    """Map stems to files.

    Raises
    ------
    InputError
        Two files have one stem.
    """
    found: dict[str, Path] = {}
    twice: list[str] = []
    for path in paths:
        stem = stem_of(path)
        if stem in found:
            twice.append(f"{found[stem].name} and {path.name}")
        found[stem] = path
    if twice:
        raise InputError(paths[0].parent, f"expected every name once, got {listed(twice)}")
    return found


def require_partners(
    first_dir: Path,
    first: Mapping[str, Path],
    second_dir: Path,
    second: Mapping[str, Path],
    kinds: tuple[str, str],
    hint: str | None = None,
) -> None:
    """Refuse files of two folders that have no partner of the same stem.

    Parameters
    ----------
    first_dir, second_dir : Path
    first, second : mapping of str to Path
        Files by stem.
    kinds : (str, str)
        A file of the first and of the second folder in words.
    hint : str, optional
        Given where no unused file of the second folder has a similar name.

    Raises
    ------
    InputError
        All files of one folder without a partner are named.
    """
    alone = {stem: path for stem, path in first.items() if stem not in second}
    unused = {stem: path for stem, path in second.items() if stem not in first}
    one, other = kinds
    if alone:
        near = difflib.get_close_matches(next(iter(alone)), unused, n=1, cutoff=0.4)
        names = listed([path.name for path in alone.values()])
        raise InputError(
            second_dir,
            f"expected a {other} for every {one} of {first_dir}, got none for {names}",
            f"the nearest unused {other} is {unused[near[0]].name}: names must be the same" if near else hint,
        )
    if unused:
        article = "an" if one[0] in "aeiou" else "a"
        names = listed([path.name for path in unused.values()])
        raise InputError(
            first_dir, f"expected {article} {one} for every {other} of {second_dir}, got none for {names}"
        )


def _require_same_size(pairs: Sequence[Pair]) -> None:
    unlike = []
    for one in pairs:
        sizes = [f"{w} x {h} px" for h, w in (image_size(one.image), mask_size(one.mask))]
        if sizes[0] != sizes[1]:
            unlike.append((one.mask, f"{one.mask.name} ({' and '.join(sizes)})"))
    if unlike:
        names = listed([text for _, text in unlike])
        raise InputError(unlike[0][0].parent, f"expected masks of their images' size, got {names}")


def whole_pairs(images_dir: Path, masks_dir: Path) -> list[Pair] | None:
    """Find the large images that the tiles of a prepared split were cut from.

    Parameters
    ----------
    images_dir, masks_dir : Path
        ``<dataset>/<split>/images`` and ``<dataset>/<split>/masks`` of a dataset that `prepare` made.

    Returns
    -------
    list of Pair or None
        The split's source images in natural order; None when the folders are no such dataset.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged, files it names do not exist, or an image and its mask differ in size.
    """
    prepared = _prepared_split(images_dir, masks_dir)
    if prepared is None:
        return None
    dataset, split = prepared
    path, record = dataset / PREPARE_FILE, read_prepare_record(dataset)
    try:
        pairs = [
            Pair(source["stem"], _resolved(dataset, source["image"]), _resolved(dataset, source["mask"]))
            for source in record["sources"]
            if source["split"] == split
        ]
    except (KeyError, TypeError) as error:
        raise InputError(
            path, f"expected a record that prepare writes, got sources without {error}"
        ) from error
    missing = [file for one in pairs for file in (one.image, one.mask) if not file.is_file()]
    if missing:
        raise InputError(
            path,
            f"expected the whole images and masks it names, got no file at {listed(missing)}",
            'put them back, run prepare again, or train on the tiles: [dataset] sampling = "tiles"',
        )
    _require_same_size(pairs)
    return sorted(pairs, key=lambda one: natural_key(one.stem)) or None


def read_prepare_record(dataset: Path) -> dict[str, Any]:
    """Read ``prepare.json`` of a dataset folder.

    Raises
    ------
    InputError
        The file is missing or no such record.
    """
    path = Path(dataset) / PREPARE_FILE
    record = read_json(path, "a record that prepare writes")
    if not isinstance(record.get("sources"), list):
        raise InputError(path, "expected a record that prepare writes, got JSON without sources")
    return record


def prepared_from(images_dir: Path) -> tuple[Path, ...]:
    """Return the folders of images and masks that `prepare` made a split from.

    Parameters
    ----------
    images_dir : Path
        ``<dataset>/<split>/images``.

    Returns
    -------
    tuple of Path
        Empty where the folder is not of a prepared dataset, or its record cannot be read.
    """
    dataset = Path(images_dir).absolute().parent.parent
    try:
        record = read_prepare_record(dataset)
    except InputError:
        return ()
    folders = [record.get(key) for key in ("images_dir", "masks_dir")]
    return tuple(_resolved(dataset, folder) for folder in folders if isinstance(folder, str))


def changed_since_prepared(images_dir: Path, masks_dir: Path) -> list[Path]:
    """Find whole images, masks and annotations whose bytes differ from those a split's tiles were made from.

    Parameters
    ----------
    images_dir, masks_dir : Path
        ``<dataset>/<split>/images`` and ``<dataset>/<split>/masks``.

    Returns
    -------
    list of Path
        In the record's order; empty where the folders are not of a prepared dataset.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged.
    OSError
        A file cannot be read.

    Notes
    -----
    Masks and annotations are read. Images, of which there may be gigabytes, are read only where they are
    younger than the record, and slides never. Missing files are left out: tiles can be trained on without
    them.
    """
    dataset, split = _prepared_split(images_dir, masks_dir) or (None, "")
    if dataset is None:
        return []
    record, made = read_prepare_record(dataset), (dataset / PREPARE_FILE).stat().st_mtime_ns
    sources = [one for one in record["sources"] if isinstance(one, dict) and one.get("split") == split]
    files = [
        (one.get(kind), one.get(f"{kind}_sha256"), kind) for one in sources for kind in ("image", "mask")
    ]
    stems = {one.get("stem") for one in sources}
    for region in record.get("regions", ()):
        if isinstance(region, dict) and region.get("stem") in stems:
            annotations = f"{record.get('masks_dir')}/{region.get('annotations')}"
            files.append((annotations, region.get("annotations_sha256"), "annotations"))
    changed = []
    for recorded, digest, kind in dict.fromkeys(files):
        if isinstance(recorded, str) and isinstance(digest, str):
            path = _resolved(dataset, recorded)
            read = path.is_file() and (kind != "image" or path.stat().st_mtime_ns > made)
            if read and sha256(path) != digest:
                changed.append(path)
    return changed


def _prepared_split(images_dir: Path, masks_dir: Path) -> tuple[Path, str] | None:
    """Return dataset folder and split name; None where the folders are no split of a prepared dataset."""
    images_dir, masks_dir = Path(images_dir).absolute(), Path(masks_dir).absolute()
    dataset = images_dir.parent.parent
    if not (dataset / PREPARE_FILE).is_file() or masks_dir.parent != images_dir.parent:
        return None
    return dataset, images_dir.parent.name


def _resolved(dataset: Path, recorded: str) -> Path:
    return Path(os.path.normpath(dataset / recorded))


def read_groups(path: Path, stems: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read the group of every image, and the split of every group where the table fixes it.

    Parameters
    ----------
    path : Path
        CSV with the columns ``stem,group[,split]``; lines of other images are ignored.
    stems : sequence of str
        Images that must have a line.

    Returns
    -------
    groups : dict
        Image to group.
    fixed : dict
        Group to ``train``, ``valid``, ``test`` or `LEFT_OUT`, only where a line names one.

    Raises
    ------
    InputError
        The table cannot be read, an image has no group or two, a group two splits, or a split has
        another name.
    """
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
    """Return the groups by which `prepare` assigned images to a split.

    Parameters
    ----------
    images_dir : Path
        ``<dataset>/<split>/images``.
    stems : sequence of str
        Of whole images of that split.

    Returns
    -------
    dict of str to str or None
        None when the folder is not of a prepared dataset, or `prepare` got no groups.

    Raises
    ------
    InputError
        ``prepare.json`` is damaged.
    """
    dataset = Path(images_dir).absolute().parent.parent
    if not (dataset / PREPARE_FILE).is_file():
        return None
    known = {source.get("stem"): source.get("group") for source in read_prepare_record(dataset)["sources"]}
    groups = {stem: group for stem in stems if (group := known.get(stem))}
    return groups if len(groups) == len(set(stems)) else None


def group_rows(path: Path, stems: Iterable[str]) -> list[dict[str, str]]:
    """Read the lines of a table of groups that are about these images.

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
    wanted = {printable(stem): stem for stem in stems}
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
        rows.append(row | {"stem": wanted[stem]})
    missing = [stem for stem in wanted if stem not in groups]
    if missing:
        hint = None
        for name in (row["stem"] for row in table if row["stem"] not in wanted):
            stem, dot, suffix = name.rpartition(".")
            if hint is None and stem in wanted and dot + suffix.lower() in (*IMAGE_SUFFIXES, ".npz"):
                hint = f"a stem is the file's name without its suffix, {stem} for {name}"
        raise InputError(path, f"expected a line for every image, got none for {listed(missing)}", hint)
    return rows
