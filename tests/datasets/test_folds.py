"""Folds are stretches of neighbours that part no group and are as even as groups allow."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.datasets.splitting import deal_folds
from glomtile.errors import UsageError

sizes_and_folds = st.lists(st.integers(1, 6), min_size=2, max_size=9).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(2, len(sizes)))
)


def row(sizes: list[int]) -> list[str]:
    return [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]


@given(sizes_and_folds)
def test_every_fold_is_one_stretch_and_no_group_is_parted(case: tuple[list[int], int]) -> None:
    sizes, folds = case
    groups = row(sizes)
    dealt = deal_folds(groups, folds)
    assert [fold for fold, _ in itertools.groupby(dealt)] == list(range(folds))
    assert len(set(zip(groups, dealt, strict=True))) == len(sizes)


@given(sizes_and_folds)
def test_no_other_cut_is_more_even(case: tuple[list[int], int]) -> None:
    """Against all cuts, tried one by one."""
    sizes, folds = case
    dealt = deal_folds(row(sizes), folds)

    def squares(cuts: tuple[int, ...]) -> int:
        return sum(sum(sizes[a:b]) ** 2 for a, b in itertools.pairwise((0, *cuts, len(sizes))))

    best = min(squares(cuts) for cuts in itertools.combinations(range(1, len(sizes)), folds - 1))
    assert sum(dealt.count(fold) ** 2 for fold in range(folds)) == best


def test_the_same_images_are_dealt_the_same() -> None:
    assert deal_folds(["a", "b", "b", "c", "d"], 3) == [0, 1, 1, 2, 2]


@given(sizes_and_folds, st.randoms())
def test_images_of_a_group_stay_together_wherever_they_stand(
    case: tuple[list[int], int], chance: random.Random
) -> None:
    sizes, folds = case
    groups = row(sizes)
    chance.shuffle(groups)
    dealt = deal_folds(groups, folds)
    assert len(set(zip(groups, dealt, strict=True))) == len(sizes)
    ordered = sorted(groups, key=groups.index)
    assert [dealt[groups.index(group)] for group in ordered] == deal_folds(ordered, folds)


@pytest.mark.parametrize(
    ("groups", "folds", "message"),
    [
        (["a", "b"], 3, "expected at most 2, the number of groups, got 3"),
        (["a", "b"], 1, "expected at least 2"),
        ([], 2, "expected at most 0"),
    ],
)
def test_what_cannot_be_dealt_is_refused(groups: list[str], folds: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        deal_folds(groups, folds)
