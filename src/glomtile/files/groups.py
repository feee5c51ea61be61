"""Which images come from one slide or patient, by a table the user wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from glomtile.core.split import SPLITS
from glomtile.errors import InputError
from glomtile.files.images import IMAGE_SUFFIXES
from glomtile.files.pairs import PREPARE_FILE, read_prepare_record
from glomtile.files.tables import read_csv

LEFT_OUT = "out"
"""What the column ``split`` says of images that no split shall have."""

_LISTED = 10


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
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(
            path,
            f"expected a line for every image, got none for {', '.join(missing[:_LISTED])}{more}",
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
