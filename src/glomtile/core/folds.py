"""How images are dealt to the folds of a cross-validation: neighbours together, folds of like size."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from glomtile.errors import UsageError


def deal_folds(groups: Sequence[str], folds: int) -> list[int]:
    """Cut a row of groups into stretches of like many images.

    Parameters
    ----------
    groups : sequence of str
        The group (slide, patient) of every image, in the images' order.
    folds : int
        At least 2.

    Returns
    -------
    list of int
        The fold of every image, 0 to ``folds - 1``; all of a group are in one. Groups stand in the order of
        their first images. Of all ways to cut between them, the one whose fold sizes have the least sum of
        squares; of equals, the one with the smaller first folds.

    Raises
    ------
    UsageError
        Fewer than two folds, or fewer groups than folds.

    Notes
    -----
    Images that follow each other often show one piece of tissue; dealt at random, a fold would be judged on
    tissue that it was trained on (Roberts et al. 2017, doi 10.1111/ecog.02881, on blocked cross-validation).
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
    """Where to cut a row of sizes, ends included, so that the sums' squares add up to the least."""
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
