"""Which images come from one slide or patient, by a table the user wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glomtile.core.split import SPLITS
from glomtile.errors import InputError
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
    path, wanted = Path(path), set(stems)
    groups: dict[str, str] = {}
    fixed: dict[str, str] = {}
    for row in read_csv(path, required=("stem", "group")):
        stem, group, split = row["stem"], row["group"], row.get("split", "")
        if stem not in wanted:
            continue
        if groups.setdefault(stem, group) != group:
            raise InputError(path, f"expected one group for {stem}, got {groups[stem]} and {group}")
        if split and split not in (*SPLITS, LEFT_OUT):
            raise InputError(path, f"expected train, valid, test or out for {stem}, got {split!r}")
        if split and fixed.setdefault(group, split) != split:
            raise InputError(path, f"expected one split for group {group}, got {fixed[group]} and {split}")
    missing = [stem for stem in stems if stem not in groups]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(path, f"expected every image, got no line for {', '.join(missing[:_LISTED])}{more}")
    return groups, fixed
