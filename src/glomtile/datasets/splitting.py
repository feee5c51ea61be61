"""Splitting of images into training, validation, test and folds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from glomtile.errors import ArgumentError, UsageError

SPLITS = ("train", "valid", "test")
_IMAGES_A_STRETCH = 60
_MOST_STRETCHES = 5


def require_shares(shares: Sequence[float]) -> None:
    """Refuse shares that are negative, do not sum to 1, or leave nothing to train on.

    Raises
    ------
    ArgumentError
        See above.
    """
    sums_up = len(shares) == len(SPLITS) and abs(sum(shares) - 1) <= 1e-3
    if not sums_up or min(shares) < 0 or shares[0] <= 0:
        raise ArgumentError("split", "three shares, train above 0, that sum to 1", " ".join(map(str, shares)))


def split_counts(count: int, shares: Sequence[float]) -> list[int]:
    """Share out a number of images to train, valid and test.

    Parameters
    ----------
    count : int
    shares : three floats
        They sum to 1.

    Returns
    -------
    list of int
        They sum to `count`; the nearest whole numbers to the shares, at least one where a share is
        not zero.

    Raises
    ------
    ArgumentError
        Fewer images than shares above zero.
    """
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if count < len(wanted):
        raise ArgumentError(
            "split",
            f"at least {len(wanted)} images for {', '.join(SPLITS[i] for i in wanted)}",
            count,
            hint="give splits that are not needed a share of 0",
        )
    counts = [max(1, int(count * share)) if share > 0 else 0 for share in shares]
    while sum(counts) != count:
        short = [count * share - given for share, given in zip(shares, counts, strict=True)]
        if sum(counts) < count:
            index = max(wanted, key=lambda i: short[i])
            counts[index] += 1
        else:
            index = min((i for i in wanted if counts[i] > 1), key=lambda i: short[i])
            counts[index] -= 1
    return counts


def split_neighbours(count: int, shares: Sequence[float], seed: int) -> list[str]:
    """Split images in the order of their names so that neighbours stay together.

    Parameters
    ----------
    count : int
    shares : three floats
        Of train, valid and test.
    seed : int
        Random seed of the order of the three.

    Returns
    -------
    list of str
        A split for every image, in their order: up to five stretches, each of one run of train,
        one of valid and one of test images. Images named one after the other often come from one
        slide; only the few pairs where runs meet can be separated.

    Raises
    ------
    UsageError
        See `split_counts`.
    """
    rng = np.random.default_rng(seed)
    counts = split_counts(count, shares)
    stretches = min(max(1, count // _IMAGES_A_STRETCH), _MOST_STRETCHES)
    assigned: list[str] = []
    for stretch in range(stretches):
        for index in rng.permutation(len(SPLITS)):
            upto = [counts[index] * (stretch + end) // stretches for end in (0, 1)]
            assigned += [SPLITS[index]] * (upto[1] - upto[0])
    return assigned


def split_groups(
    groups: Sequence[str], shares: Sequence[float], seed: int, fixed: Mapping[str, str] | None = None
) -> list[str]:
    """Split images so that all of a group go to the same split.

    Parameters
    ----------
    groups : sequence of str
        The group of every image: its slide or patient.
    shares : three floats
        Of train, valid and test, counted in images.
    seed : int
        Random seed of the order of groups of one size.
    fixed : mapping, optional
        Groups whose split is given.

    Returns
    -------
    list of str
        A split for every image, in their order. Large groups come first, each goes to the split
        that lacks most images; every split with a share gets a group.

    Raises
    ------
    UsageError
        Fewer groups than splits with a share, or a group fixed to something else than train, valid or test.
    """
    sizes = Counter(groups)
    chosen = {group: split for group, split in (fixed or {}).items() if group in sizes}
    for group, split in chosen.items():
        if split not in SPLITS:
            raise UsageError("groups", f"expected {', '.join(SPLITS)} for group {group!r}, got {split!r}")
    free = sorted(group for group in sizes if group not in chosen)
    order = np.random.default_rng(seed).permutation(len(free))
    queue = sorted((free[index] for index in order), key=lambda group: -sizes[group])
    lacking = {
        split: share * len(groups) - sum(sizes[group] for group, given in chosen.items() if given == split)
        for split, share in zip(SPLITS, shares, strict=True)
        if share > 0
    }
    empty = [split for split in lacking if split not in chosen.values()]
    if len(queue) < len(empty):
        raise UsageError(
            "groups", f"expected at least {len(empty)} groups for {', '.join(empty)}, got {len(queue)}"
        )
    for position, group in enumerate(queue):
        # The last groups are kept for splits that still have none: a share is never left without images.
        must = len(queue) - position <= len(empty)
        split = max(empty if must else list(lacking), key=lambda name: lacking[name])
        chosen[group] = split
        lacking[split] -= sizes[group]
        empty = [name for name in empty if name != split]
    return [chosen[group] for group in groups]


def split_folds(groups: Sequence[str], folds: int) -> list[int]:
    """Cut a row of groups into folds of about as many images each.

    Parameters
    ----------
    groups : sequence of str
        The group (slide, patient) of every image, in the images' order.
    folds : int
        At least 2.

    Returns
    -------
    list of int
        The fold of every image, 0 to ``folds - 1``; all of a group are in one. Groups are in the order of
        their first images. Of all ways to cut between them, the one whose fold sizes have the least sum of
        squares; of equals, the one with the smaller first folds.

    Raises
    ------
    UsageError
        Fewer than two folds, or fewer groups than folds.

    Notes
    -----
    Images that follow each other often show one piece of tissue; with random folds a network would be
    judged on tissue that it was trained on (Roberts et al. 2017,
    doi 10.1111/ecog.02881, on blocked cross-validation).
    """
    if folds < 2:
        raise UsageError("folds", f"expected at least 2, got {folds}")
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise UsageError("folds", f"expected at most {len(sizes)}, the number of groups, got {folds}")
    cuts = _best_cuts(list(sizes.values()), folds)
    fold_of: dict[str, int] = {}
    for fold, (start, stop) in enumerate(itertools.pairwise(cuts)):
        fold_of |= dict.fromkeys(list(sizes)[start:stop], fold)
    return [fold_of[group] for group in groups]


def _best_cuts(sizes: Sequence[int], parts: int) -> list[int]:
    """Return cuts of a row of sizes, ends included, with the least sum of squared part sizes."""
    sums = [0, *itertools.accumulate(sizes)]
    best: dict[int, tuple[int, list[int]]] = {stop: (sums[stop] ** 2, [0, stop]) for stop in range(len(sums))}
    for part in range(2, parts + 1):
        best = {
            stop: min(
                (best[cut][0] + (sums[stop] - sums[cut]) ** 2, [*best[cut][1], stop])
                for cut in range(part - 1, stop)
            )
            for stop in range(part, len(sums))
        }
    return best[len(sizes)][1]
